"""Scored candidates with planted qualities: users like genres, and models know that more or less well."""

import pathlib

import numpy as np
import polars as pl

GENRES = ("drama", "comedy", "horror")


def log(users: int = 150, requests: int = 4, seed: int = 0) -> pl.DataFrame:
  """Candidates with the columns of a file that was scored elsewhere; ids are texts.

  `truth` is the probability of the label, which is the best score there is.

  Args:
    users: Users; each has a taste of his own for each genre.
    requests: Requests of each, of six candidates.
    seed: Seed of all that is random.
  """
  rng = np.random.default_rng(seed)
  user = np.repeat(np.arange(users), requests * 6)
  genre = rng.integers(0, len(GENRES), len(user))
  logit = rng.normal(0, 1.2, (users, len(GENRES)))[user, genre] + rng.normal(0, 0.5, len(user)) - 0.8
  truth = 1 / (1 + np.exp(-logit))
  return pl.DataFrame(
    {
      "user": [f"user-{u}" for u in user],
      "timestamp": 1_700_000_000 + 5400 * (np.arange(len(user)) // 6),
      "label": (rng.random(len(user)) < truth).astype(np.int64),
      "probability": truth,
      "genre": [GENRES[g] for g in genre],
      "tags": [[GENRES[g]] if g else [GENRES[g], "new"] for g in genre],
      "price": np.round(rng.lognormal(2, 1, len(user)), 2),
      "stars": rng.integers(1, 6, len(user)),
    }
  )


def noisy(frame: pl.DataFrame, noise: float, genre: str = "", seed: int = 1) -> pl.DataFrame:
  """The same candidates from a worse model: its logits have noise, of all genres or of one."""
  rng = np.random.default_rng(seed)
  probability = frame["probability"].to_numpy()
  logit = np.log(probability / (1 - probability)) + rng.normal(0, noise, len(frame))
  worse = 1 / (1 + np.exp(-logit))
  there = (frame["genre"] == genre).to_numpy() if genre else np.ones(len(frame), bool)
  return frame.with_columns(probability=pl.Series(np.where(there, worse, probability)))


def write(path: pathlib.Path, frame: pl.DataFrame) -> str:
  """Writes a predictions file; returns its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  frame.write_parquet(path)
  return str(path)
