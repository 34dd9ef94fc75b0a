"""`train.source_ratio`: how many source-domain requests accompany those of the target domain."""

import pytest

from lcn_tf.training import streams, trainer
from tests.support.experiments import small_experiment


class _Asked(Exception):
  pass


@pytest.mark.parametrize(("ratio", "replicas", "expected"), [(2, 1, 32), (0.01, 1, 1), (0.5, 2, 8), (0.3, 2, 4)])
def test_source_ratio_reaches_the_stream_as_a_whole_share_for_each_replica(
  record_set, tmp_path, monkeypatch, ratio, replicas, expected
):
  def asked(*arguments, **options):
    raise _Asked(options)

  monkeypatch.setattr(streams, "training_batches", asked)
  experiment = small_experiment("average_pooling", crp=True, source_ratio=ratio, replicas=replicas)
  with pytest.raises(_Asked) as caught:
    trainer.train(experiment, record_set, tmp_path)
  (options,) = caught.value.args
  assert options["domains"] == ("target", "source")
  assert (options["requests"], options["second_requests"]) == (16, expected)
