"""Files that are no longer what was written."""

import pathlib


def flip(file: pathlib.Path, place: int, bits: int = 0xFF) -> None:
  """Changes one byte; a negative place counts from the end."""
  data = bytearray(file.read_bytes())
  data[place] ^= bits
  file.write_bytes(data)


def truncate(file: pathlib.Path, size: int) -> None:
  """Keeps the first bytes."""
  file.write_bytes(file.read_bytes()[:size])
