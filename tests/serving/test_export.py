"""What is exported serves what was trained."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from lcn_tf.analysis.embedding_map import item_vectors
from lcn_tf.data import records
from lcn_tf.data.id_mapping import id_mapping_of
from lcn_tf.data.record_set import RecordSet
from lcn_tf.data.request_spec import request_spec
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS
from lcn_tf.serving import answers, export, trial, versions
from lcn_tf.training.export_run import export_run
from lcn_tf.training.trainer import train
from tests.support.experiments import small_experiment, tiny_experiment
from tests.support.layers import ops_without_gpu_kernel
from tests.support.record_sets import random_request, small_schema, tiny_schema, write_record_set
from tests.support.runs import write_run

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  record_set = write_record_set(tmp_path_factory.mktemp("records"), small_schema())
  folder = tmp_path_factory.mktemp("run")
  job = train(small_experiment(crp=True, epochs=1, early_stopping=0), record_set, folder)
  return folder, job.model, record_set


@pytest.fixture(scope="module")
def version(run, tmp_path_factory):
  return export_run(run[0], tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(version):
  return tf.saved_model.load(str(version)).signatures["rank"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
  """A run that is exported fast, and its records."""
  record_set = write_record_set(tmp_path_factory.mktemp("tiny"), tiny_schema())
  folder = tmp_path_factory.mktemp("quick")
  write_run(folder, tiny_experiment(), record_set)
  return folder, record_set


def request(candidates=4, count=3, seed=5):
  schema, rng = small_schema(candidates=candidates), np.random.default_rng(seed)
  requests = [random_request(schema, rng, user=i + 1, candidates=candidates) for i in range(count)]
  batch = records.parse(tf.constant([records.encode(r, schema) for r in requests]), schema)
  return {name: tensor for name, tensor in batch.items() if name in request_spec(schema)}


def test_the_saved_model_scores_as_the_trained_model_any_number_of_candidates(run, served):
  model = run[1]
  for candidates in (1, 4, 9):
    batch = request(candidates)
    expected = tf.sigmoid(model(batch)).numpy()
    np.testing.assert_allclose(served(**batch)["probability"].numpy(), expected, rtol=1e-5)
    assert expected.shape == (3, candidates)


def test_serialized_requests_are_answered_as_their_tensors_are(served, version):
  schema, rng = small_schema(candidates=7), np.random.default_rng(3)
  requests = [random_request(schema, rng, user=1 + i, candidates=7) for i in range(3)]
  serialized = [records.encode(one, schema) for one in requests]
  batch = records.parse(tf.constant(serialized), schema)
  expected = served(**{name: batch[name] for name in request_spec(schema)})["probability"]
  model = tf.saved_model.load(str(version))
  rank_examples = model.signatures["rank_examples"]
  np.testing.assert_allclose(rank_examples(examples=tf.constant(serialized))["probability"], expected, rtol=1e-5)
  # a request has no label, weight and user
  plain = tf.train.Example.FromString(serialized[0])
  for name in ("label", "weight", "user"):
    del plain.features.feature[name]
  alone = tf.constant([plain.SerializeToString()])
  np.testing.assert_allclose(rank_examples(examples=alone)["probability"][0], expected[0], rtol=1e-5)
  assert rank_examples(examples=tf.constant([], tf.string))["probability"].shape[0] == 0
  plain.features.feature["source_times"].bytes_list.value[0] += b"\0" * 8
  with pytest.raises(tf.errors.InvalidArgumentError, match="source_times: expected 1 int64 for each of source"):
    rank_examples(examples=tf.constant([plain.SerializeToString()]))


def test_items_of_both_domains_have_the_vectors_that_the_model_compares(run, version):
  _, model, record_set = run
  items = {d: id_mapping_of(record_set).items[d] for d in DOMAINS}
  function = tf.saved_model.load(str(version)).signatures["item_embedding"]
  ids = {d: tf.constant([*items[d]["item_id"].to_list()[: 3 + n], "none"]) for n, d in enumerate(DOMAINS)}
  found = function(**{f"{d}_ids": ids[d] for d in DOMAINS})
  for d in DOMAINS:
    rows = np.array([*items[d]["row"].to_list()[: len(ids[d]) - 1], 1])
    np.testing.assert_allclose(found[d], item_vectors(model, d, rows), rtol=1e-6)
  assert function(**{f"{d}_ids": ids[d][:0] for d in DOMAINS})["target"].shape[0] == 0


def test_the_signatures_of_an_export(version):
  signatures = tf.saved_model.load(str(version)).signatures
  assert set(signatures) == {"item_embedding", "rank", "rank_examples", "rank_raw", "serving_default"}
  inputs = {name: set(one.structured_input_signature[1]) for name, one in signatures.items()}
  assert inputs["serving_default"] == inputs["rank_raw"] > {"time", "candidate_ids", "target_ids", "source_count"}
  assert inputs["rank_examples"] == {"examples"}
  for one in signatures.values():
    assert all(0 not in spec.shape for spec in one.structured_input_signature[1].values() if spec.shape.rank)


def test_an_export_of_records_with_another_hash_has_no_raw_signature_and_says_why(run, tmp_path, caplog):
  _, model, record_set = run
  old = record_set.model_copy(update={"oov_hash": "blake2b"})
  with caplog.at_level("WARNING", logger="absl"):
    written = export.save(model, small_experiment(crp=True), old, tmp_path)
  assert "no signature 'rank_raw': the vocabulary 'genre' has 2 out-of-vocabulary rows" in caplog.text
  signatures = tf.saved_model.load(str(written)).signatures
  assert "rank_raw" not in signatures
  rows = {"target_items": tf.constant([2]), "source_items": tf.constant([5, 2])}
  np.testing.assert_allclose(
    signatures["item_embedding"](**rows)["source"], item_vectors(model, "source", np.array([5, 2])), rtol=1e-6
  )
  with pytest.raises(tf.errors.InvalidArgumentError, match="target_items: expected rows of the target catalogue"):
    signatures["item_embedding"](**rows | {"target_items": tf.constant([10**6])})
  assert set(signatures["serving_default"].structured_input_signature[1]) == set(
    signatures["rank"].structured_input_signature[1]
  )


def test_histories_of_width_0_are_empty_histories(served):
  batch = request()
  empty = batch | {f"{d}_length": tf.zeros_like(batch[f"{d}_length"]) for d in ("target", "source")}
  parts = [f"{d}_{part}" for d in ("target", "source") for part in ("items", "times", "cross")]
  narrow = empty | {name: batch[name][:, :0] for name in parts}
  np.testing.assert_allclose(served(**narrow)["probability"], served(**empty)["probability"], rtol=1e-6)


def test_candidates_of_one_moment_may_share_their_visibility(served):
  batch = request()
  for d in ("target", "source"):
    batch[f"{d}_first_visible"] = tf.repeat(batch[f"{d}_first_visible"][:, :1], 4, axis=1)
  shared = batch | {f"{d}_first_visible": batch[f"{d}_first_visible"][:, :1] for d in ("target", "source")}
  np.testing.assert_allclose(served(**shared)["probability"], served(**batch)["probability"], rtol=1e-5)


def test_versions_are_numbers_that_rise_and_nothing_else_is_left(quick, tmp_path):
  folder, record_set = quick
  first, second = (export_run(folder, tmp_path) for _ in range(2))
  assert int(second.name) > int(first.name)
  assert sorted(tmp_path.iterdir()) == [first, second]
  description = json.loads((first / "assets.extra" / "lcn_tf.json").read_text())
  assert description["fingerprint"] == record_set.fingerprint
  # and whatever the clock says
  second.rename(tmp_path / "99999999999")
  assert export_run(folder, tmp_path).name == "100000000000"


def test_an_export_carries_the_id_mapping_of_its_records(run, version):
  record_set = run[2]
  carried = RecordSet.open(version / "assets.extra")
  for name in ("models.config", "batching.config"):
    assert (version / "assets.extra" / name).read_text().startswith("# --")
  assert carried.fingerprint == record_set.fingerprint
  assert carried.record_schema == record_set.record_schema
  ids, there = id_mapping_of(carried), id_mapping_of(record_set)
  for d in DOMAINS:
    assert ids.items[d].equals(there.items[d])
    np.testing.assert_array_equal(ids.catalogues[d], there.catalogues[d])
  assert {n: v.values.to_list() for n, v in ids.vocabularies.items()} == {
    n: v.values.to_list() for n, v in there.vocabularies.items()
  }
  with pytest.raises(UserError, match=r"assets\.extra: .*no records"):
    carried.part("test")


@pytest.mark.parametrize(
  ("owner", "name"), [(tf.saved_model, "save"), (RecordSet, "save_id_mapping"), (versions, "newest_version")]
)
def test_an_export_that_fails_leaves_nothing_of_what_it_has_written(owner, name, quick, tmp_path, monkeypatch):
  folder, _ = quick
  write = getattr(owner, name)

  def fail(*args, **kwargs):
    write(*args, **kwargs)
    raise OSError("disk full")

  monkeypatch.setattr(owner, name, fail)
  with pytest.raises(OSError, match="disk full"):
    export_run(folder, tmp_path)
  assert list(tmp_path.iterdir()) == []


def test_every_op_of_the_signature_of_numbers_has_a_gpu_kernel(served):
  assert ops_without_gpu_kernel(served) == set()


def test_a_folder_without_a_run_or_checkpoint_is_said_to_be_so(quick, tmp_path):
  with pytest.raises(UserError, match="no run here"):
    export_run(tmp_path, tmp_path / "out")
  folder, _ = quick
  for name in ("experiment.yaml", "dataset.json"):
    (tmp_path / name).write_text((folder / name).read_text())
  with pytest.raises(UserError, match="no checkpoint here yet"):
    export_run(tmp_path, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tried(run, tmp_path_factory):
  return export_run(run[0], tmp_path_factory.mktemp("tried"), tried=True)


def test_an_export_brings_requests_and_the_answers_of_the_model_in_memory(tried):
  written = json.loads((tried / answers.REQUESTS).read_text())
  assert {one["signature_name"] for one in written} == {"rank", "rank_examples", "rank_raw"}
  sizes = {(one["signature_name"], len(one["outputs"]["probability"])) for one in written}
  assert sizes == {(name, size) for name in ("rank", "rank_examples", "rank_raw") for size in (1, 8)}
  assert answers.differences(tried) == []
  assert np.ptp(written[-1]["outputs"]["probability"]) > 0


def test_the_model_card_lists_data_and_the_tensors_of_each_signature(tried):
  said = (tried / "assets.extra" / "README.md").read_text()
  assert "| train, target | 64 |" in said
  assert "not evaluated" in said
  for name, signature in tf.saved_model.load(str(tried)).signatures.items():
    assert (f"### {name}\n" in said) == (name != "serving_default")
    for tensor, spec in signature.structured_input_signature[1].items():
      assert f"| `{tensor}` | {spec.dtype.name} | [B" in said
  assert re.search(r"\| `target_cross` \| int32 \| \[B, L, \d\] \|", said)


def test_a_version_that_answers_otherwise_does_not_appear(run, tmp_path, monkeypatch):
  write = export.trial.write

  def wrong(version, *args):
    write(version, *args)
    file = version / answers.REQUESTS
    written = json.loads(file.read_text())
    written[2]["outputs"]["probability"][0][0] += 0.01
    file.write_text(json.dumps(written))

  monkeypatch.setattr(export.trial, "write", wrong)
  with pytest.raises(UserError, match=r"is not published.*rank_raw, request 2: probability differs by 0\.01"):
    export_run(run[0], tmp_path, tried=True)
  assert list(tmp_path.iterdir()) == []


def test_the_trial_ends_with_the_process_that_has_started_it(tried):
  program = [sys.executable, "-I", answers.__file__, str(tried), answers.WATCH]
  # its input has ended before TensorFlow is loaded
  done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (1, "")


def test_warm_up_requests_are_calls_that_a_server_parses_and_answers(tried):
  model, names = tf.saved_model.load(str(tried)), []
  written = json.loads((tried / answers.REQUESTS).read_text())
  logs = tf.data.TFRecordDataset(str(tried / trial.WARMUP)).as_numpy_iterator()
  for log, one in zip(logs, written, strict=True):
    call = prediction_log_pb2.PredictionLog.FromString(log).predict_log.request
    inputs = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in call.inputs.items()}
    answer = model.signatures[call.model_spec.signature_name](**inputs)["probability"]
    np.testing.assert_allclose(answer, one["outputs"]["probability"], rtol=1e-6)
    names.append(call.model_spec.signature_name)
  assert names == ["rank", "rank_examples", "rank_raw"] * 3


def test_the_newest_versions_stay(quick, tmp_path):
  written = [export_run(quick[0], tmp_path, keep=2).name for _ in range(3)]
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)[1:]
