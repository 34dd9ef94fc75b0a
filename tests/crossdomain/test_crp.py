import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.crossdomain.crp import CrossRepresentationProduction
from lcn_tf.crossdomain.pairs import DomainBatch, noises, row_noise, sample_pairs
from lcn_tf.layers.structures import Behaviours, Candidates
from tests.crossdomain.batches import random_batch
from tests.reference import crp as twin
from tests.support.layers import check_layer, ops_without_gpu_kernel, tensors
from tests.support.replicas import mirrored

SEED = tf.constant([3, 4])
NAMES = ("tt", "ts", "ss", "st", "t", "s")


def _crp(**options):
  return CrossRepresentationProduction(**{"units": (5, 4), **options})


def _toy(users, items, labels=None, own_item=90, table=None, mask=None):
  """Requests that each show the given items and have one behaviour per domain: `own_item` and 91."""
  items = np.array(items, np.int32)
  requests, candidates = items.shape
  table = np.eye(100, dtype=np.float32) if table is None else table

  def history(item):
    row = np.full([requests, 1], item, np.int32)
    empty = np.zeros([requests, 1, 0], np.float32)
    visible = np.ones([requests, candidates, 1], bool)
    fields, times = row[..., None].astype(np.int64), row.astype(np.int64)
    return Behaviours(table[row], row, fields, times, empty, np.zeros([0, 2]), visible, empty, empty)

  return DomainBatch(
    np.array(users, np.int64),
    np.zeros([requests, 1], np.float32),
    Candidates(
      table[items],
      items,
      items[..., None].astype(np.int64),
      items.astype(np.int64),
      table[items],
      table[items][..., :0],
    ),
    np.ones_like(items, bool) if mask is None else np.array(mask),
    np.ones(items.shape, np.float32) if labels is None else np.array(labels, np.float32),
    np.ones(items.shape, np.float32),
    history(own_item),
    history(91),
  )


def _losses(layer, target, source, seed=SEED):
  return {name: float(loss) for name, loss in layer(tensors(target), tensors(source), seed).items()}


def _picked(batch, noise, layer):
  """Per request a list of (anchor, [own], [other])."""
  pairs = sample_pairs(tensors(batch), noise, layer.anchors, layer.partners)
  picked = [[] for _ in batch.user]
  for b, a in np.argwhere(pairs.anchor.found):
    partners = [[int(i) for i in picks.index[b, a][picks.found[b, a]]] for picks in (pairs.own, pairs.other)]
    picked[b].append((int(pairs.anchor.index[b, a]), *partners))
  return picked


def _gradients(layer, target, source):
  """Of `total` with respect to every float input and every weight."""
  target, source = tensors((target, source))
  watched = [t for t in tf.nest.flatten((target, source)) if t.dtype.is_floating]
  with tf.GradientTape() as tape:
    tape.watch(watched)
    total = layer(target, source, SEED)["total"]
  return tape.gradient(total, watched + layer.trainable_variables, unconnected_gradients="zero")


@pytest.mark.job
def test_survives_every_use_that_keras_makes_of_a_layer():
  options = {
    "contrastive": (0.1, 0.2, 0.3, 0.4),
    "supervised": (0.5, 2.0),
    "temperature": 0.5,
    "negatives": "history_query",
    "anchors": 2,
    "partners": 3,
    "dedupe_users": False,
    "mask_history_negatives": False,
    "mask_same_user": False,
    "units": (5, 4),
  }
  bad = {
    "contrastive": [(0.1, 0.1, 0.1), (0.1, 0.1, 0.1, -0.1)],
    "supervised": [(1.0,), (-1.0, 1.0)],
    "temperature": [0.0, -0.1],
    "negatives": "in_batch",
    "anchors": [0, -1],
    "partners": 0,
    "units": [(4, 0)],
  }
  check_layer(CrossRepresentationProduction, options, (random_batch(0), random_batch(1), SEED), bad=bad)


