"""Logs of every kind of field, and of none at all, through everything that users do, each step a process of its own."""

import json
import textwrap

import numpy as np
import polars as pl
import pytest
import yaml

from lcn_tf.config import Synthetic
from lcn_tf.data.sources import synthetic
from tests.shipped.workspace import succeeds

BARE = {"target": {"max_length": 24}, "source": {"max_length": 32}, "candidates": 8}
PRICE = {"name": "price", "kind": "numeric", "standardise": True, "log1p": True}
EVERYTHING = {
  "user_fields": [
    "user_id",
    "segment",
    {"name": "hobbies", "max_values": 2, "weights": "hobby_weights"},
    {"name": "age", "kind": "numeric", "buckets": 4},
  ],
  "user_vectors": [{"name": "taste", "width": 5}],
  "context_fields": ["hour", "page", PRICE],
  "target": {
    "item_fields": [
      {"name": "author", "vocabulary": "author"},
      {"name": "genres", "vocabulary": "genre", "max_values": 3, "weights": "genre_weights"},
      {"name": "pages", "kind": "numeric", "buckets": 5, "standardise": True, "clip": [2, None]},
    ],
    "item_vectors": [{"name": "text", "width": 6}, {"name": "picture", "width": 3, "dtype": "float16"}],
    "cross_fields": ["dwell", "action", PRICE],
    "max_length": 24,
  },
  "source": {
    "item_fields": [{"name": "author", "vocabulary": "author"}],
    "item_vectors": [{"name": "text", "width": 6}],
    "cross_fields": ["dwell"],
    "max_length": 32,
  },
  "candidates": 8,
  "vocabularies": {"genre": {"oov": 2}, "user_id": {"min_count": 2, "oov": 3}},
}
ENCODE = """
  import json, sys
  from lcn_tf import files
  from lcn_tf.data.record_set import RecordSet
  from lcn_tf.serving.encoder import Behaviour, RankRequest, RequestEncoder
  from lcn_tf.serving.raw_client import raw_tensors
  import tensorflow as tf

  export, request = sys.argv[1:]
  told = json.loads(request)
  for domain in ("target", "source"):
    told[domain] = [Behaviour(**one) for one in told[domain]]
  request, record_set = RankRequest(**told), RecordSet.open(f"{export}/assets.extra")
  model = tf.saved_model.load(files.plain(export))

  def ask(signature, tensors):
    result = model.signatures[signature](**{name: tf.constant(value) for name, value in tensors.items()})
    print(result["probability"].numpy().tolist())

  ask("rank", RequestEncoder(record_set).encode([request]))
  ask("rank_raw", raw_tensors([request], record_set.record_schema, {"target": False, "source": False}))
"""


SCORE = """
  import json, sys
  from lcn_tf import files
  from lcn_tf.data.record_set import RecordSet
  from lcn_tf.serving.encoder import Behaviour, RankRequest
  from lcn_tf.serving.raw_client import raw_tensors
  import tensorflow as tf

  export, file = sys.argv[1:]
  told = json.load(open(file))
  for one in told:
    for domain in ("target", "source"):
      one[domain] = [Behaviour(**event) for event in one[domain]]
  schema = RecordSet.open(f"{export}/assets.extra").record_schema
  rank_raw = tf.saved_model.load(files.plain(export)).signatures["rank_raw"]
  tensors = raw_tensors([RankRequest(**one) for one in told], schema, {"target": False, "source": False})
  found = rank_raw(**{name: tf.constant(value) for name, value in tensors.items()})["probability"]
  json.dump(found.numpy()[:, 0].tolist(), open(file, "w"))
"""


def write_log(folder):
  """A planted log with columns of every kind; the fields of a bare schema are those that it does not read.

  Nobody meets an item twice: rounding would order the occurrences, and it differs between numbers of devices.
  """
  sizes = {"users": 80, "target_items": 150, "source_items": 150, "topics": 8, "interests": 3, "source_only": 1}
  tables = synthetic.generate(Synthetic(**sizes, target_only=1, target_length=30, source_length=40), seed=0)
  hour, page = pl.col("timestamp") // 3600 % 24, (pl.col("timestamp") % 3).cast(pl.String)
  interactions = tables.interactions.unique(["user_id", "item_id", "domain"], keep="first", maintain_order=True)
  interactions = interactions.with_columns(
    hour=hour,
    page=page,
    action=pl.col("timestamp") % 5 < 2,
    weight=1.0 + pl.col("timestamp") % 2,
    price=pl.when(pl.col("timestamp") % 7 > 0).then((pl.col("timestamp") % 101).sqrt()),
  )
  number = pl.col("item_id").rank("dense").cast(pl.Int64)
  genres = pl.concat_list((number % 7).cast(pl.String), (number % 3).cast(pl.String))
  shares = pl.concat_list(number % 4, pl.lit(0.5))
  text, picture = ([[float(i % (k + 2)) for k in range(width)] for i in range(300)] for width in (6, 3))
  vectors = [pl.Series("text", [None, *text[1:]], pl.List(pl.Float32)), pl.Series("picture", picture)]
  lists = {"genres": pl.when(number % 10 > 0).then(genres), "genre_weights": pl.when(number % 10 > 0).then(shares)}
  items = tables.items.with_columns(*vectors, **lists, pages=number % 13 * 1.5)
  users = (
    tables.users.with_row_index("n")
    .with_columns(hobbies=pl.concat_list(pl.col("n") % 4, pl.col("n") % 9), age=(20 + pl.col("n") % 50).cast(pl.String))
    .with_columns(hobby_weights=pl.concat_list(pl.col("n") % 2, pl.col("n") % 3))
    .with_columns(taste=pl.when(pl.col("n") % 5 > 0).then(pl.concat_list((pl.col("n") * k).sin() for k in range(1, 6))))
    .drop("n")
  )
  for name, table in (("interactions", interactions), ("items", items), ("users", users)):
    table.write_parquet(folder / f"{name}.parquet")
  return interactions, items


