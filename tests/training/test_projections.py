"""What a search keeps of the model for a while: the refresh, the rhythm of it, checkpoints and exports with it."""

import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from lcn_tf.config import from_tree
from lcn_tf.errors import UserError
from lcn_tf.models.separate_search import SeparateSearch
from lcn_tf.training import projections
from lcn_tf.training.export_run import export_run
from lcn_tf.training.optimizers import make_optimizer
from lcn_tf.training.projections import RefreshProjections, refresh
from lcn_tf.training.run_folder import open_run, read_run
from lcn_tf.training.trainer import train
from tests.reference.projections import of_items
from tests.support.batches import batch_of
from tests.support.callbacks import Stop
from tests.support.record_sets import small_schema, write_record_set
from tests.support.twins import twin_experiment, twin_of


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  sizes = {"train": 64, "validation": 16, "test": 16}
  return write_record_set(tmp_path_factory.mktemp("records"), small_schema(), records=sizes)


@pytest.mark.parametrize(("chunk", "max_length"), [(7, 0), (8192, 0), (8192, 5)])
def test_a_refresh_fills_the_projections_of_every_item_of_every_history(chunk, max_length, monkeypatch):
  monkeypatch.setattr(projections, "_CHUNK", chunk)
  model = twin_of({"projections": "cached"}, max_length=max_length)
  for domain, rows in (("target", 30), ("source", 40)):
    assert model.extractors[domain].cached.shape == (rows, 2 * 3)
    np.testing.assert_array_equal(model.extractors[domain].cached, np.zeros([rows, 6]))
  refresh(model)
  for domain in ("target", "source"):
    expected = of_items(model, domain)
    assert np.abs(expected[2:]).max(axis=1).min() > 1e-3
    np.testing.assert_allclose(model.extractors[domain].cached, expected, rtol=1e-4, atol=1e-6)


def test_a_fresh_cache_scores_as_live_weights_and_a_stale_one_does_not():
  batch = batch_of()
  live, cached = twin_of(), twin_of({"projections": "cached"})
  values = {variable.name: variable for variable in live.variables}
  for variable in cached.trainable_variables:
    variable.assign(values[variable.name])
  assert np.abs(cached(batch).numpy() - live(batch).numpy()).max() > 1e-4
  refresh(cached)
  np.testing.assert_allclose(cached(batch), live(batch), rtol=1e-4, atol=1e-6)
  embedded = cached.embedder([("target", batch)])[0]
  for domain, twin in cached.extractors.items():
    arguments = embedded.candidates, embedded.histories[domain]
    visible = embedded.histories[domain].visible.numpy()
    searched, exact = (
      np.where(visible, scores(*arguments), -np.inf) for scores in (twin.search_scores, twin.exact_scores)
    )
    np.testing.assert_array_equal(np.argsort(-searched)[..., :4], np.argsort(-exact)[..., :4])


class Begin(keras.callbacks.Callback):
  """Notes the cache that a job begins with."""

  def on_train_begin(self, logs=None):
    self.cache = self.model.extractors["target"].cached.numpy()


class Rhythm(RefreshProjections):
  """Notes the steps at which something is refreshed."""

  def __init__(self, every, begin=0):
    super().__init__(every)
    self.step, self.refreshed = begin, []

  def _done(self):
    return self.step

  def _refresh(self):
    self.refreshed.append(self.step)

  def run(self, epochs, steps, stride=1):
    self.on_train_begin()
    for epoch in range(epochs):
      for step in range(stride, steps + 1, stride):
        self.step += stride
        self.on_train_batch_end(step - 1)
      self.on_epoch_end(epoch)
    return self.refreshed


