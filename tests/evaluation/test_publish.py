"""Publishing: what passes is served whole, what is refused is not, whatever interrupts it."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from lcn_tf.errors import UserError
from lcn_tf.evaluation import scoring
from lcn_tf.evaluation.gate import RefusedError
from pipelines import publish as publish_command
from tests.evaluation.exports import item_scores, write_export
from tests.support.record_sets import small_schema, write_record_set

GATE = "{logloss: {max: 2}, difference: {logloss: {max: 0.001}}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Records, and versions 5 to 7: a good model, a worse one, and one that differs from the good one in nothing."""
  path = tmp_path_factory.mktemp("publish")
  record_set = write_record_set(path / "records", small_schema(), records={"train": 8, "test": 20}, shards=1)
  (path / "gate.yaml").write_text(GATE)
  good = np.full(30, record_set.part("test").positives / record_set.part("test").candidates, np.float32)
  for version, scores in ((5, good), (6, item_scores(record_set)), (7, good * 1.001)):
    write_export(path / "export" / str(version), record_set, scores=scores)
  return path


def _publish(folder, served, version, *flags):
  model = folder / "export" / str(version)
  command = ["publish", f"--model={model}", f"--records={folder / 'records'}", f"--gate={folder / 'gate.yaml'}"]
  publish_command.main([*command, f"--output={served}", "--bootstrap=5", *flags])


def _versions(served):
  return sorted(path.name for path in served.iterdir())


@pytest.mark.job
def test_what_passes_is_served_and_what_is_refused_is_not(folder, tmp_path):
  served = tmp_path / "served"
  _publish(folder, served, 5)
  assert _versions(served) == ["5"]
  assert scoring.digest(served / "5") == scoring.digest(folder / "export" / "5")
  with pytest.raises(RefusedError, match=r"refused by .*gate\.yaml: logloss - baseline: 0\.\d+ is above 0\.001"):
    _publish(folder, served, 6)
  assert _versions(served) == ["5"]
  verdicts = json.loads((tmp_path / "served.results" / "6" / "gate.json").read_text())
  assert [rule["verdict"] for rule in verdicts["rules"]] == ["passed", "failed"]
  _publish(folder, served, 7, f"--results={tmp_path / 'results'}")
  assert _versions(served) == ["5", "7"]
  saved = json.loads((tmp_path / "results" / "metrics.json").read_text())
  assert saved["baseline"]["path"] == str(served / "5"), "the newest version is the baseline"


def test_what_is_served_already_is_not_published_again(folder, tmp_path):
  served = tmp_path / "served"
  shutil.copytree(folder / "export" / "5", served / "12")
  _publish(folder, served, 5)
  assert _versions(served) == ["12"]
  assert not (tmp_path / "served.results").exists()
  _publish(folder, served, 7)
  assert _versions(served) == ["12", "13"], "a server takes the highest number"


@pytest.mark.parametrize(("where", "name"), [(shutil, "copyfile"), (scoring, "digest"), (pathlib.Path, "rename")])
def test_an_interruption_leaves_whole_versions_alone(folder, tmp_path, monkeypatch, where, name):
  served = tmp_path / "served"
  shutil.copytree(folder / "export" / "5", served / "5")
  real, calls = getattr(where, name), []

  def interrupted(path, *arguments, **options):
    calls.append(path)
    if ".version." in str(path) or (arguments and ".version." in str(arguments[0])):
      raise KeyboardInterrupt
    return real(path, *arguments, **options)

  with monkeypatch.context() as patch:
    patch.setattr(where, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
      _publish(folder, served, 7, f"--results={tmp_path / 'results'}")
  assert calls
  assert _versions(served) == ["5"]


def test_a_version_that_changes_meanwhile_is_not_published(folder, tmp_path, monkeypatch):
  shutil.copytree(folder / "export" / "7", tmp_path / "7")
  real = shutil.copytree

  def changed(*arguments, **options):
    copied = real(*arguments, **options)
    shutil.copy(folder / "export" / "6" / "variables" / "variables.index", pathlib.Path(copied) / "variables")
    return copied

  monkeypatch.setattr(shutil, "copytree", changed)
  with pytest.raises(UserError, match="changed while it was evaluated; nothing was published"):
    _publish(folder, tmp_path / "served", 7)
  assert _versions(tmp_path / "served") == []


def test_nothing_is_evaluated_with_a_wrong_gate(folder, tmp_path):
  (tmp_path / "gate.yaml").write_text("auk: {min: 1}")
  with pytest.raises(UserError, match="unknown key 'auk'"):
    _publish(folder, tmp_path / "served", 5, f"--gate={tmp_path / 'gate.yaml'}")
  assert [path.name for path in tmp_path.iterdir()] == ["gate.yaml"]
