"""Item vectors from training records: which behaviours they read, whose rows they are, and that a run keeps them."""

import dataclasses
import gzip
import logging as standard_logging
import shutil

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from lcn_tf.config import Pretraining, dump
from lcn_tf.data import records
from lcn_tf.data.build import builder, tables
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.records import History, Request, decode, encode
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import UserError
from lcn_tf.pretraining import item2vec
from lcn_tf.pretraining import run as pretraining
from lcn_tf.pretraining.run import item_vectors, pretrain, training_behaviours, vectors_of
from lcn_tf.pretraining.vectors import KINDS, Pretrained
from lcn_tf.schema import DOMAINS, UNKNOWN_ITEM, Domain, Schema
from lcn_tf.training.export_run import export_run
from lcn_tf.training.run_folder import open_run
from lcn_tf.training.trainer import train
from pipelines import pretrain as command
from tests.data import logs
from tests.reference import item2vec as reference
from tests.support.experiments import small_experiment
from tests.support.record_sets import ITEMS, described_again, small_schema, write_record_set, write_shard

CONFIG = Pretraining(dim=8, window=3, clusters=(3, 6))


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  sizes = {"train": 48, "validation": 16, "test": 16}
  return write_record_set(tmp_path_factory.mktemp("records"), small_schema(), records=sizes)


@pytest.fixture(scope="module")
def events(record_set):
  return training_behaviours(record_set)


@pytest.fixture(scope="module")
def made(record_set, events):
  return vectors_of(events, CONFIG, record_set)


def requests_of(record_set, split="train"):
  for part in record_set.splits[split].values():
    for shard in part.shards:
      for one in tf.data.TFRecordDataset(str(record_set.path / shard.file), "GZIP").as_numpy_iterator():
        yield decode(one, record_set.record_schema)


def events_of(histories):
  """What `training_behaviours` returns for {user: [(row, time), ...]}; rows of the source catalogue follow."""
  rows = [
    (user, row, time) for user, history in histories.items() for row, time in sorted(history, key=lambda b: -b[1])
  ]
  return pl.DataFrame(rows, {"user": pl.Int64, "row": pl.Int64, "time": pl.Int64}, orient="row")


def write_records(path, schema, histories):
  """A record set with one training record per {domain: [(item, time), ...]}, all of user 1."""
  record_set = write_record_set(path, schema, records={"train": len(histories)}, domains=("target",), shards=1)
  serialized = []
  for history in histories:
    parts = {}
    for d in DOMAINS:
      items, times = (np.array(column) for column in zip(*history[d], strict=True))
      parts[d] = History(items, times, np.zeros((len(items), 0)), np.zeros(1))
    one = np.ones(1)
    request = Request(1, np.zeros(0), one, 1_000 * one, np.zeros((1, 0)), one, one, **parts)
    serialized.append(encode(request, record_set.record_schema))
  write_shard(path / record_set.splits["train"]["target"].shards[0].file, serialized, "gzip")
  return described_again(record_set)


def test_every_training_behaviour_is_read_once_from_records_of_both_domains(record_set, events):
  items = record_set.record_schema.target.items
  expected = reference.behaviours(requests_of(record_set), UNKNOWN_ITEM)
  rows = {
    (user, item + (items if domain == "source" else 0), time)
    for user, behaviours in expected.items()
    for domain, item, time in behaviours
  }
  assert len(events) == len(rows)
  assert set(events.iter_rows()) == rows
  order = events.select("user", -events["time"]).rows()
  assert order == sorted(order)


def test_few_behaviours_at_a_time_give_the_same(record_set, events, monkeypatch):
  monkeypatch.setattr(pretraining, "_PENDING", 50)
  monkeypatch.setattr(pretraining, "_REQUESTS", 4)
  assert training_behaviours(record_set).equals(events)


def test_both_domains_are_merged_by_time_and_ties_keep_their_order(tmp_path):
  """Records of one user overlap: the second one begins earlier, and both are cut within a second."""
  target = [(9, 50), (5, 40), (7, 40), (6, 40), (3, 10), (8, 10)]
  source = [(4, 45), (8, 40), (2, 40), (1, 30), (3, 5)]
  histories = [{"target": target[:4], "source": source[:2]}, {"target": target[1:5], "source": source}]
  schema = Schema(target=Domain(max_length=40), source=Domain(max_length=40), candidates=1)
  found = training_behaviours(write_records(tmp_path, schema, histories))
  offset = ITEMS["target"]
  assert found["time"].to_list() == [50, 45, 40, 40, 40, 40, 40, 10, 5]
  assert found["row"].to_list() == [9, 4 + offset, 5, 7, 6, 8 + offset, 2 + offset, 3, 3 + offset]


