"""The skeleton: one request with N candidates, padding, losses, ops."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.errors import UserError
from lcn_tf.models.build import build_model
from lcn_tf.models.ctr import make_extractor
from tests.reference.average_pooling import average_pooling
from tests.reference.mlp import mlp
from tests.support.batches import SCHEMA, batch_of, candidate, catalogue, model_of, row, without_repeats
from tests.support.experiments import small_experiment
from tests.support.layers import ops_without_gpu_kernel


def test_it_equals_its_twin():
  model, random = model_of("average_pooling"), np.random.default_rng(0)
  for variable in model.dense_variables():
    variable.assign(0.3 * random.normal(size=variable.shape))
  batch = batch_of()
  embedded = tf.nest.map_structure(lambda tensor: tensor.numpy(), model.embedder([("target", batch)])[0])
  candidates, context = embedded.candidates, embedded.context
  assert candidates.embedding.shape[-1] == 8
  interests = [average_pooling(candidates, embedded.histories[d]) for d in model.config.histories]
  kernel, bias = model.logit.get_weights()
  expected = np.zeros(candidates.items.shape)
  for b, n in np.ndindex(*expected.shape):
    own = [interest[b, n] for interest in interests]
    hidden = mlp(
      np.concatenate([embedded.profile[b], context[b, n], candidates.embedding[b, n], *own]), model.mlp.get_weights()
    )
    expected[b, n] = hidden @ kernel[:, 0] + bias[0]
  np.testing.assert_allclose(model(batch), expected, rtol=1e-4, atol=1e-5)
  assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("extractor", ["lap", "average_pooling"])
def test_a_request_with_n_candidates_is_n_requests_with_one(extractor):
  model, batch = model_of(extractor), without_repeats(batch_of(candidates=4))
  together = model(batch).numpy()
  for n in range(4):
    one = candidate(batch, n)
    np.testing.assert_allclose(model(one).numpy()[:, 0], together[:, n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extractor", ["lap", "average_pooling"])
def test_users_in_one_call_do_not_meet(extractor):
  model, batch = model_of(extractor), without_repeats(batch_of())
  together = model(batch).numpy()
  for i in range(6):
    np.testing.assert_allclose(model(row(batch, i)).numpy()[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extractor", ["lap", "average_pooling"])
def test_wider_padding_changes_nothing(extractor):
  model, batch = model_of(extractor), without_repeats(batch_of())
  wide = dict(batch)
  for d in ("target", "source"):
    for part in ("items", "times", "cross"):
      tensor = batch[f"{d}_{part}"]
      wide[f"{d}_{part}"] = tf.pad(tensor, [[0, 0], [0, 17]] + [[0, 0]] * (tensor.shape.rank - 2))
  np.testing.assert_allclose(model(wide).numpy(), model(batch).numpy(), rtol=1e-5, atol=1e-6)


def test_junk_beyond_the_length_changes_nothing():
  model, batch = model_of(), batch_of()
  junk = dict(batch)
  for d in ("target", "source"):
    real = tf.sequence_mask(batch[f"{d}_length"], batch[f"{d}_items"].shape[1])
    junk[f"{d}_items"] = tf.where(real, batch[f"{d}_items"], 7)
    junk[f"{d}_times"] = tf.where(real, batch[f"{d}_times"], 1_999)
    junk[f"{d}_cross"] = tf.where(real[..., tf.newaxis], batch[f"{d}_cross"], 3)
  np.testing.assert_allclose(model(junk).numpy(), model(batch).numpy(), rtol=1e-5, atol=1e-6)


def test_looking_rows_up_once_gives_what_looking_each_up_gives():
  once, each = model_of(deduplicate=True), model_of(deduplicate=False)
  batch = batch_of()
  np.testing.assert_allclose(once(batch).numpy(), each(batch).numpy(), rtol=1e-5, atol=1e-6)


def test_a_table_gets_one_gradient_row_per_distinct_id():
  model, batch = model_of(), batch_of()
  with tf.GradientTape() as tape:
    loss = model.compute_loss({"target": batch})["loss"]
  gradients = tape.gradient(loss, model.embedder.tables.trainable_variables)
  for gradient, table in zip(gradients, model.embedder.tables.trainable_variables, strict=True):
    indices = gradient.indices.numpy()
    assert len(set(indices)) == len(indices), table.name


@pytest.mark.job
@pytest.mark.parametrize("crp", [False, True])
def test_the_padding_row_of_every_table_stays_zero(crp):
  model = model_of(crp=crp, learning_rate=0.1)
  inputs = {d: batch_of(seed=i, domain=d) for i, d in enumerate(model.domains)}
  step = model.make_train_function()
  data = iter(tf.data.Dataset.from_tensors(inputs).repeat())
  before = {table.name: table.numpy() for table in model.embedder.tables.trainable_variables}
  for _ in range(3):
    step(data)
  for table in model.embedder.tables.trainable_variables:
    np.testing.assert_array_equal(table.numpy()[0], 0)
    assert np.abs(table.numpy() - before[table.name]).max() > 0.01, table.name


def test_padded_candidates_and_weights_count_as_the_formula_says():
  model, batch = model_of(), batch_of(seed=3)
  batch["weight"] *= tf.random.stateless_uniform(batch["weight"].shape, [1, 2])
  logits = model(batch).numpy()
  total = weights = 0.0
  for i in range(6):
    for n in range(4):
      if batch["candidate_mask"][i, n]:
        z, y, w = logits[i, n], float(batch["label"][i, n]), float(batch["weight"][i, n])
        total += w * (np.log1p(np.exp(z)) - y * z)
        weights += w
  np.testing.assert_allclose(model.compute_loss({"target": batch})["ctr_loss"], total / weights, rtol=1e-5)


@pytest.mark.job
def test_without_weight_crp_leaves_the_main_gradients_as_they_are():
  with_crp, without = model_of(crp=True), model_of()
  with_crp.crp_weight = 0.0
  own = {v.name: v for v in with_crp.trainable_variables}
  for variable in without.trainable_variables:
    own[variable.name].assign(variable)
  inputs = {d: batch_of(seed=i, domain=d) for i, d in enumerate(("target", "source"))}
  gradients = []
  for model in (with_crp, without):
    with tf.GradientTape() as tape:
      loss = model.compute_loss(inputs)["loss"]
    names = [v.name for v in without.trainable_variables]
    variables = {v.name: v for v in model.trainable_variables}
    found = tape.gradient(loss, [variables[name] for name in names])
    gradients.append({n: tf.convert_to_tensor(g).numpy() for n, g in zip(names, found, strict=True)})
  for name, expected in gradients[1].items():
    np.testing.assert_allclose(gradients[0][name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_every_step_draws_other_pairs_from_the_same_batch():
  model = model_of(crp=True, learning_rate=1e-12)
  inputs = {d: batch_of(seed=i, domain=d) for i, d in enumerate(model.domains)}
  losses = []
  for _ in range(2):
    model.reset_metrics()
    losses.append({name: float(loss) for name, loss in model.train_step(inputs).items()})
  first, second = losses
  assert abs(first["crp_loss"] - second["crp_loss"]) > 1e-3
  # nothing was learned that could tell the steps apart, and within a step nothing is drawn anew
  np.testing.assert_allclose(first["ctr_loss"], second["ctr_loss"], rtol=1e-6)
  again = [float(model.compute_loss(inputs)["crp_loss"]) for _ in range(2)]
  assert again[0] == again[1]


def test_crp_moves_item_tables_and_never_the_attention():
  model = model_of(crp=True)
  inputs = {d: batch_of(seed=i, domain=d) for i, d in enumerate(("target", "source"))}
  with tf.GradientTape() as tape:
    loss = model.compute_loss(inputs)["crp_loss"]
  gradients = tape.gradient(loss, {v.name: v for v in model.trainable_variables})
  for name, gradient in gradients.items():
    if "interest_" in name:
      assert gradient is None, name
  assert np.abs(tf.convert_to_tensor(gradients["source_item/table:0"])).max() > 0


@pytest.mark.job
def test_every_op_of_a_training_step_has_a_gpu_kernel():
  model = model_of(crp=True)
  inputs = {d: batch_of(seed=i, domain=d) for i, d in enumerate(model.domains)}
  step = tf.function(lambda data: model.train_step(data), autograph=False)
  assert ops_without_gpu_kernel(step.get_concrete_function(inputs)) == set()


def test_xla_compiles_the_training_step():
  model = model_of(deduplicate=False)
  batch = {"target": batch_of()}
  plain = model.compute_loss(batch)["loss"]
  compiled = tf.function(lambda data: model.compute_loss(data)["loss"], autograph=False, jit_compile=True)
  np.testing.assert_allclose(compiled(batch), plain, rtol=1e-4)


def test_an_unknown_extractor_or_option_is_named_with_its_neighbour():
  config = small_experiment().model
  with pytest.raises(UserError, match=r"unknown extractor 'lapp'\. Did you mean 'lap'\?"):
    make_extractor(config.model_copy(update={"extractor": "lapp"}), SCHEMA, "target")
  with pytest.raises(UserError, match=r"unknown option 'topk'\. Did you mean 'top_k'\?"):
    make_extractor(config.model_copy(update={"options": {"topk": 3}}), SCHEMA, "target")
  with pytest.raises(UserError, match=r"top_k must be two sizes.*found \[3, 5\]"):
    make_extractor(config.model_copy(update={"options": {"top_k": [3, 5]}}), SCHEMA, "target")
  with pytest.raises(UserError, match=r"unknown option 'top_k'.*Known: none"):
    make_extractor(config.model_copy(update={"extractor": "average_pooling"}), SCHEMA, "target")


def test_a_history_whose_items_lack_the_category_is_left_out_with_a_warning(caplog):
  config = small_experiment("sim_hard").model.model_copy(update={"options": {"category": "genres", "top_k": 4}})
  with caplog.at_level(logging.WARNING, "absl"):
    model = build_model(SCHEMA, config, catalogues=catalogue())
  assert "'sim_hard' finds nothing in the source history" in caplog.text
  assert list(model.extractors) == ["target"]
  logits = model(batch_of()).numpy()
  assert np.isfinite(logits).all()
  assert np.ptp(logits) > 1e-3


def test_domains_of_different_item_widths_need_a_projection():
  config = small_experiment().model.model_copy(update={"item_dim": 0})
  with pytest.raises(UserError, match=r"24 wide in the target domain and 16 in the source domain.*item_dim"):
    build_model(SCHEMA, config)


def test_values_and_ages_that_training_never_met_begin_as_zeros():
  model = model_of()
  for name, table in model.embedder.tables.tables.items():
    unknown = SCHEMA.vocabularies[name].oov
    np.testing.assert_array_equal(table.numpy()[: 1 + unknown], 0)
    assert np.all(np.abs(table.numpy()[1 + unknown :]).max(axis=1) > 0), name
  for recency in model.embedder.recency.values():
    np.testing.assert_array_equal(recency.numpy(), 0)
