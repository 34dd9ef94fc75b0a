"""MovieLens-1M, from hand-made files of either layout and, where the wheel can be had, whole."""

import os
import zipfile

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lcn_tf.data.sources import movielens
from lcn_tf.errors import UserError

MOVIES = [
  (1, "Toy Story", 1995, ["Animation", "Children's", "Comedy"], "target"),
  (2, "Misérables, Les", 1995, ["Drama", "Musical"], "target"),
  (3, '"Odd" Couple, The', 1968, ["Comedy"], "source"),
  (4, "2001: A Space Odyssey", 1968, ["Drama", "Mystery", "Sci-Fi", "Thriller"], "target"),
  (5, "Double Indemnity", 1944, ["Crime", "Film-Noir"], "source"),
  (6, "Never Rated (Nobody )", 2000, ["Drama"], "source"),
]
USERS = [(1, "F", 1, 10, "48067"), (2, "M", 56, 16, "02138-1234")]
RATINGS = [(1, 1, 5, 978300760), (1, 3, 3, 978302109), (2, 2, 4, 978298413), (2, 4, 1, 978298413), (2, 5, 2, 978299000)]


def write_official(folder):
  folder.mkdir()
  movies = [f"{i}::{title} ({year})::{'|'.join(genres)}" for i, title, year, genres, _ in MOVIES]
  for name, rows in (
    ("movies", movies),
    ("ratings", ["::".join(map(str, row)) for row in RATINGS]),
    ("users", ["::".join(map(str, row)) for row in USERS]),
  ):
    (folder / f"{name}.dat").write_bytes(("\n".join(rows) + "\n").encode("latin-1"))
  return folder


def recbole_files():
  titles = {i: f"{title} ({year})" for i, title, year, _, _ in MOVIES}
  tables = {
    "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    + [f"1m_{user}\t{titles[item]}\t{rating}\t{time}" for user, item, rating, time in RATINGS],
    "item": ["item_id:token\tmovie_title:token\trelease_year:float\tgenre:token"]
    + [f"{titles[i]}\t{title}\t{year}\t{' '.join(genres)}" for i, title, year, genres, _ in MOVIES],
    "user": ["user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token"]
    + [f"1m_{user}\t{age}\t{gender}\t{occupation}\t{zip_code}" for user, gender, age, occupation, zip_code in USERS],
  }
  return {f"ml-1m.{end}": ("\r\n".join(lines) + "\r\n").encode() for end, lines in tables.items()}


def write_recbole(folder):
  folder.mkdir()
  for name, content in recbole_files().items():
    (folder / name).write_bytes(content)
  return folder


def write_wheel(folder):
  folder.mkdir()
  with zipfile.ZipFile(folder / movielens.WHEEL.file, "w") as archive:
    for name, content in recbole_files().items():
      archive.writestr(f"{movielens.IN_WHEEL}/{name}", content)
  return folder / movielens.WHEEL.file


LAYOUTS = {"official": write_official, "recbole": write_recbole, "wheel": write_wheel}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tables(layout, tmp_path):
  tables = movielens.read(str(LAYOUTS[layout](tmp_path / "ml")))
  rated = MOVIES[:5]
  names = {i: f"{title} ({year})" for i, title, year, _, _ in MOVIES}
  domains = {i: domain for i, _, _, _, domain in MOVIES}
  assert_frame_equal(
    tables.interactions,
    pl.DataFrame(
      [(user, names[item], domains[item], time, rating) for user, item, rating, time in RATINGS],
      ["user_id", "item_id", "domain", "timestamp", "rating"],
      orient="row",
    ),
  )
  assert_frame_equal(
    tables.items,
    pl.DataFrame(
      [(names[i], domain, genres, year, year // 10 * 10) for i, _, year, genres, domain in rated],
      ["item_id", "domain", "genres", "year", "decade"],
      orient="row",
    ),
  )
  assert tables.users is not None
  assert_frame_equal(
    tables.users,
    pl.DataFrame(
      [(1, 1, "F", 10, "4"), (2, 56, "M", 16, "0")], ["user_id", "age", "gender", "occupation", "region"], orient="row"
    ),
  )


def test_a_folder_without_the_files_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"no MovieLens-1M here\. Expected ratings\.dat"):
    movielens.read(str(tmp_path))


def test_a_missing_file_is_named(tmp_path):
  folder = write_official(tmp_path / "ml")
  (folder / "users.dat").unlink()
  with pytest.raises(UserError, match=r"users\.dat"):
    movielens.read(str(folder))


def test_a_line_with_too_few_fields_is_shown(tmp_path):
  folder = write_official(tmp_path / "ml")
  (folder / "ratings.dat").write_text("1::1::5\n")
  with pytest.raises(UserError, match=rf"^{folder}/ratings\.dat: expected 4 fields between '::', found '1::1::5'"):
    movielens.read(str(folder))


def test_a_file_that_is_no_table_is_named(tmp_path):
  folder = write_recbole(tmp_path / "ml")
  (folder / "ml-1m.item").write_bytes(b"")
  with pytest.raises(UserError, match=rf"^{folder}/ml-1m\.item: not a table of tabs as expected: "):
    movielens.read(str(folder))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_a_name_and_no_pattern(layout, tmp_path):
  tables = movielens.read(str(LAYOUTS[layout](tmp_path / "x [x] *?\\ ü")))
  assert len(tables.interactions) == len(RATINGS)


def test_a_rating_that_is_no_number_is_refused(tmp_path):
  folder = write_official(tmp_path / "ml")
  (folder / "ratings.dat").write_text("1::1::five::978300760\n")
  with pytest.raises(UserError, match="not MovieLens-1M as expected"):
    movielens.read(str(folder))


def test_a_rating_of_an_unlisted_movie_is_refused(tmp_path):
  folder = write_official(tmp_path / "ml")
  (folder / "ratings.dat").write_text("1::77::5::978300760\n")
  with pytest.raises(UserError, match="'77'"):
    movielens.read(str(folder))


def test_a_file_that_is_no_wheel_is_refused(tmp_path):
  file = tmp_path / "junk.whl"
  file.write_text("junk")
  with pytest.raises(UserError, match="not a wheel"):
    movielens.read(str(file))


def test_another_wheel_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
    archive.writestr("other/__init__.py", "")
  with pytest.raises(UserError, match=r"ml-1m\.inter"):
    movielens.read(str(tmp_path / "other.whl"))


def test_the_whole_data_has_its_known_counts():
  try:
    tables = movielens.read()
  except UserError as error:
    if os.environ.get("CI"):
      raise
    pytest.skip(str(error))
  assert tables.users is not None
  assert len(tables.users) == 6_040
  assert len(tables.interactions) == 1_000_209
  assert dict(tables.items["domain"].value_counts().iter_rows()) == {"target": 898, "source": 2_808}
  assert tables.items["item_id"].n_unique() == 3_706
  assert sorted(tables.interactions["rating"].unique()) == [1, 2, 3, 4, 5]
  events = tables.interactions.group_by("user_id", "domain").len().pivot("domain", index="user_id", values="len")
  assert events.drop_nulls().height == 6_027
  assert events["source"].max() == 1_822
  assert events["source"].quantile(0.95) == 398
  assert sum(table.null_count().sum_horizontal()[0] for table in (tables.interactions, tables.items, tables.users)) == 0
