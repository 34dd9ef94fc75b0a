"""One check for what all networks share: `check_network("minet", {"recent": 3}, tmp_path)`."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lcn_tf import config
from lcn_tf.config import Experiment
from lcn_tf.data.request_spec import request_spec
from lcn_tf.models.base import Batch, RequestModel
from lcn_tf.models.build import build_model
from lcn_tf.serving.signatures import rank_function
from lcn_tf.training.optimizers import make_optimizer
from tests.support.batches import SCHEMA, batch_of, candidate, catalogue, row
from tests.support.layers import ops_without_gpu_kernel
from tests.support.record_sets import small_schema
from tests.support.replicas import mirrored

DOMAINS = ("target", "source")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def network_experiment(
  network: str, options: Mapping[str, Any] | None = None, *, units: tuple[int, ...] = (16, 8), **train_config: Any
) -> Experiment:
  """A few thousand weights, 16 requests a step."""
  tree = {
    "name": f"small {network}",
    "schema": small_schema(sized=False).model_dump(mode="json"),
    "model": {
      "network": network,
      "options": dict(options or {}),
      "embedding": {"dim": 8, "cross_dim": 4, "recency_buckets": 6, "init": "scaled_uniform"},
      "item_dim": 8,
      "mlp": {"units": units},
    },
    "train": {"global_batch_size": 64, "shuffle_buffer": 64, **train_config},
  }
  return config.from_tree(tree, "small")


def network_model(
  network: str, options: Mapping[str, Any] | None = None, *, seed: int = 0, training: bool = True, **settings: Any
) -> RequestModel:
  """A compiled model on the small schema; biases and ages are drawn, since zeros hide faults."""
  experiment = network_experiment(network, options, **settings)
  model = build_model(SCHEMA, experiment.model, seed=seed, catalogues=catalogue(), training=training)
  random = np.random.default_rng(seed)
  for variable in model.dense_variables():
    if not variable.numpy().any():
      variable.assign(0.3 * random.normal(size=variable.shape))
  model.compile(optimizer=make_optimizer(model, experiment.train))
  return model


def batches(seed: int = 0) -> dict[str, Batch]:
  """A batch of each domain's records, of different sizes."""
  return {"target": batch_of(6, seed, "target"), "source": batch_of(5, seed + 1, "source")}


def gradients_of(model: RequestModel, inputs: dict[str, Batch], loss: str = "loss") -> dict[str, np.ndarray | None]:
  """Of one of the losses, by the name of the variable; None where it is not reached."""
  with tf.GradientTape() as tape:
    value = model.compute_loss(inputs)[loss]
  found = tape.gradient(value, {v.name: v for v in model.trainable_variables})
  return {name: None if g is None else tf.convert_to_tensor(g).numpy() for name, g in found.items()}


def check_network(
  network: str,
  options: Mapping[str, Any],
  folder: pathlib.Path,
  *,
  training_only: tuple[str, ...],
  order_free: bool = True,
  units: tuple[int, ...] = (16, 8),
) -> None:
  """What every network shares.

  Args:
    network, options: As in an experiment; `order_free` needs options that let all behaviours in.
    folder: Folder for a checkpoint.
    training_only: Parts of the names of the weights that serving does not need. All others it does.
    order_free: Permuting the behaviours changes nothing; otherwise it does.
    units: Of `model.mlp`.
  """
  model = network_model(network, options, units=units, learning_rate=0.02)
  _check_requests(model, order_free)
  _check_no_history(model)
  _check_learning(model)
  _check_replicas(network, options, units)
  _check_training(model)
  _check_served(model, network, options, folder, training_only, units)


def permuted(batch: Batch, seed: int = 0) -> Batch:
  """The behaviours of each user in another order, with all that belongs to them; for `first_visible` = 0."""
  random, changed = np.random.default_rng(seed), dict(batch)
  for d in DOMAINS:
    width = batch[f"{d}_items"].shape[1]
    seen = np.minimum(batch[f"{d}_length"], SCHEMA.domain(d).max_length)
    orders = [np.concatenate([random.permutation(count), np.arange(count, width)]) for count in seen]
    for part in ("items", "times", "cross"):
      changed[f"{d}_{part}"] = tf.gather(batch[f"{d}_{part}"], np.array(orders, np.int64), axis=1, batch_dims=1)
  return changed


def one_moment(batch: Batch) -> Batch:
  """All candidates see the whole history."""
  return batch | {f"{d}_first_visible": tf.zeros_like(batch[f"{d}_first_visible"]) for d in DOMAINS}


