"""What shipped experiments lose, however many processes share their steps."""

import numpy as np
import polars as pl

from lcn_tf.training.checkpoint_store import Store


def launched(train, workers, servers=0):
  """A printed command of one process as one of several."""
  flags = f"--workers {workers} --servers {servers}" if servers else f"--workers {workers}"
  return train.replace("python -m", f"python -m tools.launch_local {flags} -- python -m", 1)


def expect_same_losses(name, here, there, epochs):
  """Checks that two run folders have the same steps and epochs, and the same losses, which it prints."""
  assert Store(there, "last").newest() == Store(here, "last").newest()
  one, other = (pl.read_csv(folder / "history.csv") for folder in (here, there))
  losses = [column for column in one.columns if "loss" in column]
  assert {"loss", "ctr_loss", "val_logloss"} <= set(losses)
  assert one["epoch"].to_list() == other["epoch"].to_list() == epochs
  print(name, one.row(-1, named=True), other.row(-1, named=True))
  np.testing.assert_allclose(other.select(losses).to_numpy(), one.select(losses).to_numpy(), rtol=1e-4)
