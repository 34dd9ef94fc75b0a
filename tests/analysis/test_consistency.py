"""The orders of older and newer models, and the command on a trained run."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.analysis import consistency
from lcn_tf.errors import UserError
from lcn_tf.interest.twin import TWIN
from lcn_tf.training.run_folder import labels, read_run
from lcn_tf.training.trainer import train
from pipelines import consistency as command
from tests.support.experiments import small_experiment
from tests.support.layers import CATALOGUE, random_inputs, tensors
from tests.support.record_sets import small_schema, write_record_set
from tests.support.runs import write_run

pytestmark = pytest.mark.job


def _twin(seed, **options):
  """A small TWIN with random weights, which has read its inputs once."""
  layer = TWIN(top_k=4, num_heads=2, head_dim=3, output_dim=5, **options)
  inputs = random_inputs(0, L=20)
  layer(*tensors(inputs))
  for i, weight in enumerate(layer.trainable_weights):
    weight.assign(tf.random.stateless_normal(weight.shape, [seed, i]))
  return layer


def _read(table):
  """Candidates and a history whose items have these embeddings."""
  candidates, behaviours = random_inputs(0, L=20)
  return tensors((candidates, behaviours._replace(embedding=table[behaviours.items])))


def test_old_projections_are_searched_by_the_newest_queries():
  tables = np.random.default_rng(1).normal(size=(2, CATALOGUE, 6)).astype(np.float32)
  newest, old = _twin(2), _twin(3)
  own, before = (_read(table) for table in tables)
  readers = [consistency.Reader("", newest, *own), consistency.Reader("7 steps old", old, *before)]
  found = consistency.rank_history(newest, *own, readers)
  assert list(found.orders) == ["search", "search, 7 steps old", "search, projections 7 steps old"]

  kept = _twin(2, projections="cached", items=CATALOGUE)
  kept.cached.assign(old.project(tf.constant(tables[1])))
  expected = {
    "search": newest.search_scores(*own),
    "search, 7 steps old": old.search_scores(*before),
    "search, projections 7 steps old": kept.search_scores(*own),
  }
  seen = own[1].visible.numpy()
  for method, order in found.orders.items():
    np.testing.assert_array_equal(order.numpy()[seen], expected[method].numpy()[seen])
  assert len({tuple(order.numpy()[seen]) for order in found.orders.values()}) == 3
  np.testing.assert_array_equal(found.exact, newest.exact_scores(*own))

  moved, size = (part.numpy() for part in found.drifts["search, projections 7 steps old"])
  alphas, exact = kept.alphas(*own).numpy(), newest.alphas(*own).numpy()
  for b, n in np.ndindex(moved.shape):
    shown = seen[b, n]
    assert moved[b, n] == pytest.approx(np.abs(alphas[b, n][:, shown] - exact[b, n][:, shown]).sum(), rel=1e-4)
    assert size[b, n] == pytest.approx(np.abs(exact[b, n][:, shown]).sum(), rel=1e-4)
  assert found.drifts["search"][0].numpy().max() <= 1e-3


def test_keys_that_cannot_be_kept_have_no_old_projections():
  readers = [
    consistency.Reader(age, _twin(2, key="raw"), *_read(np.ones([CATALOGUE, 6], np.float32)))
    for age in ("", "1 step old")
  ]
  assert list(consistency.rank_history(*readers[0][1:], readers).orders) == ["search", "search, 1 step old"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of four steps that kept a checkpoint of each, and one of a model that does not search."""
  folder = tmp_path_factory.mktemp("consistency")
  lengths = {"target": 24, "source": 40}
  records = {"train": 16, "validation": 8, "test": 9}
  record_set = write_record_set(folder / "records", small_schema(), records=records, lengths=lengths)
  settings = {"checkpoint_every": 1, "keep_checkpoints": 9, "learning_rate": 0.05, "global_batch_size": 16}
  train(small_experiment(epochs=1, **settings), record_set, folder / "lap")
  train(small_experiment("twin", epochs=1, **settings), record_set, folder / "twin")
  write_run(folder / "average_pooling", small_experiment("average_pooling"), record_set)
  return folder


def _main(folder, output, *runs, flags=()):
  arguments = [f"--run_dir={folder / run}" for run in runs]
  command.main(["consistency", *arguments, f"--records={folder / 'records'}", f"--output={output}", *flags])
  return json.loads((output / "consistency.json").read_text(), parse_constant=pytest.fail)


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(trained):
  one = read_run(trained / "lap")

  def like(path, **changes):
    experiment = one.experiment.model_copy(update={"train": one.experiment.train.model_copy(update=changes)})
    return dataclasses.replace(one, path=path, experiment=experiment)

  assert labels([one, like("b", seed=7)]) == [one.experiment.name] * 2
  assert labels([one, like("b", seed=7, learning_rate=0.5)]) == [
    f"{one.experiment.name} ({trained / 'lap'})",
    f"{one.experiment.name} (b)",
  ]


