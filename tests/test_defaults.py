"""Defaults against the table of the specification; a comment where the code has its own."""

import inspect
import types

import pydantic
import pytest
import tensorflow as tf

from lcn_tf import config
from lcn_tf.crossdomain.crp import CrossRepresentationProduction
from lcn_tf.interest.din import DIN
from lcn_tf.interest.eta import ETA
from lcn_tf.interest.lap import LAP
from lcn_tf.interest.sdim import SDIM
from lcn_tf.interest.sim import SIMCluster, SIMClusterPlus, SIMHard, SIMSoft
from lcn_tf.interest.twin import TWIN
from lcn_tf.layers.din_attention import DINAttention
from lcn_tf.layers.mlp import MLP
from lcn_tf.models.conet import CoNet, CrossTowers
from lcn_tf.models.minet import InterestGates, ItemAttention, MiNet
from lcn_tf.models.pi_net import PiNet
from lcn_tf.schema import Domain
from lcn_tf.training.optimizers import make_optimizer

MHA = {"top_k": 100, "esu": "din", "num_heads": 4, "head_dim": 16, "output_dim": 64}
CRP = {
  "contrastive": (0.1, 0.1, 0.1, 0.1),
  "supervised": (1.0, 1.0),
  "temperature": 0.1,
  "negatives": "candidates",
  "dedupe_users": True,
  "mask_history_negatives": True,
  "mask_same_user": True,
  "units": (256, 128),
  # not the paper's one positive candidate and one partner: CrossRepresentationProduction says why
  "anchors": 4,
  "partners": 16,
}

TABLE = [
  # L: not 2000; every experiment says its own
  (Domain, {"max_length": 200}),
  (config.Model, {"max_length": 0, "short_term": 0, "network": "ctr", "extractor": "lap", "item_dim": 0}),
  (config.Model, {"histories": ("target", "source"), "crp": None, "projection_refresh": 0}),
  (LAP, {"levels": ("csa", "msa", "fsa"), "top_k": (200, 50), "num_heads": 4, "head_dim": 16}),
  (LAP, {"msa_dim": 64, "output_dim": 64, "ffn_dim": 256}),
  (LAP, {"csa_norm": "softmax", "fsa_side": True, "activation": "relu"}),
  (DIN, {"recent": 0, "units": (80, 40), "activation": "sigmoid", "norm": "softmax"}),
  (DINAttention, {"units": (80, 40), "activation": "sigmoid", "norm": "softmax"}),
  (SIMHard, MHA),
  (SIMCluster, MHA),
  (SIMClusterPlus, MHA),
  (SIMSoft, MHA),
  # the specification has multi-head attention here outside of TWIN's table: one pooling for all two-stage systems
  (ETA, MHA | {"bits": 64}),
  (SDIM, MHA | {"hashes": 48, "width": 3, "mode": "pool", "l2": True}),
  (TWIN, {"top_k": 100, "num_heads": 4, "head_dim": 32, "output_dim": 64}),
  (TWIN, {"bias": True, "key": "split", "projections": "live"}),
  (MiNet.make_layers, {"recent": 100, "attention_units": 64, "transfer_rank": 10, "gamma": 1.0}),
  (ItemAttention, {"recent": 100, "attention_units": 64}),
  (InterestGates, {"attention_units": 64, "limit": 5.0}),
  # weights: Glorot, not N(0, 0.01^2), as CoNet says; widths: those of the backbone unless the config says 64-32-16-8,
  # so two cross layers where there are as many
  (CoNet.make_layers, {"cross_layers": None, "lasso": 0.0, "init": "glorot"}),
  (CrossTowers, {"units": (32, 16, 8), "cross_layers": 2}),
  (PiNet.make_layers, {"units": 100, "members": 4, "max_steps": 100, "official_bug": False, "source_weight": 1.0}),
  (CrossRepresentationProduction, CRP),
  (config.CRP, CRP | {"weight": 0.1}),
  (config.Embedding, {"dim": 64, "cross_dim": 8, "recency_buckets": 20, "init": "glorot", "dims": {}}),
  (config.Embedding, {"init_scale": 1.0, "init_from": "none"}),
  (config.MLP, {"units": (512, 256), "activation": "relu", "dropout": 0.0}),
  (MLP, {"activation": "relu", "dropout": 0.0}),
  (config.Pretraining, {"dim": 64, "clusters": (1000, 10_000)}),
  # one batch size and one dense rate whatever the preset: TWIN's 8192 and 5e-6 are for 46 billion samples a day
  (config.Train, {"preset": "lcn", "learning_rate": 1e-3, "table_learning_rate": None, "global_batch_size": 2048}),
  (config.Train, {"schedule": "constant", "warmup_steps": 0, "decay_steps": 0, "clip_norm": 0.0, "profile": None}),
  (config.Train, {"ema_decay": 0.0, "micro_batches": 1, "log_every": 100}),
  (config.Train, {"source_ratio": 1.0, "row_decay": 0.0, "early_stopping": 2, "early_stopping_after": 0}),
  # not days, which are the paper's log's
  (config.Split, {"kind": "time", "train": 0.8, "validation": 0.1, "test": 0.1, "boundaries": None, "column": ""}),
]
ROWS = [
  pytest.param(owner, name, expected, id=f"{owner.__module__.split('.')[-1]}.{owner.__qualname__}.{name}")
  for owner, names in TABLE
  for name, expected in names.items()
]


def default_of(owner, name):
  """Of a field of a pydantic model, or of an argument of a function or of a layer or what it derives from."""
  if isinstance(owner, type) and issubclass(owner, pydantic.BaseModel):
    return owner.model_fields[name].default
  takers = owner.__mro__ if isinstance(owner, type) else [owner]
  return next(p[name].default for p in (inspect.signature(taker).parameters for taker in takers) if name in p)


@pytest.mark.parametrize(("owner", "name", "expected"), ROWS)
def test_a_default_is_the_specifications(owner, name, expected):
  found = default_of(owner, name)
  assert (tuple(found) if isinstance(found, list) else found) == expected


def test_an_experiment_and_crp_agree_on_every_default():
  signature = inspect.signature(CrossRepresentationProduction).parameters
  layer = {name: one.default for name, one in signature.items() if one.default is not inspect.Parameter.empty}
  assert layer == config.CRP().model_dump(exclude={"weight"})


def test_a_model_without_settings_has_the_defaults_of_its_parts():
  model = config.Model()
  assert (model.embedding, model.mlp, model.pretraining) == (config.Embedding(), config.MLP(), config.Pretraining())
  assert config.Model(crp={}).crp == config.CRP()


@pytest.mark.parametrize(("settings", "dense", "tables"), [({}, 1e-3, 1e-3), ({"preset": "twin"}, 1e-3, 0.05)])
def test_the_rates_of_the_presets(settings, dense, tables):
  model = types.SimpleNamespace(
    table_variables=lambda: [tf.Variable([[0.0]])],
    age_variables=list,
    trainable_variables=[],
    embedder=types.SimpleNamespace(deduplicate=True),
  )
  optimizers = make_optimizer(model, config.Train(**settings)).optimizers
  assert [float(one.learning_rate) for one in optimizers] == pytest.approx([dense, tables])