def _check_requests(model: RequestModel, order_free: bool) -> None:
  batch = batch_of(candidates=4)
  together = model(batch).numpy()
  assert np.ptp(together) > 1e-3, "the comparison is empty: all logits are equal"
  for n in range(4):
    one = candidate(batch, n)
    np.testing.assert_allclose(model(one)[:, 0], together[:, n], **CLOSE, err_msg="N candidates are not N requests")
  for i in range(3):
    np.testing.assert_allclose(model(row(batch, i))[0], together[i], **CLOSE, err_msg="users of one call meet")

  wide, junk = dict(batch), dict(batch)
  for d in DOMAINS:
    real = tf.sequence_mask(batch[f"{d}_length"], batch[f"{d}_items"].shape[1])
    for part, value in (("items", 7), ("times", 1_999), ("cross", 3)):
      tensor = batch[f"{d}_{part}"]
      mask = tf.reshape(real, [*real.shape, *[1] * (tensor.shape.rank - 2)])
      junk[f"{d}_{part}"] = tf.where(mask, tensor, tf.cast(value, tensor.dtype))
      wide[f"{d}_{part}"] = tf.pad(tensor, [[0, 0], [0, 17]] + [[0, 0]] * (tensor.shape.rank - 2))
  np.testing.assert_allclose(model(wide), together, **CLOSE, err_msg="wider padding changed the logits")
  np.testing.assert_allclose(model(junk), together, **CLOSE, err_msg="junk beyond the length changed the logits")

  seen = one_moment(batch)
  expected = model(seen).numpy()
  shared = seen | {f"{d}_first_visible": seen[f"{d}_first_visible"][:, :1] for d in DOMAINS}
  np.testing.assert_allclose(model(shared), expected, **CLOSE, err_msg="first_visible [B, 1] differs from [B, N]")
  difference = np.abs(model(permuted(seen)).numpy() - expected).max()
  assert (difference < 1e-4) == order_free, f"permuting the behaviours moves a logit by {difference}"
  for d in DOMAINS:
    unseen = model(batch | {f"{d}_length": tf.zeros_like(batch[f"{d}_length"])}).numpy()
    assert np.abs(unseen - together).max() > 1e-4, f"the {d} history is not read"


def _check_no_history(model: RequestModel) -> None:
  for missing in (("target",), ("source",), DOMAINS):
    inputs = batches()
    for batch in inputs.values():
      batch |= {f"{d}_length": tf.zeros_like(batch[f"{d}_length"]) for d in missing}
    assert np.isfinite(model(inputs["target"])).all()
    assert np.isfinite(model.compute_loss(inputs)["loss"])
    for name, gradient in gradients_of(model, inputs).items():
      assert gradient is None or np.isfinite(gradient).all(), f"no {missing} history: the gradient of {name}"


def _check_learning(model: RequestModel) -> None:
  inputs = batches()
  for name, gradient in gradients_of(model, inputs).items():
    assert gradient is not None, f"{name} gets no gradient"
    assert gradient.any(), f"{name} gets no gradient"
  for domain, loss in (("target", "ctr_loss"), ("source", "source_loss")):
    masked = {name: dict(batch) for name, batch in inputs.items()}
    masked[domain]["label"] = tf.where(inputs[domain]["candidate_mask"], inputs[domain]["label"], 1.0)
    np.testing.assert_allclose(model.compute_loss(masked)[loss], model.compute_loss(inputs)[loss], rtol=1e-6)


def _check_replicas(network, options, units) -> None:
  """The losses of two replicas sum up to those of one that has all rows."""
  inputs = {"target": batch_of(6, 0, "target"), "source": batch_of(4, 1, "source")}
  alone = network_model(network, options, units=units)
  expected = alone.compute_loss(inputs)
  strategy = mirrored(2)
  with strategy.scope():
    model = network_model(network, options, units=units)
  # Keras draws what is made in a replica's thread from another sequence
  for variable, value in zip(model.variables, alone.variables, strict=True):
    variable.assign(value)

  def share(context):
    return {
      d: {name: tf.split(x, 2)[context.replica_id_in_sync_group] for name, x in batch.items()}
      for d, batch in inputs.items()
    }

  losses = strategy.run(model.compute_loss, (strategy.experimental_distribute_values_from_function(share),))
  assert set(losses) == {"loss", "ctr_loss", *model.extra_names}
  for name, loss in losses.items():
    total = strategy.reduce("SUM", loss, axis=None)
    np.testing.assert_allclose(total, expected[name], rtol=1e-4, err_msg=f"{name} of two replicas is not that of one")


def _check_training(model: RequestModel) -> None:
  """Every op of a step has a GPU kernel, and the losses of both tasks fall."""
  step = tf.function(lambda data: model.train_step(data), autograph=False).get_concrete_function(batches())
  assert ops_without_gpu_kernel(step) == set()
  before = model.compute_loss(batches())
  for _ in range(40):
    step(batches())
  after = model.compute_loss(batches())
  for name in ("ctr_loss", "source_loss"):
    assert after[name] < 0.8 * before[name], f"{name} goes from {before[name]} to {after[name]}"


def _check_served(model, network, options, folder, training_only, units) -> None:
  """What is served has what serving needs, no more, and scores as the model does; `save` has tests of its own."""
  experiment = network_experiment(network, options, units=units)
  serving = build_model(SCHEMA, experiment.model, training=False)
  served = {variable.name for variable in serving.variables}
  for variable in model.trainable_variables:
    needed = not any(part in variable.name for part in training_only)
    assert (variable.name in served) == needed, f"{variable.name}: served or not"
  for part in training_only:
    assert any(part in variable.name for variable in model.trainable_variables), f"no weight is called {part}"

  path = tf.train.Checkpoint(model=model).write(str(folder / "checkpoint"))
  tf.train.Checkpoint(model=serving).read(path).expect_partial().assert_existing_objects_matched()
  signature = rank_function(serving, SCHEMA)
  assert ops_without_gpu_kernel(signature) == set()
  batch = {name: tensor for name, tensor in batch_of(4, seed=9).items() if name in request_spec(SCHEMA)}
  np.testing.assert_allclose(signature(**batch)["probability"], tf.sigmoid(model(batch)), rtol=1e-5)