def test_validation_and_test_records_are_never_opened(record_set, made, tmp_path):
  shutil.copytree(record_set.path, tmp_path / "train_alone")
  for split in ("validation", "test"):
    shutil.rmtree(tmp_path / "train_alone" / split)
  again = pretrain(CONFIG, RecordSet.open(tmp_path / "train_alone"))
  for d in DOMAINS:
    np.testing.assert_array_equal(again.vectors[d], made.vectors[d])
    np.testing.assert_array_equal(again.clusters[d], made.clusters[d])


def test_vectors_are_those_of_the_twin_at_their_catalogue_rows(record_set, events, made):
  size = sum(record_set.record_schema.domain(d).items for d in DOMAINS)
  users, rows = events["user"].to_list(), events["row"].to_list()
  expected = reference.inner_products(
    reference.shifted_ppmi(reference.cooccurrences(users, rows, size, CONFIG.window), 1), CONFIG.dim
  )
  vectors = np.concatenate([made.vectors[d] for d in DOMAINS])
  assert vectors.shape == (size, CONFIG.dim)
  found = vectors @ vectors.T
  # randomised, of a random log whose singular values are close together
  assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


def test_padding_unknown_and_never_seen_items_have_no_vector_and_no_cluster(record_set, events, made):
  seen = set(events["row"].to_list())
  for d, first in (("target", 0), ("source", ITEMS["target"])):
    known = {row - first for row in seen if first <= row < first + ITEMS[d]}
    assert not known & {0, 1}
    assert set(np.flatnonzero(np.any(made.vectors[d] != 0, axis=1))) == known
    for column in made.clusters[d].T:
      assert set(np.flatnonzero(column)) == known
  few = vectors_of(events.filter(pl.col("row") % 3 > 0), CONFIG, record_set)
  rows = np.arange(ITEMS["target"])
  np.testing.assert_array_equal(np.any(few.vectors["target"] != 0, axis=1), (rows % 3 > 0) & (rows > 1))
  assert few.notes["with_vector"]["target"] == 19


def test_items_of_one_interest_are_near_across_domains(record_set):
  """Users of interest g meet target items 2 + 4g .. 5 + 4g and source items 3 + 4g .. 6 + 4g, in turns."""
  rng = np.random.default_rng(0)
  histories = {}
  for user in range(1, 61):
    group = user % 5
    target = [(2 + 4 * group + int(rng.integers(4)), 1000 - 20 * step) for step in range(12)]
    source = [(ITEMS["target"] + 3 + 4 * group + int(rng.integers(4)), 990 - 20 * step) for step in range(12)]
    histories[user] = target + source
  made = vectors_of(events_of(histories), Pretraining(dim=5, window=3, clusters=(4, 5)), record_set)
  target, source = made.vectors["target"][2:22], made.vectors["source"][3:23]
  group = np.repeat(np.arange(5), 4)
  nearest = np.argsort(-target @ source.T, axis=1)[:, :4]
  assert np.all(group[nearest] == group[:, np.newaxis])
  # 40 items, so 4 clusters at most
  assert made.notes["clusters"] == [4, 4]
  for d, first in (("target", 2), ("source", 3)):
    together = made.clusters[d][first : first + 20, 0].reshape(5, 4)
    assert np.all(together == together[:, :1])
  np.testing.assert_array_equal(made.clusters["target"][2:22:4], made.clusters["source"][3:23:4])


