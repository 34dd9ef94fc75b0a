"""Twin of lcn_tf/layers/narrow.py for one row."""


def row(numbers):
  """(integers, scale) of a row."""
  scale = max(abs(float(x)) for x in numbers) / 127
  return [round(float(x) / scale) if scale else 0 for x in numbers], scale