def test_domains_of_different_width_are_refused():
  with pytest.raises(ValueError, match=r"one width, found \[6, 8\]"):
    _crp()(tensors(random_batch(0)), tensors(random_batch(1, width=8)), SEED)


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"temperature": 0.5},
    {"negatives": "history_query"},
    {"anchors": 1, "partners": 1},
    {"partners": 3, "negatives": "history_query"},
    {"anchors": 2, "dedupe_users": False},
    {"dedupe_users": False},
    {"mask_history_negatives": False},
    {"mask_same_user": False},
    {"dedupe_users": False, "mask_same_user": False, "mask_history_negatives": False, "negatives": "history_query"},
  ],
  ids=str,
)
def test_every_variant_equals_its_twin(options):
  weights = {"contrastive": (0.1, 0.2, 0.3, 0.4), "supervised": (0.5, 2.0)}
  layer = _crp(**options, **weights)
  met = {name: 0 for name in NAMES}
  for seed in range(4):
    length = 70 if seed == 3 else 7
    target, source = random_batch(2 * seed), random_batch(2 * seed + 1, requests=8, candidates=3, length=length)
    step = tf.constant([seed, 9])
    actual = _losses(layer, target, source, step)
    noise = row_noise(
      step, (tf.constant(6), tf.constant(8)), noises(target.label.shape[1], layer.anchors, layer.partners)
    )
    heads = [[w.numpy() for w in head.weights] for head in (layer._target_head, layer._source_head)]
    expected = twin.crp(
      target,
      source,
      _picked(target, noise[0], layer),
      _picked(source, noise[1], layer),
      *heads,
      weights["contrastive"],
      weights["supervised"],
      **{name: value for name, value in options.items() if name not in ("anchors", "partners")},
    )
    assert list(actual) == [*NAMES, "total"]
    for name in actual:
      np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=f"{name}, {seed}")
    for name in NAMES:
      met[name] += expected[name] > 0
  assert min(met.values()) > 0, f"the comparison is empty: {met}"


def test_loss_of_orthogonal_items_is_the_log_of_anchor_and_negatives():
  layer = _crp(temperature=1.0)
  losses = _losses(layer, _toy([1, 2, 3, 4], [[1], [2], [3], [4]]), _toy([1, 2], [[5], [6]]))
  np.testing.assert_allclose([losses["tt"], losses["ts"]], np.log(4), rtol=1e-5)
  np.testing.assert_allclose([losses["ss"], losses["st"]], np.log(2), rtol=1e-5)


def test_a_partner_equal_to_its_anchor_costs_what_the_formula_says():
  table = np.eye(100, dtype=np.float32)
  table[[1, 90, 91]] = table[2]
  table[[5, 6, 7]] = table[8]
  target = _toy([1, 2, 3, 4], [[1, 1], [5, 5], [6, 6], [7, 7]], [[1, 0], [1, 0], [1, 0], [1, 0]], table=table)
  one = target._replace(label=target.label * np.array([[1], [0], [0], [0]], np.float32))
  layer = _crp(temperature=1.0)
  only = target._replace(own=target.own._replace(visible=target.own.visible & (np.arange(4) == 0)[:, None, None]))
  assert _losses(layer, one, one)["tt"] == 0.0
  np.testing.assert_allclose(_losses(layer, only, only)["tt"], 0.7437, atol=1e-4)


@pytest.mark.parametrize(("other_item", "expected"), [(6, 1.0064), (1, 0.5514)])
def test_a_candidate_of_the_anchors_own_item_is_no_negative(other_item, expected):
  table = np.eye(100, dtype=np.float32)
  table[[1, 90]] = table[6]
  target = _toy([1, 2, 3, 4], [[1], [other_item], [7], [8]], table=table)
  visible = target.own.visible & (np.arange(4) == 0)[:, np.newaxis, np.newaxis]
  target = target._replace(own=target.own._replace(visible=visible))
  np.testing.assert_allclose(_losses(_crp(temperature=1.0), target, target)["tt"], expected, atol=1e-4)


def test_a_candidate_of_the_partners_item_is_a_negative_across_domains_only():
  target = _toy([1, 2, 3], [[1], [9], [7]], own_item=9)
  visible = np.array([True, False, False])[:, np.newaxis, np.newaxis]
  target = target._replace(
    own=target.own._replace(visible=visible), other=target.other._replace(items=target.own.items, visible=visible)
  )
  losses = _losses(_crp(temperature=1.0, mask_history_negatives=False), target, target)
  np.testing.assert_allclose([losses["tt"], losses["ts"]], [np.log(2), np.log(3)], rtol=1e-5)


def test_an_item_of_the_anchors_recent_history_is_no_negative():
  target = _toy([1, 2, 3], [[1], [9], [7]], own_item=9)
  visible = np.array([True, False, False])[:, np.newaxis, np.newaxis]
  target = target._replace(other=target.other._replace(visible=visible))
  kept = _losses(_crp(temperature=1.0, mask_history_negatives=False), target, target)["ts"]
  dropped = _losses(_crp(temperature=1.0), target, target)["ts"]
  np.testing.assert_allclose([kept, dropped], [np.log(3), np.log(2)], rtol=1e-5)


