"""Publishing: a version that a gate lets pass is copied to a serving folder, whole or not at all."""

import pathlib
import shutil
from typing import Literal

from absl import logging

from lcn_tf import files, storage
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import scoring
from lcn_tf.evaluation.gate import Gate
from lcn_tf.evaluation.measuring import Settings
from lcn_tf.evaluation.offline import evaluate
from lcn_tf.serving.versions import appear, newest_version


def publish(
  model: str | pathlib.Path,
  record_set: RecordSet,
  split: str,
  gate: Gate,
  output: str | pathlib.Path,
  *,
  results: str | pathlib.Path | None = None,
  baseline: str | pathlib.Path | None = None,
  settings: Settings | None = None,
  requests: int = 64,
  workers: int = 1,
  on_corrupt: Literal["error", "skip"] = "error",
) -> pathlib.Path:
  """Evaluates a version and, if the gate lets it pass, copies it to the serving folder.

  The copy is made aside and renamed, so that a server never meets half a version. It keeps its number, unless that is
  not above all that are served.

  Args:
    model: Version folder, or export folder, whose newest version is published.
    record_set, split: Records to evaluate with.
    gate: Rules that the version has to pass.
    output: Serving folder, made if missing.
    results: Folder for metrics, predictions, report and verdicts; None = `<output>.results/<version>`.
    baseline: Model or predictions file to compare with; None = the newest version that is served. Without one the rules
      on differences are left out.
    settings, requests, workers, on_corrupt: As in `evaluate`.

  Returns:
    The published version. One that is served already, as the newest, is not published again.

  Raises:
    RefusedError: A rule of the gate has failed; nothing is published.
    UserError: As `evaluate`; or the version was changed meanwhile.
    StorageError: The version could not be written.
  """
  version, served = scoring.version_folder(model), files.local(output)
  digest = scoring.digest(version)
  newest = newest_version(served) if served.is_dir() else None
  if newest is not None and scoring.digest(newest) == digest:
    logging.info("%s: served already, as %s", version, newest)
    return newest
  baseline = baseline or newest
  if baseline is None and gate.differs():
    logging.warning("%s: no version is served yet: the rules on differences are left out", gate.path)
    gate = gate.without_differences()
  evaluate(
    version,
    record_set,
    split,
    results or served.with_name(f"{served.name}.results") / version.resolve().name,
    requests=requests,
    workers=workers,
    settings=settings,
    baseline=baseline,
    gate=gate,
    on_corrupt=on_corrupt,
  )
  return _copy(version, digest, files.make(served))


def _copy(version: pathlib.Path, digest: str, served: pathlib.Path) -> pathlib.Path:
  size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
  with (
    files.folder_aside(served / "version") as aside,
    storage.storing("a version", served, needs=size, intact="The versions that are there are intact."),
  ):
    shutil.copytree(version, aside, dirs_exist_ok=True)
    scoring.description(aside)
    if scoring.digest(aside) != digest:
      raise UserError(f"{version}: changed while it was evaluated; nothing was published")
    name = version.resolve().name
    published = appear(aside, served, int(name) if name.isdecimal() else 1)
  logging.info("%s: published as %s", version, published)
  return published
