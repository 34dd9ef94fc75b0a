"""Complete Journey, from hand-made files and (slow) whole."""

import datetime
import zipfile

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lcn_tf.data.sources import complete_journey
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


def wheel(folder, compression=zipfile.ZIP_STORED):
  """Of the files in the folder."""
  with zipfile.ZipFile(folder / "data.whl", "w", compression) as archive:
    for name in ("transactions", "products", "demographics"):
      archive.write(folder / f"{name}.parquet", f"{complete_journey.IN_WHEEL}/{name}.parquet")
  return folder / "data.whl"


def test_the_wheel_gives_the_tables_of_its_files(tmp_path):
  files = complete_journey.read(write(tmp_path))
  whole = complete_journey.read(str(wheel(tmp_path)))
  assert_frame_equal(whole.interactions, files.interactions)
  assert len(whole.items) == 3


def test_a_folder_is_a_name_and_no_pattern(tmp_path):
  folder = tmp_path / "x [x] *?\\ ü"
  for name in (folder, tmp_path / "x x y ü"):
    name.mkdir()
    write(name)
  products = pl.read_parquet(tmp_path / "x x y ü" / "products.parquet")
  products[:1].write_parquet(tmp_path / "x x y ü" / "products.parquet")
  assert complete_journey.read(str(folder)).items["item_id"].to_list() == [11, 22, 33]


@pytest.mark.parametrize("name", ["transactions", "products", "demographics"])
def test_a_missing_or_damaged_file_is_named(tmp_path, name):
  file = tmp_path / f"{name}.parquet"
  write(tmp_path)
  file.write_bytes(file.read_bytes()[:-9])
  with pytest.raises(UserError, match=rf"^{file}: damaged, or no Parquet file: .*\. Fetch Complete Journey again, or"):
    complete_journey.read(str(tmp_path))
  file.unlink()
  with pytest.raises(UserError, match=rf"^{file}: .*No such file or directory.*\. Fetch Complete Journey again, or"):
    complete_journey.read(str(tmp_path))


def test_a_file_of_other_columns_is_told_with_its_folder(tmp_path):
  write(tmp_path)
  pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "products.parquet")
  with pytest.raises(UserError, match=rf"^{tmp_path}: not Complete Journey as expected: .*department"):
    complete_journey.read(str(tmp_path))


def test_a_damaged_file_of_the_wheel_is_named(tmp_path):
  write(tmp_path)
  (tmp_path / "products.parquet").write_bytes(b"no parquet")
  file = wheel(tmp_path)
  with pytest.raises(UserError, match=rf"^{file}: {complete_journey.IN_WHEEL}/products\.parquet: damaged"):
    complete_journey.read(str(file))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_wheel_is_named_wherever_it_is_damaged(tmp_path, compression):
  write(tmp_path)
  file = wheel(tmp_path, compression)
  data = file.read_bytes()
  for place in range(0, len(data) // 4, 40):  # the first of its files
    file.write_bytes(data[:place] + bytes(255 - byte for byte in data[place : place + 20]) + data[place + 20 :])
    with pytest.raises(UserError, match=rf"^{file}: "):
      complete_journey.read(str(file))
  file.write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match=rf"^{file}: not a wheel, or a damaged one: "):
    complete_journey.read(str(file))


@pytest.mark.slow
def test_the_whole_data_has_its_known_counts():
  tables = complete_journey.read()
  assert dict(tables.items["domain"].value_counts().iter_rows()) == {"source": 29_581, "target": 25_029}
  lengths = tables.interactions.filter(pl.col("domain") == "source").group_by("user_id").len()["len"]
  assert (lengths.sum(), round(lengths.mean()), lengths.quantile(0.95)) == (929_141, 378, 1_124)
  assert (lengths > 1_000).sum() == 172
