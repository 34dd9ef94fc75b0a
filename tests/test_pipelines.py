"""The commands, end to end on the synthetic generator: build, train, export, evaluate; and what they say when wrong."""

import json
import pathlib
import subprocess
import sys

import pytest
import yaml

from lcn_tf import config as config_lib
from lcn_tf.errors import UserError
from pipelines import build_records, evaluate, export, train
from tests.support.experiments import tiny_experiment
from tests.support.record_sets import tiny_schema, write_record_set

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs" / "synthetic").glob("*.yaml"))
# few items and topics, so that half a minute of training shows what is learned
SMALL = ["users=300", "target_items=40", "source_items=40", "topics=8", "interests=3", "source_only=1"]
SMALL += ["target_only=1", "target_length=60", "source_length=80"]
RECORDS = [f"--set=records.synthetic.{setting}" for setting in SMALL]
TRAIN = ["--set=train.global_batch_size=256", "--set=train.learning_rate=0.01", "--set=train.epochs=4"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp("synthetic") / "records"
  build_records.main(["build_records", f"--config={CONFIGS[0]}", f"--output={folder}", *RECORDS])
  return folder


@pytest.mark.config
@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_synthetic_experiment_learns_what_its_histories_tell(config, records, tmp_path):
  run = tmp_path / "run"
  flags = [f"--config={config}", f"--records={records}", f"--run_dir={run}", *RECORDS, *TRAIN, "--bootstrap=20"]
  train.main(["train", *flags])
  rows = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
  losses = [float(row[rows[0].index("ctr_loss")]) for row in rows[1:]]
  assert losses[-1] < losses[0] - 0.02
  found = json.loads((run / "metrics.json").read_text())
  blind = json.loads((records / "dataset.json").read_text())["notes"]["blind_auc"]
  assert found["auc"] > blind + 0.05
  assert {"auc", "gauc", "logloss", "candidates", "users", "confidence", "seed"} <= set(found)
  assert "<html" in (run / "report" / "index.html").read_text()
  assert yaml.safe_load((run / "experiment.yaml").read_text())["train"]["epochs"] == 4

  if config.stem != "lcn":
    return
  export.main(["export", f"--run_dir={run}", f"--output={tmp_path / 'served'}"])
  evaluate.main(
    [
      "evaluate",
      f"--model={tmp_path / 'served'}",
      f"--records={records}",
      f"--output={tmp_path / 'again'}",
      "--bootstrap=0",
    ]
  )
  again = json.loads((tmp_path / "again" / "metrics.json").read_text())
  assert again["auc"] == pytest.approx(found["auc"], abs=1e-6)
  assert again["candidates"] == found["candidates"]


def test_a_later_log_is_evaluated_but_not_trained_on(records, tmp_path):
  flags = [f"--config={CONFIGS[0]}", *RECORDS, "--set=records.synthetic.users=50", "--set=records.seed=3"]
  later = ["--set=records.split.boundaries=[0,1]", f"--like={records}", f"--output={tmp_path / 'later'}"]
  build_records.main(["build_records", *flags, *later])
  found = json.loads((tmp_path / "later" / "dataset.json").read_text())
  assert found["fingerprint"] == json.loads((records / "dataset.json").read_text())["fingerprint"]
  assert list(found["splits"]) == ["test"]
  with pytest.raises(UserError, match=r"later: no records of the train split; there are those of: test$"):
    train.main(["train", *flags, f"--records={tmp_path / 'later'}", f"--run_dir={tmp_path / 'run'}"])


@pytest.mark.job
def test_a_job_that_leaves_out_broken_records_ends_with_its_metrics(tmp_path):
  record_set = write_record_set(tmp_path / "records", tiny_schema(), compression="none")
  for split in ("train", "validation", "test"):
    shard = tmp_path / "records" / record_set.part(split).shards[1].file
    shard.write_bytes(shard.read_bytes()[:-3])
  experiment = tiny_experiment(on_corrupt="skip", epochs=1)
  (tmp_path / "config.yaml").write_text(config_lib.dump(experiment))
  flags = [f"--config={tmp_path / 'config.yaml'}", f"--records={tmp_path / 'records'}", f"--run_dir={tmp_path / 'run'}"]
  train.main(["train", *flags, "--bootstrap=0"])
  found = json.loads((tmp_path / "run" / "metrics.json").read_text())
  part = record_set.part("test")
  assert part.shards[0].candidates < found["candidates"] < part.candidates


def test_a_bucket_is_no_run_folder(records, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"^oss://bucket/run: only local or mounted paths, and s3://, gs:// and hdfs://"):
    train.main(["train", f"--config={CONFIGS[0]}", f"--records={records}", "--run_dir=oss://bucket/run", *RECORDS])
  assert list(tmp_path.iterdir()) == []


def wrong(tmp_path, **changes):
  tree = yaml.safe_load(CONFIGS[0].read_text())
  for path, value in changes.items():
    *parents, last = path.split("__")
    node = tree
    for key in parents:
      node = node[key]
    node[last] = value
  file = tmp_path / "wrong.yaml"
  file.write_text(yaml.safe_dump(tree))
  return file


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train__learning_rat": 0.1}, r"train\.learning_rat: unknown key\. Did you mean 'learning_rate'\? Known keys: "),
    ({"train__epochs": "many"}, r"train\.epochs: .*integer.*found 'many'"),
    ({"train__preset": "adam"}, r"train\.preset: .*'lcn' or 'twin'; found 'adam'"),
    ({"model__embedding__dims": {"genre": 8}}, r"model\.embedding\.dims: the schema has no vocabulary 'genre'"),
    ({"train__global_batch_size": 1000}, r"global_batch_size 1000 is not a multiple of schema\.candidates 16"),
    ({"records__split": {"train": 0.9, "validation": 0.2}}, r"records\.split: .*leave no part"),
    ({"train__preset": "twin", "train__row_decay": 0.1}, r"train: row_decay 0\.1 is of preset 'lcn'; AdaGrad"),
    ({"schema__user_fields": ["geo/city"]}, r"schema: 'geo/city' is no name of a vocabulary: it names a file"),
    ({"schema__vocabularies": {"nothing": {}}}, r"schema: vocabularies: unknown vocabulary 'nothing'"),
  ],
)
def test_a_wrong_config_is_told_in_one_message(tmp_path, changes, message):
  file = wrong(tmp_path, **changes)
  with pytest.raises(UserError, match=rf"{file}: .*{message}"):
    train.main(["train", f"--config={file}", "--records=none", f"--run_dir={tmp_path / 'run'}"])
  assert not (tmp_path / "run").exists()


