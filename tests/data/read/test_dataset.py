import hashlib
import itertools
import logging
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from lcn_tf.data import records
from lcn_tf.data.read import dataset, dealing, diagnosis
from lcn_tf.data.read.widths import buckets, powers_of_two
from lcn_tf.data.record_set import check_fingerprint
from lcn_tf.errors import UserError
from lcn_tf.schema import DOMAINS
from tests.support import record_sets
from tests.support.record_sets import random_request, small_schema, tiny_schema, write_record_set, write_shard
from tools import show_records

TRAIN = 70


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """70 train records in 4 shards, so that 8 leave a remainder of 6; every record has a user of its own."""
  return write_record_set(
    tmp_path_factory.mktemp("small"), small_schema(), records={"train": TRAIN, "test": 19}, shards=4, unique_users=True
  )


def users(batches):
  """The users of each batch, in order: which records it holds."""
  return [tuple(batch["target"]["user"].numpy()) for batch in batches]


def train(record_set, **options):
  options = {"requests": 8, "seed": 3, "repeat": False} | options
  return dataset.training_batches(record_set, **options)


def assert_equal_batches(left, right):
  tf.nest.map_structure(np.testing.assert_array_equal, left, right)


# Evaluation


@pytest.mark.parametrize("requests", [5, 19, 64])
def test_evaluation_reads_every_record_once_in_the_order_of_the_files(small, requests):
  batches = list(dataset.evaluation_batches(small, "test", requests=requests))
  expected = [
    records.decode(found.serialized, small.record_schema).user
    for shard in small.part("test").shards
    for found in diagnosis.scan(small, shard, "target")
  ]
  assert np.concatenate([batch["user"] for batch in batches]).tolist() == expected
  assert sorted(expected) == list(range(1, 20))
  assert [len(batch["user"]) for batch in batches[:-1]] == [requests] * (len(batches) - 1)


@pytest.mark.parametrize("in_window", [5, 2, 1])
def test_a_grouped_evaluation_reads_the_same_records_by_size(small, monkeypatch, in_window):
  schema = small.record_schema
  behaviours = 4 * sum(schema.capacity(d) for d in DOMAINS)
  monkeypatch.setattr(dataset, "_GROUPED_BEHAVIOURS", in_window * behaviours)
  expected = list(dataset.evaluation_batches(small, "test", requests=1, length_buckets=(250,)))
  batches = list(dataset.evaluation_batches(small, "test", requests=4, length_buckets=(250,), grouped=True))
  numbers = [batch["record"].numpy().tolist() for batch in batches]
  assert sorted(itertools.chain(*numbers)) == [int(batch["record"][0]) for batch in expected] == list(range(19))
  assert [len(some) for some in numbers] == [4, 4, 4, 4, 3]
  for batch in batches:
    for row, number in enumerate(batch["record"].numpy()):
      for name, tensor in expected[number].items():
        np.testing.assert_array_equal(batch[name][row], tensor[0], name)
  serialized = [f.serialized for s in small.part("test").shards for f in diagnosis.scan(small, s, "target")]
  for start in range(0, 5, in_window):
    window = batches[start : start + in_window]
    read = [number for batch in window for number in batch["record"].numpy()]
    assert sorted(read) == list(range(4 * start, min(4 * (start + in_window), 19)))
    sizes = [len(serialized[number]) for number in read]
    assert sizes == sorted(sizes)


def test_evaluation_of_the_source_domain_reads_its_records(small):
  batches = list(dataset.evaluation_batches(small, "test", domain="source", requests=8))
  assert sum(int(tf.reduce_sum(tf.cast(b["candidate_mask"], tf.int32))) for b in batches) == (
    small.part("test", "source").candidates
  )


def test_a_batch_equals_parsing_its_records_at_full_width(small):
  for split_batch in dataset.evaluation_batches(small, "test", requests=19):
    serialized = [f.serialized for s in small.part("test").shards for f in diagnosis.scan(small, s, "target")]
    full = records.parse(tf.constant(serialized), small.record_schema)
    np.testing.assert_array_equal(split_batch.pop("record"), range(19))
    for name, tensor in split_batch.items():
      whole = full[name].numpy()
      if tensor.shape != whole.shape:
        assert not whole[:, tensor.shape[1] :].any()
        whole = whole[:, : tensor.shape[1]]
      np.testing.assert_array_equal(tensor, whole)


# Widths


