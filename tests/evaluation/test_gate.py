"""A gate refuses what is worse, lets pass what is not, and says where."""

import json
import math
import pathlib
import subprocess
import sys

import pytest
import yaml

from lcn_tf.errors import UserError
from lcn_tf.evaluation import Settings, gate, measuring, read_gate
from lcn_tf.evaluation.candidates import Candidates
from lcn_tf.evaluation.fields import FileFields
from pipelines import evaluate as evaluate_command
from tests.evaluation.scored_logs import log, noisy, write
from tests.shipped.workspace import CONFIGS, ROOT

RULES = """
auc: {min: 0.6}
difference:
  auc: {min: -0.002, confidence: 0.95}
  logloss: {max: 0.002, confidence: 0.95}
slices:
  genre: {minimum: 500, difference: {auc: {min: -0.002, confidence: 0.99}}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Predictions of the best model, of one that is worse everywhere, and of one that is worse for a genre."""
  path, frame = tmp_path_factory.mktemp("scored"), log()
  models = {"best": frame, "worse": noisy(frame, 1.0), "horror": noisy(frame, 2.5, "horror")}
  return {name: pathlib.Path(write(path / f"{name}.parquet", scored)) for name, scored in models.items()}


def _gate(tmp_path, text=RULES):
  (tmp_path / "gate.yaml").write_text(text)
  return read_gate(tmp_path / "gate.yaml")


def _judged(rules, model, other=None, seed=0, replicates=100):
  candidates, baseline = Candidates([model]), None if other is None else Candidates([other])
  settings = Settings(replicates, seed, slices=())
  result = measuring.measure(candidates, FileFields(candidates), settings, baseline=baseline, also=rules.sliced())
  return gate.judge(rules, result)


def _failed(judged):
  return {(rule.slice, rule.metric, rule.difference) for rule in judged if rule.verdict == "failed"}


def test_a_worse_model_is_refused_and_a_better_one_is_not(files, tmp_path):
  rules = _gate(tmp_path)
  refused = _failed(_judged(rules, files["worse"], files["best"]))
  assert {("", "auc", True), ("", "logloss", True)} <= refused
  assert not _failed(_judged(rules, files["best"], files["worse"]))


def test_the_slice_in_which_a_model_is_worse_is_named(files, tmp_path):
  rules = _gate(tmp_path)
  judged = _judged(rules, files["horror"], files["best"])
  assert {slice for slice, _, _ in _failed(judged) if slice} == {"genre=horror"}
  with pytest.raises(gate.RefusedError, match=r"refused by .*gate\.yaml: .*auc - baseline of genre=horror: -0\.\d+ .*"):
    gate.check(judged, rules, "out")


def test_an_equal_model_passes(tmp_path):
  """Two models with noise of the same size: the shipped gate lets pass 19 of twenty logs and bootstrap seeds."""
  shipped = yaml.safe_load((CONFIGS / "gates" / "release.yaml").read_text())
  rules = _gate(tmp_path, yaml.safe_dump({key: of for key, of in shipped.items() if key != "slices"}))
  refused = 0
  for seed in range(20):
    frame = log(users=80, seed=seed)
    a, b = (write(tmp_path / f"{i}.parquet", noisy(frame, 0.5, seed=10 * seed + i)) for i in (1, 2))
    refused += bool(_failed(_judged(rules, pathlib.Path(a), pathlib.Path(b), seed=seed)))
  assert refused <= 1


def test_another_bootstrap_of_the_same_scores_passes(files, tmp_path):
  rules = _gate(tmp_path)
  for seed in range(20):
    assert not _failed(_judged(rules, files["best"], files["best"], seed=seed, replicates=20))


@pytest.mark.parametrize(
  ("text", "verdict"),
  [
    ("auc: {min: 0.5}", "passed"),
    ("auc: {min: 0.99}", "failed"),
    ("auc: {max: 0.5}", "failed"),
    ("calibration: {min: 0.8, max: 1.25}", "passed"),
    ("calibration: {min: 1.5, confidence: 0.95}", "failed"),
    ("ece: {max: 0.5}", "passed"),
    ("ece: {max: 0.0001}", "failed"),
    ("ndcg@5: {min: 0.2, confidence: 0.9}", "passed"),
    ("hit_rate@1: {max: 0.01}", "failed"),
  ],
)
def test_a_threshold_has_two_sides(files, tmp_path, text, verdict):
  assert [rule.verdict for rule in _judged(_gate(tmp_path, text), files["best"])] == [verdict]


def test_with_confidence_the_whole_interval_has_to_be_beyond(files, tmp_path):
  judged = _judged(_gate(tmp_path, "auc: {min: 0.5, confidence: 0.95}"), files["best"])[0]
  low, high = judged.interval
  between = (judged.value + high) / 2
  assert low < judged.value < between < high
  assert _failed(_judged(_gate(tmp_path, f"auc: {{min: {between}}}"), files["best"]))
  assert not _failed(_judged(_gate(tmp_path, f"auc: {{min: {between}, confidence: 0.95}}"), files["best"]))
  assert _failed(_judged(_gate(tmp_path, f"auc: {{min: {high + 1e-6}, confidence: 0.95}}"), files["best"]))