def test_wrong_paths_are_told_and_nothing_is_made(tmp_path):
  flags = [f"--records={tmp_path / 'none'}", f"--run_dir={tmp_path / 'run'}"]
  with pytest.raises(UserError, match=r"lcm\.yaml: no such config file\. Did you mean '.*lcn\.yaml'\?"):
    train.main(["train", f"--config={CONFIGS[0].parent / 'lcm.yaml'}", *flags])
  with pytest.raises(UserError, match=r"none: no record set here"):
    train.main(["train", f"--config={CONFIGS[0]}", *flags])
  with pytest.raises(UserError, match=r"--set train\.epochs: expected key\.path=value"):
    train.main(["train", f"--config={CONFIGS[0]}", *flags, "--set=train.epochs"])
  with pytest.raises(
    UserError, match=r"^--records is missing: Record set, a folder that pipelines\.build_records made\.$"
  ):
    train.main(["train", f"--config={CONFIGS[0]}", "--run_dir=x"])
  with pytest.raises(UserError, match=r"Unknown command line flag 'record'\. Did you mean 'records'\?"):
    train.main(["train", f"--config={CONFIGS[0]}", *flags, "--record=x"])
  with pytest.raises(UserError, match=r"Unknown command line flag 'confg'\. Did you mean 'config'\?"):
    train.main(["train", f"--confg={CONFIGS[0]}", *flags])
  assert list(tmp_path.iterdir()) == []


def test_another_schema_than_the_records_is_refused_before_anything_is_made(records, tmp_path):
  flags = [f"--config={CONFIGS[0]}", f"--records={records}", f"--run_dir={tmp_path / 'run'}"]
  with pytest.raises(UserError, match=r"schema\.target\.max_length is 5 in the config, 128 in the records"):
    train.main(["train", *flags, "--set=schema.target.max_length=5"])
  assert not (tmp_path / "run").exists()


def test_the_command_line_exits_with_one_message_and_no_traceback(tmp_path):
  command = [
    sys.executable,
    "-m",
    "pipelines.train",
    "--config=none.yaml",
    "--records=x",
    f"--run_dir={tmp_path / 'run'}",
  ]
  done = subprocess.run(command, capture_output=True, text=True, cwd=CONFIGS[0].parent.parent.parent, check=False)
  assert done.returncode == 1
  assert "error: none.yaml: no such config file." in done.stderr
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "run").exists()
