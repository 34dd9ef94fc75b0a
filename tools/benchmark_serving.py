"""Measures an export as a service calls it: latency of its signatures, and what merging requests of users brings.

The command makes requests of items of the export's id mapping, frequent ones more often, with values of its
vocabularies. It asks them one by one with `rank`, whose requests the encoder numbers beforehand, and with `rank_raw`,
in turns. Then --users users at once ask small requests: each with a call of its own, and through a RequestMerger.

It leaves no files. It prints one JSON line:

    load_seconds            time to load the SavedModel
    rank, rank_raw          p50_ms and p99_ms of a request of --candidates candidates and two histories of --length
                            behaviours, and candidates_per_second
    encode_ms               median time of the encoder for one of these requests
    raw_over_rank           p50 of rank_raw over that of rank
    encode_user             p50_ms and p99_ms of the user's side, of an export with --encoded_user
    rank_encoded            as rank, with embedded users as arrays
    encoded_over_rank       p50 of rank_encoded over that of rank
    encoded_user_bytes      size of an embedded user
    candidates_alone        candidates_per_second of requests of one candidate
    merged                  requests per second of small requests: alone, merged, and their ratio; the same of requests
                            of full size
    peak_memory_bytes       peak memory of the process

Example:

    python -m tools.benchmark_serving --model my_run/export --candidates 100 --length 500
"""

import concurrent.futures
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from lcn_tf import entry

if TYPE_CHECKING:
  from lcn_tf.data.id_mapping import IdMapping
  from lcn_tf.schema import Schema
  from lcn_tf.serving.requests import RankRequest

_FLAGS = flags.FlagValues()
_MODEL = entry.define_model(_FLAGS)
_CANDIDATES = entry.define_candidates(_FLAGS, 200, "Candidates of a request.")
_LENGTH = flags.DEFINE_integer("length", 2000, "Behaviours of each history.", lower_bound=1, flag_values=_FLAGS)
_USERS = flags.DEFINE_integer("users", 32, "Users who ask at once.", lower_bound=1, flag_values=_FLAGS)
_SMALL = (20, 200)  # candidates and behaviours of the small requests
_RUNS = flags.DEFINE_integer("runs", 100, "Timed requests of each signature.", lower_bound=2, flag_values=_FLAGS)
_NOW = 2_000_000_000