@pytest.mark.parametrize(
  ("column", "negatives"),
  [(0, 2), (2, 1), (2 + 49, 1), (2 + 50, 2), (2 + 57, 2)],
  ids=["invisible", "newest", "50th newest", "51st newest", "oldest"],
)
def test_of_the_anchors_history_the_newest_50_visible_behaviours_are_no_negatives(column, negatives):
  # 60 behaviours of which the anchor sees all but the newest two; 9, a candidate of another user, is one of them
  target = _toy([1, 2, 3], [[1], [9], [7]])
  items = np.full([3, 60], 90, np.int32)
  items[0, column] = 9
  visible = np.broadcast_to(np.arange(60) >= 2, (3, 1, 60))
  repeated = {name: np.repeat(getattr(target.own, name), 60, axis=1) for name in ("times", "side", "vectors", "fields")}
  embedding = np.eye(100, dtype=np.float32)[items]
  own = target.own._replace(**repeated, items=items, embedding=embedding, visible=visible)
  alone = np.array([True, False, False])[:, np.newaxis, np.newaxis]
  target = target._replace(own=own, other=target.other._replace(visible=alone))
  dropped = _losses(_crp(temperature=1.0), target, target)["ts"]
  kept = _losses(_crp(temperature=1.0, mask_history_negatives=False), target, target)["ts"]
  np.testing.assert_allclose([dropped, kept], [np.log(1 + negatives), np.log(3)], rtol=1e-5)


@pytest.mark.parametrize("negatives", ["candidates", "history_query"])
def test_an_anchor_without_a_negative_has_no_share_of_the_mean(negatives):
  # what the others like is in the history of user 1; each of them holds 2 against 1
  target = _toy([1, 2, 3], [[1], [2], [2]], own_item=[[2], [90], [90]])
  losses = _losses(_crp(temperature=1.0, negatives=negatives), target, target)
  np.testing.assert_allclose([losses["tt"], losses["ts"]], np.log(2), rtol=1e-5)


def test_requests_of_one_user_alone_give_zero_and_no_nan():
  target = _toy([5, 5], [[1, 2], [3, 4]])
  layer = _crp()
  losses = _losses(layer, target, target)
  assert [losses[name] for name in NAMES[:4]] == [0.0] * 4
  layer.supervised = (0.0, 0.0)
  for gradient in _gradients(layer, target, target):
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient), np.zeros(gradient.shape))
  unmasked = _losses(_crp(mask_same_user=False), target, target)
  assert unmasked["tt"] > 0.0


def test_without_positives_there_is_nothing_to_contrast():
  target = _toy([1, 2, 3], [[1], [2], [3]], labels=[[0], [0], [0]])
  layer = _crp(supervised=(0.0, 0.0))
  losses = _losses(layer, target, target)
  assert [losses[name] for name in (*NAMES[:4], "total")] == [0.0] * 5
  assert losses["t"] > 0
  assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in _gradients(layer, target, target))


def test_a_batch_of_padding_gives_zeros():
  target = _toy([0, 0], [[0], [0]], mask=[[False], [False]])
  layer = _crp()
  assert list(_losses(layer, target, target).values()) == [0.0] * 7
  assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in _gradients(layer, target, target))


def test_a_repeated_positive_of_another_user_is_one_negative():
  once = _toy([1, 2], [[1], [2]])
  often = _toy([1, 2, 2], [[1, 1], [2, 2], [2, 2]])
  layer = _crp(temperature=1.0)
  np.testing.assert_allclose(_losses(layer, often, often)["tt"], _losses(layer, once, once)["tt"], rtol=1e-6)


def test_only_the_first_request_of_a_user_with_a_positive_is_an_anchor():
  # user 1 has no positive in the first request; the anchors are 2 (of three other items) and 7 (of two)
  target = _toy([1, 1, 2, 1], [[5], [2], [7], [8]], labels=[[0], [1], [1], [1]])
  losses = _losses(_crp(temperature=1.0), target, target)
  np.testing.assert_allclose(losses["ts"], (np.log(2) + np.log(3)) / 2, rtol=1e-5)
  every = _losses(_crp(temperature=1.0, dedupe_users=False), target, target)
  np.testing.assert_allclose(every["ts"], (2 * np.log(2) + np.log(3)) / 3, rtol=1e-5)


