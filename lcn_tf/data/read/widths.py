"""Widths of the histories of a batch."""

from collections.abc import Sequence


def buckets(capacity: int, length_buckets: Sequence[int] = ()) -> list[int]:
  """The widths of histories of up to `capacity` behaviours, rising; the last is `capacity`.

  By default multiples of 8, from 32 on four to an octave: at most a fourth of a batch's longest history is padding.
  """
  if not length_buckets:
    octaves = range(5, capacity.bit_length())
    length_buckets = [16, 24, *(2**octave * part // 4 for octave in octaves for part in (4, 5, 6, 7))]
  return sorted({width for width in length_buckets if width < capacity}) + [capacity]


def powers_of_two(capacity: int) -> tuple[int, ...]:
  """Few widths, for graphs that are compiled for each of them: powers of two from 16 up to `capacity`."""
  return tuple(2**power for power in range(4, capacity.bit_length()))
