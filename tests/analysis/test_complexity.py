"""What graphs take against formulas, and formulas against the worked numbers of the specification."""

import json

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.analysis import complexity, formulas, synthetic
from lcn_tf.analysis.formulas import Sizes
from lcn_tf.analysis.full_attention import PROJECTIONS, FullAttention
from lcn_tf.errors import UserError
from lcn_tf.interest.average_pooling import AveragePooling
from lcn_tf.interest.din import DIN
from lcn_tf.interest.eta import ETA
from lcn_tf.interest.lap import LAP
from lcn_tf.interest.sdim import SDIM
from lcn_tf.interest.sim import SIMHard, SIMSoft
from lcn_tf.interest.twin import TWIN
from lcn_tf.models.mult_adds import count_call
from pipelines import complexity as command
from tests.support.layers import random_inputs, tensors

SPECIFIED = Sizes(N=1, L=2000, D=64, S=32)
PLAIN = Sizes(N=1, L=2000, D=64, vectors=64)
# DIN's MLP over 4 * 64, of 100 behaviours: (256 * 80 + 80 * 40 + 40 + 64) each
DIN_ESU = 2_378_400
# four heads of 16 over 100 behaviours: query, keys and values, scores and sums, output
MHA_ESU = 4_096 + 819_200 + 12_800 + 4_096


def test_lap_takes_what_the_specification_says():
  assert formulas.lap_levels(SPECIFIED) == {"csa": 256_000, "msa": 1_271_040, "fsa": 661_760}
  assert formulas.full_attention(SPECIFIED) == 24_872_960


def test_laps_share_of_full_attention_is_that_of_the_specification():
  rows = {row["K1, K2"]: row for row in complexity.lap_table()}
  shares = {"200, 50": 8.8, "100, 50": 6.3, "100, 20": 4.8, "50, 20": 3.5}
  assert {name: round(row["share, %"], 1) for name, row in rows.items()} == shares
  assert rows["200, 50"]["total"] == 2_188_800
  assert rows["100, 20"]["share, %"] <= 5.0
  assert synthetic.PRESETS["lap_five_percent"] == ("lap", {"top_k": [100, 20]})


def test_twins_key_projection_takes_what_the_specification_says():
  """The worked numbers of TWIN: L = 10^4, H_in = 160, C = 32, d_out = 128."""
  once = Sizes(N=0, L=10_000, D=160, S=32)  # without candidates: what there is once per history
  four, one = TWIN(), TWIN(num_heads=1, head_dim=128)
  keys = formulas.full_attention(once, "shared", num_heads=4, head_dim=32) // 2  # the other half are values
  assert keys == 245_760_000
  bias = Sizes(N=0, L=10_000, D=0, S=32)
  assert formulas.specified("twin", one, bias) == 320_000
  assert round(100 * (1 - 320_000 / keys), 2) == 99.87
  # the specification counts one head; each of four has a bias of its own
  assert formulas.specified("twin", four, bias) == 4 * 320_000
  # and the items' projections are kept per item
  assert formulas.specified("twin", four, once) == 10_000 * 160 * 128 + 4 * 320_000
  # a candidate adds its query, the scores (1.28 M), and values, sums and output of the 100 kept rows
  added = formulas.specified("twin", four, Sizes(N=1, L=10_000, D=160, S=32)) - formulas.specified("twin", four, once)
  assert added == 160 * 128 + 1_280_000 + 100 * 192 * 128 + 100 * 128 + 128 * 64
  longer = formulas.specified("twin", four, Sizes(N=7, L=10_001, D=160, S=32))
  assert longer - formulas.specified("twin", four, Sizes(N=7, L=10_000, D=160, S=32)) == 160 * 128 + 4 * 32 + 7 * 128


def test_twin_projects_no_key_of_a_history():
  """The graphs at these sizes, per request of one candidate."""
  read = tensors(random_inputs(0, B=1, N=1, L=10_000, D=160, S=32, R=0))
  live, cached = TWIN(), TWIN(projections="cached", items=50)
  for layer in (live, cached):
    layer(*read)
  carried = 2 * 160 * 128  # the query through W_q and W_h
  esu = 2 * 4 * 100 * 192 + 192 * 128 + 128 * 64
  found = complexity.count_extractor(live, *read)
  assert (found.unknown, found.loops) == ((), ())
  assert found.total == carried + 4 * 10_000 * 192 + esu
  assert found.total == formulas.implemented("twin", live, complexity.sizes_of(*read))
  # biases of four heads; scores (1.28 M), a bias one more entry of each key; the query through W_q once more
  search = count_call(lambda *both: cached.alphas(*both), *read)
  assert (search.unknown, search.loops) == ((), ())
  assert search.total == carried + 160 * 128 + 4 * 320_000 + 1_280_000 + 4 * 10_000


