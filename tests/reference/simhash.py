"""Twin of lcn_tf/layers/simhash.py for one vector."""


def bits(vector, hyperplanes):
  """[m] of 0 and 1; hyperplanes [D, m]. A vector on the hyperplane counts as above it."""
  return [int(sum(float(x) * float(r) for x, r in zip(vector, normal, strict=True)) >= 0) for normal in hyperplanes.T]


def distance(one, other):
  """In how many bits they differ."""
  return sum(a != b for a, b in zip(one, other, strict=True))


def signatures(vector_bits, width):
  """The numbers that each `width` bits spell, the first the lowest."""
  starts = range(0, len(vector_bits), width)
  return [sum(bit << place for place, bit in enumerate(vector_bits[start : start + width])) for start in starts]
