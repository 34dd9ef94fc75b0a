"""A simulated online comparison of two exports: users of a synthetic log are served, and click by a hidden preference.

Two arms serve the same users (paired) or disjoint halves of them (split). The model of the arm ranks the candidates of
a request, and the first k are shown. Clicks and stay times follow `lcn_tf.data.sources.click_environment`. Two bounds
serve all users: an oracle that ranks by the true probabilities, and chance.

The A/A check serves the treatment's users with the control's model, as an arm of its own. The intervals of its
differences to the control have to contain 0.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import tensorflow as tf
from absl import logging

from lcn_tf.analysis.online_results import Sums, measured
from lcn_tf.config import Records
from lcn_tf.data.field_values import vector_columns
from lcn_tf.data.record_set import RecordSet, built_by
from lcn_tf.data.sources import synthetic
from lcn_tf.data.sources.click_environment import ClickEnvironment, Offer
from lcn_tf.errors import UserError
from lcn_tf.evaluation import scoring
from lcn_tf.schema import DOMAINS, DomainName, Schema
from lcn_tf.serving.encoder import BehaviourColumns, RankRequest, RequestEncoder

_PAUSE = 6 * 3600  # seconds between two requests of a user
_ENVIRONMENT = ("interactions", "synthetic", "seed")
_LOG_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """Sizes of a simulation.

  Attributes:
    users: Number of users, drawn from those of the log; all if there are fewer.
    requests: Requests of each user.
    candidates: Candidates N of a request.
    shown: Items k that are shown, the first ones of the ranking.
    design: `paired` if both arms serve all users, `split` if each serves half of them.
    grow: True if the clicks of a user are behaviours in the next requests.
    replicates: Number of bootstrap replicates of the users.
    level: Level of the intervals.
    seed: Seed of the choice of users, of what they do, and of the bootstrap.
  """

  users: int = 300
  requests: int = 4
  candidates: int = 50
  shown: int = 5
  design: Literal["paired", "split"] = "paired"
  grow: bool = True
  replicates: int = 1000
  level: float = 0.95
  seed: int = 0

  def __post_init__(self) -> None:
    sizes = {name: getattr(self, name) for name in ("requests", "candidates", "shown", "replicates")}
    for name, value in {**sizes, "users": self.users}.items():
      if value < (2 if name == "users" else 1):
        raise UserError(f"{name} {value}: expected at least {2 if name == 'users' else 1}")
    if self.shown > self.candidates:
      raise UserError(f"shown {self.shown}: expected at most as many as there are candidates, {self.candidates}")
    if not 0 < self.level < 1:
      raise UserError(f"level {self.level}: expected a number between 0 and 1")


@dataclasses.dataclass
class History:
  """Behaviours of a user in a domain, oldest first: item ids, seconds, and values of the field `dwell`."""

  items: list[Any]
  times: list[int]
  dwell: list[int]

  def copy(self) -> "History":
    return History(self.items[:], self.times[:], self.dwell[:])


Histories = Mapping[DomainName, History]
# user, seconds, offer, histories -> scores [N], and seconds of the call of a model or NaN
Ranking = Callable[[int, int, Offer, Histories], tuple[np.ndarray, float]]


class Model:
  """An export that ranks requests of the environment's users.

  Args:
    path: Version folder, or export folder, whose newest version is read.
    users: Table of the log's users, in the order of their numbers.
    records: Settings that the log was made by.
    flag: Name of the model in messages.

  Raises:
    UserError: It is no export, it is one of another log, or it asks for what the log does not have.
  """

  def __init__(self, path: str | pathlib.Path, users: pl.DataFrame, records: Records, flag: str):
    self._ranker = scoring.load(path)
    self.version = self._ranker.path
    record_set = RecordSet.open(self.version / "assets.extra")
    there, expected = built_by(record_set), records.model_dump(mode="json")
    if any(there.get(name) != expected[name] for name in _ENVIRONMENT):
      raise UserError(
        f"{flag} {path}: trained with another log than that of --records, which needs the same settings "
        f"{', '.join(f'records.{name}' for name in _ENVIRONMENT)}"
      )
    self._schema, self._encoder = record_set.record_schema, RequestEncoder(record_set)
    _check_fields(self._schema, users, records, f"{flag} {path}")
    names = [f.name for f in self._schema.user_fields] + list(vector_columns(self._schema))
    self._profiles = users.select(names).to_dicts() if names else [{}] * len(users)

  def rank(self, user: int, moment: int, offer: Offer, histories: Histories) -> tuple[np.ndarray, float]:
    """Scores `[N]` of the candidates of one request, and seconds of the call."""
    context: Any = {}
    if self._schema.context_fields and offer.price is not None:
      context = [{"price": price} for price in offer.price.tolist()]
    columns = {d: _columns(self._schema, d, history) for d, history in histories.items()}
    request = RankRequest(moment, offer.items.tolist(), self._profiles[user], context, **columns)
    tensors = {name: tf.constant(value) for name, value in self._encoder.encode([request]).items()}
    given = {name: tensors[name] for name in self._ranker.inputs}
    began = time.monotonic()
    found = self._ranker.function(**given)["probability"].numpy()[0]
    return found, time.monotonic() - began


def _columns(schema: Schema, domain: DomainName, history: History) -> BehaviourColumns:
  fields = {"dwell": history.dwell} if schema.domain(domain).cross_fields else {}
  return BehaviourColumns(history.items, np.array(history.times, np.int64), fields)


def _check_fields(schema: Schema, users: pl.DataFrame, records: Records, where: str) -> None:
  """Checks that the log has a value for every field of a request.

  Raises:
    UserError: There is a field that it does not know.
  """
  priced = {"price"} if records.synthetic.price_effect else set()
  groups = [("user", [f.name for f in schema.user_fields] + list(vector_columns(schema)), {*users.columns})]
  groups += [("context", [f.name for f in schema.context_fields], priced)]
  groups += [(d, [f.name for f in schema.domain(d).cross_fields], {"dwell"}) for d in DOMAINS]
  for group, names, known in groups:
    strange = [name for name in names if name not in known]
    if strange:
      raise UserError(
        f"{where}: {group} field {strange[0]!r} has no value in simulated requests; they have "
        f"{', '.join(sorted(known)) or 'none of that kind'}"
      )


@dataclasses.dataclass
class Arm:
  """A ranking, the users that it serves (bool `[users]`), and what they did."""

  name: str
  rank: Ranking
  serves: np.ndarray

  def __post_init__(self) -> None:
    self.sums = Sums.zeros(len(self.serves))


def compare(
  control: str | pathlib.Path, treatment: str | pathlib.Path, record_set: RecordSet, settings: Settings
) -> dict[str, Any]:
  """Serves simulated users with two exports and compares what they do.

  Args:
    control, treatment: Version folders, or export folders, whose newest versions are read; they may be the same.
    record_set: Records of the synthetic log whose users are served. Their shards are not read.
    settings: Sizes.

  Returns:
    The contents of `simulated_online.json`.

  Raises:
    UserError: The records are not of a synthetic log, or a model is none of that log.
  """
  records = _settings_of(record_set)
  environment = ClickEnvironment(records.synthetic, records.seed, settings.seed)
  log = synthetic.generate(records.synthetic, records.seed)
  assert log.users is not None
  profiles = log.users.sort("user_id")
  models = [Model(path, profiles, records, flag) for path, flag in ((control, "--control"), (treatment, "--treatment"))]
  random = np.random.default_rng([settings.seed, 1])
  users = np.sort(random.permutation(environment.users)[: settings.users])
  halves = random.permutation(len(users)) % 2 if settings.design == "split" else np.zeros(len(users), np.int64)
  arms = _arms(models[0].rank, models[1].rank, halves, settings)
  start = int(log.interactions["timestamp"].to_numpy().max()) + synthetic.DAY
  _serve(environment, arms, users, _histories(log.interactions, users), start, settings)
  found = measured({arm.name: arm.sums for arm in arms}, halves, settings.replicates, settings.level, settings.seed)
  same = models[0].version.resolve() == models[1].version.resolve()
  versions = {"control": str(models[0].version), "treatment": str(models[1].version), "same_model": same}
  return {
    "simulated": True,
    **versions,
    "records": str(record_set.path),
    **dataclasses.asdict(settings),
    "users": len(users),
    **found,
  }


def _settings_of(record_set: RecordSet) -> Records:
  built = built_by(record_set)
  if built.get("interactions") != "synthetic":
    raise UserError(
      f"{record_set.path}: records of {built.get('interactions', 'an unknown log')!r}; only users of a synthetic log "
      "(configs/synthetic) can be simulated, because their preferences are known"
    )
  return Records.model_validate(built)


def _arms(control: Ranking, treatment: Ranking, halves: np.ndarray, settings: Settings) -> list[Arm]:
  everyone = np.ones(len(halves), bool)
  first, second = (halves == 0, halves == 1) if settings.design == "split" else (everyone, everyone)
  return [
    Arm("control", control, first),
    Arm("treatment", treatment, second),
    Arm("control again", control, second),
    Arm("oracle", lambda user, moment, offer, histories: (offer.probability, np.nan), everyone),
    Arm("random", lambda user, moment, offer, histories: (offer.chance, np.nan), everyone),
  ]


def _histories(interactions: pl.DataFrame, users: np.ndarray) -> list[dict[DomainName, History]]:
  """The behaviours of each user in the log: events that were no impressions, and clicks."""
  wanted = interactions.filter(pl.col("user_id").is_in(users.tolist()), pl.col("label").fill_null(1) == 1)
  found: list[dict[DomainName, History]] = [{d: History([], [], []) for d in DOMAINS} for _ in users]
  for (user, domain), rows in wanted.group_by("user_id", "domain", maintain_order=True):
    columns = (rows[name].to_list() for name in ("item_id", "timestamp", "dwell"))
    found[int(np.searchsorted(users, user))][domain] = History(*columns)  # type: ignore[index, call-overload]
  return found


def _serve(
  environment: ClickEnvironment,
  arms: Sequence[Arm],
  users: np.ndarray,
  past: Sequence[Histories],
  start: int,
  settings: Settings,
) -> None:
  """Plays all requests of all users. The arms take turns, so that what else the machine does slows all of them down."""
  for arm in arms:  # a first call, which is not counted
    arm.rank(int(users[0]), start, environment.offer(int(users[0]), 0, settings.candidates), past[0])
  logged = time.monotonic()
  for place, user in enumerate(users.tolist()):
    serving = [(arm, {d: history.copy() for d, history in past[place].items()}) for arm in arms if arm.serves[place]]
    for request in range(settings.requests):
      offer, moment = environment.offer(user, request, settings.candidates), start + request * _PAUSE
      for arm, histories in serving:
        scores, seconds = arm.rank(user, moment, offer, histories)
        shown = np.argsort(-scores, kind="stable")[: settings.shown]
        clicked = shown[offer.clicked[shown]]
        arm.sums.add(place, len(shown), len(clicked), float(offer.stay[clicked].sum()), seconds)
        if settings.grow:
          _remember(histories["target"], offer, clicked, moment)
    if time.monotonic() - logged > _LOG_SECONDS:
      logged = time.monotonic()
      logging.info("simulated: %d of %d users are served", place + 1, len(users))


def _remember(history: History, offer: Offer, clicked: np.ndarray, moment: int) -> None:
  """Adds clicks to a history, a second apart."""
  history.items += offer.items[clicked].tolist()
  history.times += range(moment + 1, moment + 1 + len(clicked))
  history.dwell += offer.dwell[clicked].tolist()
