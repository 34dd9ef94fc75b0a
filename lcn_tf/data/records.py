"""One record, encoded and parsed side by side.

A record is a user-grouped request: one user, the user's two histories as of the newest candidate, up to N
candidates. It is stored as a `tf.train.Example` of little-endian integers in bytes features, and parsed, a batch at
once, into the tensors that the model and the serving signature use under the same names:

    user              [B]        int64    index of the user, to group by (not a feature)
    user_fields       [B, P]     int32    one column per value of `schema.user_fields`
    candidate_items   [B, N]     int32    rows of the item catalogue of the candidates' domain
    candidate_times   [B, N]     int64    seconds
    candidate_context [B, N, C]  int32
    candidate_mask    [B, N]     bool     False = padding
    label, weight     [B, N]     float32
    {d}_items         [B, L]     int32    rows of the catalogue of domain d ('target', 'source'), newest first
    {d}_times         [B, L]     int64    seconds, falling
    {d}_cross         [B, L, J]  int32
    {d}_length        [B]        int32    behaviours that are real
    {d}_first_visible [B, N]     int32    the newest behaviour that the candidate may see

Where fields have standardised values or weights, or users have vectors (`lcn_tf.data.field_values`), there are also

    user_values       [B, V]     float32  of `schema.user_fields`, then `schema.user_vectors`
    candidate_values  [B, N, V]  float32  of `schema.context_fields`
    {d}_values        [B, L, V]  float32  of the cross fields of domain d

with the V that these fields need; where they need none there is no such tensor, and no such feature of the record.

A candidate sees behaviours `first_visible .. first_visible + max_length - 1` that are below `length`.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from lcn_tf.data.field_values import value_groups
from lcn_tf.data.wire import lead
from lcn_tf.schema import DOMAINS, DomainName, Schema, columns, value_columns


def no_values() -> np.ndarray:
  """The float values of a group of fields that has none."""
  return np.zeros((0, 0), np.float32)


@dataclasses.dataclass(frozen=True)
class History:
  """One user's behaviours in one domain, newest first.

  Attributes:
    items: Catalogue rows `[L]`.
    times: Seconds `[L]`, falling.
    cross: Vocabulary indices `[L, J]`.
    first_visible: Per candidate `[N]`.
    values: Float values of the cross fields `[L, V]`; read only if they have some.
  """

  items: np.ndarray
  times: np.ndarray
  cross: np.ndarray
  first_visible: np.ndarray
  values: np.ndarray = dataclasses.field(default_factory=no_values)


@dataclasses.dataclass(frozen=True)
class Request:
  """One record before it is encoded; see the module's docstring for the names.

  Attributes:
    user: Index of the user, at least 1.
    user_fields: `[P]`.
    items, times, labels, weights: Candidates `[N]`, N >= 1.
    context: `[N, C]`.
    target, source: The user's histories.
    user_values, context_values: Float values of the user `[V]` and of the context fields `[N, V]`; read only if they
      have some.
  """

  user: int
  user_fields: np.ndarray
  items: np.ndarray
  times: np.ndarray
  context: np.ndarray
  labels: np.ndarray
  weights: np.ndarray
  target: History
  source: History
  user_values: np.ndarray = dataclasses.field(default_factory=no_values)
  context_values: np.ndarray = dataclasses.field(default_factory=no_values)

  def history(self, domain: DomainName) -> History:
    return self.target if domain == "target" else self.source


_NUMPY = {"int32": "<i4", "int64": "<i8", "float32": "<f4"}


Layout = dict[str, tuple[str, str, int]]


def layout(schema: Schema) -> Layout:
  """Feature -> (dtype, axis: '', 'N', or the domain whose L it is; columns or -1 for no such axis)."""
  stored = {
    "user": ("int64", "", -1),
    "user_fields": ("int32", "", columns(schema.user_fields)),
    "candidate_items": ("int32", "N", -1),
    "candidate_times": ("int64", "N", -1),
    "candidate_context": ("int32", "N", columns(schema.context_fields)),
    "label": ("float32", "N", -1),
    "weight": ("float32", "N", -1),
  }
  for d in DOMAINS:
    stored[f"{d}_items"] = ("int32", d, -1)
    stored[f"{d}_times"] = ("int64", d, -1)
    stored[f"{d}_cross"] = ("int32", d, columns(schema.domain(d).cross_fields))
    stored[f"{d}_first_visible"] = ("int32", "N", -1)
  for name, (axis, features) in value_groups(schema).items():
    stored[name] = ("float32", axis, value_columns(features))
  return stored


def encode(request: Request, schema: Schema, stored: Layout | None = None) -> bytes:
  """The serialized record.

  Args:
    request: Record.
    schema: Schema of the record.
    stored: Its `layout`, for callers that encode many records; None = it is made.

  Raises:
    ValueError: An array has not the shape that the schema says, naming the array.
  """
  arrays = {
    "user": np.asarray(request.user),
    "user_fields": request.user_fields,
    "candidate_items": request.items,
    "candidate_times": request.times,
    "candidate_context": request.context,
    "label": request.labels,
    "weight": request.weights,
    "user_values": request.user_values,
    "candidate_values": request.context_values,
  }
  sizes = {"N": len(request.items)}
  for d in DOMAINS:
    history = request.history(d)
    sizes[d] = len(history.items)
    arrays |= {
      f"{d}_items": history.items,
      f"{d}_times": history.times,
      f"{d}_cross": history.cross,
      f"{d}_first_visible": history.first_visible,
      f"{d}_values": history.values,
    }
  parts = []
  for name, (dtype, axis, width) in (stored or layout(schema)).items():
    expected = ((sizes[axis],) if axis else ()) + ((width,) if width >= 0 else ())
    array = np.asarray(arrays[name])
    if array.shape != expected:
      raise ValueError(f"{name}: shape {array.shape}, expected {expected}")
    data = np.ascontiguousarray(array, dtype=_NUMPY[dtype]).tobytes()
    parts += [_head(name, len(data)), data]
  features = b"".join(parts)
  return lead(_LENGTH_1, len(features)) + features


# tags of protocol buffers: fields 1 and 2, with a length
_LENGTH_1, _LENGTH_2 = b"\x0a", b"\x12"


@functools.lru_cache(maxsize=2**16)
def _head(name: str, size: int) -> bytes:
  """The bytes of a feature before its `size` bytes of data.

  A `tf.train.Example` is written by hand, which takes a fifth of the time that its Python classes take. It is
  Example{1: Features{1: (entry of a map){1: name, 2: Feature{1: BytesList{1: data}}}}}, each with its length before it.
  """
  value = lead(_LENGTH_1, size)
  values = lead(_LENGTH_1, len(value) + size) + value
  feature = lead(_LENGTH_2, len(values) + size) + values
  key = name.encode()
  entry = lead(_LENGTH_1, len(key)) + key + feature
  return lead(_LENGTH_1, len(entry) + size) + entry


def decode(serialized: bytes, schema: Schema) -> Request:
  """The inverse of `encode`, for looking at single records (tools, diagnosis); training uses `parse`.

  Raises:
    ValueError: Not a record of this schema: says which feature is missing or has the wrong size.
  """
  try:
    features = tf.train.Example.FromString(serialized).features.feature
  except Exception as error:
    raise ValueError(f"not a tf.train.Example: {error}") from None
  arrays: dict[str, np.ndarray] = {}
  sizes: dict[str, int] = {}
  for name, (dtype, axis, width) in layout(schema).items():
    if name not in features or len(features[name].bytes_list.value) != 1:
      raise ValueError(f"feature {name!r} is missing or is not one bytes value")
    data = features[name].bytes_list.value[0]
    if len(data) % np.dtype(_NUMPY[dtype]).itemsize:
      raise ValueError(f"feature {name!r}: {len(data)} bytes are not a whole number of {dtype}")
    array = np.frombuffer(data, _NUMPY[dtype])
    if width < 0 and axis:
      sizes.setdefault(axis, len(array))
    expected = ((sizes[axis],) if axis else ()) + ((width,) if width >= 0 else ())
    if array.size != np.prod(expected, dtype=np.int64):
      raise ValueError(f"feature {name!r}: {array.size} values, expected {expected}")
    arrays[name] = array.reshape(expected)
  nothing = no_values()
  target, source = (
    History(
      arrays[f"{d}_items"],
      arrays[f"{d}_times"],
      arrays[f"{d}_cross"],
      arrays[f"{d}_first_visible"],
      arrays.get(f"{d}_values", nothing),
    )
    for d in DOMAINS
  )
  return Request(
    user=int(arrays["user"]),
    user_fields=arrays["user_fields"],
    items=arrays["candidate_items"],
    times=arrays["candidate_times"],
    context=arrays["candidate_context"],
    labels=arrays["label"],
    weights=arrays["weight"],
    target=target,
    source=source,
    user_values=arrays.get("user_values", nothing),
    context_values=arrays.get("candidate_values", nothing),
  )


def features(serialized: tf.Tensor, schema: Schema, without: Collection[str] = ()) -> dict[str, tf.Tensor]:
  """The first half of `parse`: a batch of serialized records `[B]` as the bytes `[B]` of each feature.

  Args:
    serialized: `[B]` strings.
    schema: Schema of the records.
    without: Features that are not read.
  """
  names = [name for name in layout(schema) if name not in without]
  return tf.io.parse_example(serialized, {name: tf.io.FixedLenFeature([], tf.string) for name in names})


def values(data: tf.Tensor, dtype: str) -> tf.Tensor:
  """How many values of `dtype` each of the bytes `[B]` holds: `[B]` int32."""
  return tf.strings.length(data) // np.dtype(_NUMPY[dtype]).itemsize


def tensors(
  data: Mapping[str, tf.Tensor],
  schema: Schema,
  lengths: Mapping[DomainName, int | tf.Tensor] | None = None,
  candidates: int | tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
  """The second half of `parse`: the bytes of each feature in `data` as dense tensors.

  Arguments and result are as there. `candidates` is N, and `schema.candidates` if None.
  """
  sizes: dict[str, int | tf.Tensor] = {"N": schema.candidates if candidates is None else candidates}
  for d in DOMAINS:
    sizes[d] = lengths[d] if lengths else schema.capacity(d)
  batch = {}
  for name, (dtype, axis, width) in layout(schema).items():
    if name not in data:
      continue
    count = (sizes[axis] if axis else 1) * (width if width >= 0 else 1)
    shape = [-1] + ([sizes[axis]] if axis else []) + ([width] if width >= 0 else [])
    if width == 0:
      batch[name] = tf.zeros([tf.shape(data[name])[0]] + shape[1:], dtype)
      continue
    # decode_raw pads with zeros, and cuts, to fixed_length.
    flat = tf.io.decode_raw(data[name], tf.as_dtype(dtype), fixed_length=count * np.dtype(_NUMPY[dtype]).itemsize)
    batch[name] = tf.reshape(flat, shape)
  present = values(data["candidate_items"], "int32")
  batch["candidate_mask"] = tf.range(sizes["N"])[tf.newaxis] < present[:, tf.newaxis]
  for d in DOMAINS:
    batch[f"{d}_length"] = tf.minimum(values(data[f"{d}_items"], "int32"), sizes[d])
  return batch


def parse(
  serialized: tf.Tensor, schema: Schema, lengths: Mapping[DomainName, int | tf.Tensor] | None = None
) -> dict[str, tf.Tensor]:
  """A batch of serialized records `[B]` as the tensors of the module's docstring.

  Args:
    serialized: `[B]` strings.
    schema: Schema of the records.
    lengths: Width L of each domain's tensors; a longer history is cut at its old end. The record's capacity if None.

  Returns:
    Dense tensors; `N` is `schema.candidates`. Padding is 0 (False in `candidate_mask`).
  """
  return tensors(features(serialized, schema), schema, lengths)


def visibility(first_visible: tf.Tensor, length: tf.Tensor, max_length: int, width: tf.Tensor | int) -> tf.Tensor:
  """Which behaviours each candidate may see: `[B, N, L]` bool (`[B, 1, L]` if `first_visible` is `[B, 1]`).

  Args:
    first_visible: `[B, N | 1]` int.
    length: Behaviours that are real, `[B]` int.
    max_length: Behaviours that a candidate sees at most.
    width: L.
  """
  # float32 (exact for any history that fits in memory): TensorFlow compares int32 on the host, int64 at half the speed
  first = tf.cast(first_visible, tf.float32)[:, :, tf.newaxis]
  end = tf.minimum(first + max_length, tf.cast(length, tf.float32)[:, tf.newaxis, tf.newaxis])
  position = tf.cast(tf.range(tf.cast(width, tf.int64)), tf.float32)
  return (position >= first) & (position < end)
