"""Records of a log that lies in buckets on the disk are those of the log in memory, byte by byte."""

import errno
import re

import numpy as np
import polars as pl
import pytest

from lcn_tf import storage
from lcn_tf.data.build import arrays, builder, out_of_core, parquet, row_checks, stream, tables
from lcn_tf.data.build.tallies import sum_of_repeated
from lcn_tf.errors import StorageError, UserError
from pipelines import build_records
from tests.data import logs, value_logs, vector_logs
from tests.data.build.test_parquet import damage
from tests.support import children

MEMORY = 40_000  # bytes: some dozens of interactions
RUN = 50  # rows that are looked at together
SCHEMA = {
  "user_fields": ["user_id"],
  "target": {"item_fields": ["category"], "cross_fields": ["event"], "max_length": 8},
  "candidates": 4,
}


def write(folder, log, items, users=None, days=3):
  """The log in files; `log` may be the frames of several days."""
  (folder / "log").mkdir(parents=True)
  for day, frame in enumerate(log if isinstance(log, list) else log.iter_slices(-(-len(log) // days))):
    frame.write_parquet(folder / "log" / f"day{day}.parquet")
  items.write_parquet(folder / "items.parquet")
  if users is not None:
    users.write_parquet(folder / "users.parquet")


def build(folder, memory=None, schema=None, records=None, **options):
  """The records of the files of a folder, `whole` or `bucketed`; what is looked at in runs is so in many of these."""
  users = folder / "users.parquet"
  paths = [str(folder / "log"), str(folder / "items.parquet"), str(users) if users.exists() else None]
  experiment = logs.experiment(schema or SCHEMA, **(records or {}))
  output = folder / ("bucketed" if memory else "whole")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(arrays, "RUN", RUN if memory else arrays.RUN)
    return builder.build(experiment, tables.read(*paths, memory=memory), output, memory=memory, **options)


def same(folder, caplog=None, **options):
  """Builds both, compares the bytes of all files, and gives the records."""
  whole = build(folder, **options)
  if caplog:
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
  bucketed = build(folder, MEMORY, **options)
  if caplog:
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == told
  one, two = logs.file_bytes(whole.path), logs.file_bytes(bucketed.path)
  assert one.keys() == two.keys()
  assert [name for name in one if one[name] != two[name]] == []
  return bucketed


def random_log(seed=0, size=500, **options):
  """Users whose ids are not in the order of their first interactions, and columns for every kind of split."""
  log = logs.random_log(np.random.default_rng(seed), size, **({"users": 17, "span": 300} | options))
  names = pl.col("user_id").cast(pl.String) + "u"
  time = pl.col("timestamp")
  fold = pl.when(time % 7 == 0).then(pl.lit("test")).when(time % 5 == 0).then(pl.lit("validation")).otherwise(None)
  return log.with_columns(user_id=names, fold=fold.fill_null(pl.when(time % 3 > 0).then(pl.lit("train"))))


SAMPLED = {"kind": "sampled", "negatives": 2}


@pytest.mark.parametrize(
  "records",
  [
    {"labels": {"kind": "given"}},
    {"labels": {"kind": "threshold"}, "split": {"kind": "per_user", "validation": 0.2, "test": 2}},
    {"labels": SAMPLED, "split": {"kind": "column", "column": "fold"}},
    {"labels": SAMPLED | {"popularity_exponent": 0.5, "known_items": True}, "split": {"boundaries": [150, 200]}},
  ],
  ids=lambda records: "-".join(f"{name}" for part in records.values() for name in part.values()),
)
def test_a_log_in_buckets_gives_the_same_bytes(tmp_path, records, caplog):
  log = random_log().with_columns(
    label=pl.when(pl.col("timestamp") % 4 > 0).then("label"), weight=pl.col("timestamp") / 7
  )
  write(tmp_path, log, logs.items(12))
  with caplog.at_level("INFO", "absl"):
    found = same(tmp_path, caplog, records=records)
  buckets = re.search(r"500 interactions in (\d+) buckets", caplog.text)
  assert int(buckets[1]) > 5
  assert found.part("train").records > 20
  assert "state/state.json" in found.tables


def test_fields_and_vectors_of_every_kind_are_the_same(tmp_path):
  items = value_logs.items_of()
  text = pl.Series([None if i == 3 else [i / 7, -i, 1e-3] for i in range(len(items))], dtype=pl.List(pl.Float64))
  vectors = {"item_vectors": [{"name": "text", "width": 3}]}
  schema = vector_logs.SCHEMA | {"target": vector_logs.SCHEMA["target"] | vectors}
  log = value_logs.log_of().with_columns(dwell=pl.col("timestamp") / 3)
  write(tmp_path, log, items.with_columns(text=text), vector_logs.USERS)
  same(tmp_path, schema=schema)


def test_files_of_other_types_and_partitions_are_joined_alike(tmp_path):
  """pandas made floats of one day's ids, another day has texts, and a third lacks a column."""
  log = logs.random_log(np.random.default_rng(1), 300, users=9).with_columns(day=pl.lit(0.5), spare=pl.lit(1))
  log = log.with_columns(  # columns that nobody asked for
    row=pl.lit(None),
    bucket=pl.struct("day", "event"),
    moment=pl.from_epoch("timestamp"),
    exact=pl.col("timestamp").cast(pl.Decimal(20, 2)),
    tags=pl.concat_list("event"),
    array=pl.concat_arr("day", "day"),
    data=pl.col("event").cast(pl.Binary),
    large=pl.lit(2**63, pl.UInt64),
  )
  days = list(log.iter_slices(100))
  days[0] = days[0].with_columns(pl.col("user_id", "item_id").cast(pl.Float64), label=pl.col("label") > 0)
  days[1] = days[1].with_columns(pl.col("user_id").cast(pl.String), pl.col("timestamp").cast(pl.Float32)).drop("spare")
  days[2] = days[2].with_columns(pl.col("event").cast(pl.Categorical), spare=pl.lit(2.5))
  write(tmp_path, days, logs.items(12))
  (tmp_path / "log" / "hour=7").mkdir()
  days[0].with_columns(pl.col("timestamp") + 1).write_parquet(tmp_path / "log" / "hour=7" / "late.parquet")
  found = same(tmp_path, schema=SCHEMA | {"context_fields": ["hour"]})
  assert pl.read_parquet(found.path / "users.parquet")["user_id"].dtype == pl.String
  assert found.notes["interactions_files"] == 4


def bad_log():
  """A row of every reason to be rejected, beside good ones of the same users."""
  log = random_log().with_columns(number=pl.int_range(pl.len()), weight=pl.lit(1.0), size=pl.lit(1.0))

  def put(number, value, name):
    return pl.when(pl.col("number") % 31 == number).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)

  log = log.with_columns(
    put(1, None, "user_id"),
    put(2, None, "item_id"),
    put(3, "shop", "domain"),
    put(4, -5, "timestamp"),
    put(6, 0.5, "label"),
    put(7, float("nan"), "weight"),
    put(9, float("inf"), "size"),
    put(10, "other", "fold"),
  )
  log = log.with_columns(put(5, 10**12, "timestamp"), put(8, 1e300, "weight"), put(11, 77, "item_id"))
  log = log.with_columns(put(12, None, "timestamp"))
  return pl.concat([log, log.filter(pl.col("number") % 10 == 0)])


def test_rejected_rows_of_every_kind_are_the_same(tmp_path, caplog):
  write(tmp_path, bad_log(), logs.items(12), days=4)
  schema = SCHEMA | {"context_fields": [{"name": "size", "kind": "numeric", "buckets": 2}]}
  options = {"schema": schema, "records": {"split": {"kind": "column", "column": "fold"}}}
  found = same(tmp_path, caplog, **options)
  assert len(found.rejected) == 13
  rejected = pl.read_parquet(found.path / "rejected.parquet")
  assert rejected["row"].is_sorted()
  assert rejected["file"].n_unique() == 4
  messages = errors(tmp_path, strict=True, overwrite=True, **options)
  assert messages[0] == messages[1]
  assert messages[1].startswith(f"{len(rejected)} rows are rejected, and --strict allows none. ")


def errors(folder, **options):
  """What both builds say, of the log in memory first."""
  messages = []
  for memory in (None, MEMORY):
    with pytest.raises(UserError) as error:
      build(folder, memory, **options)
    messages.append(str(error.value))
  return messages


@pytest.mark.parametrize(
  ("change", "options", "said"),
  [
    ({"item_id": pl.col("item_id") + 100}, {}, "interactions of the target domain are on items that are not in"),
    ({"timestamp": -1}, {}, "no usable interaction. interactions: negative timestamp: 500"),
    ({"user_id": pl.lit(0.5)}, {}, "column 'user_id' holds Float64, expected integers or strings"),
    ({"item_id": pl.lit(2.0**60)}, {}, "floats do not tell whole numbers apart"),
    ({"event": pl.lit(1.5)}, {}, "column 'event' holds Float64"),
    ({"label": pl.lit("yes")}, {}, "column 'label' holds String"),
    ({}, {"split": {"kind": "per_user", "validation": 99, "test": 99}}, "leave no user an earlier candidate"),
    ({}, {"split": {"boundaries": [900, 901]}}, "the validation split has no target-domain candidates"),
    ({}, {"split": {"kind": "column", "column": "lot"}}, "no column 'lot'"),
  ],
)
def test_wrong_input_has_the_same_message(tmp_path, change, options, said):
  write(tmp_path, random_log().with_columns(**change), logs.items(12))
  messages = errors(tmp_path, records=options)
  assert messages[0] == messages[1]
  assert said in messages[1]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "log"]


def test_a_log_without_rows_has_the_same_message(tmp_path):
  write(tmp_path, [random_log().clear()], logs.items(12))
  messages = errors(tmp_path)
  assert messages[0] == messages[1]
  assert "no usable interaction. the file is empty" in messages[1]


def test_a_later_log_reads_by_the_same_ids(tmp_path, caplog):
  write(tmp_path / "first", random_log(), logs.items(12))
  first = build(tmp_path / "first")
  write(tmp_path / "later", random_log(1, count=14), logs.items(14))
  labels = {"labels": SAMPLED | {"known_items": True}, "split": {"boundaries": [0, 100]}}
  found = same(tmp_path / "later", caplog, like=first, records=labels)
  assert found.fingerprint == first.fingerprint
  assert not found.has("state")
  write(tmp_path / "strange", random_log().with_columns(pl.col("item_id") + 50), logs.items(70))
  messages = errors(tmp_path / "strange", like=first, records=labels)
  assert messages[0] == messages[1]
  assert "knows none of the" in messages[1]


def test_a_log_that_is_in_memory_is_dealt_to_buckets_as_well(tmp_path):
  vague = random_log().with_columns(item_id=pl.col("item_id") + 2.0**60)
  for memory in (None, MEMORY):
    with pytest.raises(UserError, match=r"floats do not tell whole numbers apart; found 1\.15292150"):
      builder.build(logs.experiment(SCHEMA), tables.RawTables(vague, logs.items(12)), tmp_path / "out", memory=memory)
  table = tables.RawTables(random_log(), logs.items(12), notes={"origin": "test"})
  found = [
    builder.build(logs.experiment(SCHEMA), table, tmp_path / str(memory), memory=memory) for memory in (None, MEMORY)
  ]
  assert logs.file_bytes(found[0].path) == logs.file_bytes(found[1].path)


def test_no_more_is_in_work_than_the_memory_allows(tmp_path, monkeypatch):
  """A bucket has more rows than its share only by those of one user."""
  log = random_log(size=2000)
  write(tmp_path, log, logs.items(12))
  met, read = [], row_checks.RowChecks.read

  def recorded(self, frame, rows):
    met.append(len(frame))
    return read(self, frame, rows)

  monkeypatch.setattr(row_checks.RowChecks, "read", recorded)
  build(tmp_path, 4 * MEMORY)
  size = stream.read(str(tmp_path / "log"), MEMORY).row_bytes
  most = int(2 * MEMORY / (out_of_core.COPIES * size + out_of_core.BESIDE))
  assert sum(met) == 2000
  assert len(met) > 4
  assert max(met) <= most + log["user_id"].value_counts()["count"].max()


def test_pieces_of_files_are_the_rows_of_all_of_them(tmp_path):
  frames = [pl.DataFrame({"a": values}) for values in ([1, 2, 3], [4.5], [7.0])]
  frames.insert(1, frames[0].clear())
  for number, frame in enumerate(frames):
    frame.with_columns(b=pl.lit(number)).write_parquet(tmp_path / f"{number}.parquet")
  found = stream.read(str(tmp_path), 1)
  whole = parquet.read(str(tmp_path))
  pieces = list(found.pieces(2))
  rows = [found.read(piece, None) for piece in pieces]
  assert [piece.first for piece in pieces] == [0, 2, 3, 4]
  assert [piece.rows for piece in pieces] == list(map(len, rows)) == [2, 1, 1, 1]
  assert pl.concat(rows).equals(whole.frame)
  assert [found.read(piece, ["b"]).columns for piece in pieces] == [["b"]] * 4
  assert (found.source.files, found.source.size, found.whole) == (whole.files, whole.size, {"a": False})


def test_columns_that_cannot_be_read_are_told_alike(tmp_path):
  log = random_log().with_columns(other=pl.lit("broken"))
  write(tmp_path, log, logs.items(12))
  damage(tmp_path / "log" / "day1.parquet", "broken")
  assert set(stream.read(str(tmp_path / "log"), MEMORY).source.unreadable) == {"other"}
  messages = errors(tmp_path, schema=SCHEMA | {"context_fields": ["other"]})
  assert messages[0] == messages[1]
  assert "column 'other'" in messages[1]


def test_texts_and_fractions_have_no_common_type_in_pieces_either(tmp_path):
  days = [random_log().with_columns(pl.lit(value).alias("other")) for value in ("text", 0.5)]
  write(tmp_path, days, logs.items(12))
  messages = errors(tmp_path, schema=SCHEMA | {"context_fields": ["other"]})
  assert messages[0] == messages[1]
  assert "no whole numbers, and other files hold text" in messages[1]


@pytest.mark.parametrize("size", [1, 7, 8, 50, 51, 1000, 12_345])
def test_a_sum_of_repeated_numbers_is_numpys_to_the_last_bit(size, monkeypatch):
  monkeypatch.setattr(arrays, "RUN", RUN)
  rng = np.random.default_rng(size)
  values = np.sort(rng.lognormal(size=min(size, 40)) * rng.choice([-1e6, 1e-6, 1], min(size, 40)))
  times = np.bincount(rng.integers(0, len(values), size - len(values)), minlength=len(values)) + 1
  assert sum_of_repeated(values, np.cumsum(times)) == np.repeat(values, times).sum()


@pytest.mark.parametrize("high", [0, 5, 10**11])
def test_the_number_at_a_position_is_that_of_the_ordered_ones(high, monkeypatch):
  monkeypatch.setattr(arrays, "RUN", RUN)
  values = np.random.default_rng(0).integers(-3, high + 1, 500)
  for rank in (0, 1, 250, 499):
    assert arrays.order_statistic(values, rank) == np.sort(values)[rank]


def test_arrays_grow_in_files(tmp_path):
  parts = [np.arange(6, dtype=np.int32).reshape(3, 2), np.zeros((0, 2), np.int32), np.full((12, 2), 9, np.int32)]
  with arrays.Appended(tmp_path) as written:
    for part in parts:
      written.append("a", part)
      written.append("empty", part[:, :0])
      written.append("none", part[:0, 0] > 0)
  mapped = arrays.Mapped(tmp_path)
  found = mapped("a")
  mapped.release()
  np.testing.assert_array_equal(found, np.concatenate(parts))
  np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(parts))
  assert (mapped("empty").shape, mapped("none").shape, mapped("none").dtype) == ((15, 0), (0,), bool)