def test_buckets_are_four_to_an_octave_up_to_the_capacity_or_what_the_user_says():
  assert buckets(250) == [16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 250]
  assert buckets(64) == [16, 24, 32, 40, 48, 56, 64]
  assert buckets(5) == [5]
  assert buckets(250, powers_of_two(250)) == [16, 32, 64, 128, 250]
  assert buckets(64, powers_of_two(250)) == [16, 32, 64]
  assert buckets(250, (200, 100, 300)) == [100, 200, 250]


def test_a_history_is_as_wide_as_the_smallest_bucket_that_holds_the_longest(small):
  seen = set()
  for batch in train(small, length_buckets=(3, 10, 20), requests=4):
    for d in ("target", "source"):
      widths = buckets(small.record_schema.capacity(d), (3, 10, 20))
      longest = batch["target"][f"{d}_length"].numpy().max()
      assert batch["target"][f"{d}_items"].shape[1] == min(width for width in widths if width >= longest)
      seen.add(batch["target"][f"{d}_items"].shape[1])
  assert len(seen) > 2


def test_grouping_by_size_makes_batches_of_similar_records_in_no_order_of_size(tmp_path):
  record_set = write_record_set(tmp_path, small_schema(max_length=200), records={"train": 256}, domains=("target",))
  lengths = [
    (b["target"]["target_length"] + b["target"]["source_length"]).numpy() for b in train(record_set, requests=8)
  ]
  everything = np.concatenate(lengths)
  assert np.mean([x.std() for x in lengths]) < 0.3 * everything.std()
  means = np.array([x.mean() for x in lengths])
  assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


# Training order


def test_shapes_are_static_but_for_the_width(small):
  spec = train(small, domains=("target", "source")).element_spec
  assert set(spec) == {"target", "source"}
  assert spec["target"]["target_cross"].shape.as_list() == [8, None, 2]
  assert spec["source"]["candidate_context"].shape.as_list() == [8, 4, 2]
  assert spec["source"]["user_fields"].shape.as_list() == [8, 3]
  assert spec["target"]["source_length"].shape.as_list() == [8]
  assert train(small, replicas=2).element_spec["target"]["source_items"].shape.as_list() == [4, None]


@pytest.fixture(scope="module")
def epochs(small):
  """The users of each batch of three epochs of eight batches, read as one stream."""
  stream = users(train(small, repeat=True).take(24))
  return [stream[:8], stream[8:16], stream[16:]]


def test_an_epoch_sees_each_record_at_most_once_and_all_but_the_remainder(small, epochs):
  for epoch in epochs:
    seen = sum(epoch, ())
    assert len(seen) == len(set(seen)) == TRAIN - TRAIN % 8
  assert dataset.steps_per_epoch(small, 8) == TRAIN // 8


def test_the_remainder_is_another_one_in_each_epoch(epochs):
  assert len({frozenset(range(1, TRAIN + 1)) - set(sum(epoch, ())) for epoch in epochs}) > 1


def test_the_order_depends_on_seed_and_epoch_alone(small, epochs):
  tf.random.set_seed(99)
  assert users(train(small)) == epochs[0]
  assert users(train(small, epoch=2)) == epochs[2]
  assert epochs[0] != epochs[1] != epochs[2]
  assert users(train(small, seed=4)) != epochs[0]


def test_shards_come_in_another_order_in_each_epoch_however_few_records_are_shuffled(small):
  first = [users(train(small, requests=1, shuffle_buffer=1, epoch=epoch).take(1)) for epoch in range(5)]
  assert len(set(map(tuple, first))) > 1


@pytest.mark.parametrize("skip", [8, 19])
def test_skipping_resumes_exactly(small, epochs, skip):
  assert users(train(small, repeat=True, skip=skip).take(3)) == list(itertools.chain(*epochs))[skip : skip + 3]


def test_skipping_resumes_both_domains_and_all_replicas_exactly(small):
  options = {"domains": ("target", "source"), "repeat": True, "epoch": 1, "replicas": 2}
  whole = list(train(small, **options).take(2 * 11))
  resumed = list(train(small, **options, skip=7).take(2 * 4))
  assert_equal_batches(whole[2 * 7 :], resumed)