def test_small_slices_and_values_that_are_not_there_are_not_judged(files, tmp_path):
  rules = _gate(tmp_path, "slices: {genre: {minimum: 100000, auc: {min: 0.99}}, genre=opera: {auc: {min: 0.99}}}")
  judged = _judged(rules, files["best"])
  assert [rule.verdict for rule in judged] == ["not judged"] * 4
  assert judged[0].reason.endswith("candidates, fewer than 100000")
  assert judged[-1].reason == "no slice has this value"


def test_a_slice_that_a_rule_names_is_judged_however_small(tmp_path):
  frame = log(users=30)
  path = pathlib.Path(write(tmp_path / "scored.parquet", frame))
  judged = _judged(_gate(tmp_path, "slices: {user=user-7: {minimum: 5, logloss: {max: 9}}}"), path)
  assert [(rule.slice, rule.verdict, rule.candidates) for rule in judged] == [("user=user-7", "passed", 24)]


def test_what_is_not_defined_fails_overall_and_is_not_judged_in_a_slice(tmp_path):
  frame = log(users=30)
  frame = frame.with_columns(label=frame["label"] * 0)
  path = pathlib.Path(write(tmp_path / "negatives.parquet", frame))
  judged = _judged(_gate(tmp_path, "{auc: {min: 0}, slices: {genre: {minimum: 1, auc: {min: 0}}}}"), path)
  assert [rule.verdict for rule in judged] == ["failed", *["not judged"] * 3]
  assert math.isnan(judged[0].value)


def test_the_command_leaves_the_verdicts_and_ends_with_3(files, tmp_path):
  _gate(tmp_path)
  command = [sys.executable, "-m", "pipelines.evaluate", "--predictions", str(files["horror"]), "--bootstrap=50"]
  command += [f"--baseline={files['best']}", f"--gate={tmp_path / 'gate.yaml'}", f"--output={tmp_path / 'out'}"]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
  assert done.returncode == 3, done.stderr
  assert done.stderr.splitlines()[-1].startswith("error: refused by ")
  assert "of genre=horror: " in done.stderr.splitlines()[-1]
  found = json.loads((tmp_path / "out" / "gate.json").read_text())
  assert found["passed"] is False
  assert found["counts"]["failed"] == sum(rule["verdict"] == "failed" for rule in found["rules"])
  rule = next(rule for rule in found["rules"] if rule["slice"] == "genre=horror")
  assert rule["threshold"] == {"min": -0.002, "confidence": 0.99}
  assert rule["interval"][1] < -0.002 <= 0 < rule["candidates"]
  page = (tmp_path / "out" / "report" / "index.html").read_text()
  assert "<h2>Gate</h2>" in page
  assert "genre=horror" in page
  saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
  by_genre = {bucket["bucket"]: bucket["auc"] for bucket in saved["baseline"]["slices"]["genre"]}
  assert by_genre["drama"]["difference"] == 0
  assert by_genre["horror"]["difference"] == pytest.approx(rule["value"])


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("auk: {min: 1}", r"gate\.yaml: unknown key 'auk'\. Did you mean 'auc'"),
    ("auc: {mni: 1}", r"gate\.yaml: auc\.mni: Extra inputs are not permitted"),
    ("auc: {min: high}", r"gate\.yaml: auc\.min: Input should be a valid number"),
    ("auc: {}", r"gate\.yaml: auc: expected min or max"),
    ("auc: {min: 2, max: 1}", r"gate\.yaml: auc: min 2 is above max 1"),
    ("auc: {min: 0, confidence: 95}", r"gate\.yaml: auc\.confidence: Input should be less than 1"),
    ("difference: {ece: {min: 0}}", r"gate\.yaml: difference: unknown key 'ece'"),
    ("slices: {genre: {auk: {min: 1}}}", r"gate\.yaml: slices\.genre: unknown key 'auk'"),
    ("slices: {genre: {minimum: 0}}", r"gate\.yaml: slices\.genre\.minimum: Input should be greater than"),
    ("[1]", r"gate\.yaml: expected rules"),
    ("a: {", r"gate\.yaml: not YAML"),
  ],
)
def test_a_wrong_rule_is_named(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as error:
    _gate(tmp_path, text)
  assert "\n" not in str(error.value)


def test_a_gate_that_cannot_be_applied_is_told_before_anything_is_left(files, tmp_path):
  command = ["evaluate", f"--predictions={files['best']}", f"--output={tmp_path / 'out'}"]
  _gate(tmp_path)
  with pytest.raises(UserError, match=r"rules on differences need a baseline; give --baseline"):
    evaluate_command.main([*command, f"--gate={tmp_path / 'gate.yaml'}"])
  (tmp_path / "gate.yaml").write_text("slices: {gnre: {auc: {min: 0}}}")
  with pytest.raises(UserError, match=r"unknown column of a slice 'gnre'\. Did you mean 'genre'"):
    evaluate_command.main([*command, f"--gate={tmp_path / 'gate.yaml'}"])
  assert not (tmp_path / "out").exists()


def test_the_shipped_gates_are_read():
  found = [read_gate(file) for file in (CONFIGS / "gates").glob("*.yaml")]
  assert found
  assert all(rules.differs() for rules in found)