def test_runs_of_users_own_about_as_much_as_is_looked_at_together(monkeypatch):
  monkeypatch.setattr(arrays, "RUN", RUN)
  offsets = np.array([0, 0, 20, 50, 60, 170, 170, 175, 175])
  assert list(arrays.runs(offsets)) == [(0, 3), (3, 4), (4, 5), (5, 8)]
  assert list(arrays.runs(np.zeros(4, np.int64))) == [(0, 3)]


@pytest.mark.job
def test_a_build_that_was_killed_leaves_buckets_until_the_next_one(tmp_path):
  write(tmp_path, random_log(), logs.items(12))
  process = children.start(
    """
    import sys, time
    from lcn_tf.data.build import out_of_core
    from tests.data.build import test_out_of_core as test
    def waits(self):
      print("dealt", flush=True)
      time.sleep(600)
    out_of_core.Buckets.divide = waits
    import pathlib
    test.build(pathlib.Path(sys.argv[1]), test.MEMORY)
    """,
    tmp_path,
  )
  assert children.line(process) == "dealt"
  assert len(list(tmp_path.glob(".bucketed.*.aside/buckets-*/users-*/good.arrow"))) > 5
  children.kill(process)
  build(tmp_path, MEMORY)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["bucketed", "items.parquet", "log"]
  assert not list((tmp_path / "bucketed").glob("buckets-*"))