@pytest.mark.parametrize(
  ("name", "layer", "expected"),
  [
    ("average_pooling", AveragePooling(), 128_000),
    ("din", DIN(recent=100), DIN_ESU),
    ("din", DIN(), 20 * DIN_ESU),
    ("sim_hard", SIMHard(), DIN_ESU),
    ("sim_hard", SIMHard(esu="mha"), MHA_ESU),
    ("sim_cluster", SIMHard(), DIN_ESU),
    ("sim_cluster_plus", SIMHard(), DIN_ESU),
    ("sim_soft", SIMSoft(), 128_000 + DIN_ESU),
    ("eta", ETA(), 2001 * 64 * 64 + DIN_ESU),
    ("eta", ETA(esu="mha"), 8_196_096 + MHA_ESU),
    ("sdim", SDIM(), 2001 * 64 * 48 * 3 + 48 * 128_000),
    ("sdim", SDIM(mode="ta"), 18_441_216 + DIN_ESU),
    ("lap", LAP(), 256_000 + (4_096 + 200 * 4_096 + 2 * 12_800 + 4_096) + (4_096 + 409_600 + 6_400 + 4_096 + 32_768)),
  ],
)
def test_extractors_take_what_the_specification_says(name, layer, expected):
  """One candidate, 2,000 behaviours, 64 wide, no side information."""
  assert formulas.specified(name, layer, PLAIN) == expected


def test_a_literal_lap_counts_as_its_formula_says():
  sizes, top_k = Sizes(N=1, L=37, D=10, S=6), (9, 4)
  options = {"num_heads": 2, "head_dim": 3, "msa_dim": 5, "output_dim": 7, "ffn_dim": 11}
  weights = {name: tf.zeros(shape) for name, shape in {"q": [10, 5], "k": [16, 5], "v": [16, 7]}.items()}
  heads = {name: tf.zeros(shape) for name, shape in {"q": [10, 6], "k": [16, 6], "v": [16, 6], "o": [6, 7]}.items()}

  def csa(candidate, items):
    return tf.matmul(tf.matmul(candidate, items, transpose_b=True), items)

  def msa(candidate, rows):
    scores = tf.matmul(tf.matmul(candidate, weights["q"]), tf.matmul(rows, weights["k"]), transpose_b=True)
    return tf.matmul(tf.matmul(scores, rows), weights["v"])

  def fsa(candidate, rows):
    query, key, value = (
      tf.reshape(tf.matmul(x, heads[name]), [-1, 2, 3]) for name, x in (("q", candidate), ("k", rows), ("v", rows))
    )
    pooled = tf.einsum("hk,khe->he", tf.einsum("xhe,khe->hk", query, key), value)
    attended = tf.matmul(tf.reshape(pooled, [1, 6]), heads["o"])
    return tf.matmul(tf.matmul(attended, tf.zeros([7, 11])), tf.zeros([11, 7]))

  expected = formulas.lap_levels(sizes, top_k, **options)
  candidate = tf.zeros([1, 10])
  assert count_call(csa, candidate, tf.zeros([37, 10])).total == expected["csa"]
  assert count_call(msa, candidate, tf.zeros([9, 16])).total == expected["msa"]
  assert count_call(fsa, candidate, tf.zeros([4, 16])).total == expected["fsa"]


# LAP reads rows in another way where a request has one candidate
CASES = [*((name, 3) for name in sorted(formulas._IMPLEMENTED)), ("lap", 1)]


@pytest.mark.parametrize(("name", "candidates"), CASES)
def test_an_extractor_counts_as_its_formula_says(name, candidates):
  model = synthetic.build(name, 250, items=50, deduplicate=False)
  read = complexity.inputs(model, candidates, 250)
  found = complexity.count_extractor(model.extractors["target"], *read)
  assert (found.unknown, found.loops) == ((), ())
  assert found.total == formulas.implemented(name, model.extractors["target"], complexity.sizes_of(*read))


