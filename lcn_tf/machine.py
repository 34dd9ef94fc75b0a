"""The cores and GPUs of a machine, in shares for several processes."""

import itertools
import os
import pathlib
import re

_GPU = re.compile(r"\d+|(GPU|MIG)-.+")  # in CUDA_VISIBLE_DEVICES


def threads(jobs: int) -> dict[str, str]:
  """Environment variables that give each of several processes its share of the cores; none for one process."""
  if jobs == 1:
    return {}
  share = str(max(1, len(os.sched_getaffinity(0)) // jobs))
  return {"TF_NUM_INTRAOP_THREADS": share, "TF_NUM_INTEROP_THREADS": share}


def shares(jobs: int) -> list[dict[str, str]]:
  """Environment variables that give each of several processes its share of the GPUs; none for one process, or no GPU.

  All processes get the same number, as replicas share a batch equally. The remaining GPUs stay idle. Fewer GPUs than
  processes are shared in turn.
  """
  there = gpus()
  if jobs == 1 or not there:
    return [{} for _ in range(jobs)]
  each = len(there) // jobs
  if each:
    return [{"CUDA_VISIBLE_DEVICES": ",".join(there[slot * each : (slot + 1) * each])} for slot in range(jobs)]
  # TensorFlow takes all memory of a GPU at once otherwise
  growth = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
  return [{"CUDA_VISIBLE_DEVICES": there[slot % len(there)], **growth} for slot in range(jobs)]


def gpus() -> list[str]:
  """Names of the GPUs for CUDA_VISIBLE_DEVICES. TensorFlow is not asked for them: it would take their memory."""
  named = os.environ.get("CUDA_VISIBLE_DEVICES")
  if named is None:
    # CUDA numbers those that are here, whatever their device files are called
    return [str(i) for i, _ in enumerate(pathlib.Path("/dev").glob("nvidia[0-9]*"))]
  # as CUDA reads it: nothing counts from the first that is none
  return list(itertools.takewhile(_GPU.fullmatch, (name.strip() for name in named.split(","))))