def test_each_positive_of_a_request_is_an_anchor_up_to_their_number():
  # user 1 likes 1, 2 and 3, each held against 7; user 2 likes 7, held against 1, 2 and 3
  target = _toy([1, 2], [[1, 2, 3, 4], [7, 8, 9, 10]], labels=[[1, 1, 1, 0], [1, 0, 0, 0]])
  for anchors, expected in [(1, (np.log(2) + np.log(4)) / 2), (2, (2 * np.log(2) + np.log(4)) / 3)]:
    losses = _losses(_crp(temperature=1.0, anchors=anchors), target, target)
    np.testing.assert_allclose(losses["ts"], expected, rtol=1e-5)
  for anchors in (3, 8):
    losses = _losses(_crp(temperature=1.0, anchors=anchors), target, target)
    np.testing.assert_allclose(losses["ts"], (3 * np.log(2) + np.log(4)) / 4, rtol=1e-5)


def test_without_a_partner_in_one_domain_the_other_pair_still_counts():
  target = _toy([1, 2], [[1], [2]])
  target = target._replace(own=target.own._replace(visible=np.zeros_like(target.own.visible)))
  losses = _losses(_crp(temperature=1.0), target, target)
  assert losses["tt"] == 0.0
  np.testing.assert_allclose(losses["ts"], np.log(2), rtol=1e-5)


def test_a_behaviour_of_the_anchors_own_item_is_no_partner():
  target = _toy([1, 2], [[1], [2]], own_item=1)
  alone = target._replace(other=target.other._replace(visible=np.zeros_like(target.other.visible)))
  losses = _losses(_crp(temperature=1.0, mask_history_negatives=False), alone, alone)
  # request 0 has no partner; request 1 has behaviour 1, and with it no negative is left
  assert losses["tt"] == 0.0


def test_swapping_the_domains_swaps_the_losses():
  target, source = _toy([1, 2, 3], [[1], [2], [3]]), _toy([4, 5], [[3], [4]], own_item=92)
  rough = np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)
  target, source = (
    batch._replace(
      candidates=batch.candidates._replace(embedding=rough[batch.candidates.items]),
      own=batch.own._replace(embedding=rough[batch.own.items]),
      other=batch.other._replace(embedding=rough[batch.other.items]),
    )
    for batch in (target, source)
  )
  layer = _crp()
  one, other = _losses(layer, target, source), _losses(layer, source, target)
  swapped = {"tt": "ss", "ts": "st", "ss": "tt", "st": "ts"}
  np.testing.assert_allclose([one[name] for name in swapped], [other[name] for name in swapped.values()], rtol=1e-5)
  assert one["tt"] != one["ss"]
  first, second = layer._target_head.get_weights(), layer._source_head.get_weights()
  layer._target_head.set_weights(second)
  layer._source_head.set_weights(first)
  other = _losses(layer, source, target)
  np.testing.assert_allclose([one["t"], one["s"]], [other["s"], other["t"]], rtol=1e-5)


def test_total_weighs_the_six_losses():
  layer = _crp(contrastive=(0.1, 0.2, 0.3, 0.4), supervised=(0.5, 2.0))
  losses = _losses(layer, random_batch(2), random_batch(3))
  weights = dict(zip(NAMES, (0.1, 0.2, 0.3, 0.4, 0.5, 2.0), strict=True))
  np.testing.assert_allclose(losses["total"], sum(w * losses[name] for name, w in weights.items()), rtol=1e-5)


def test_both_domains_items_and_the_heads_learn():
  target, source = tensors((random_batch(4), random_batch(5)))
  layer = _crp()
  watched = [d.candidates.embedding for d in (target, source)] + [
    h.embedding for d in (target, source) for h in (d.own, d.other)
  ]
  with tf.GradientTape() as tape:
    tape.watch(watched)
    total = layer(target, source, SEED)["total"]
  for gradient in tape.gradient(total, watched + layer.trainable_variables):
    assert np.abs(tf.convert_to_tensor(gradient)).max() > 0


def test_contrastive_losses_do_not_reach_the_heads_and_only_visible_behaviours_learn():
  target, source = tensors((random_batch(6), random_batch(7)))
  layer = _crp(supervised=(0.0, 0.0), anchors=1, partners=1)
  with tf.GradientTape() as tape:
    tape.watch([target.own.embedding, target.own.side])
    total = layer(target, source, SEED)["total"]
  inputs = [target.own.embedding, target.own.side, *layer.trainable_variables]
  embedding, side, *heads = tape.gradient(total, inputs, unconnected_gradients="zero")
  learns = (tf.convert_to_tensor(embedding).numpy() != 0).any(axis=-1)
  assert learns.sum(axis=1).max() == 1, "one partner per request"
  assert not (learns & ~target.own.visible.numpy().any(axis=1)).any()
  assert not side.numpy().any()
  assert all(not tf.convert_to_tensor(gradient).numpy().any() for gradient in heads)


