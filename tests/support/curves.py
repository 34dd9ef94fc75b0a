"""What TensorBoard shows of a run."""

import contextlib

import tensorflow as tf


def points(folder, torn=False):
  """The points of each curve of a folder of event files, in the order in which they were written.

  With `torn`, the end of a file may be cut off.
  """
  found = {}
  for file in sorted(folder.glob("events.*")):
    with contextlib.suppress(*([tf.errors.DataLossError] if torn else [])):
      for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
          found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
  return found