def test_every_step_of_a_recurrence_counts():
  counted = []
  for length in (20, 21):
    model = synthetic.build("pi_net", 21, items=50, deduplicate=False)
    row = complexity._row("pi_net", model, 1, length)
    assert row["data-dependent"] == 0
    counted.append(row["model total"])
  units, row = 100, 64 + 24
  # two encoders, and for one direction a filter of four members and the gate of their mean, and the transfer's GRU
  assert counted[1] - counted[0] >= 2 * 3 * units * (units + row) + 3 * units * 2 * units


@pytest.mark.parametrize("name", ["twin_cached", "twin_no_bias", "twin_raw"])
def test_the_ways_of_twin_can_be_built_and_counted(name):
  model = synthetic.build(name, 40, items=50)
  layer = model.extractors["target"]
  assert (layer.projections, layer.bias, layer.key) == {
    "twin_cached": ("cached", True, "split"),
    "twin_no_bias": ("live", False, "split"),
    "twin_raw": ("live", True, "raw"),
  }[name]
  row = complexity._row(name, model, 2, 40)
  assert row["extractor"] > 0
  assert (row["formula"] is None) == (name != "twin_no_bias")


@pytest.mark.parametrize("options", [{}, {"num_heads": 2, "head_dim": 6, "output_dim": 8, "ffn_dim": 12}])
@pytest.mark.parametrize("projections", PROJECTIONS)
def test_full_attention_counts_as_its_formula_says(projections, options):
  read = tensors(random_inputs(0, B=1, R=0))
  layer = FullAttention(projections, **options)
  layer(*read)
  found = complexity.count_extractor(layer, *read).total
  assert found == formulas.full_attention(complexity.sizes_of(*read), projections, **options)


def test_full_attention_is_one_number_three_ways_and_the_last_level_of_lap():
  candidates, behaviours = random_inputs(1, R=0)
  read = tensors((candidates, behaviours))
  layers = [FullAttention(projections) for projections in PROJECTIONS]
  results = []
  for layer in layers:
    layer(*read)
    layer.set_weights(layers[0].get_weights())
    results.append(layer(*read).numpy())
  assert np.abs(results[0]).max() > 0.01
  lap = LAP(levels=["csa", "fsa"], top_k=(99, 99))
  lap(*read)
  lap.set_weights(layers[0].get_weights())
  of_lap = lap(*read)[..., candidates.embedding.shape[-1] :].numpy()
  for result in results:
    np.testing.assert_allclose(result, of_lap, rtol=1e-4, atol=1e-6)


def test_lap_counts_at_most_five_percent_of_full_attention_as_papers_count_it():
  row = next(row for row in complexity.against_full_attention(2000, [1]) if row["model"] == "lap_five_percent")
  assert row["per_candidate"] == row["shared"] == 24_872_960
  assert row["LAP / per_candidate, %"] <= 5.0


@pytest.mark.job
def test_the_command_leaves_a_table_and_a_page(tmp_path, capsys):
  command.main(
    ["complexity", f"--output={tmp_path}", "--lengths=20,40", "--candidates=2", "--models=lap,average_pooling"]
  )
  found = json.loads((tmp_path / "complexity.json").read_text(), parse_constant=pytest.fail)
  rows = found["tables"][0]["rows"]
  assert [(row["model"], row["length"]) for row in rows] == [
    ("lap", 20),
    ("lap", 40),
    ("average_pooling", 20),
    ("average_pooling", 40),
  ]
  for row in rows:
    assert row["extractor"] == row["formula"]
    assert row["model total"] > 2 * row["extractor"]
  assert "24,872,960" in capsys.readouterr().out
  assert "<img" in (tmp_path / "index.html").read_text()


def test_wrong_names_and_sizes_are_told(tmp_path):
  with pytest.raises(UserError, match=r"unknown model 'lab'\. Did you mean 'lap'"):
    command.main(["complexity", f"--output={tmp_path}", "--models=lab"])
  with pytest.raises(UserError, match="--lengths 1,x: expected whole numbers"):
    command.main(["complexity", f"--output={tmp_path}", "--lengths=1,x"])
  with pytest.raises(UserError, match=r"at least 1, found 1 candidates, lengths \[0\]"):
    command.main(["complexity", f"--output={tmp_path}", "--lengths=0"])