def test_the_rhythm_of_refreshes():
  assert Rhythm(0).run(epochs=3, steps=4) == [0, 4, 8, 12]
  assert Rhythm(3).run(epochs=2, steps=4) == [0, 3, 6]
  assert Rhythm(3).run(epochs=1, steps=16, stride=8) == [0, 8, 16]  # several steps per execution
  assert Rhythm(3, begin=4).run(epochs=1, steps=4) == [6]  # a job that is taken up keeps what it had
  assert Rhythm(0, begin=2).run(epochs=1, steps=2) == [4]


@pytest.mark.job
def test_a_job_that_is_taken_up_searches_with_what_it_had(record_set, tmp_path):
  settings = {"refresh_every": 2, "checkpoint_every": 1, "epochs": 1, "histories": ("target",)}
  experiment = twin_experiment({"projections": "cached"}, **settings)
  stop = Stop(3)
  with pytest.raises(KeyboardInterrupt):
    train(experiment, record_set, tmp_path, (stop,))
  seen = Begin()
  last = train(experiment, record_set, tmp_path, (seen,)).model.extractors["target"].cached.numpy()
  kept = stop.model.extractors["target"].cached.numpy()
  assert np.abs(kept).max() > 0
  assert np.abs(kept - of_items(stop.model, "target")).max() > 1e-5, "the cache is not a step old"
  np.testing.assert_array_equal(seen.cache, kept)
  assert np.abs(last - kept).max() > 1e-5, "the fourth step refreshes"


@pytest.mark.job
def test_a_step_trains_both_models_and_leaves_the_search_until_it_is_taken_over():
  model = twin_of(auxiliary_seed=5, histories=("target",))
  model.compile(optimizer=make_optimizer(model, twin_experiment(learning_rate=0.01).train))
  watched = {"own": model, "auxiliary": model.auxiliary, "searcher": model.searcher}
  before = {name: _search_weights(one) for name, one in watched.items()}
  step = model.make_train_function()
  step(iter(tf.data.Dataset.from_tensors({"target": batch_of()})))
  moved = {
    name: {part: np.abs(value - before[name][part]).max() > 1e-4 for part, value in _search_weights(one).items()}
    for name, one in watched.items()
  }
  learned = [part for part in moved["own"] if "catalogue" not in part]
  assert all(moved["own"][part] and moved["auxiliary"][part] for part in learned), moved
  assert not any(moved["searcher"].values())
  refresh(model)
  for name, value in _search_weights(model.auxiliary).items():
    np.testing.assert_array_equal(_search_weights(model.searcher)[name], value, err_msg=name)


def write_run(folder, experiment, record_set, model):
  """What a training job of these weights would leave."""
  open_run(experiment, record_set, folder)
  tf.train.Checkpoint(model=model).write(str(folder / "checkpoints" / "best" / "ckpt-1"))


def test_an_export_starts_fresh(record_set, tmp_path, monkeypatch):
  experiment = twin_experiment({"projections": "cached"})
  model = twin_of({"projections": "cached"})
  write_run(tmp_path, experiment, record_set, model)
  run = read_run(tmp_path)
  np.testing.assert_array_equal(run.best()[0].extractors["source"].cached, np.zeros([40, 6]))
  saved = []
  monkeypatch.setattr("lcn_tf.training.export_run.save", lambda model, *args, **options: saved.append(model))
  export_run(tmp_path, tmp_path / "export")
  for d in ("target", "source"):
    np.testing.assert_allclose(saved[0].extractors[d].cached, of_items(model, d), rtol=1e-4, atol=1e-6)


def test_serving_needs_no_auxiliary_model(record_set, tmp_path):
  model = twin_of(auxiliary_seed=5)
  write_run(tmp_path, twin_experiment(auxiliary_seed=5), record_set, model)
  run = read_run(tmp_path)
  serving = run.best()[0]
  assert serving.auxiliary is None
  np.testing.assert_allclose(serving(batch_of()), model(batch_of()), rtol=1e-5, atol=1e-6)