def experiment_of(schema):
  bare = "user_fields" not in schema
  return {
    "name": "bare" if bare else "everything",
    "schema": schema,
    "records": {"labels": {"kind": "given", "column": "label"}, "shards": 2},
    "model": {
      "extractor": "lap",
      "options": {"top_k": [12, 6], "num_heads": 2, "head_dim": 4},
      "embedding": {"dim": 8, "cross_dim": 4, "recency_buckets": 0 if bare else 8},
      "item_dim": 0 if bare else 8,
      "mlp": {"units": [16, 8]},
      "crp": {"units": [8]},
    },
    "train": {"global_batch_size": 64, "epochs": 1, "steps_per_epoch": 4, "learning_rate": 0.01},
  }


COMPARISON = {
  "name": "small",
  "models": {
    "LCN": {"config": "experiment.yaml"},
    "TWIN": {
      "config": "experiment.yaml",
      "set": {"model.extractor": "twin", "model.options": {"top_k": 8}, "model.crp": None},
    },
    "MiNet": {
      "config": "experiment.yaml",
      "set": {"model.network": "minet", "model.extractor": "none", "model.options": {"recent": 5}, "model.crp": None},
    },
  },
  "reference": "LCN",
  "seeds": [0],
  "baselines": True,
}


def histories_of(schema, interactions, user):
  """All behaviours of a user in the log."""
  past = interactions.filter((pl.col("user_id") == user) & ((pl.col("label") == 1) | pl.col("label").is_null()))
  histories = {}
  for d in ("target", "source"):
    fields = [f if isinstance(f, str) else f["name"] for f in schema[d].get("cross_fields", [])]
    rows = past.filter(pl.col("domain") == d).sort("timestamp", maintain_order=True).iter_rows(named=True)
    histories[d] = [
      {"item_id": row["item_id"], "timestamp": row["timestamp"], "fields": {name: row[name] for name in fields}}
      for row in rows
    ]
  return histories


def requests_of_predictions(schema, interactions, users, predictions):
  """Requests of one candidate each, by what the log says of it, and the probabilities of the predictions."""
  keys = ["user_id", "item_id", "timestamp"]
  alone = interactions.filter(pl.col("domain") == "target").unique(keys, keep="none")
  rows = predictions.join(alone, on=keys, how="inner", maintain_order="left").head(200)
  fields = {
    group: [f if isinstance(f, str) else f["name"] for f in schema.get(f"{group}_fields", [])]
    for group in ("user", "context")
  }
  columns = [*fields["user"], *(v["name"] for v in schema.get("user_vectors", []))]
  columns += [f["weights"] for f in schema.get("user_fields", []) if isinstance(f, dict) and "weights" in f]
  profiles = {one["user_id"]: one for one in users.iter_rows(named=True)}
  requests = [
    {
      "time": row["timestamp"],
      "candidates": [row["item_id"]],
      "user": {name: profiles[row["user_id"]][name] for name in columns},
      "context": {name: row[name] for name in fields["context"]},
      **histories_of(schema, interactions, row["user_id"]),
    }
    for row in rows.iter_rows(named=True)
  ]
  return requests, rows["probability"].to_list()


def request_of(schema, interactions, items):
  """A user of the log, by raw ids and values: what the first test interaction of somebody looks like."""
  now = interactions["timestamp"].max() + 1
  user = interactions.sort("timestamp")["user_id"][-1]
  histories = histories_of(schema, interactions, user)
  assert histories["target"]
  assert histories["source"]
  known = items.filter(pl.col("domain") == "target")["item_id"].to_list()[:5]
  profile = (
    {
      "user_id": user,
      "segment": "0",
      "hobbies": [1, 2],
      "hobby_weights": [2, 0.5],
      "age": 31.5,
      "taste": [1, -0.5, 0, 0.25, 2],
    }
    if "user_fields" in schema
    else {}
  )
  context = {"hour": 3, "page": "1", "price": 4.2} if "context_fields" in schema else {}
  return {"time": now, "candidates": [*known, "never met"], "user": profile, "context": context, **histories}


