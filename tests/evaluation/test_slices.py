"""Slices by columns of a file and by fields of records; baselines; files that were scored elsewhere."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from lcn_tf import metrics
from lcn_tf.data.read import dataset
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import slices
from pipelines import evaluate as evaluate_command
from tests.evaluation.exports import item_scores, write_export
from tests.evaluation.scored_logs import log, noisy, write
from tests.support.record_sets import small_schema, write_record_set


@pytest.fixture(scope="module")
def frame():
  return log()


def _evaluated(tmp_path, frame, *flags, baseline=None):
  """`metrics.json` and the page of a predictions file."""
  command = ["evaluate", f"--predictions={write(tmp_path / 'scored.parquet', frame)}", f"--output={tmp_path / 'out'}"]
  if baseline is not None:
    command.append(f"--baseline={write(tmp_path / 'baseline.parquet', baseline)}")
  evaluate_command.main([*command, "--bootstrap=20", *flags])
  return json.loads((tmp_path / "out" / "metrics.json").read_text())


def _by_name(found, name):
  return {bucket["bucket"]: bucket for bucket in found["slices"][name]}


def test_a_file_that_was_scored_elsewhere_has_the_metrics_of_scikit_learn(frame, tmp_path):
  rng = np.random.default_rng(0)
  frame = frame.with_columns(probability=frame["probability"].round(2), weight=pl.Series(rng.uniform(0, 2, len(frame))))
  found = _evaluated(tmp_path, frame, "--slices=genre")
  for of, rows in ((found, frame), *((b, frame.filter(genre=n)) for n, b in _by_name(found, "genre").items())):
    y, p, w = (rows[name].to_numpy() for name in ("label", "probability", "weight"))
    assert of["auc"] == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-9)
    assert of["logloss"] == pytest.approx(log_loss(y, p, sample_weight=w), abs=1e-9)
    assert of["users"] == rows["user"].n_unique()
    low, high = of["confidence"]["auc"]
    assert low < of["auc"] < high
  assert found["requests"]["count"] > 100
  assert (tmp_path / "out" / "report" / "index.html").is_file()
  assert not (tmp_path / "out" / "predictions.parquet").exists()


def test_columns_of_every_type_are_sliced_by(frame, tmp_path):
  found = _evaluated(tmp_path, frame, "--slices=genre,stars,price,tags,hour,genre*stars", "--slice_minimum=0")
  assert {b: s["candidates"] for b, s in _by_name(found, "stars").items()} == {
    str(n): int((frame["stars"] == n).sum()) for n in range(1, 6)
  }
  assert len(found["slices"]["price"]) == 10
  assert found["slices"]["price"][0]["bucket"].startswith("below ")
  assert found["slices"]["price"][0]["low"] == frame["price"].min()
  assert sum(bucket["candidates"] for bucket in found["slices"]["price"]) == len(frame)
  tags = _by_name(found, "tags")  # a candidate is in the slice of each of its values
  assert tags["new"]["candidates"] == tags["drama"]["candidates"] == frame.filter(genre="drama").height
  assert sum(bucket["candidates"] for bucket in tags.values()) > len(frame)
  hours = frame["timestamp"] // 3600 % 24
  assert {int(b): s["candidates"] for b, s in _by_name(found, "hour").items()} == dict(hours.value_counts().rows())
  pair = frame.filter(genre="horror", stars=3)
  assert _by_name(found, "genre*stars")["horror * 3"]["auc"] == pytest.approx(
    roc_auc_score(pair["label"], pair["probability"])
  )


def test_small_slices_are_pooled(frame, tmp_path):
  most = frame["user"].value_counts()["count"].max()
  found = _by_name(_evaluated(tmp_path, frame, "--slices=user", f"--slice_minimum={most + 1}"), "user")
  assert list(found) == [f"other ({frame['user'].n_unique()} values)"]
  assert found.popitem()[1]["candidates"] == len(frame)
  found = _by_name(_evaluated(tmp_path, frame, "--slices=user"), "user")
  assert sum(bucket["candidates"] for bucket in found.values()) == len(frame)


def test_a_candidate_of_several_small_slices_is_pooled_once():
  coded = slices.Coded(np.array([[0, 1], [0, 2], [3, 3], [3, -1], [3, -1]]), ["a", "b", "c", "d"])
  found = {name: rows.tolist() for name, _, rows in slices.groups(coded, minimum=3)}
  assert found == {"d": [2, 3, 4], "other (3 values)": [0, 1]}


def test_no_more_slices_than_a_page_holds():
  codes = np.repeat(np.arange(2 * slices.MOST), np.arange(2 * slices.MOST) + 10)[:, np.newaxis]
  found = [name for name, _, _ in slices.groups(slices.Coded(codes, list(map(str, range(2 * slices.MOST)))), minimum=1)]
  assert found == [*map(str, range(2 * slices.MOST - 1, slices.MOST - 1, -1)), f"other ({slices.MOST} values)"]


def test_differences_to_a_baseline_are_those_of_paired(frame, tmp_path):
  other = noisy(frame, 0.7)
  found = _evaluated(tmp_path, frame, "--slices=genre", baseline=other)
  scored = [
    metrics.Scored(of["probability"].to_numpy(), of["label"].to_numpy(), of["user"].to_numpy()) for of in (frame, other)
  ]
  expected = metrics.paired(scored[:1], scored[1:], replicates=20)
  for name in metrics.NAMES:
    assert found["baseline"][name]["difference"] == pytest.approx(expected[name]["difference"], abs=1e-12)
    np.testing.assert_allclose(found["baseline"][name]["interval"], expected[name]["interval"], atol=1e-12)
  assert {b["bucket"] for b in found["baseline"]["slices"]["genre"]} == set(_by_name(found, "genre"))
  assert "<h2>Against the baseline</h2>" in (tmp_path / "out" / "report" / "index.html").read_text()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda f: f[1:], r"candidates, but .*scored\.parquet has"),
    (lambda f: f.with_columns(label=1 - pl.col("label")), r"not the candidates of .*: label differs in \d+ rows"),
    (lambda f: f.with_columns(user=pl.Series(range(len(f)))), r"user is Int64 instead of String"),
    (lambda f: f.drop("user"), r"baseline\.parquet: no column 'user'"),
  ],
)
def test_a_baseline_of_other_candidates_is_refused(frame, tmp_path, change, message):
  with pytest.raises(UserError, match=message):
    _evaluated(tmp_path, frame, baseline=change(frame))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("change", "flags", "message"),
  [
    (lambda f: f.drop("label"), [], r"no predictions: the columns label are missing\. Columns: user, timestamp"),
    (lambda f: f.with_columns(label=pl.lit(2)), [], r"scored\.parquet: \d+ of \d+ labels are neither 0 nor 1"),
    (lambda f: f.with_columns(probability=pl.lit(float("nan"))), [], r"scores are NaN"),
    (lambda f: f.with_columns(user=pl.lit(None, pl.String)), [], r"rows of the column 'user' are empty"),
    (lambda f: f.with_columns(label=pl.lit("yes")), [], r"the column 'label' holds String, no numbers"),
    (lambda f: f, ["--slices=gnre"], r"unknown column of a slice 'gnre'\. Did you mean 'genre'"),
    (lambda f: f, ["--slices=genre*stars*price"], r"expected a field, or two with \* between them"),
    (lambda f: f, ["--model=export"], r"--predictions stands in the place of --model"),
  ],
)
def test_what_is_wrong_with_a_file_is_said(frame, tmp_path, change, flags, message):
  with pytest.raises(UserError, match=message):
    _evaluated(tmp_path, change(frame), *flags)
  assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named(tmp_path):
  (tmp_path / "scored.parquet").write_bytes(b"no Parquet")
  with pytest.raises(UserError, match=r"scored\.parquet: damaged, or no Parquet file"):
    evaluate_command.main(["evaluate", f"--predictions={tmp_path / 'scored.parquet'}", f"--output={tmp_path / 'out'}"])


FIELDS = "user.hobbies,item.genres,item.author,page,hour,item_count,item.author*page"


@pytest.fixture(scope="module")
def of_records(tmp_path_factory):
  """Records, predictions and metrics of a model that is compared with another."""
  path = tmp_path_factory.mktemp("records")
  record_set = write_record_set(path / "records", small_schema(), records={"train": 8, "test": 60})
  model, other = (
    write_export(path / "1", record_set),
    write_export(path / "2", record_set, scores=np.full(30, 0.5, "f")),
  )
  command = ["evaluate", f"--model={model}", f"--records={path / 'records'}", f"--output={path / 'out'}"]
  evaluate_command.main([*command, "--bootstrap=5", f"--slices={FIELDS}", f"--baseline={other}", "--slice_minimum=0"])
  found = json.loads((path / "out" / "metrics.json").read_text())
  return RecordSet.open(path / "records"), pl.read_parquet(path / "out" / "predictions.parquet"), found


def _values(record_set, name, index):
  """The slices of vocabulary indices."""
  return {"unknown" if i <= record_set.record_schema.vocabularies[name].oov else f"{name}-{i}" for i in index if i}


@pytest.mark.job
def test_fields_of_records_are_sliced_by_with_the_values_of_the_log(of_records):
  record_set, predictions, found = of_records
  expected = {name: {} for name in ("user.hobbies", "item.genres", "page", "item.author*page")}

  def count(name, values):
    for value in values or {"no value"}:
      expected[name][value] = expected[name].get(value, 0) + 1

  catalogue = record_set.catalogue("target")  # id, author, three genres
  for batch in dataset.evaluation_batches(record_set, "test", requests=7).as_numpy_iterator():
    for row, column in np.argwhere(batch["candidate_mask"]):
      item = catalogue[batch["candidate_items"][row, column]]
      count("user.hobbies", _values(record_set, "hobbies", batch["user_fields"][row, 1:]))
      count("item.genres", _values(record_set, "genre", item[2:]))
      pages = _values(record_set, "page", batch["candidate_context"][row, column, 1:])
      authors = _values(record_set, "author", item[1:2]) or {"no value"}
      count("page", pages)
      count("item.author*page", {f"{author} * {page}" for author in authors for page in pages})
  for name, counts in expected.items():
    assert {b: s["candidates"] for b, s in _by_name(found, name).items()} == counts
  assert list(found["slices"]) == FIELDS.split(",")
  assert len(predictions.columns) == 10, "fields of slices are no columns of predictions"


@pytest.mark.job
def test_a_model_is_compared_with_a_model(of_records):
  record_set, predictions, found = of_records
  assert found["baseline"]["path"].endswith("/2")
  auc = found["baseline"]["auc"]
  assert auc["baseline"] == 0.5
  assert auc["model"] == found["auc"] == pytest.approx(auc["difference"] + 0.5)
  np.testing.assert_array_equal(predictions["probability"], item_scores(record_set)[predictions["item"].to_numpy()])


def test_an_unknown_field_is_told_before_anything_is_scored(of_records, tmp_path):
  records = of_records[0].path
  command = ["evaluate", f"--model={records.parent / '1'}", f"--records={records}", f"--output={tmp_path / 'out'}"]
  with pytest.raises(UserError, match=r"unknown field of a slice 'user\.gender'\. Did you mean"):
    evaluate_command.main([*command, "--slices=user.gender"])
  assert not (tmp_path / "out" / "scored").exists()
