"""Asks an export what `assets.extra/requests.json` holds, and compares the answers. TensorFlow is all that it needs.

A program of its own, which a server's machine runs as well: python answers.py VERSION
"""

import json
import os
import pathlib
import sys
import threading
from typing import Any

import numpy as np

REQUESTS = "assets.extra/requests.json"
TOLERANCE = 1e-5
WATCH = "--watch"  # the program ends when its standard input does: with the process that has started it


def tensor(values: Any, dtype: Any) -> Any:
  """A tensor of nested lists, in which bytes are `{"b64": ...}` and no number is "NaN"."""
  import base64

  import tensorflow as tf

  def plain(value: Any) -> Any:
    if isinstance(value, list):
      return [plain(one) for one in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value

  if dtype == tf.string:
    return tf.constant(plain(values), tf.string)
  return tf.constant(np.array(values, float) if dtype.is_floating else values, dtype)


def differences(version: pathlib.Path) -> list[str]:
  """A line for each request whose answer is not the one that is written down."""
  import tensorflow as tf

  model = tf.saved_model.load(str(version))
  found = []
  for number, one in enumerate(json.loads((version / REQUESTS).read_text())):
    signature = model.signatures[one["signature_name"]]
    specs = signature.structured_input_signature[1]
    answer = signature(**{name: tensor(one["inputs"][name], spec.dtype) for name, spec in specs.items()})
    for name, expected in one["outputs"].items():
      worst = float(np.max(np.abs(answer[name].numpy() - np.array(expected)), initial=0.0))
      if not worst <= TOLERANCE:
        found.append(f"{one['signature_name']}, request {number}: {name} differs by {worst:.3g}")
  return found


def _end_with_input() -> None:
  sys.stdin.read()
  os._exit(1)


def main() -> None:
  version = pathlib.Path(sys.argv[1])
  if WATCH in sys.argv:
    threading.Thread(target=_end_with_input, daemon=True).start()
  wrong = differences(version)
  print("\n".join(wrong) if wrong else f"{version}: all answers are as written")
  if "lcn_tf" in sys.modules:
    raise SystemExit("lcn_tf was imported")
  raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
  main()
