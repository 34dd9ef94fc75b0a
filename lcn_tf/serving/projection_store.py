"""A store of item projections that a service looks up and sends to `rank_projected`. No TensorFlow is needed."""

import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from absl import logging

from lcn_tf import formats
from lcn_tf.data.build.values import id_of, whole_id_of
from lcn_tf.errors import DamagedError, UserError
from lcn_tf.formats import sha256
from lcn_tf.serving.versions import SAVED_MODEL, newest_version, weights_of

DESCRIPTION = "store.json"
REMEDY = "Make it again with pipelines.project_items."
Misses = Literal["zeros", "error"] | Callable[[str, list[Any]], Any]


def table_file(domain: str) -> str:
  """The file of a domain's projections."""
  return f"{domain}.npy"


def ids_file(domain: str) -> str:
  """The file of a domain's item ids."""
  return f"{domain}_ids.npy"


@dataclasses.dataclass(frozen=True)
class _Version:
  """A version of a store, mapped into memory: rising `ids[d]` `[items]`, and `tables[d]` `[items, H * E]` with them."""

  path: pathlib.Path
  described: dict[str, Any]
  ids: dict[str, np.ndarray]
  tables: dict[str, np.ndarray]


class ProjectionStore:
  """Item projections by item id, memory-mapped: processes of one machine share the memory.

      store = ProjectionStore.open("store", model="served")
      projections, hit = store.look_up("source", item_ids)

  Ids are compared as texts, as everywhere: 7, 7.0 and "7" are one id. Any thread may look up, and `reload` may be
  called meanwhile: each look-up reads one version.

  `open` makes it.

  Attributes:
    hits: Number of looked-up ids that the store has.
    misses: Number of looked-up ids that it does not have.
  """

  def __init__(self, folder: pathlib.Path, model: dict[str, Any] | None, misses: Misses, stale: bool, check: bool):
    self._folder, self._model, self._on_miss, self._stale, self._check = folder, model, misses, stale, check
    self._version = self._newest()
    self._lock = threading.Lock()
    self.hits = 0
    self.misses = 0

  @classmethod
  def open(
    cls,
    folder: str | pathlib.Path,
    *,
    model: str | pathlib.Path | None = None,
    misses: Misses = "zeros",
    stale: bool = False,
    check: bool = True,
  ) -> Self:
    """Opens the newest version of a store.

    Args:
      folder: Folder of versions that `pipelines.project_items` has written.
      model: Export that the projections are sent to, a version folder or the folder above it; None = any.
      misses: Projections of an item that the store does not have. "zeros" is zeros, and "error" is a UserError. A
        function takes the domain and the missing ids and returns their projections, `[K, H * E]`.
      stale: True to accept projections by other weights than those of `model`, with a warning that says how old they
        are.
      check: True to compare the checksums of the files, which reads all of them. Sizes are always compared.

    Raises:
      UserError: There is no store here, or its weights are not those of the model.
      DamagedError: A file of the store was changed since it was written.
    """
    if not callable(misses) and misses not in ("zeros", "error"):
      raise UserError(f"misses: expected 'zeros', 'error' or a function; found {misses!r}")
    folder = pathlib.Path(folder)
    return cls(folder, None if model is None else _export(pathlib.Path(model)), misses, stale, check)

  @property
  def path(self) -> pathlib.Path:
    """The version folder."""
    return self._version.path

  @property
  def domains(self) -> tuple[str, ...]:
    """The domains whose items the store has."""
    return tuple(self._version.tables)

  @property
  def age_seconds(self) -> float:
    """The seconds since the version was made."""
    return time.time() - float(self._version.described["made"])

  @property
  def hit_rate(self) -> float:
    """The share of looked-up ids that the store has; NaN before the first one."""
    with self._lock:
      return self.hits / (self.hits + self.misses) if self.hits + self.misses else float("nan")

  def reload(self) -> bool:
    """Switches to the newest version if there is a newer one; look-ups that run go on with the one they began with.

    Returns:
      Whether there was a newer one.

    Raises:
      UserError: As `open`. The version that was open stays open.
    """
    newest = newest_version(self._folder, DESCRIPTION)
    if newest is None or newest == self._version.path:
      return False
    self._version = self._newest()
    return True

  def _newest(self) -> _Version:
    version = _newest(self._folder, self._check)
    _compare(version, self._model, self._stale)
    return version

  def look_up(self, domain: str, item_ids: Any, real: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Projections of items.

    Args:
      domain: Domain of the items.
      item_ids: Item ids, an array or nested lists of any shape.
      real: Mask of the ids that are no padding, bool, of the same shape; None = all. Padding has zeros, and is neither
        a hit nor a miss.

    Returns:
      Projections `[..., H * E]` float32, and the mask `[...]` of the ids that the store has.

    Raises:
      UserError: The store has no such domain; or an id is missing, with `misses="error"`.
    """
    version = self._version
    if domain not in version.tables:
      raise UserError(f"{version.path}: no domain {domain!r}; it has {', '.join(version.tables)}")
    ids, table = version.ids[domain], version.tables[domain]
    given = np.asarray(item_ids) if isinstance(item_ids, np.ndarray) else np.array(item_ids, object)
    asked = np.ones(given.shape, bool) if real is None else np.broadcast_to(np.asarray(real, bool), given.shape)
    keys, valid = _keys(given, ids)
    place = np.minimum(np.searchsorted(ids, keys), max(len(ids) - 1, 0))
    hit = asked & valid
    if len(ids):
      hit &= ids[place] == keys
    else:
      hit[...] = False
    found = np.zeros((*given.shape, table.shape[1]), np.float32)
    found[hit] = table[place[hit]]
    missed = asked & ~hit
    with self._lock:
      self.hits += int(hit.sum())
      self.misses += int(missed.sum())
    if missed.any():
      self._fill(domain, given[missed].tolist(), found, missed)
    return found, hit

  def _fill(self, domain: str, ids: list[Any], found: np.ndarray, missed: np.ndarray) -> None:
    """Puts the projections of missing items in their places."""
    if callable(self._on_miss):
      made = np.asarray(self._on_miss(domain, ids), np.float32)
      expected = (len(ids), found.shape[-1])
      if made.shape != expected:
        raise UserError(f"misses: expected projections of shape {expected} of {domain} items; found {made.shape}")
      found[missed] = made
    elif self._on_miss == "error":
      some = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
      raise UserError(f"{self._version.path}: {len(ids)} {domain} items are not in the store: {some}")


def _export(model: pathlib.Path) -> dict[str, Any]:
  """The description of an export, a version folder or the newest one below a folder."""
  version = model if (model / SAVED_MODEL).is_file() else newest_version(model)
  if version is None or not (file := version / "assets.extra" / "lcn_tf.json").is_file():
    raise UserError(f"{model}: no export here (no SavedModel, or none with assets.extra/lcn_tf.json)")
  return formats.read_sealed(file, "Export the run again.") | {"version": version}


def _newest(folder: pathlib.Path, check: bool) -> _Version:
  """The newest version. One that is removed meanwhile has a newer one after it."""
  while (path := newest_version(folder, DESCRIPTION)) is not None:
    try:
      return _mapped(path, check)
    except FileNotFoundError:
      if newest_version(folder, DESCRIPTION) == path:
        raise DamagedError(f"{path}: not a complete store. {REMEDY}") from None
  raise UserError(f"{folder}: no projection store here (no numbered version that holds {DESCRIPTION})")


def _mapped(path: pathlib.Path, check: bool) -> _Version:
  """A version, mapped into memory.

  Raises:
    FileNotFoundError: A file is missing.
    DamagedError: A file is not the one that was written.
  """
  described = formats.read_sealed(path / DESCRIPTION, REMEDY)
  for name, fact in described["files"].items():
    if (path / name).stat().st_size != fact["size"] or (check and sha256(path / name) != fact["sha256"]):
      raise DamagedError(f"{path / name}: damaged: not the file that {path / DESCRIPTION} describes. {REMEDY}")
  arrays = {
    kind: {d: np.load(path / name(d), mmap_mode="r") for d in described["domains"]}
    for kind, name in (("ids", ids_file), ("tables", table_file))
  }
  return _Version(path, described, **arrays)


def _compare(version: _Version, model: dict[str, Any] | None, stale: bool) -> None:
  """Checks that the weights of a store are those of a model.

  Raises:
    UserError: They are not, and the store may not be stale.
  """
  if model is None:
    return
  weights = weights_of(model)
  if weights and weights == version.described["weights"]:
    return
  made = version.described
  age = _readable(time.time() - float(made["made"]))
  said = (
    f"{version.path}: made {age} ago with the weights {made['weights'] or 'of no checkpoint'} of export "
    f"{made['export']}, and {model['version']} has {weights or 'those of no checkpoint'}"
  )
  if not stale:
    raise UserError(f"{said}. Make it again with pipelines.project_items, or open it with stale=True.")
  logging.warning("%s", said)


def _readable(seconds: float) -> str:
  for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
    if seconds >= size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.0f} seconds"


def _keys(given: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Ids as those of the store are written, and which of them can be there."""
  if ids.dtype.kind == "i" and given.dtype.kind == "i":
    return given.astype(np.int64), np.ones(given.shape, bool)
  flat = given.ravel().tolist()
  kinds = set(map(type, flat))
  if ids.dtype.kind == "i":
    whole = flat if kinds == {int} and max(map(abs, flat)) < 2**63 else [whole_id_of(one) for one in flat]
    keys, valid = np.array([one or 0 for one in whole], np.int64), [one is not None for one in whole]
  else:
    texts = flat if kinds == {str} and all(map(str.isascii, flat)) else [id_of(one) for one in flat]
    # of the width of the store's ids: a wider array would make a wider copy of all of them
    coded = [b"" if text is None else text.encode() for text in texts]
    valid = [text is not None and len(one) <= ids.dtype.itemsize for text, one in zip(texts, coded, strict=True)]
    keys = np.array([one if there else b"" for one, there in zip(coded, valid, strict=True)], ids.dtype)
  return keys.reshape(given.shape), np.array(valid, bool).reshape(given.shape)
