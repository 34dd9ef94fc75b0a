"""Complete Journey, from hand-made files and (slow) whole."""

import datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lcn_tf.data import complete_journey
from lcn_tf.errors import UserError


def write(folder):
  moment = datetime.datetime(2017, 1, 1, 11, 53, 26)
  columns = ["household_id", "store_id", "product_id", "quantity", "retail_disc", "transaction_timestamp"]
  rows = [(900, 330, 11, 1, 0.5, moment), (900, 330, 22, 3, 0.0, moment), (901, 331, 33, 40, 0.0, moment)]
  rows += [(902, 331, 44, 1, 0.0, moment)]
  pl.DataFrame(rows, columns, orient="row").write_parquet(folder / "transactions.parquet")
  columns = ["product_id", "manufacturer_id", "department", "brand", "product_category", "product_type"]
  products = [(11, 2, "GROCERY", "National", "ICE", "CUBED"), (22, 69, "COSMETICS", "Private", None, None)]
  products += [(33, 5, "FROZEN GROCERY", "National", "PIZZA", "BIG"), (44, 5, "PRODUCE", "National", "APPLES", "RED")]
  products += [(55, 5, "DRUG GM", "National", "never bought", "x")]
  pl.DataFrame(products, columns, orient="row").write_parquet(folder / "products.parquet")
  profile = {name: ["x"] for name in complete_journey.PROFILE}
  pl.DataFrame({"household_id": [900], **profile}).write_parquet(folder / "demographics.parquet")
  return str(folder)


def test_purchases_of_the_two_domains_become_interactions(tmp_path):
  tables = complete_journey.read(write(tmp_path))
  expected = [
    (900, 11, "source", 1483271606, "1", 330, 1),
    (900, 22, "target", 1483271606, "3-4", 330, 0),
    (901, 33, "source", 1483271606, "10+", 331, 0),
  ]
  columns = ["user_id", "item_id", "domain", "timestamp", "quantity", "store", "discount"]
  assert_frame_equal(tables.interactions, pl.DataFrame(expected, columns, orient="row"))


def test_products_that_were_bought_become_items(tmp_path):
  items = complete_journey.read(write(tmp_path)).items
  assert items["item_id"].to_list() == [11, 22, 33]
  assert items.row(1) == (22, "target", "COSMETICS", "unknown", "unknown", "Private", 69)


def test_a_household_without_demographics_is_unknown(tmp_path):
  users = complete_journey.read(write(tmp_path)).users
  assert users is not None
  assert users.rows() == [(900, *["x"] * 7), (901, *["unknown"] * 7)]


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match=r"transactions\.parquet"):
    complete_journey.read(str(tmp_path))


@pytest.mark.slow
def test_the_whole_data_has_its_known_counts():
  tables = complete_journey.read()
  assert dict(tables.items["domain"].value_counts().iter_rows()) == {"source": 29_581, "target": 25_029}
  lengths = tables.interactions.filter(pl.col("domain") == "source").group_by("user_id").len()["len"]
  assert (lengths.sum(), round(lengths.mean()), lengths.quantile(0.95)) == (929_141, 378, 1_124)
  assert (lengths > 1_000).sum() == 172