def test_numbers_of_clusters_are_a_tenth_of_the_items_at_most_and_it_is_told(record_set, events, made):
  known = sum(made.notes["with_vector"].values())
  assert made.notes["clusters"] == [3, min(6, known // 10)]
  assert made.notes["clusters_asked"] == [3, 6]
  assert not made.notes["clusters_alike"]
  alike = vectors_of(events, Pretraining(dim=4), record_set)
  assert alike.notes["clusters"] == [known // 10] * 2
  assert alike.notes["clusters_alike"]
  for d in DOMAINS:
    np.testing.assert_array_equal(alike.clusters[d][:, 0], alike.clusters[d][:, 1])


def test_the_same_seed_gives_the_same(record_set, events, made):
  again = vectors_of(events, CONFIG, record_set)
  for d in DOMAINS:
    np.testing.assert_array_equal(again.vectors[d], made.vectors[d])
    np.testing.assert_array_equal(again.clusters[d], made.clusters[d])


def test_more_columns_than_items_are_zeros_and_it_is_told(record_set, events):
  wide = vectors_of(events, Pretraining(dim=100), record_set)
  items = sum(wide.notes["seen"].values())
  assert wide.notes["columns_used"] == items - 1 < 100
  for d in DOMAINS:
    assert np.all(wide.vectors[d][:, items - 1 :] == 0)
    assert np.any(wide.vectors[d][:, items - 2] != 0)


def test_records_without_behaviours_are_told(record_set, events):
  with pytest.raises(UserError, match=r"no training record holds a behaviour"):
    vectors_of(events.clear(), CONFIG, record_set)


def test_a_broken_record_is_named_or_left_out(tmp_path):
  record_set = write_record_set(tmp_path, small_schema(), records={"train": 6}, domains=("source",), shards=1)
  shard = tmp_path / record_set.splits["train"]["source"].shards[0].file
  data = bytearray(gzip.decompress(shard.read_bytes()))
  data[len(data) // 2] ^= 0xFF
  shard.write_bytes(gzip.compress(bytes(data)))
  with pytest.raises(UserError, match=rf"{shard.name}: record \d+ "):
    pretrain(CONFIG, record_set)
  assert pretrain(CONFIG, record_set, on_corrupt="skip").notes["behaviours"] > 0


def experiment_of(extractor="sim_soft", path="", **train):
  experiment = small_experiment(extractor, **train)
  options = {"top_k": 4} if extractor.startswith("sim") else {}
  model = experiment.model.model_copy(
    update={"pretraining": CONFIG.model_copy(update={"path": path}), "options": options}
  )
  return experiment.model_copy(update={"model": model})


def never(*arguments):
  raise AssertionError("the vectors are made again")


def test_a_run_makes_its_vectors_once(record_set, events, tmp_path, monkeypatch):
  monkeypatch.setattr(pretraining, "training_behaviours", lambda *arguments: events)
  made = item_vectors(experiment_of(), record_set, tmp_path / "pretrained")
  monkeypatch.setattr(pretraining, "pretrain", never)
  again = item_vectors(experiment_of(), record_set, tmp_path / "pretrained")
  for d in DOMAINS:
    np.testing.assert_array_equal(again.vectors[d], made.vectors[d])
  assert again.notes == made.notes


def test_vectors_of_other_settings_or_of_later_behaviours_are_made_anew(record_set, made, tmp_path, monkeypatch):
  """Left in the folder by a job that never began."""
  monkeypatch.setattr(pretraining, "pretrain", lambda *arguments: made)
  for notes in ({"settings": {"dim": 1}}, {"last_time": 2_000}):
    dataclasses.replace(made, notes=made.notes | notes).save(tmp_path / "pretrained")
    assert item_vectors(experiment_of(), record_set, tmp_path / "pretrained").notes == made.notes
    assert Pretrained.open(tmp_path / "pretrained").notes == made.notes


def test_a_run_that_was_interrupted_while_writing_makes_them_again(record_set, made, tmp_path, monkeypatch):
  monkeypatch.setattr(pretraining, "pretrain", lambda *arguments: made)

  def stop(*arguments, **keywords):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
      item_vectors(experiment_of(), record_set, tmp_path / "pretrained")
  assert not Pretrained.there(tmp_path / "pretrained")
  item_vectors(experiment_of(), record_set, tmp_path / "pretrained")
  assert Pretrained.there(tmp_path / "pretrained")


def test_vectors_that_the_experiment_names_are_copied(record_set, made, tmp_path, monkeypatch):
  monkeypatch.setattr(pretraining, "pretrain", never)
  made.save(tmp_path / "made")
  experiment = experiment_of(path=str(tmp_path / "made"))
  item_vectors(experiment, record_set, tmp_path / "run")
  shutil.rmtree(tmp_path / "made")
  kept = item_vectors(experiment, record_set, tmp_path / "run")
  np.testing.assert_array_equal(kept.vectors["source"], made.vectors["source"])


def test_a_run_that_has_not_learned_yet_takes_the_vectors_that_lie_there_now(record_set, made, tmp_path):
  made.save(tmp_path / "made")
  experiment, run = experiment_of(path=str(tmp_path / "made")), tmp_path / "run"
  open_run(experiment, record_set, run)
  item_vectors(experiment, record_set, run / "pretrained")
  vectors = {d: vectors + 1 for d, vectors in made.vectors.items()}
  dataclasses.replace(made, vectors=vectors).save(tmp_path / "made")
  for _ in range(2):
    open_run(experiment, record_set, run)
    kept = item_vectors(experiment, record_set, run / "pretrained")
    np.testing.assert_array_equal(kept.vectors["source"], vectors["source"])
    shutil.rmtree(tmp_path / "made", ignore_errors=True)


def test_vectors_of_other_records_or_of_later_behaviours_are_refused(record_set, made, tmp_path):
  experiment = experiment_of(path=str(tmp_path / "made"))
  dataclasses.replace(made, fingerprint="other").save(tmp_path / "made")
  with pytest.raises(UserError, match=r"item vectors of other records: fingerprint other"):
    item_vectors(experiment, record_set, tmp_path / "run")
  dataclasses.replace(made, notes=made.notes | {"last_time": 2_000}).save(tmp_path / "made")
  with pytest.raises(UserError, match=r"behaviours up to 2000, but the last training candidate of .* is of 2000\."):
    item_vectors(experiment, record_set, tmp_path / "run")
  assert not Pretrained.there(tmp_path / "run")


def test_vectors_of_other_settings_are_taken_with_a_warning(record_set, made, tmp_path, caplog):
  made.save(tmp_path / "made")
  experiment = experiment_of(path=str(tmp_path / "made"))
  with caplog.at_level(standard_logging.WARNING, "absl"):
    item_vectors(experiment, record_set, tmp_path / "same")
    assert not caplog.records
    settings = experiment.model.pretraining.model_copy(update={"dim": 16})
    model = experiment.model.model_copy(update={"pretraining": settings})
    item_vectors(experiment.model_copy(update={"model": model}), record_set, tmp_path / "other")
  assert "'dim': 8" in caplog.text
  assert "'dim': 16" in caplog.text
  assert Pretrained.open(tmp_path / "other").vectors["target"].shape[1] == 8


@pytest.mark.job
def test_a_run_resumes_with_its_vectors_and_serves_with_them(record_set, tmp_path, monkeypatch):
  experiment = experiment_of(epochs=1, steps_per_epoch=1)
  options = {"top_k": 4, "esu": "mha", "num_heads": 1}
  model = experiment.model.model_copy(update={"histories": ("target",), "options": options})
  experiment = experiment.model_copy(update={"model": model})
  job = train(experiment, record_set, tmp_path / "run")
  with monkeypatch.context() as patch:
    patch.setattr(pretraining, "pretrain", never)
    assert train(experiment, record_set, tmp_path / "run").steps == 0
  made = Pretrained.open(tmp_path / "run" / "pretrained")
  np.testing.assert_array_equal(job.model.embedder.vectors["target"], made.vectors["target"])
  assert not job.model.embedder.clusters
  served = tf.saved_model.load(str(export_run(tmp_path / "run", tmp_path / "served"))).signatures["rank"]
  serialized = [encode(request, record_set.record_schema) for request in list(requests_of(record_set, "test"))[:4]]
  batch = records.parse(tf.constant(serialized), record_set.record_schema)
  batch = {name: tensor for name, tensor in batch.items() if name in request_spec(record_set.record_schema)}
  expected = tf.sigmoid(job.model(batch)).numpy()
  np.testing.assert_allclose(served(**batch)["probability"].numpy(), expected, rtol=1e-5)
  job.model.embedder.vectors["target"].assign(job.model.embedder.vectors["target"][::-1])
  assert np.abs(tf.sigmoid(job.model(batch)).numpy() - expected).max() > 1e-5


def test_clusters_are_made_for_a_model_that_searches_by_them_alone(record_set, events, made, tmp_path, monkeypatch):
  monkeypatch.setattr(pretraining, "training_behaviours", lambda *arguments: events)
  for extractor, kinds in {"sim_cluster": ("clusters",), "sim_soft": ("vectors",)}.items():
    found = item_vectors(experiment_of(extractor), record_set, tmp_path / extractor, kinds)
    assert Pretrained.open(tmp_path / extractor).clusters.keys() == found.clusters.keys()
    assert bool(found.clusters) == (extractor == "sim_cluster")
    for d in found.clusters:
      np.testing.assert_array_equal(found.clusters[d], made.clusters[d])
    for d in DOMAINS:
      np.testing.assert_array_equal(found.vectors[d], made.vectors[d])
    monkeypatch.setattr(item2vec, "cluster", never)


def test_vectors_without_the_clusters_that_a_model_reads_are_refused(record_set, made, tmp_path):
  made.only(["vectors"]).save(tmp_path / "made")
  experiment = experiment_of("sim_cluster", path=str(tmp_path / "made"))
  message = rf"^{tmp_path}/made: item vectors without clusters.* pipelines\.pretrain with the config of this model"
  with pytest.raises(UserError, match=message):
    train(experiment, record_set, tmp_path / "run")
  assert not (tmp_path / "run" / "pretrained").exists()


def run_command(record_set, experiment, tmp_path, *flags):
  tmp_path.mkdir(exist_ok=True)
  (tmp_path / "config.yaml").write_text(dump(experiment))
  paths = [f"--config={tmp_path / 'config.yaml'}", f"--records={record_set.path}", f"--output={tmp_path / 'vectors'}"]
  command.main(["pretrain", *paths, *flags])


def test_the_command_leaves_what_a_run_would_make(record_set, events, made, tmp_path, monkeypatch):
  run_command(record_set, experiment_of(), tmp_path)
  found = Pretrained.open(tmp_path / "vectors", record_set.fingerprint)
  for d in DOMAINS:
    np.testing.assert_array_equal(found.vectors[d], made.vectors[d])
  with pytest.raises(UserError, match=r"vectors: holds item vectors already\. .*--overwrite"):
    run_command(record_set, experiment_of(), tmp_path)
  monkeypatch.setattr(pretraining, "training_behaviours", lambda *arguments: events)
  run_command(record_set, experiment_of(), tmp_path, "--overwrite", "--set=model.pretraining.dim=2")
  assert Pretrained.open(tmp_path / "vectors").vectors["target"].shape[1] == 2


def test_the_command_makes_what_the_model_reads_and_adds_clusters_later(
  record_set, events, made, tmp_path, monkeypatch
):
  monkeypatch.setattr(pretraining, "training_behaviours", lambda *arguments: events)
  run_command(record_set, experiment_of("average_pooling"), tmp_path / "all")
  assert Pretrained.open(tmp_path / "all" / "vectors").holds(KINDS)
  with monkeypatch.context() as patch:
    patch.setattr(item2vec, "cluster", never)
    run_command(record_set, experiment_of("sim_soft"), tmp_path)
  assert not Pretrained.open(tmp_path / "vectors").clusters
  monkeypatch.setattr(pretraining, "training_behaviours", never)
  with pytest.raises(UserError, match="holds item vectors already"):
    run_command(record_set, experiment_of("sim_cluster"), tmp_path, "--set=model.pretraining.dim=4")
  run_command(record_set, experiment_of("sim_cluster"), tmp_path)
  found = Pretrained.open(tmp_path / "vectors")
  for d in DOMAINS:
    np.testing.assert_array_equal(found.vectors[d], made.vectors[d])
    np.testing.assert_array_equal(found.clusters[d], made.clusters[d])
  assert found.notes["settings"] == CONFIG.settings()
  with pytest.raises(UserError, match="holds item vectors already"):
    run_command(record_set, experiment_of("sim_soft"), tmp_path)


def test_the_command_tells_what_is_wrong_and_makes_nothing(record_set, tmp_path):
  with pytest.raises(UserError, match=r"schema\.target\.max_length is 5 in the config, 24 in the records"):
    run_command(record_set, experiment_of(), tmp_path, "--set=schema.target.max_length=5")
  with pytest.raises(UserError, match=r"model\.pretraining\.dims: unknown key\. Did you mean 'dim'\?"):
    run_command(record_set, experiment_of(), tmp_path, "--set=model.pretraining.dims=5")
  with pytest.raises(UserError, match=r"no record set here"):
    run_command(record_set.model_copy(update={"path": tmp_path / "none"}), experiment_of(), tmp_path)
  assert not (tmp_path / "vectors").exists()
  (tmp_path / "vectors").write_text("")
  with pytest.raises(UserError, match=r"vectors: exists and is not a folder"):
    run_command(record_set, experiment_of(), tmp_path)


def test_the_noise_floor_is_far_below_any_vector(made):
  lengths = np.linalg.norm(np.concatenate([made.vectors[d] for d in DOMAINS]), axis=1)
  assert lengths[lengths > 0].min() > 10 * item2vec._NOISE * lengths.max()


@pytest.fixture(scope="module")
def described(tmp_path_factory):
  """Records whose items of both domains have a vector `text` of 6 numbers; item 3 of the target has none."""
  rng = np.random.default_rng(0)
  items = logs.items(9).with_columns(text=pl.Series(rng.normal(size=(18, 6)).astype(np.float32).tolist()))
  items = items.with_columns(text=pl.when((pl.col("item_id") != 3) | (pl.col("domain") != "target")).then("text"))
  text = {"item_vectors": [{"name": "text", "width": 6}]}
  experiment = logs.experiment({"target": text, "source": text, "candidates": 4}, labels={"kind": "given"})
  folder = tmp_path_factory.mktemp("described") / "records"
  return builder.build(experiment, tables.RawTables(logs.random_log(rng, 300, count=9), items), folder)


def test_vectors_of_the_schema_are_turned_to_their_principal_axes(described):
  made = pretrain(Pretraining(item_vector="text", dim=6, clusters=(2, 2)), described)
  given = np.concatenate([described.vectors(d)["text"] for d in DOMAINS])
  turned = np.concatenate([made.vectors[d] for d in DOMAINS])
  np.testing.assert_allclose(turned @ turned.T, given @ given.T, rtol=1e-5, atol=1e-5)
  narrow = pretrain(Pretraining(item_vector="text", dim=2), described, kinds=["vectors"])
  left, singular, _ = np.linalg.svd(given, full_matrices=False)
  for found, expected in zip(
    np.concatenate([narrow.vectors[d] for d in DOMAINS]).T, (left * singular)[:, :2].T, strict=True
  ):
    np.testing.assert_allclose(found, expected * np.sign(found @ expected), rtol=1e-4, atol=1e-5)
  items = described.table("items/target.parquet")
  nothing = items.filter(pl.col("item_id") == 3)["row"][0]
  assert np.flatnonzero(~np.any(made.vectors["target"] != 0, axis=1)).tolist() == [0, 1, nothing]
  assert made.notes["with_vector"] == {"target": 8, "source": 9}
  assert made.notes["clusters"] == [1, 1]  # a tenth of 17 items


def test_a_model_searches_and_begins_with_vectors_of_the_schema(described, tmp_path):
  experiment = small_experiment("sim_soft")
  config = experiment.model.model_copy(update={"pretraining": Pretraining(item_vector="text", dim=6)})
  asked = experiment.model_copy(update={"model": config})
  found = item_vectors(asked, described, tmp_path / "run", ["vectors"])
  expected = pretrain(config.pretraining, described, kinds=["vectors"])
  for d in DOMAINS:
    np.testing.assert_array_equal(found.vectors[d], expected.vectors[d])
  # the run has them, and those of histories would be others
  assert Pretrained.open(tmp_path / "run").made_with(config.pretraining.settings(clusters=False))
  other = Pretraining(dim=6).settings(clusters=False)
  assert not Pretrained.open(tmp_path / "run").made_with(other)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"item_vector": "texts", "dim": 4}, r"model\.pretraining\.item_vector: .*'texts'.*text"),
    ({"item_vector": "text", "dim": 7}, r"model\.pretraining\.dim is 7, and the item vector 'text' has 6 numbers"),
  ],
)
def test_vectors_that_the_schema_lacks_are_told(described, config, message):
  with pytest.raises(UserError, match=message):
    pretrain(Pretraining(**config), described)
