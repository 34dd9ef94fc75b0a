"""Shipped records on Spark are those of the same command without it, byte by byte.

Without --campaign of a few users of MovieLens-1M; with it, of all.
"""

import filecmp
import shutil

import pytest

from tests.shipped.workspace import CONFIGS, head_commands, succeeds

SPARK = ["--engine", "spark", "--master", "local[2]", "--memory", "1GB"]


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is none")
@pytest.mark.config(minutes=3)
def test_movielens_on_spark_is_movielens_without(workspace, tmp_path, campaign):
  if campaign(False, True):
    workspace = tmp_path
    (workspace / "configs").symlink_to(CONFIGS)
  build, _ = head_commands(CONFIGS / "movielens" / "lcn.yaml")
  folders = {name: tmp_path / "records" / name for name in ("plain", "spark")}
  for name, flags in (("plain", []), ("spark", SPARK)):
    said = succeeds(build, workspace, "--output", str(folders[name]), *flags, alone=True)
    assert "Traceback" not in said
    print(name, said.splitlines()[-4:])
  plain, spark = (sorted(path.relative_to(one) for path in one.rglob("*")) for one in folders.values())
  assert plain == spark
  files = [str(name) for name in plain if (folders["plain"] / name).is_file()]
  assert {"dataset.json"} < set(files)
  assert filecmp.cmpfiles(*folders.values(), files, shallow=False) == (files, [], [])
