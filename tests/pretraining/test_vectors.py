"""The files of item vectors: whole or not there."""

import pathlib

import numpy as np
import pytest

from lcn_tf.errors import UserError
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DOMAINS


def random_vectors(seed=0, fingerprint="abc"):
  rng = np.random.default_rng(seed)
  sizes = {"target": 5, "source": 7}
  vectors = {d: rng.normal(size=(sizes[d], 3)).astype(np.float32) for d in DOMAINS}
  clusters = {d: rng.integers(0, 4, (sizes[d], 2)) for d in DOMAINS}
  return Pretrained(vectors, clusters, {"seed": seed}, fingerprint)


def test_what_is_saved_is_opened(tmp_path):
  saved = random_vectors()
  saved.save(tmp_path / "new" / "folder")
  found = Pretrained.open(tmp_path / "new" / "folder", "abc")
  for d in DOMAINS:
    np.testing.assert_array_equal(found.vectors[d], saved.vectors[d])
    np.testing.assert_array_equal(found.clusters[d], saved.clusters[d])
    assert found.vectors[d].dtype == np.float32
    assert found.clusters[d].dtype == np.int64
  assert found.notes == {"seed": 0}
  assert found.fingerprint == "abc"


def test_vectors_alone_are_saved_and_opened_without_clusters(tmp_path):
  random_vectors().only(["vectors"]).save(tmp_path)
  found = Pretrained.open(tmp_path)
  assert found.holds(["vectors"])
  assert not found.holds(["clusters"])
  np.testing.assert_array_equal(found.vectors["source"], random_vectors().vectors["source"])


def test_settings_that_nothing_was_made_with_are_others():
  made = Pretrained({}, {}, {"settings": {"dim": 3, "seed": 1}}, "abc")
  assert made.made_with({"dim": 3, "seed": 1})
  assert made.made_with({"dim": 3})
  assert not made.made_with({"dim": 4})
  assert not made.made_with({"dim": 3, "clusters": [1, 2]})


@pytest.mark.parametrize("before", [False, True], ids=["nothing there", "older vectors there"])
@pytest.mark.parametrize("step", ["half of the arrays", "arrays not renamed", "no notes", "notes not renamed"])
def test_an_interrupted_save_leaves_nothing_that_counts_as_whole(tmp_path, monkeypatch, before, step):
  if before:
    random_vectors(seed=1).save(tmp_path)

  def half(file, **arrays):
    file.write(b"PK\x03\x04 half")
    raise KeyboardInterrupt

  def stop(self, *arguments, **options):
    raise KeyboardInterrupt

  replace = pathlib.Path.replace

  def stop_second(self, target):
    if "json" in str(target):
      raise KeyboardInterrupt
    return replace(self, target)

  with monkeypatch.context() as patch:
    if step == "half of the arrays":
      patch.setattr(np, "savez", half)
    elif step == "arrays not renamed":
      patch.setattr(pathlib.Path, "replace", stop)
    elif step == "no notes":
      patch.setattr(pathlib.Path, "write_text", stop)
    else:
      patch.setattr(pathlib.Path, "replace", stop_second)
    with pytest.raises(KeyboardInterrupt):
      random_vectors(seed=0).save(tmp_path)
  if before and "renamed" not in step:  # the new ones were not whole yet
    assert Pretrained.open(tmp_path).notes == {"seed": 1}
  else:
    assert not Pretrained.there(tmp_path)
    with pytest.raises(UserError, match=r"no pre-trained item vectors here"):
      Pretrained.open(tmp_path)
  random_vectors(seed=2).save(tmp_path)
  assert Pretrained.open(tmp_path).notes == {"seed": 2}
  assert sorted(file.name for file in tmp_path.iterdir()) == ["pretrained.json", "pretrained.npz"]


@pytest.mark.parametrize("file", ["pretrained.npz", "pretrained.json"])
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 half", b"[1, 2]"])
def test_broken_files_are_told_in_one_message(tmp_path, file, content):
  random_vectors().save(tmp_path)
  (tmp_path / file).write_bytes(content)
  said = "damaged: (not|expected a) JSON" if "json" in file else r"broken pre-trained item vectors: \S"
  with pytest.raises(UserError, match=rf"^{tmp_path}(/{file})?: {said}"):
    Pretrained.open(tmp_path)


def test_arrays_that_do_not_fit_together_are_told(tmp_path):
  good = random_vectors()
  Pretrained(good.vectors, {d: good.clusters[d][1:] for d in DOMAINS}, {}, "abc").save(tmp_path)
  with pytest.raises(UserError, match=r"broken pre-trained item vectors: .*expected \[items, P\] and \[items, 2\]"):
    Pretrained.open(tmp_path)


def test_vectors_of_other_records_are_refused(tmp_path):
  random_vectors().save(tmp_path)
  with pytest.raises(UserError, match=r"fingerprint abc, these have xyz\. Run pipelines\.pretrain on these records"):
    Pretrained.open(tmp_path, "xyz")
