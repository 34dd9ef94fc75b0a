"""Writing results: aside first, then renamed, so that a reader never meets half a file."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A path beside `path` to write to; it becomes `path` when the block ends well and is removed when it does not."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    yield aside
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes `value` as JSON that every parser reads: NaN and infinities become null."""
  with replacing(path) as aside:
    aside.write_text(json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
  """`value` with plain types, and None for what JSON has no number for."""
  if isinstance(value, dict):
    return {str(key): jsonable(entry) for key, entry in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [jsonable(entry) for entry in value]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return str(value) if isinstance(value, pathlib.PurePath) else value