def test_the_command_leaves_a_table_and_a_page(trained, tmp_path, capsys):
  found = _main(trained, tmp_path, "lap", "lap", flags=["--top=5", "--oracle=10"])
  rows = found["tables"][0]["rows"]
  assert {(row["order"], row["history"]) for row in rows} == {
    (order, history) for order in ("after CSA", "after MSA") for history in ("target", "source", "both")
  }
  for row in rows:
    assert row["runs"] == 2
    assert row["candidates"] > 0
    assert 0 < row["chance"] < 1
    assert 0 <= row["consistency"] <= 1
    assert row["std"] == 0
  assert len({row["consistency"] for row in rows}) > 2
  *curves, oracle = found["tables"][1]["rows"]
  assert oracle["n = 48"] == oracle["n = 10"] == 10
  for row in curves:
    hits = [row[f"n = {size}"] for size in found["sizes"]]
    assert hits == sorted(hits)
    assert hits[-1] == 10
  page = (tmp_path / "index.html").read_text()
  assert page.count("<img") == 6
  assert "http" not in page
  assert (tmp_path / "consistency.md").read_text() == capsys.readouterr().out.removesuffix("\n")


def test_an_older_checkpoint_searches_for_the_best_one(trained, tmp_path):
  flags = ["--top=5", "--oracle=10", "--requests=5", "--stale_checkpoint=1", "--stale_checkpoint=3"]
  found = _main(trained, tmp_path, "lap", flags=flags)
  rows = {(row["order"], row["history"]): row for row in found["tables"][0]["rows"]}
  stale = {order for order, _ in rows if "old" in order}
  assert stale == {f"after {level}, {age} old" for level in ("CSA", "MSA") for age in ("3 steps", "1 step")}
  assert len(rows) == 18
  hits = {(row["order"], row["history"]): row["n = 10"] for row in found["tables"][1]["rows"]}
  for order in stale:
    fresh = order.partition(",")[0]
    assert [hits[order, d] for d in ("target", "source")] != [hits[fresh, d] for d in ("target", "source")]
  assert rows["after CSA", "target"]["candidates"] <= 5 * 4


def test_twin_finds_its_hundred_and_says_how_far_older_projections_are(trained, tmp_path):
  found = _main(trained, tmp_path, "twin", "lap", flags=["--top=5", "--oracle=10", "--stale_checkpoint=1"])
  rows = {(row["model"], row["order"]): row for row in found["tables"][0]["rows"] if row["history"] == "both"}
  assert {order for model, order in rows if model == "small twin"} == {
    "search",
    "search, 3 steps old",
    "search, projections 3 steps old",
  }
  twin = {order: row for (model, order), row in rows.items() if model == "small twin"}
  assert twin["search"]["consistency"] == 1
  assert twin["search"]["drift"] < 1e-6
  for age in ("search, 3 steps old", "search, projections 3 steps old"):
    assert twin[age]["consistency"] < 1
    assert 0.001 < twin[age]["drift"] < 1
  assert rows["small lap", "after CSA"]["drift"] is None
  assert "Drift: sum" in (tmp_path / "consistency.md").read_text()


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    ([], r"more behaviours than --top 50 or --oracle 100, .* Lower --top and --oracle below"),
    (["--top=5"], r"more behaviours than --oracle 100, .* Lower --oracle below"),
    (["--top=5", "--oracle=10"], None),
  ],
)
def test_histories_too_short_to_count_are_told_once(trained, tmp_path, caplog, flags, told):
  _main(trained, tmp_path, "lap", flags=["--requests=3", *flags])
  warnings = [record.getMessage() for record in caplog.records if "no candidate" in record.getMessage()]
  assert len(warnings) == (told is not None)
  if told:
    assert re.search(told, warnings[0])


def test_a_broken_record_is_named(trained, tmp_path):
  shutil.copytree(trained / "records", tmp_path / "records")
  shutil.copytree(trained / "lap", tmp_path / "lap")
  shard = next((tmp_path / "records" / "test" / "target").glob("part-00001*"))
  shard.write_bytes(shard.read_bytes()[:-40])
  with pytest.raises(UserError, match=rf"{shard.name}: record \d"):
    _main(tmp_path, tmp_path / "out", "lap")


def test_what_cannot_be_analysed_is_told(trained, tmp_path):
  with pytest.raises(UserError, match="AveragePooling does not search"):
    _main(trained, tmp_path, "average_pooling")
  with pytest.raises(UserError, match=r"no checkpoint '77'. Steps there: 1, 2, 3, 4 "):
    _main(trained, tmp_path, "lap", flags=["--stale_checkpoint=77"])
  best = read_run(trained / "lap").checkpoints()[0]
  with pytest.raises(UserError, match="is not older than the best one"):
    _main(trained, tmp_path, "lap", flags=[f"--stale_checkpoint={best}"])
  with pytest.raises(UserError, match="no run here"):
    _main(trained, tmp_path, "nothing")
  with pytest.raises(UserError, match="unknown split 'tests'"):
    _main(trained, tmp_path, "lap", flags=["--split=tests"])
  other = write_record_set(tmp_path / "records", small_schema(max_length=12))
  with pytest.raises(UserError, match="trained with other records"):
    command.main(
      ["consistency", f"--run_dir={trained / 'lap'}", f"--records={other.path}", f"--output={tmp_path / 'out'}"]
    )
  assert not (tmp_path / "out").exists()
