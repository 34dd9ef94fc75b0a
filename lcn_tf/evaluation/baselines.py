"""Baselines that read no history with a network: the least that a model has to beat.

    item_popularity       positives of the candidate's item in the training records
    item_mean             the item's mean label there, smoothed with the mean m of all:
                          (positives + 10 m) / (count + 10)
    user_mean_item_mean   a logistic regression on the user's mean and the item's mean

The user's mean: where behaviours of the target domain carry a cross field named `rating`, the mean of the ratings that
the candidate may see (smoothed with one rating of the average); elsewhere the user's mean label in the training
records (smoothed like the item's).
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
from absl import logging

from lcn_tf import files, formats, metrics
from lcn_tf.data.read import dataset, diagnosis
from lcn_tf.data.record_set import RecordSet
from lcn_tf.errors import UserError
from lcn_tf.evaluation import predictions

NAMES = ("item_popularity", "item_mean", "user_mean_item_mean")
SMOOTHING = 10.0  # candidates with the mean label
RATING = "rating"
RATING_SMOOTHING = 1.0  # ratings of the average


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Sums over the training candidates.

  Attributes:
    item_count, item_positives: Per row of the target catalogue.
    user_count, user_positives: Per user index.
  """

  item_count: np.ndarray
  item_positives: np.ndarray
  user_count: np.ndarray
  user_positives: np.ndarray

  @property
  def mean(self) -> float:
    """The mean label."""
    return float(self.item_positives.sum() / max(self.item_count.sum(), 1e-12))


def statistics(record_set: RecordSet, *, requests: int = 256, on_corrupt: dataset.OnCorrupt = "error") -> Statistics:
  """Counts of the training records' candidates and positives, by their weights."""
  items = record_set.record_schema.target.items
  sums = {"item": np.zeros((2, items)), "user": np.zeros((2, 0))}
  with diagnosis.guard(record_set, "train"):
    for batch in dataset.evaluation_batches(record_set, "train", requests=requests, on_corrupt=on_corrupt):
      chunk = predictions.columns({name: tensor.numpy() for name, tensor in batch.items()}, record_set)
      for name in sums:
        total = max(sums[name].shape[1], int(chunk[name].max()) + 1)
        found = [
          np.bincount(chunk[name], weight, total) for weight in (chunk["weight"], chunk["weight"] * chunk["label"])
        ]
        sums[name] = np.pad(sums[name], ((0, 0), (0, total - sums[name].shape[1]))) + found
  return Statistics(*sums["item"], *sums["user"])


def features(
  record_set: RecordSet,
  split: str,
  known: Statistics,
  *,
  requests: int = 256,
  on_corrupt: dataset.OnCorrupt = "error",
) -> dict[str, np.ndarray]:
  """The candidates of a split, with the features of the baselines.

  Returns:
    The columns of the predictions except `probability`, and `item_popularity`, `item_mean` and `user_mean`, each
    `[candidates]`.
  """
  ratings = _rating_values(record_set)
  chunks = []
  with diagnosis.guard(record_set, split):
    for batch in dataset.evaluation_batches(record_set, split, requests=requests, on_corrupt=on_corrupt):
      arrays = {name: tensor.numpy() for name, tensor in batch.items()}
      chunk = predictions.columns(arrays, record_set)
      chunk["item_popularity"] = known.item_positives[chunk["item"]]
      chunk["item_mean"] = _smoothed(known.item_positives, known.item_count, chunk["item"], known.mean)
      if ratings is None:
        chunk["user_mean"] = _smoothed(known.user_positives, known.user_count, chunk["user"], known.mean)
      else:
        chunk["user_mean"] = _visible_mean(arrays, record_set, *ratings)[arrays["candidate_mask"]]
      chunks.append(chunk)
  return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def run(
  record_set: RecordSet,
  output: str | pathlib.Path,
  *,
  split: str = "test",
  bootstrap: int = 200,
  seed: int = 0,
  on_corrupt: dataset.OnCorrupt = "error",
) -> dict[str, dict[str, Any]]:
  """Scores a split with every baseline; leaves `baselines.json` and `<name>.parquet` (predictions) in `output`.

  The regression is fitted on the validation split, whose labels are not among those of the item means. It is fitted on
  the training split if the validation split is missing or is the one to score. Without labels of both classes there is
  no regression.

  A broken record is an error, or, if `on_corrupt` is `skip`, logged and left out.

  Returns:
    Metrics by baseline, as in `metrics.json`. Popularity is no probability and has no logloss and no calibration.

  Raises:
    UserError: The split is missing, the split is the training split, or a record is broken.
  """
  record_set.part(split)
  if split == "train":
    raise UserError("baselines: the means of items and users hold the labels of the train split; score another one")
  record_set.part("train")
  output = files.make(output)
  known = statistics(record_set, on_corrupt=on_corrupt)
  table = features(record_set, split, known, on_corrupt=on_corrupt)
  scores = {name: table[name] for name in ("item_popularity", "item_mean")}
  others = [name for name in ("validation", "train") if name != split and "target" in record_set.splits.get(name, {})]
  fitted_on = others[0]
  regression = _fit(features(record_set, fitted_on, known, on_corrupt=on_corrupt))
  if regression is None:
    logging.warning("the labels of the %s split are all alike: user_mean_item_mean is left out", fitted_on)
  else:
    scores["user_mean_item_mean"] = regression.predict_proba(_inputs(table))[:, 1]
  found, frames = {}, {}
  for name, score in scores.items():
    frame = predictions.collect([{**table, "probability": score.astype(np.float32)}], record_set)
    frames[f"{name}.parquet"] = frame.write_parquet
    scored = predictions.scored(frame)
    found[name] = metrics.summary(scored, replicates=bootstrap, seed=seed) | {
      "seed": None,
      "split": split,
      "fingerprint": record_set.fingerprint,
      "model": {"name": name},
      "records": predictions.records_read(record_set, split, "target", scored.scores.size),
    }
    if name == "item_popularity":
      found[name] |= {"logloss": float("nan"), "calibration": float("nan")}
      found[name]["confidence"]["logloss"] = [float("nan")] * 2
    logging.info("%s: AUC %.4f, GAUC %.4f", name, found[name]["auc"], found[name]["gauc"])
  files.publish(output, "the baselines", {**frames, "baselines.json": formats.to_json(found)})
  return found


