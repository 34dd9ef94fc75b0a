"""One check that exercises a layer every way Keras can, and one for what all interest extractors share.

A new layer's test is then data: `check_layer(TWIN, {"top_k": 3}, inputs, bad={"top_k": 0})` and
`check_extractor(lambda: TWIN(top_k=3), twin)`.
"""

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tensorflow.python.framework import function_def_to_graph, kernels

from lcn_tf.interest.base import Extractor
from lcn_tf.layers.structures import Behaviours, Candidates

CATALOGUE = 40
NEWEST = 1_500_000_000
PER_BEHAVIOUR = ("embedding", "items", "fields", "times", "side", "vectors", "keys")


def random_inputs(
  seed: int, B: int = 3, N: int = 4, L: int = 11, D: int = 6, S: int = 3, R: int = 5, F: int = 2, P: int = 5, A: int = 4
) -> tuple[Candidates, Behaviours]:
  """Random arrays (NumPy, for the twins) as a request batch has them: newest first, padded at the end, each candidate
  seeing from its own first visible behaviour on; the last candidate of request 0 sees none."""
  random = np.random.default_rng(seed)
  fields = np.concatenate([np.arange(CATALOGUE)[:, np.newaxis], random.integers(1, 4, size=(CATALOGUE, F - 1))], axis=1)
  table = random.normal(size=(CATALOGUE, D)).astype(np.float32)
  items = random.integers(1, CATALOGUE, size=(B, N)).astype(np.int32)
  past = random.integers(1, CATALOGUE, size=(B, L)).astype(np.int32)
  times = NEWEST - np.cumsum(random.integers(1, 11, size=(B, L)) ** 2, axis=1)
  length = random.integers(max(L // 2, 1), L + 1, size=B)
  first = random.integers(0, max(L // 3, 1), size=(B, N))
  columns = np.arange(L)
  visible = (columns >= first[..., np.newaxis]) & (columns < length[:, np.newaxis, np.newaxis])
  visible[0, -1] = False
  real = columns < length[:, np.newaxis]
  past, times = past * real, times * real
  # a behaviour's own deviation from its item, so that no two behaviours tie
  embedding = (table[past] + 0.1 * random.normal(size=(B, L, D))) * real[..., np.newaxis]
  vectors = np.random.default_rng(seed + 1000).normal(size=(CATALOGUE, P)).astype(np.float32)
  keys = np.random.default_rng(seed + 2000).normal(size=(CATALOGUE, A)).astype(np.float32)
  own_keys = keys[past] + 0.1 * np.random.default_rng(seed + 3000).normal(size=(B, L, A)).astype(np.float32)
  newest_seen = np.take_along_axis(times, np.minimum(first, L - 1), axis=1)
  candidate_times = np.maximum(newest_seen, 1) + random.integers(1, 60, size=(B, N))
  return (
    Candidates(
      table[items],
      items,
      fields[items].astype(np.int64),
      candidate_times.astype(np.int64),
      vectors[items],
      keys[items],
    ),
    Behaviours(
      embedding.astype(np.float32),
      past.astype(np.int32),
      (fields[past] * real[..., np.newaxis]).astype(np.int64),
      times.astype(np.int64),
      random.normal(size=(B, L, S)).astype(np.float32),
      random.normal(size=(R, 2)).astype(np.float32),
      visible,
      vectors[past] * real[..., np.newaxis].astype(np.float32),
      own_keys * real[..., np.newaxis].astype(np.float32),
    ),
  )


def one_request(
  candidate: Sequence[float], rows: Sequence[Sequence[float]], visible: Sequence[bool] | None = None, **shape: int
) -> tuple[Candidates, Behaviours]:
  """`random_inputs` of one candidate that has given behaviours.

  Args:
    candidate: Embedding of the candidate, `[D]`.
    rows: Embeddings of the behaviours, `[L, D]`.
    visible: Mask of the behaviours that the candidate sees, `[L]`; None = all.
    shape: Other sizes of `random_inputs`.
  """
  candidates, behaviours = random_inputs(0, B=1, N=1, L=len(rows), D=len(candidate), **shape)
  seen = np.ones(len(rows), bool) if visible is None else np.array(visible, bool)
  return candidates._replace(embedding=np.array([[candidate]], np.float32)), behaviours._replace(
    embedding=np.array([rows], np.float32), visible=seen[np.newaxis, np.newaxis]
  )


def far_from_zero(layer: keras.layers.Layer, scale: float = 0.5) -> keras.layers.Layer:
  """The same extractor; its weights, biases included, will be drawn when it makes them, since zeros hide faults."""
  original = layer.make_weights

  def make_weights(*arguments: Any) -> None:
    original(*arguments)
    random = np.random.default_rng(0)
    for weight in layer.trainable_weights:
      weight.assign(scale * random.normal(size=weight.shape))

  layer.make_weights = make_weights
  return layer


def tensors(structure: Any) -> Any:
  return tf.nest.map_structure(tf.constant, structure)


def check_layer(
  layer_class: type[keras.layers.Layer],
  options: Mapping[str, Any],
  inputs: tuple[Any, ...],
  *,
  bad: Mapping[str, Any] | None = None,
  call: Mapping[str, Any] | None = None,
) -> None:
  """Config and weights survive a round trip, float16 compute stays near float32, bad arguments are refused.

  Args:
    layer_class, options: `layer_class(**options)` is checked.
    inputs: Positional arguments of its call; arrays, or structures of them.
    bad: Argument -> a value (or a list of values) that must raise a ValueError naming both.
    call: Keyword arguments of its call.
  """
  inputs, call = tensors(inputs), dict(call or {})
  layer = layer_class(**options)
  expected = layer(*inputs, **call)
  config = layer.get_config()
  for name, value in options.items():
    assert name in config, f"get_config() lacks {name!r}"
    assert _plain(getattr(layer, name)) == _plain(value) == _plain(config[name]), name

  serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
  copy = keras.saving.deserialize_keras_object(serialized)
  assert type(copy) is layer_class
  assert _plain(copy.get_config()) == _plain(config)
  copy(*inputs, **call)
  names = [weight.name for weight in layer.weights]
  assert len(set(names)) == len(names), f"weights share a name: {names}"
  assert [weight.shape for weight in copy.weights] == [weight.shape for weight in layer.weights]
  with tempfile.TemporaryDirectory() as folder:
    path = tf.train.Checkpoint(layer=layer).write(f"{folder}/weights")
    tf.train.Checkpoint(layer=copy).read(path).assert_consumed()
  _assert_close(copy(*inputs, **call), expected, rtol=1e-6)

  half = layer_class(**options, dtype="mixed_float16")
  half_inputs = tf.nest.map_structure(lambda x: tf.cast(x, tf.float16) if x.dtype.is_floating else x, inputs)
  half(*half_inputs, **call)
  half.set_weights(layer.get_weights())
  assert all(weight.dtype == tf.float32 for weight in half.trainable_weights)
  for actual, wanted in zip(tf.nest.flatten(half(*half_inputs, **call)), tf.nest.flatten(expected), strict=True):
    scale = float(tf.reduce_max(tf.abs(wanted))) if tf.size(wanted) else 1.0
    np.testing.assert_allclose(tf.cast(actual, tf.float32), wanted, rtol=0.02, atol=0.02 * max(scale, 1.0))

  for name, values in (bad or {}).items():
    for value in values if isinstance(values, list) else [values]:
      with pytest.raises(ValueError) as error:
        layer_class(**{**options, name: value})
      shown = str(list(value)) if isinstance(value, tuple) else str(value)
      assert name in str(error.value)
      assert shown in str(error.value)


def check_extractor(
  layer_factory: Callable[[], keras.layers.Layer],
  twin: Callable[[keras.layers.Layer, Candidates, Behaviours], np.ndarray],
  *,
  order_free: bool = True,
  all_visible_learn: bool = True,
  shapes: tuple[Mapping[str, int], ...] = ({}, {"N": 1, "L": 4}, {"B": 2, "N": 6, "L": 23, "S": 0}, {"R": 0}),
  inputs: Callable[..., tuple[Candidates, Behaviours]] = random_inputs,
  rtol: float = 2e-4,
  atol: float = 2e-5,
) -> None:
  """What every extractor shares.

  Args:
    layer_factory: A new layer.
    twin: `(built layer, candidates, behaviours) -> [B, N, W]` in NumPy.
    order_free: Permuting the behaviours (with all that belongs to them) changes nothing.
    all_visible_learn: Every behaviour that some candidate sees gets gradient; otherwise only some of them do.
    shapes: Arguments of `inputs` under which the layer must equal the twin.
    inputs: `random_inputs`, or another with its arguments.
  """
  close = {"rtol": rtol, "atol": atol}
  for seed, shape in enumerate(shapes):
    candidates, behaviours = inputs(seed, **shape)
    layer = layer_factory()
    actual = _extract(layer, candidates, behaviours)
    expected = twin(layer, candidates, behaviours)
    np.testing.assert_allclose(actual, np.broadcast_to(expected, actual.shape), **close, err_msg=f"twin, {shape}")
    assert np.abs(actual).max() > 1e-3, "the comparison is empty: all outputs are zero"

  candidates, behaviours = inputs(99)
  layer = layer_factory()
  expected = _extract(layer, candidates, behaviours)
  _check_one_request_is_many(layer, candidates, behaviours, expected, close)
  _check_invisible_is_ignored(layer, candidates, behaviours, expected, close)
  _check_longer_padding(layer, candidates, behaviours, expected, close)
  _check_shared_visibility(layer, candidates, behaviours, close)
  _check_zeros_are_seen(layer, twin, candidates, behaviours, close)
  _check_unknown_shapes(layer, candidates, behaviours, expected, close)
  _check_no_history(layer, candidates, behaviours)
  _check_gradient_support(layer, candidates, behaviours, all_visible_learn)
  if isinstance(layer, Extractor):
    _check_scores(layer, candidates, behaviours)
    _check_bfloat16(layer, candidates, behaviours, expected)
  if order_free:
    order = np.random.default_rng(0).permutation(behaviours.items.shape[1])
    permuted = _each_behaviour(behaviours, lambda array, axis: np.take(array, order, axis=axis))
    np.testing.assert_allclose(
      _extract(layer, candidates, permuted), expected, **close, err_msg="permuting the behaviours changed the result"
    )


def _check_scores(layer, candidates, behaviours):
  """Of a layer that searches: the order it finds, and the final attention over everything, are of what is visible."""
  shape = (*candidates.items.shape, behaviours.items.shape[1])
  junk, invisible = _junk(behaviours, seed=2), ~behaviours.visible.any(axis=1)
  mixed = {}
  for name in PER_BEHAVIOUR:
    real = getattr(behaviours, name)
    mixed[name] = np.where(invisible.reshape(invisible.shape + (1,) * (real.ndim - 2)), getattr(junk, name), real)
  changed = behaviours._replace(**mixed)
  for score in (layer.search_scores, layer.exact_scores):
    try:
      scores = score(*tensors((candidates, behaviours)))
    except NotImplementedError:
      continue
    assert scores.dtype == tf.float32
    seen = np.broadcast_to(behaviours.visible, shape)
    found, other = (np.broadcast_to(s, shape) for s in (scores, score(*tensors((candidates, changed)))))
    assert np.isfinite(found[seen]).all()
    if score == layer.exact_scores:
      np.testing.assert_allclose(other[seen], found[seen], rtol=1e-4, atol=1e-5, err_msg="an invisible one was read")
      assert np.ptp(found[seen]) > 0, "the final attention tells nothing apart"
    else:
      for b, n in np.ndindex(*candidates.items.shape):
        rows = seen[b, n]
        order = [np.argsort(-one[b, n, rows], kind="stable") for one in (found, other)]
        np.testing.assert_array_equal(order[0], order[1], err_msg="an invisible behaviour changed the order")


def _check_bfloat16(layer, candidates, behaviours, expected):
  """Mixed precision computes in bfloat16, near float32 where it finds the same behaviours, with weights in float32."""
  half = type(layer)(**{**layer.get_config(), "dtype": "mixed_bfloat16"})
  half(*tensors((candidates, behaviours)))
  half.set_weights(layer.get_weights())
  actual = half(*tensors((candidates, behaviours)))
  assert actual.dtype == tf.bfloat16
  assert all(weight.dtype == tf.float32 for weight in half.trainable_weights)
  actual = np.broadcast_to(tf.cast(actual, tf.float32), expected.shape)
  assert np.isfinite(actual).all()
  far = np.abs(actual - expected).max(axis=-1) > 0.05 * np.abs(expected).max()
  assert far.mean() <= 0.25, "bfloat16 is far from float32 for more candidates than a tie in the search explains"


def check_glorot(weight: tf.Variable, fan_in: int, fan_out: int) -> None:
  """A weight of a few hundred numbers or more begins uniform as a `[fan_in, fan_out]` kernel does."""
  limit = (6.0 / (fan_in + fan_out)) ** 0.5
  assert 0.95 * limit < np.abs(weight).max() <= limit * (1 + 1e-6), weight.name
  np.testing.assert_allclose(np.std(weight), limit / 3**0.5, rtol=0.1, err_msg=weight.name)


def ops_without_gpu_kernel(function: Any) -> set[str]:
  """Ops of a concrete function (and of the functions it calls) that TensorFlow could not place on a GPU, or whose
  result would be on the host, though it is data."""
  called = function.graph.as_graph_def(add_shapes=False).library.function
  with function.graph.as_default():
    graphs = [function.graph, *(function_def_to_graph.function_def_to_graph(one) for one in called)]
  found = set()
  for op in (op for graph in graphs for op in graph.get_operations()):
    types = {name: value.type for name, value in op.node_def.attr.items() if value.type}
    fitting = [kernel for kernel in _kernels(op.type) if _fits_gpu(kernel, types)]
    wide = {out.name for out, tensor in zip(op.op_def.output_arg, op.outputs, strict=False) if _is_wide(tensor)}
    described = f"{op.type}({', '.join(f'{k}={tf.as_dtype(t).name}' for k, t in sorted(types.items()))})"
    if op.type == "Const" and op.outputs[0].dtype == tf.string:  # what an assertion says; strings are the host's
      continue
    if _kernels(op.type) and not fitting:  # without any it is a call of a function
      found.add(described)
    elif fitting and all(wide & set(kernel.host_memory_arg) for kernel in fitting) and op.type not in _NO_COPY:
      found.add(f"{described} on the host")
  return found


# of the batch, which comes from the host
_NO_COPY = ("Placeholder", "_Arg", "Const")


@functools.cache
def _kernels(op: str) -> list[Any]:
  return list(kernels.get_registered_kernels_for_op(op).kernel)


def _fits_gpu(kernel: Any, types: dict[str, int]) -> bool:
  return kernel.device_type in ("GPU", "DEFAULT") and all(
    types[c.name] in c.allowed_values.list.type for c in kernel.constraint if c.name in types
  )


def _is_wide(tensor: tf.Tensor) -> bool:
  """Whether it is data: what has two axes and a fixed size is where to pad."""
  return tensor.shape.rank is not None and tensor.shape.rank > 1 and not tensor.shape.is_fully_defined()


def _plain(value: Any) -> Any:
  return json.loads(json.dumps(value))


def _assert_close(actual: Any, expected: Any, **tolerance: float) -> None:
  for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
    np.testing.assert_allclose(one, other, **tolerance)


def _extract(layer: keras.layers.Layer, candidates: Candidates, behaviours: Behaviours) -> np.ndarray:
  """`[B, N, W]`, a result shared by the candidates broadcast."""
  output = layer(tensors(candidates), tensors(behaviours)).numpy()
  assert output.ndim == 3
  assert output.shape[1] in (1, candidates.items.shape[1])
  return np.broadcast_to(output, (*candidates.items.shape, output.shape[-1]))


def _each_behaviour(behaviours: Behaviours, change: Callable[[np.ndarray, int], np.ndarray]) -> Behaviours:
  """Applies `change(array, axis of L)` to everything that has one entry per behaviour."""
  parts = {name: change(getattr(behaviours, name), 1) for name in PER_BEHAVIOUR}
  return behaviours._replace(**parts, visible=change(behaviours.visible, 2))


def _junk(shape_like: Behaviours, seed: int) -> Behaviours:
  random = np.random.default_rng(seed)
  requests, length = shape_like.items.shape
  return shape_like._replace(
    embedding=(100.0 * random.normal(size=shape_like.embedding.shape)).astype(np.float32),
    items=random.integers(0, CATALOGUE, size=(requests, length)).astype(np.int32),
    fields=random.integers(0, 4, size=shape_like.fields.shape).astype(np.int64),
    times=random.integers(0, 2 * NEWEST, size=(requests, length)).astype(np.int64),
    side=(100.0 * random.normal(size=shape_like.side.shape)).astype(np.float32),
    vectors=(100.0 * random.normal(size=shape_like.vectors.shape)).astype(np.float32),
    keys=(100.0 * random.normal(size=shape_like.keys.shape)).astype(np.float32),
  )


def _check_one_request_is_many(layer, candidates, behaviours, expected, close):
  requests, count = candidates.items.shape
  alone = Candidates(*(array.reshape(requests * count, 1, *array.shape[2:]) for array in candidates))
  repeated = _each_behaviour(behaviours, lambda array, axis: np.repeat(array, count, axis=0) if axis == 1 else array)
  repeated = repeated._replace(visible=behaviours.visible.reshape(requests * count, 1, -1))
  actual = _extract(layer, alone, repeated).reshape(expected.shape)
  np.testing.assert_allclose(actual, expected, **close, err_msg="one request differs from N requests of one candidate")


def _check_invisible_is_ignored(layer, candidates, behaviours, expected, close):
  junk = _junk(behaviours, seed=1)
  for n in range(candidates.items.shape[1]):
    seen = behaviours.visible[:, n]

    def mixed(name, seen=seen):
      real = getattr(behaviours, name)
      return np.where(seen.reshape(seen.shape + (1,) * (real.ndim - 2)), real, getattr(junk, name))

    changed = behaviours._replace(**{k: mixed(k) for k in PER_BEHAVIOUR})
    np.testing.assert_allclose(
      _extract(layer, candidates, changed)[:, n], expected[:, n], **close, err_msg="an invisible behaviour was read"
    )


def _check_longer_padding(layer, candidates, behaviours, expected, close):
  for padding in (1, 7, 100):
    pad = lambda array, axis, padding=padding: np.repeat(np.take(array, [0], axis=axis), padding, axis=axis)  # noqa: E731
    tail = _junk(_each_behaviour(behaviours, pad), seed=padding)._replace(
      visible=np.zeros((*behaviours.visible.shape[:2], padding), bool)
    )
    longer = behaviours._replace(
      **{name: np.concatenate([getattr(behaviours, name), getattr(tail, name)], axis=1) for name in PER_BEHAVIOUR},
      visible=np.concatenate([behaviours.visible, tail.visible], axis=2),
    )
    np.testing.assert_allclose(
      _extract(layer, candidates, longer), expected, **close, err_msg=f"{padding} padded behaviours were read"
    )


def _check_shared_visibility(layer, candidates, behaviours, close):
  shared = behaviours._replace(visible=behaviours.visible[:, :1])
  repeated = behaviours._replace(visible=np.repeat(shared.visible, candidates.items.shape[1], axis=1))
  np.testing.assert_allclose(
    _extract(layer, candidates, shared),
    _extract(layer, candidates, repeated),
    **close,
    err_msg="visible [B, 1, L] differs from the same [B, N, L]",
  )


def _check_zeros_are_seen(layer, twin, candidates, behaviours, close):
  """A visible behaviour counts, whatever it holds: unknown items have zero embeddings, and some items no vector."""
  few = behaviours._replace(visible=behaviours.visible & (np.cumsum(behaviours.visible, axis=-1) <= 3))
  requests, first = np.arange(len(few.items)), few.visible[:, 0].argmax(axis=-1)
  for place in range(3):
    embedding, vectors = few.embedding.copy(), few.vectors.copy()
    embedding[requests, first + place] = 0.0
    vectors[requests, first + (place + 1) % 3] = 0.0
    changed = few._replace(embedding=embedding, vectors=vectors)
    actual, expected = _extract(layer, candidates, changed), twin(layer, candidates, changed)
    np.testing.assert_allclose(
      actual, np.broadcast_to(expected, actual.shape), **close, err_msg="a visible behaviour of zeros is left out"
    )


def _check_unknown_shapes(layer, candidates, behaviours, expected, close):
  def specification(array, unknown):
    return tf.TensorSpec([None] * unknown + list(array.shape[unknown:]), array.dtype)

  signature = [
    Candidates(*(specification(array, 2) for array in candidates)),
    Behaviours(*(specification(array, 2) for array in behaviours))._replace(
      visible=tf.TensorSpec([None, None, None], tf.bool),
      recency=specification(behaviours.recency, 0),
    ),
  ]
  traced = tf.function(lambda *arguments: layer(*arguments), input_signature=signature, autograph=False)
  actual = traced(tensors(candidates), tensors(behaviours))
  assert actual.shape[-1] == expected.shape[-1]
  concrete = traced.get_concrete_function()
  assert concrete.output_shapes[-1] == expected.shape[-1], "the output's width is not static"
  assert ops_without_gpu_kernel(concrete) == set()
  _check_saved_model(layer, traced, candidates, behaviours, actual)
  np.testing.assert_allclose(actual, expected, **close, err_msg="a graph of unknown shapes differs from eager")
  short = _each_behaviour(behaviours, lambda array, axis: np.take(array, range(3), axis=axis))
  np.testing.assert_allclose(traced(tensors(candidates), tensors(short)), _extract(layer, candidates, short), **close)


def _check_saved_model(layer, traced, candidates, behaviours, expected):
  module = tf.Module()
  module.layer, module.extract = layer, traced
  with tempfile.TemporaryDirectory() as folder:
    tf.saved_model.save(module, folder)
    loaded = tf.saved_model.load(folder)
  np.testing.assert_array_equal(
    loaded.extract(tensors(candidates), tensors(behaviours)), expected, err_msg="the SavedModel differs"
  )


def _gradients(layer, candidates, behaviours):
  candidates, behaviours = tensors(candidates), tensors(behaviours)
  random = np.random.default_rng(5)
  with tf.GradientTape() as tape:
    watched = [candidates.embedding, behaviours.embedding, behaviours.side, behaviours.recency]
    watched += [candidates.keys, behaviours.keys]
    tape.watch(watched)
    output = layer(candidates, behaviours)
    loss = tf.reduce_sum(output * random.normal(size=output.shape).astype(np.float32))
  return output, tape.gradient(loss, watched + layer.trainable_variables, unconnected_gradients="zero")


def _check_no_history(layer, candidates, behaviours):
  unseen = behaviours._replace(visible=np.zeros_like(behaviours.visible))
  output, gradients = _gradients(layer, candidates, unseen)
  np.testing.assert_array_equal(output, np.zeros_like(output), err_msg="no history, but an interest")
  for gradient in gradients:
    assert np.isfinite(tf.convert_to_tensor(gradient)).all(), "no history: a gradient is not finite"
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient), np.zeros(gradient.shape))


def _check_gradient_support(layer, candidates, behaviours, all_visible_learn):
  _, gradients = _gradients(layer, candidates, behaviours)
  learns = (tf.convert_to_tensor(gradients[1]).numpy() != 0).any(axis=-1)
  seen = behaviours.visible.any(axis=1)
  assert not (learns & ~seen).any(), "a behaviour that nobody sees gets gradient"
  assert learns.any(), "no behaviour gets gradient"
  if all_visible_learn:
    assert learns[seen].all(), "a visible behaviour gets no gradient"
  for variable, gradient in zip(layer.trainable_variables, gradients[6:], strict=True):
    assert (tf.convert_to_tensor(gradient).numpy() != 0).any(), f"{variable.name} gets no gradient"