def test_a_full_disk_says_what_the_buckets_take(tmp_path, monkeypatch):
  write(tmp_path, random_log(), logs.items(12))

  def full(self, file, **options):
    raise OSError(errno.ENOSPC, "No space left on device", str(file))

  monkeypatch.setattr(pl.DataFrame, "write_ipc", full)
  with pytest.raises(StorageError, match=r"a record set could not be written: no space left .*about .* kB are needed"):
    build(tmp_path, MEMORY)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "log"]


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--memory", "2"], "--memory 2: expected a number and a unit, such as 500MB or 2GB, of 100.0 MB at least"),
    (["--memory", "99MB"], "--memory 99MB: expected a number and a unit"),
    (["--memory", "1GB", "--extend", "x"], "--memory and --extend exclude each other"),
  ],
)
def test_wrong_flags_have_one_message(tmp_path, flags, said):
  with pytest.raises(UserError, match=re.escape(said)):
    build_records.main(["", "--config", "configs/synthetic/lcn.yaml", "--output", str(tmp_path / "out"), *flags])


def test_the_builder_extends_no_records_in_buckets(tmp_path):
  write(tmp_path, random_log(), logs.items(12))
  first = build(tmp_path)
  with pytest.raises(UserError, match="--memory and --extend exclude each other"):
    build(tmp_path, MEMORY, extend=first, records={"split": {"kind": "all_train"}})


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 gb", 15 * 10**8), ("500MB", 5 * 10**8)])
def test_sizes_are_read(text, size):
  assert storage.bytes_of(text, "--memory") == size