def test_skipping_all_of_an_epoch_leaves_nothing_of_it(small):
  assert users(train(small, skip=TRAIN // 8)) == []


@pytest.fixture(scope="module")
def few_sources(tmp_path_factory):
  """40 target-domain and 6 source-domain train records."""
  path = tmp_path_factory.mktemp("few_sources")
  record_set = write_record_set(path, small_schema(), records={"train": 40}, unique_users=True)
  few = write_record_set(path / "few", small_schema(), records={"train": 6}, unique_users=True)
  shutil.rmtree(path / "train" / "source")
  shutil.copytree(path / "few" / "train" / "source", path / "train" / "source")
  part = record_set.splits["train"] | {"source": few.part("train", "source")}
  return record_set.model_copy(update={"splits": {"train": part}})


def test_the_source_stream_accompanies_and_begins_again_when_it_runs_out(few_sources):
  batches = list(train(few_sources, domains=("target", "source"), requests=8, seed=1))
  assert len(batches) == 5
  source = np.concatenate([batch["source"]["user"] for batch in batches])
  assert np.bincount(source, minlength=7)[1:].min() >= 6


def test_the_source_stream_is_shuffled_anew_whenever_it_runs_out(few_sources):
  # so few are shuffled at a time that batches are not put in another order afterwards
  batches = train(few_sources, domains=("target", "source"), requests=2, shuffle_buffer=3)
  pairs = [frozenset(batch["source"]["user"].numpy()) for batch in batches]
  passes = [tuple(pairs[i : i + 3]) for i in range(0, 18, 3)]
  assert all(frozenset().union(*one) == set(range(1, 7)) for one in passes)
  assert len(set(passes)) > 3


def test_the_slices_of_two_replicas_are_the_batch_of_one(small):
  one = list(train(small))
  two = list(train(small, replicas=2))
  assert len(two) == 2 * len(one)
  for i, batch in enumerate(one):
    assert_equal_batches(batch, tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), *two[2 * i : 2 * i + 2]))


def test_the_second_domain_may_come_in_smaller_batches(small):
  options = {"domains": ("target", "source"), "requests": 4, "second_requests": 2, "replicas": 2, "seed": 1}
  elements = list(itertools.islice(dataset.training_batches(small, **options), 4))
  assert [len(element[d]["user"]) for element in elements for d in ("target", "source")] == [2, 1] * 4
  alike = list(itertools.islice(dataset.training_batches(small, **{**options, "second_requests": None}), 4))
  for one, other in zip(elements, alike, strict=True):
    np.testing.assert_array_equal(one["target"]["user"], other["target"]["user"])
  with pytest.raises(UserError, match="of 3 source-domain requests cannot be shared by 1 x 2 replicas"):
    dataset.training_batches(small, **{**options, "second_requests": 3})


