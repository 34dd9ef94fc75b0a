"""How long ten million candidates take."""

import time

import numpy as np
import pytest

from lcn_tf import metrics


@pytest.mark.slow
def test_ten_million_candidates_are_measured_in_half_a_minute():
  rng = np.random.default_rng(0)
  users = rng.integers(0, 500_000, 10_000_000)
  labels = rng.random(10_000_000) < 0.2
  scores = np.clip(rng.normal(0.2 + 0.1 * labels, 0.1), 0.001, 0.999).astype(np.float32)
  began = time.perf_counter()
  found = [metrics.auc(scores, labels), metrics.gauc(scores, labels, users)]
  found += [metrics.logloss(scores, labels), metrics.calibration(scores, labels)]
  seconds = time.perf_counter() - began
  print(f"10M candidates: {seconds:.1f} s, {found}")
  assert np.isfinite(found).all()
  assert found[0] == pytest.approx(0.76, abs=0.01)
  assert seconds < 30