def _search_weights(model):
  names = ("query", "key", "cross", "beta")
  weights = {
    v.name: v.numpy() for one in model.extractors.values() for v in one.variables if v.name.split("/")[-1][:-2] in names
  }
  return weights | {v.name: v.numpy() for v in model.embedder.variables}


def test_without_parameter_consistency_another_models_search_finds_what_this_one_pools():
  model = twin_of(auxiliary_seed=5)
  assert isinstance(model, SeparateSearch)
  batch = batch_of()
  plain = twin_of()
  values = {variable.name: variable for variable in plain.variables}
  # a model that is searched for by its own weights is a TWIN
  for one in (model.searcher, model):
    for part in (one.embedder, *one.extractors.values()):
      for variable in part.variables:
        variable.assign(values[variable.name])
  for part in (model.mlp, model.logit):
    for variable in part.variables:
      variable.assign(values[variable.name])
  np.testing.assert_allclose(model(batch), plain(batch), rtol=1e-5, atol=1e-6)
  # and with the other model's search it pools something else
  model.take_over_search()
  assert np.abs(model(batch).numpy() - plain(batch).numpy()).max() > 1e-5
  for name, value in _search_weights(model.auxiliary).items():
    np.testing.assert_array_equal(_search_weights(model.searcher)[name], value, err_msg=name)


def test_the_two_models_share_batches_and_no_weight():
  model = twin_of(auxiliary_seed=5)
  model.compile(optimizer="sgd")
  inputs = {"target": batch_of()}
  with tf.GradientTape(persistent=True) as tape:
    losses = model.compute_loss(inputs, training=True)
  own = {v.ref() for part in (model.embedder, model.mlp, *model.extractors.values()) for v in part.trainable_variables}
  others = {v.ref() for v in model.auxiliary.trainable_variables}
  assert others
  assert not model.searcher.trainable_variables
  for name, mine in (("ctr_loss", own), ("auxiliary_loss", others)):
    gradients = tape.gradient(losses[name], {v.name + str(i): v for i, v in enumerate(model.trainable_variables)})
    reached = {v.ref() for v, g in zip(model.trainable_variables, gradients.values(), strict=True) if g is not None}
    assert mine <= reached
    assert not reached & (others if mine is own else own)
  np.testing.assert_allclose(losses["loss"], losses["ctr_loss"] + losses["auxiliary_loss"], rtol=1e-6)
  mine, theirs = (one.extractors["target"].query_weight.numpy() for one in (model, model.auxiliary))
  assert np.abs(mine - theirs).min() > 0


def test_an_auxiliary_model_of_the_same_seed_is_refused():
  with pytest.raises(
    UserError, match=r"model\.auxiliary_seed and train\.seed are both 5: both models would begin alike"
  ):
    twin_experiment(auxiliary_seed=5, seed=5)


def test_an_auxiliary_model_of_what_cannot_have_one_is_refused():
  with pytest.raises(UserError, match=r"auxiliary_seed is of extractor 'twin', but extractor is 'lap'"):
    from_tree({"name": "x", "schema": {}, "model": {"auxiliary_seed": 3}}, "x")
  model = {"extractor": "twin", "options": {"projections": "cached"}, "auxiliary_seed": 3}
  with pytest.raises(UserError, match=r"auxiliary_seed and options\.projections 'cached' are two ways of searching"):
    from_tree({"name": "x", "schema": {}, "model": model}, "x")


def test_a_job_whose_optimizer_counts_on_begins_fresh_and_counts_its_own_steps(monkeypatch):
  """A warm start takes the number of steps of the earlier run."""
  refreshed = []
  monkeypatch.setattr(RefreshProjections, "_refresh", lambda self: refreshed.append(self._steps))
  callback, iterations = RefreshProjections(every=3, first=4), tf.Variable(4)
  callback.model = types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=iterations))
  callback.on_train_begin()
  for batch in range(4):
    iterations.assign_add(1)
    callback.on_train_batch_end(batch)
  assert refreshed == [0, 3]