@pytest.mark.parametrize(("workers", "requests"), [(2, 8), (3, 9)])
def test_workers_share_the_records_and_take_the_same_number_of_steps(small, workers, requests):
  shares = [users(train(small, requests=requests, workers=workers, worker=w)) for w in range(workers)]
  assert {len(share) for share in shares} == {TRAIN // requests}
  assert {len(batch) for share in shares for batch in share} == {requests // workers}
  seen = [user for share in shares for batch in share for user in batch]
  assert len(seen) == len(set(seen))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_workers_goes_on_with_the_same_global_batches(small, before, after):
  """No record of the epoch is left out, and none comes twice."""

  def global_batches(workers, **more):
    streams = [users(train(small, **more, workers=workers, worker=worker)) for worker in range(workers)]
    return [sum(step, ()) for step in zip(*streams, strict=True)]

  unbroken = global_batches(before)
  resumed = [*unbroken[:3], *global_batches(after, shares=before, skip=3)]
  assert resumed == unbroken
  seen = sum(resumed, ())
  assert len(seen) == len(set(seen)) == TRAIN - TRAIN % 8


@pytest.mark.parametrize(("shares", "workers"), [(4, 2), (2, 4), (4, 6), (6, 4), (5, 1), (3, 3)])
def test_workers_have_the_rows_of_the_shares_in_their_order(shares, workers):
  size, rows = 60 // shares, 60 // workers
  batch = np.arange(60).reshape(shares, size)
  given = [
    [row for share, part in dealing.parts(w, rows, size).items() for row in batch[share][part]] for w in range(workers)
  ]
  assert [len(some) for some in given] == [rows] * workers
  assert list(itertools.chain(*given)) == list(range(60))
  if workers == shares:
    assert [dealing.parts(w, rows, size) for w in range(workers)] == [{w: slice(0, size)} for w in range(workers)]


def test_no_replica_waits_for_another_one_however_long_some_histories_are(tmp_path, monkeypatch):
  """Lengths are lognormal. The replicas of a step are equally wide, and steps as wide as their own records need."""
  schema, replicas, rows = tiny_schema(), 8, 8
  schema = schema.model_copy(update={d: schema.domain(d).model_copy(update={"max_length": 2000}) for d in DOMAINS})
  lengths = iter(np.random.default_rng(0).lognormal(4.0, 1.2, 768).astype(int).clip(1, 2000))

  def of_random_length(*given, **more):
    return random_request(*given, **more | {"lengths": {"target": next(lengths), "source": 0}})

  monkeypatch.setattr(record_sets, "random_request", of_random_length)
  record_set = write_record_set(tmp_path, schema, records={"train": 768}, domains=("target",), compression="none")

  def steps(replicas):
    """What a step costs each replica, and the longest history that it has: behaviours `[steps, replicas]`."""
    batches = [one["target"] for one in train(record_set, requests=replicas * rows, replicas=replicas)]
    cost = [[batch["target_items"].shape[1], batch["target_length"].numpy().max()] for batch in batches]
    return np.moveaxis(np.array(cost, float).reshape(-1, replicas, 2), -1, 0)

  cost, _ = steps(replicas)
  assert cost.shape == (768 // (replicas * rows), replicas)
  assert (cost.max(axis=-1) == cost.min(axis=-1)).all()
  monkeypatch.setattr(dealing, "grouped", lambda serialized, rows, key, window: serialized.batch(rows))
  cost_as_they_come, longest = steps(replicas)
  assert (longest.max(axis=-1) / longest.mean(axis=-1)).mean() > 1.1, "what replicas would wait for"
  assert cost.mean() < 0.6 * cost_as_they_come.mean()


def test_a_worker_with_a_single_file_reads_it(small):
  assert len(users(train(small, requests=16, workers=4, worker=3))) == TRAIN // 16


def test_worker_shares_are_whole_files_only_if_those_suffice(small):
  files = dataset._readable(small, "train", "target", "error")
  assert files.counts == [18, 18, 17, 17]
  halves = [dataset._share(files, 2, worker, needed=35) for worker in range(2)]
  assert [half.paths for half in halves] == [files.paths[0::2], files.paths[1::2]]
  assert [half.total for half in halves] == [35, 35]
  assert dataset._share(files, 2, 1, needed=36).by_record == (2, 1)
  assert dataset._share(files, 3, 2, needed=1).by_record == (3, 2)


# Errors


def test_too_few_records_for_one_batch_say_what_to_change(small):
  with pytest.raises(
    UserError, match=r"holds 70 target-domain records, fewer than the 128 .*global_batch_size to at most 280"
  ):
    train(small, requests=128)


def test_requests_that_cannot_be_shared_are_an_error(small):
  with pytest.raises(
    UserError, match="a global batch of 9 target-domain requests cannot be shared by 1 x 2 replicas equally"
  ):
    train(small, requests=9, replicas=2)


def test_a_wrong_fingerprint_names_both(small):
  check_fingerprint(small, small.fingerprint, "run")
  with pytest.raises(UserError, match=rf"runs/a was trained with .* 'feed', but .* has '{small.fingerprint}'"):
    check_fingerprint(small, "feed", "runs/a")


def broken_copy(tmp_path, compression="none", change=None, rewrite=None):
  """A record set of 24 train records in 2 shards, whose second shard `change`s its bytes or `rewrite`s its records."""
  record_set = write_record_set(
    tmp_path / "set", small_schema(), records={"train": 24}, domains=("target",), compression=compression,
    unique_users=True,
  )  # fmt: skip
  shard = record_set.part("train").shards[1]
  path = record_set.path / shard.file
  if rewrite:
    serialized = [found.serialized for found in diagnosis.scan(record_set, shard, "target")]
    write_shard(path, rewrite(serialized, record_set.record_schema), compression)
  else:
    path.write_bytes(change(path.read_bytes()))
  return record_set


def offset_of(record_set, number):
  """Where a record of the second shard lay before it was broken (uncompressed)."""
  sizes = [16 + len(s) for s in itertools.islice(original_records(record_set), number)]
  return sum(sizes)


def original_records(record_set):
  folder = pathlib.Path(f"{record_set.path}_original")
  again = write_record_set(folder, small_schema(), records={"train": 24}, domains=("target",), unique_users=True)
  for found in diagnosis.scan(again, again.part("train").shards[1], "target"):
    yield found.serialized


def leak(serialized, schema):
  request = random_request(schema, np.random.default_rng(1), lengths={"target": 20, "source": 5}, candidates=3)
  seen = request.target.times.copy()
  seen[:13] = request.times[2]
  object.__setattr__(request.target, "times", seen)
  request.target.first_visible[2] = 12
  request.target.first_visible[:2] = 20
  serialized[7] = records.encode(request, schema)
  return serialized


def junk(serialized, schema):
  serialized[3] = b"not a record"
  return serialized


def flip(position):
  def change(data):
    position_ = position if position >= 0 else len(data) + position
    return data[:position_] + bytes([data[position_] ^ 0xFF]) + data[position_ + 1 :]

  return change


LEAK = "candidate 2 may see 'target' behaviour 12, which is not older than it."


def read_all(record_set):
  with diagnosis.guard(record_set, "train", ("target",)):
    return list(dataset.evaluation_batches(record_set, "train", requests=5))


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_leak_names_file_record_offset_and_reason(tmp_path, compression):
  record_set = broken_copy(tmp_path, compression, rewrite=leak)
  suffix, unit = ("", "offset") if compression == "none" else (".gz", "uncompressed offset")
  where = f"part-00001-of-00002.tfrecord{suffix}: record 7 ({unit} {offset_of(record_set, 7)}): "
  with pytest.raises(UserError) as caught, diagnosis.guard(record_set, "train"):
    list(train(record_set, requests=8))
  assert str(caught.value).endswith(where + LEAK)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (flip(16), "record 0 (offset 0): its data is corrupt (checksum mismatch)."),
    (flip(2), "record 0 (offset 0): its length is corrupt (checksum mismatch); the rest of the file cannot be read."),
    (lambda data: data[:-3], "record 11 (offset {}): the file ends within it."),
    (lambda data: b"", "record 0 (offset 0): the shard ends here; dataset.json says that it holds 12 records."),
  ],
)
def test_damaged_bytes_name_file_record_offset_and_reason(tmp_path, change, message):
  record_set = broken_copy(tmp_path, change=change)
  with pytest.raises(UserError) as caught:
    read_all(record_set)
  assert str(caught.value).endswith("part-00001-of-00002.tfrecord: " + message.format(offset_of(record_set, 11)))


def test_a_truncated_gzip_shard_is_an_error(tmp_path):
  record_set = broken_copy(tmp_path, "gzip", change=lambda data: data[: len(data) // 2])
  with pytest.raises(UserError, match=r"part-00001-of-00002\.tfrecord\.gz: record \d+ .*: the file ends within it\."):
    read_all(record_set)


def test_a_shard_that_ends_between_two_records_is_an_error(tmp_path):
  record_set = broken_copy(tmp_path, rewrite=lambda serialized, schema: serialized[:9])
  with pytest.raises(UserError, match=r"record 9 \(offset \d+\): the shard ends here; .* holds 12 records"):
    read_all(record_set)


def test_bytes_that_are_no_record_are_an_error(tmp_path):
  record_set = broken_copy(tmp_path, rewrite=junk)
  with pytest.raises(UserError, match=r"record 3 \(offset \d+\): not a tf\.train\.Example"):
    read_all(record_set)


def test_a_missing_shard_is_an_error_before_reading(tmp_path):
  record_set = broken_copy(tmp_path, change=lambda data: data)
  (record_set.path / record_set.part("train").shards[1].file).unlink()
  with pytest.raises(
    UserError, match=r"part-00001-of-00002\.tfrecord: this shard is missing; .*dataset\.json lists it"
  ):
    train(record_set)


def test_an_error_of_the_model_passes_the_guard_unchanged(small):
  with pytest.raises(tf.errors.InvalidArgumentError, match="Incompatible shapes"), diagnosis.guard(small, "train"):
    tf.constant([1, 2]) + tf.constant([1, 2, 3])


def test_explain_falls_back_on_the_original_message(small):
  assert "something else" in str(diagnosis.explain(small, "train", ("target",), ValueError("something else")))


@pytest.mark.parametrize(
  ("compression", "options", "broken"),
  [
    ("gzip", {"rewrite": leak}, 1),
    ("none", {"rewrite": lambda s, schema: junk(leak(s, schema), schema)}, 2),
    ("none", {"change": flip(16)}, 1),
    ("none", {"change": flip(2)}, 12),
    ("none", {"change": lambda data: flip(16)(data)[:-3]}, 2),
    ("none", {"change": lambda data: b""}, 12),
  ],
)
def test_repairing_leaves_out_the_broken_records_only_and_says_so(tmp_path, caplog, compression, options, broken):
  record_set = broken_copy(tmp_path, compression, **options)
  with caplog.at_level(logging.WARNING, "absl"):
    repaired = diagnosis.repair(record_set, "train", "target")
  assert repaired.broken == broken
  assert repaired.counts == [12, 12 - broken]
  assert f"{broken} of 24 target records were left out" in caplog.text
  assert "part-00001-of-00002.tfrecord" in caplog.text
  whole = tf.data.TFRecordDataset(repaired.paths[1], "GZIP" if compression == "gzip" else "").as_numpy_iterator()
  original, left = list(original_records(record_set)), list(whole)
  assert len(left) == 12 - broken
  assert all(one in original for one in left)


def test_evaluation_that_skips_reads_everything_else(tmp_path):
  record_set = broken_copy(tmp_path, change=flip(16))
  batches = list(dataset.evaluation_batches(record_set, "train", requests=5, on_corrupt="skip"))
  seen = np.concatenate([batch["user"] for batch in batches]).tolist()
  assert sorted(seen) == sorted(set(range(1, 25)) - {2})


def test_a_truncated_gzip_shard_yields_its_readable_prefix(tmp_path):
  record_set = broken_copy(tmp_path, "gzip", change=lambda data: data[: len(data) * 3 // 4])
  batches = list(dataset.evaluation_batches(record_set, "train", requests=1, on_corrupt="skip"))
  original = [records.decode(s, record_set.record_schema).user for s in original_records(record_set)]
  prefix = [int(batch["user"][0]) for batch in batches][12:]
  assert 4 <= len(prefix) < 12
  assert prefix == original[: len(prefix)]


def test_training_that_skips_keeps_its_steps_and_resumes_exactly(tmp_path):
  record_set = broken_copy(tmp_path, rewrite=lambda s, schema: junk(leak(s, schema), schema))
  whole = users(train(record_set, on_corrupt="skip", repeat=True).take(6))
  assert len(set(sum(whole[:3], ()))) == len(set(sum(whole[3:], ()))) == 22
  assert whole[4:] == users(train(record_set, on_corrupt="skip", repeat=True, skip=4).take(2))


def test_skipping_everything_is_an_error(tmp_path):
  record_set = broken_copy(tmp_path, change=lambda data: b"")
  shard = record_set.part("train").shards[0]
  (record_set.path / shard.file).write_bytes(b"")
  with pytest.raises(UserError, match="none of the 24 target-domain records can be read"):
    train(record_set, on_corrupt="skip")


# Tools


def test_verify_finds_nothing_wrong_with_a_whole_record_set(small):
  assert diagnosis.verify(small) == []


def test_verify_names_a_wrong_checksum_and_every_broken_record(tmp_path):
  record_set = broken_copy(tmp_path, rewrite=lambda s, schema: junk(leak(s, schema), schema))
  path = record_set.path / record_set.part("train").shards[1].file
  checksum, first, second = diagnosis.verify(record_set)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert checksum == f"{path}: its sha256 is {digest}, dataset.json says {record_set.part('train').shards[1].sha256}."
  assert "record 3 " in first
  assert "record 7 " in second
  assert second.endswith(LEAK)


def test_shown_records_say_ids_times_and_what_is_broken(tmp_path):
  record_set = broken_copy(tmp_path, rewrite=leak)
  texts = list(show_records.show(record_set, "train", "target", behaviours=2))
  assert len(texts) == 24
  first = records.decode(next(diagnosis.scan(record_set, record_set.part("train").shards[0], "target")).serialized,
                         record_set.record_schema)  # fmt: skip
  assert texts[0].startswith("train/target/part-00000-of-00002.tfrecord: record 0 (offset 0):\nuser 1  user_id=")
  assert texts[0].count("candidate ") == len(first.items)
  row = next(int(row) for text in texts for row in [text.partition("'target-")[2].partition("'")[0]] if row)
  assert any(f"'target-{row}' (row {row})" in text for text in texts)
  assert f"target history: {len(first.target.items)} behaviours" in texts[0]
  assert [i for i, text in enumerate(texts) if "BROKEN" in text] == [12 + 7]
  assert LEAK in texts[19]