def _smoothed(positives: np.ndarray, count: np.ndarray, index: np.ndarray, mean: float) -> np.ndarray:
  """Mean labels at `index`; an index beyond the arrays was never seen."""
  seen = index < len(count)
  at = np.where(seen, index, 0)
  return np.where(seen, (positives[at] + SMOOTHING * mean) / (count[at] + SMOOTHING), mean)


def _rating_values(record_set: RecordSet) -> tuple[int, np.ndarray] | None:
  """The column of the rating among the cross fields of the target history, and the number of each index.

  Padding and indices out of vocabulary are NaN. None without a field named `rating`.
  """
  names = [field.name for field in record_set.record_schema.target.cross_fields]
  if RATING not in names:
    return None
  column = names.index(RATING)
  vocabulary = record_set.record_schema.target.cross_fields[column].vocabulary
  file = f"vocabularies/{vocabulary}.parquet"
  if not record_set.has(file):
    return None
  table = record_set.table(file).with_columns(pl.col("value").cast(pl.Float64, strict=False))
  value = np.full(record_set.record_schema.vocabularies[vocabulary].size, np.nan)
  value[table["index"].to_numpy()] = table["value"].fill_null(float("nan")).to_numpy()
  return (column, value) if np.isfinite(value).any() else None


def _visible_mean(batch: Mapping[str, np.ndarray], record_set: RecordSet, column: int, value: np.ndarray) -> np.ndarray:
  """Smoothed mean of the ratings that each candidate may see, `[B, N]`."""
  average = float(np.nanmean(value))
  width = batch["target_items"].shape[1]
  rated = value[batch["target_cross"][:, :, column]]
  real = (np.arange(width) < batch["target_length"][:, np.newaxis]) & np.isfinite(rated)

  def before(array: np.ndarray) -> np.ndarray:
    return np.pad(np.cumsum(array, 1, dtype=np.float64), ((0, 0), (1, 0)))

  total, count = before(np.where(real, rated, 0.0)), before(real)
  first = np.minimum(batch["target_first_visible"], width)
  end = np.minimum(first + record_set.record_schema.target.max_length, width)

  def between(cumulative: np.ndarray) -> np.ndarray:
    return np.take_along_axis(cumulative, end, 1) - np.take_along_axis(cumulative, first, 1)

  return (between(total) + RATING_SMOOTHING * average) / (between(count) + RATING_SMOOTHING)


def _inputs(table: Mapping[str, np.ndarray]) -> np.ndarray:
  return np.stack([table["user_mean"], table["item_mean"]], 1)


def _fit(table: Mapping[str, np.ndarray]) -> Any:
  if np.ptp(table["label"]) == 0:
    return None
  regression = sklearn.pipeline.make_pipeline(
    sklearn.preprocessing.StandardScaler(), sklearn.linear_model.LogisticRegression(C=1e6, max_iter=1000)
  )
  return regression.fit(
    _inputs(table), table["label"] == 1, logisticregression__sample_weight=table["weight"].astype(np.float64)
  )
