"""Small valid record sets for tests: seeded, random, sorted, leak-free."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl
import tensorflow as tf

from lcn_tf.data.build.shards import describe
from lcn_tf.data.id_mapping import fingerprint, id_mapping_of
from lcn_tf.data.record_set import Part, RecordSet, SplitName
from lcn_tf.data.records import History, Request, encode
from lcn_tf.schema import DOMAINS, Domain, DomainName, Feature, Schema, Vocabulary, columns, with_sizes

VOCABULARY_ROWS = 12  # of every vocabulary but the items'
ITEMS: dict[DomainName, int] = {"target": 30, "source": 40}  # catalogue rows


def small_schema(*, max_length: int = 24, candidates: int = 4, sized: bool = True) -> Schema:
  """Every kind of field: of the user, multi-valued and shared ones of items, cross fields, context.

  Args:
    max_length: Of the target domain; the source domain's is twice as long.
    candidates: Candidates N of a record at most.
    sized: With the sizes that `write_record_set` uses, or without any, as in a config.
  """
  author = Feature(name="author", vocabulary="author")
  schema = Schema(
    user_fields=(Feature(name="user_id"), Feature(name="hobbies", max_values=2)),
    context_fields=(Feature(name="hour"), Feature(name="page")),
    target=Domain(
      item_fields=(author, Feature(name="genres", vocabulary="genre", max_values=3)),
      cross_fields=(Feature(name="action"), Feature(name="dwell")),
      max_length=max_length,
    ),
    source=Domain(item_fields=(author,), cross_fields=(Feature(name="dwell"),), max_length=2 * max_length),
    candidates=candidates,
    vocabularies={"genre": Vocabulary(oov=2)},
  )
  return with_default_sizes(schema) if sized else schema


def tiny_schema(*, sized: bool = True) -> Schema:
  """The ids of items alone, which graphs are traced of the fastest: for tests of what surrounds a model."""
  schema = Schema(target=Domain(max_length=8), source=Domain(max_length=8), candidates=4)
  return with_default_sizes(schema) if sized else schema


def with_default_sizes(schema: Schema) -> Schema:
  """The schema with `VOCABULARY_ROWS` and `ITEMS` as its sizes; the item vocabularies have a row per item."""
  sizes = {name: VOCABULARY_ROWS for name in schema.vocabularies}
  return with_sizes(schema, sizes | {f"{d}_item": ITEMS[d] for d in DOMAINS}, dict(ITEMS))


def random_request(
  schema: Schema,
  rng: np.random.Generator,
  *,
  user: int = 1,
  domain: DomainName = "target",
  lengths: Mapping[DomainName, int] | None = None,
  candidates: int | None = None,
) -> Request:
  """A valid record: some behaviours share a second, candidates have moments of their own, some see no behaviour.

  Args:
    schema: With its sizes.
    rng: Decides everything that is not given.
    user: Index of the user.
    domain: Of the candidates.
    lengths: Behaviours per domain; between none and the record's capacity if None.
    candidates: How many; between one and `schema.candidates` if None.
  """

  def indices(fields: Sequence[Feature], *rows: int) -> np.ndarray:
    limits = [schema.vocabularies[f.vocabulary].size for f in fields for _ in range(f.max_values)]
    return rng.integers(1, limits, (*rows, len(limits)), dtype=np.int32) if limits else np.zeros((*rows, 0), np.int32)

  count = candidates or int(rng.integers(1, schema.candidates + 1))
  times = np.sort(rng.integers(1_000, 2_000, count))
  times[-1] = 2_000
  histories = {}
  for d in DOMAINS:
    capacity = schema.capacity(d)
    length = lengths[d] if lengths else int(rng.choice([0, capacity, rng.integers(0, capacity + 1)], p=[0.1, 0.1, 0.8]))
    seen = np.sort(rng.integers(0, 2_000, length))[::-1]
    histories[d] = History(
      items=rng.integers(1, schema.domain(d).items, length, dtype=np.int32),
      times=seen,
      cross=indices(schema.domain(d).cross_fields, length),
      first_visible=(seen[np.newaxis] >= times[:, np.newaxis]).sum(1),
    )
  return Request(
    user=user,
    user_fields=indices(schema.user_fields, 1)[0],
    items=rng.integers(1, schema.domain(domain).items, count, dtype=np.int32),
    times=times,
    context=indices(schema.context_fields, count),
    labels=(rng.random(count) < 0.4).astype(np.float32),
    weights=np.ones(count, np.float32),
    target=histories["target"],
    source=histories["source"],
  )


def write_record_set(
  path: str | pathlib.Path,
  schema: Schema,
  *,
  seed: int = 0,
  records: Mapping[SplitName, int] | None = None,
  domains: Sequence[DomainName] = DOMAINS,
  shards: int = 2,
  compression: Literal["gzip", "none"] = "gzip",
  lengths: Mapping[DomainName, int] | None = None,
  candidates: int | None = None,
  unique_users: bool = False,
) -> RecordSet:
  """Writes a record set and returns it.

  Args:
    path: Its folder, made if need be.
    schema: `with_default_sizes` is applied if it has no sizes.
    seed: Of everything random.
    records: Per split, in each of the `domains`; 64, 16 and 16 if None.
    domains: Of the candidates.
    shards: Files per split and domain; their numbers of records differ by one at most.
    compression: `gzip` or `none`.
    lengths, candidates: As in `random_request`.
    unique_users: Every record of a split and domain has a user of its own (1, 2, ...), instead of two records each.
  """
  path = pathlib.Path(path)
  schema = schema if schema.target.items else with_default_sizes(schema)
  rng = np.random.default_rng(seed)
  path.mkdir(parents=True, exist_ok=True)
  splits: dict[SplitName, dict[DomainName, Part]] = {}
  for split, count in (records or {"train": 64, "validation": 16, "test": 16}).items():
    splits[split] = {}
    for domain in domains:
      requests = [
        random_request(
          schema, rng, user=1 + (i if unique_users else i // 2), domain=domain, lengths=lengths, candidates=candidates
        )
        for i in range(count)
      ]
      splits[split][domain] = _write_part(path, split, domain, requests, schema, shards, compression)
  # the same whatever the seed: sets of one schema are of one id mapping
  users = max((count for count in (records or {"train": 64}).values()), default=0)
  _write_tables(path, schema, np.random.default_rng(0), users)
  record_set = RecordSet(
    name="small",
    fingerprint="",
    schema=schema,
    compression=compression,
    splits=splits,
    oov_hash="farmhash64",
    path=path,
  ).with_tables()
  record_set = record_set.model_copy(update={"fingerprint": fingerprint(schema, id_mapping_of(record_set))})
  record_set.save(path)
  return record_set


def described_again(record_set: RecordSet) -> RecordSet:
  """The record set, saved, with what its files hold now: for tests that change them."""
  splits = {}
  for split, domains in record_set.splits.items():
    splits[split] = {}
    for domain, part in domains.items():
      shards = [describe(record_set.path / s.file, s.file, s.records, s.candidates) for s in part.shards]
      splits[split][domain] = part.model_copy(update={"shards": tuple(shards)})
  changed = record_set.model_copy(update={"splits": splits}).with_tables()
  changed.save(changed.path)
  return changed


def write_shard(path: str | pathlib.Path, serialized: Sequence[bytes], compression: str) -> None:
  """One TFRecord file."""
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(path), options="GZIP" if compression == "gzip" else "") as writer:
    for one in serialized:
      writer.write(one)


def _write_part(
  path: pathlib.Path,
  split: str,
  domain: DomainName,
  requests: Sequence[Request],
  schema: Schema,
  shards: int,
  compression: Literal["gzip", "none"],
) -> Part:
  written = []
  for index in range(shards):
    share = requests[index::shards]
    suffix = ".gz" if compression == "gzip" else ""
    file = f"{split}/{domain}/part-{index:05d}-of-{shards:05d}.tfrecord{suffix}"
    write_shard(path / file, [encode(request, schema) for request in share], compression)
    written.append(describe(path / file, file, len(share), sum(len(r.items) for r in share)))
  return Part(
    shards=tuple(written),
    records=len(requests),
    candidates=sum(shard.candidates for shard in written),
    positives=int(sum(r.labels.sum() for r in requests)),
    users=len({r.user for r in requests}),
    first_time=int(min((r.times.min() for r in requests), default=0)),
    last_time=int(max((r.times.max() for r in requests), default=0)),
    weight=float(sum(r.weights.sum() for r in requests)),
  )


def _write_tables(path: pathlib.Path, schema: Schema, rng: np.random.Generator, users: int) -> None:
  """The catalogues, vocabularies and the raw ids of items and users."""
  for folder in ("catalogue", "items", "vocabularies"):
    (path / folder).mkdir(exist_ok=True)
  for d in DOMAINS:
    fields = schema.catalogue_features(d)
    limits = [schema.vocabularies[f.vocabulary].size for f in fields for _ in range(f.max_values)]
    table = rng.integers(1, limits, (schema.domain(d).items, columns(fields)), dtype=np.int32)
    table[:, 0] = np.arange(len(table)) % schema.vocabularies[f"{d}_item"].size
    table[0] = 0
    np.save(path / "catalogue" / f"{d}.npy", table)
    rows = np.arange(2, len(table))
    pl.DataFrame({"row": rows, "item_id": [f"{d}-{row}" for row in rows]}).write_parquet(
      path / "items" / f"{d}.parquet"
    )
  for name, vocabulary in schema.vocabularies.items():
    index = np.arange(1 + vocabulary.oov, vocabulary.size)
    values = [f"{name}-{i}" for i in index]
    words = pl.DataFrame({"index": index, "value": values, "count": np.arange(len(index), 0, -1)})
    words.write_parquet(path / "vocabularies" / f"{name}.parquet")
  user = np.arange(1, users + 1)
  pl.DataFrame({"user": user, "user_id": [f"user-{u}" for u in user]}).write_parquet(path / "users.parquet")