Tensors = dict[str, Any]


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  with entry.loading():
    import tensorflow as tf

    from lcn_tf.data.id_mapping import id_mapping_of
    from lcn_tf.data.record_set import RecordSet
    from lcn_tf.evaluation.scoring import version_folder
    from lcn_tf.serving.encoder import RequestEncoder
    from lcn_tf.serving.merging import RequestMerger
    from lcn_tf.serving.raw_client import raw_tensors

  version = version_folder(_MODEL.value)
  record_set = RecordSet.open(version / "assets.extra")
  schema, mapping, encoder = record_set.record_schema, id_mapping_of(record_set), RequestEncoder(record_set)
  began = time.monotonic()
  model = tf.saved_model.load(str(version))
  found: dict[str, Any] = {"load_seconds": round(time.monotonic() - began, 2)}

  def call(name: str, tensors: Tensors) -> Tensors:
    signature = model.signatures[name]
    given = {key: tf.constant(tensors[key]) for key in signature.structured_input_signature[1]}
    return {key: value.numpy() for key, value in signature(**given).items()}

  def ask(name: str, tensors: Tensors) -> np.ndarray:
    return call(name, tensors)["probability"]  # type: ignore[no-any-return]

  rng = np.random.default_rng(0)
  size = _CANDIDATES.value, _LENGTH.value
  requests = [_request(rng, schema, mapping, *size) for _ in range(min(_RUNS.value, 20))]
  numbered = [encoder.encode([one]) for one in requests]
  timed = {"encode": lambda n: encoder.encode([requests[n]]), "rank": lambda n: ask("rank", numbered[n])}
  if "rank_raw" in model.signatures:
    specs = model.signatures["rank_raw"].structured_input_signature[1]
    integer = {"target": specs["target_ids"].dtype == tf.int64, "source": specs["source_ids"].dtype == tf.int64}
    raw = [raw_tensors([one], schema, integer) for one in requests]  # type: ignore[arg-type]
    raw = [{key: value.astype(specs[key].dtype.as_numpy_dtype) for key, value in one.items()} for one in raw]
    timed["rank_raw"] = lambda n: ask("rank_raw", raw[n])
  if "encode_user" in model.signatures:
    users = [call("encode_user", one) for one in numbered]
    encoded = [one | user for one, user in zip(numbered, users, strict=True)]
    timed |= {"encode_user": lambda n: call("encode_user", numbered[n])}
    timed |= {"rank_encoded": lambda n: ask("rank_encoded", encoded[n])}
    found["encoded_user_bytes"] = sum(value.nbytes for value in users[0].values())
  seconds = _in_turns(timed, len(requests))
  found["encode_ms"] = round(1000 * float(np.median(seconds.pop("encode"))), 2)
  found |= {name: _summary(of, 0 if name == "encode_user" else size[0]) for name, of in seconds.items()}
  if "rank_raw" in seconds:
    found["raw_over_rank"] = round(float(np.median(seconds["rank_raw"]) / np.median(seconds["rank"])), 3)
  if "rank_encoded" in seconds:
    found["encoded_over_rank"] = round(float(np.median(seconds["rank_encoded"]) / np.median(seconds["rank"])), 3)
  alone = encoder.encode([_request(rng, schema, mapping, 1, size[1])])
  found["candidates_alone"] = _summary(_in_turns({"": lambda n: ask("rank", alone)}, 1)[""], 1)["candidates_per_second"]
  small = [encoder.encode([_request(rng, schema, mapping, *_SMALL)]) for _ in range(8)]
  found["merged"] = {}
  for name, group, calls in (("small", small, 10), ("full", numbered, 1)):
    one_by_one = _rate(lambda tensors: ask("rank", tensors), group, calls)
    with RequestMerger(lambda tensors: ask("rank", tensors), most_requests=_USERS.value) as merger:
      together = _rate(merger.rank, group, calls)
    rates = {"alone": round(one_by_one, 1), "merged": round(together, 1), "ratio": round(together / one_by_one, 2)}
    found["merged"][name] = rates
  found["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  sys.stdout.write(f"{json.dumps(found)}\n")


def _request(
  rng: np.random.Generator, schema: "Schema", mapping: "IdMapping", candidates: int, length: int
) -> "RankRequest":
  """A request of known items and values, with histories of which every second one is a second old or more."""
  from lcn_tf.data.id_mapping import BucketTable
  from lcn_tf.schema import DOMAINS
  from lcn_tf.serving.requests import BehaviourColumns, RankRequest

  def values(feature: Any, count: int) -> list[Any]:
    known = mapping.vocabularies[feature.vocabulary]
    texts = known.values[1:] if isinstance(known, BucketTable) else known.values
    drawn = texts.gather(_skewed(rng, len(texts), count)).to_list() if len(texts) else [None] * count
    return [None if one is None else float(one) for one in drawn] if isinstance(known, BucketTable) else drawn

  def items(domain: Any, count: int) -> list[Any]:
    ids = mapping.items[domain]["item_id"]
    return ids.gather(_skewed(rng, len(ids), count)).to_list()

  histories = {}
  for d in DOMAINS:
    times = _NOW - 1 - np.sort(rng.integers(0, 10**7, length))[::-1]
    fields = {feature.name: values(feature, length) for feature in schema.domain(d).cross_fields}
    histories[d] = BehaviourColumns(items(d, length), times, fields)
  user: dict[str, Any] = {}
  for feature in schema.user_fields:
    drawn = values(feature, feature.max_values)
    user[feature.name] = drawn if feature.max_values > 1 else drawn[0]
    if feature.weights:
      user[feature.weights] = [1.0] * len(drawn)
  context = {feature.name: values(feature, 1)[0] for feature in schema.context_fields}
  return RankRequest(_NOW, items("target", candidates), user, context, **histories)


def _skewed(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
  """Places in [0, size), the first ones more often."""
  return (size * rng.random(count) ** 2).astype(int)


def _in_turns(calls: dict[str, Callable[[int], Any]], requests: int) -> dict[str, list[float]]:
  """Seconds of --runs calls of each kind, one after the other, behind some that are not timed."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for run in range(_RUNS.value + 5):
    for name, call in calls.items():
      began = time.monotonic()
      call(run % requests)
      if run >= 5:
        seconds[name].append(time.monotonic() - began)
  return seconds


def _summary(seconds: list[float], candidates: int) -> dict[str, float]:
  p50, p99 = np.percentile(seconds, [50, 99])
  found = {"p50_ms": round(1000 * p50, 2), "p99_ms": round(1000 * p99, 2)}
  return found | ({"candidates_per_second": round(candidates * len(seconds) / sum(seconds))} if candidates else {})


def _rate(ask: Callable[[Tensors], Any], group: Sequence[Tensors], calls: int) -> float:
  """Requests per second of --users users at once, who each ask `calls` requests one after the other."""

  def user(number: int) -> None:
    for call in range(calls):
      ask(group[(number + call) % len(group)])

  with concurrent.futures.ThreadPoolExecutor(_USERS.value) as users:
    list(users.map(user, range(_USERS.value)))  # not timed
    began = time.monotonic()
    list(users.map(user, range(_USERS.value)))
    return _USERS.value * calls / (time.monotonic() - began)


if __name__ == "__main__":
  entry.run(main)