# what TensorFlow and polars read as patterns, and what shells and URLs do not take as it is
ODD = "lr=[0.01] *?\\ ü"


@pytest.mark.config(minutes=6)
@pytest.mark.parametrize(("schema", "ending"), [(BARE, ""), (EVERYTHING, ODD)], ids=["bare", "everything"])
def test_a_schema_goes_through_everything(schema, ending, tmp_path):
  interactions, items = write_log(tmp_path)
  (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment_of(schema)))
  (tmp_path / "comparison.yaml").write_text(yaml.safe_dump(COMPARISON))

  def path(name):
    return f"{name}/{ending}" if ending else name

  def runs(command, *more, **paths):
    """The command with a path for each flag of `paths`."""
    flags = [word for flag, name in paths.items() for word in (f"--{flag}", path(name))]
    return succeeds(command, tmp_path, *flags, *more)

  for name in ("interactions", "items", "users"):
    folder = tmp_path / path(f"{name}_log")
    folder.mkdir(parents=True)
    (tmp_path / f"{name}.parquet").rename(folder / "part.parquet")
  log = {"interactions": "interactions_log", "items": "items_log", "users": "users_log"}
  config = "--config experiment.yaml"
  build = f"python -m pipelines.build_records {config}"
  runs(build, "--strict", output="records", **log)
  runs("python -m tools.show_records", "--verify", records="records")
  fingerprint = json.loads((tmp_path / path("records") / "dataset.json").read_text())["fingerprint"]
  runs(build, "--set", "records.split.boundaries=[0,1]", output="later", like="records", **log)
  assert json.loads((tmp_path / path("later") / "dataset.json").read_text())["fingerprint"] == fingerprint

  train = f"python -m pipelines.train {config} --bootstrap 2"
  longer, replicas = ["--set", "train.epochs=2"], ["--set", "train.replicas=2"]
  runs(train, records="records", run_dir="broken")
  runs(train, *longer, records="records", run_dir="broken")
  runs(train, *longer, records="records", run_dir="unbroken")
  runs(train, *longer, *replicas, records="records", run_dir="two")
  runs(train, "--set", f"train.warm_start={path('broken')}", records="records", run_dir="warm")
  runs_of = {run: tmp_path / path(run) for run in ("broken", "unbroken", "two", "warm")}
  found = {run: json.loads((folder / "metrics.json").read_text()) for run, folder in runs_of.items()}
  assert found["broken"]["auc"] == found["unbroken"]["auc"]
  assert (runs_of["broken"] / "history.csv").read_text() == (runs_of["unbroken"] / "history.csv").read_text()
  assert found["two"]["logloss"] == pytest.approx(found["unbroken"]["logloss"], rel=1e-4)

  said = runs("python -m pipelines.export", run_dir="broken", output="served")
  assert ("TensorFlow reads such a path as a pattern" in said) == bool(ending)
  runs("python -m pipelines.evaluate --bootstrap 2", model="served", records="records", output="again")
  assert json.loads((tmp_path / path("again") / "metrics.json").read_text())["auc"] == found["broken"]["auc"]
  runs("python -m pipelines.consistency --requests 8", run_dir="broken", records="records", output="consistency")

  (tmp_path / "encode.py").write_text(textwrap.dedent(ENCODE))
  (version,) = (tmp_path / path("served")).iterdir()
  request = request_of(schema, interactions, items)
  said = succeeds("python encode.py", tmp_path, str(version), json.dumps(request))
  ((probability,), (raw,)) = map(json.loads, (line for line in said.splitlines() if line.startswith("[[")))
  assert len(probability) == 6
  assert raw == pytest.approx(probability, rel=1e-6)
  assert np.ptp(probability) > 0

  users = pl.read_parquet(tmp_path / path("users_log") / "part.parquet", glob=False)
  predictions = pl.read_parquet(tmp_path / path("again") / "predictions.parquet", glob=False)
  requests, expected = requests_of_predictions(schema, interactions, users, predictions)
  assert len(requests) > 150
  (tmp_path / "score.py").write_text(textwrap.dedent(SCORE))
  (tmp_path / "requests.json").write_text(json.dumps(requests))
  succeeds("python score.py", tmp_path, str(version), "requests.json")
  np.testing.assert_allclose(json.loads((tmp_path / "requests.json").read_text()), expected, atol=1e-6)

  compare = "python -m pipelines.compare --config comparison.yaml --jobs 2"
  said = runs(compare, records="records", output="compared")
  assert all(f"| {name} |" in said for name in COMPARISON["models"])
