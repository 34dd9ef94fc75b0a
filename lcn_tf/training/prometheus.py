"""Numbers in the text format of Prometheus."""

from collections.abc import Iterable
from typing import NamedTuple


class Sample(NamedTuple):
  """One number.

  Attributes:
    name: Name of the metric.
    help: Description, one sentence.
    value: Number.
    labels: Further labels, by name.
  """

  name: str
  help: str
  value: float
  labels: dict[str, str] = {}


def text(samples: Iterable[Sample], labels: dict[str, str]) -> str:
  """The text of gauges; samples of one name follow each other.

  Args:
    samples: Numbers.
    labels: Labels of all of them, by name.

  Reference: Prometheus, "Exposition formats", text-based format 0.0.4,
    https://prometheus.io/docs/instrumenting/exposition_formats/
  """
  lines: list[str] = []
  told = ""
  for sample in samples:
    if sample.name != told:
      told = sample.name
      lines += [f"# HELP {sample.name} {sample.help}", f"# TYPE {sample.name} gauge"]
    pairs = (f'{name}="{_escaped(value)}"' for name, value in {**labels, **sample.labels}.items())
    lines.append(f"{sample.name}{{{','.join(pairs)}}} {_number(sample.value)}")
  return "".join(f"{line}\n" for line in lines)


def _escaped(value: str) -> str:
  return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
  return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(repr(value), repr(value))