def test_the_same_seed_draws_the_same_pairs_and_another_seed_others():
  layer, target, source = _crp(), random_batch(8, users=20), random_batch(9, users=20)
  first = _losses(layer, target, source)
  assert _losses(layer, target, source) == first
  assert _losses(layer, target, source, tf.constant([3, 5]))["tt"] != first["tt"]


def _slice(batch, replica, replicas):
  size = len(batch.user) // replicas
  part = tf.nest.map_structure(lambda array: array[replica * size : (replica + 1) * size], batch)
  return part._replace(**{d: getattr(part, d)._replace(recency=getattr(batch, d).recency) for d in ("own", "other")})


def _train_once(replicas, target, source):
  """Losses, and gradients of a shared item table and of the heads, summed over the replicas."""
  strategy = mirrored(replicas)
  table = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
  with strategy.scope():
    table = tf.Variable(table)
    layer = _crp()
    layer(tensors(target), tensors(source), SEED)
    layer.set_weights([0.3 * np.cos(np.arange(w.size)).reshape(w.shape) for w in layer.get_weights()])

  def embed(batch):
    return batch._replace(
      candidates=batch.candidates._replace(embedding=tf.gather(table, batch.candidates.items)),
      own=batch.own._replace(embedding=tf.gather(table, batch.own.items)),
      other=batch.other._replace(embedding=tf.gather(table, batch.other.items)),
    )

  def replica_step(target, source):
    with tf.GradientTape() as tape:
      losses = layer(embed(target), embed(source), SEED)
    gradients = tape.gradient(losses["total"], [table, *layer.trainable_variables])
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    context = tf.distribute.get_replica_context()
    return context.all_reduce("SUM", losses), context.all_reduce("SUM", gradients)

  def distribute(batch):
    return strategy.experimental_distribute_values_from_function(
      lambda context: tensors(_slice(batch, context.replica_id_in_sync_group, replicas))
    )

  if replicas == 1:
    return replica_step(tensors(target), tensors(source))

  def step(*arguments):
    return strategy.run(replica_step, arguments)

  # a graph of four replicas takes half a minute to make, and one of two shows the same
  result = (tf.function(step, autograph=False) if replicas == 2 else step)(distribute(target), distribute(source))
  return tf.nest.map_structure(lambda values: strategy.experimental_local_results(values)[0], result)


@pytest.mark.job
def test_one_two_and_four_replicas_give_the_same_losses_and_gradients():
  target, source = random_batch(10, requests=8), random_batch(11, requests=4, candidates=3)
  losses, gradients = _train_once(1, target, source)
  assert min(float(loss) for loss in losses.values()) > 0
  for replicas in (2, 4):
    other_losses, other_gradients = _train_once(replicas, target, source)
    for name in losses:
      np.testing.assert_allclose(other_losses[name], losses[name], rtol=1e-5, err_msg=f"{name}, {replicas} replicas")
    for one, other in zip(gradients, other_gradients, strict=True):
      np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6, err_msg=f"{replicas} replicas")


def test_a_graph_of_any_number_of_requests_and_behaviours_gives_what_eager_gives():
  target, source = tensors((random_batch(12), random_batch(13, requests=8)))
  layer = _crp()
  expected = layer(target, source, SEED)

  def loose(tensor):
    # what a trainer knows: not B, not L, but candidates and widths
    known = [None if axis == 0 or size in (9, 11) else size for axis, size in enumerate(tensor.shape)]
    return tf.TensorSpec(known, tensor.dtype)

  signature = tf.nest.map_structure(loose, (target, source))
  step = tf.function(lambda *batches: layer(*batches, SEED), autograph=False, input_signature=signature)
  actual = step(target, source)
  for name, loss in expected.items():
    np.testing.assert_allclose(actual[name], loss, rtol=1e-6, err_msg=name)


@pytest.mark.job
def test_every_op_of_a_step_has_a_gpu_kernel():
  target, source = tensors((random_batch(12), random_batch(13)))
  layer = _crp()

  @tf.function(autograph=False)
  def step(target, source, seed):
    with tf.GradientTape() as tape:
      watched = [b.embedding for d in (target, source) for b in (d.candidates, d.own, d.other)]
      tape.watch(watched)
      total = layer(target, source, seed)["total"]
    return tape.gradient(total, watched + layer.trainable_variables)

  assert ops_without_gpu_kernel(step.get_concrete_function(target, source, SEED)) == set()
