"""Parts of the report: the training log, and pages with little to show."""

import json

import numpy as np
import pytest

from lcn_tf import files, formats, metrics
from lcn_tf.evaluation import report
from lcn_tf.evaluation.slices import label
from tests.support.record_sets import small_schema, write_record_set


def test_an_epoch_that_was_trained_twice_counts_once(tmp_path):
  file = tmp_path / "history.csv"
  file.write_text("epoch,loss,val_auc\n0,0.7,0.5\n1,0.6,\nepoch,loss,val_auc\n1,0.5,x\n2,0.4,0.6\n")
  history = report.read_history(file)
  assert history["epoch"] == [0, 1, 2]
  assert history["loss"] == [0.7, 0.5, 0.4]
  np.testing.assert_array_equal(history["val_auc"], [0.5, np.nan, 0.6])


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "loss\n0.5\n"])
def test_a_log_without_epochs_is_no_log(tmp_path, text):
  (tmp_path / "history.csv").write_text(text)
  assert not report.read_history(tmp_path / "history.csv").get("epoch")


def test_a_missing_log_is_no_log(tmp_path):
  assert report.read_history(tmp_path / "history.csv") == {}
  assert report.read_history(None) == {}


@pytest.mark.parametrize(("scores", "labels"), [([0.5], [1]), ([0.5, 0.5], [0, 0]), ([], [])])
def test_degenerate_candidates_still_make_a_page(tmp_path, scores, labels):
  record_set = write_record_set(tmp_path, small_schema(), records={"test": 2}, domains=("target",))
  scored = metrics.Scored(np.array(scores), np.array(labels), np.ones(len(scores), int))
  found = metrics.summary(scored, replicates=3) | {
    "split": "test",
    "fingerprint": "f",
    "model": {"name": "<b>", "version": "1", "path": "p"},
    "records": {"path": "r"},
  }
  page = report.render(found, scored, record_set, history={})
  assert "<h1>&lt;b&gt; on small</h1>" in page
  assert ">-<" in page  # an AUC that is not defined
  assert page.count("<img") == (5 if scores else 0)


def test_the_loss_beside_the_validations_is_that_of_the_clicks():
  history = {"epoch": [0.0], "loss": [9.0], "ctr_loss": [0.5], "val_loss": [0.6]}
  page = report._training(history)
  assert "Loss by epoch: ctr_loss ends at 0.5000; val_loss ends at 0.6000" in page
  assert "Loss by epoch: loss ends at 9.0000" in report._training({"epoch": [0.0], "loss": [9.0]})


def test_bucket_names():
  assert [label(i) for i in (0, 1, 2)] == ["0", "1-9", "10-29"]
  assert label(10) == "100000+"


def test_json_has_null_where_there_is_no_number(tmp_path):
  value = {"a": float("nan"), "b": [np.float32(1.5), np.int64(2), float("inf")], "c": (True, "x", None), "d": tmp_path}
  formats.write_json(tmp_path / "out" / "x.json", value)
  saved = json.loads((tmp_path / "out" / "x.json").read_text(), parse_constant=pytest.fail)
  assert saved == {"a": None, "b": [1.5, 2, None], "c": [True, "x", None], "d": str(tmp_path)}


def _fail_half_way(file):
  file.write_text("half")
  raise OSError("the disk is full")


def test_a_failure_while_writing_leaves_the_earlier_file(tmp_path):
  file = tmp_path / "x.json"
  file.write_text("earlier")
  with pytest.raises(OSError, match="full"), files.replacing(file) as aside:
    _fail_half_way(aside)
  assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.json", "earlier")]
