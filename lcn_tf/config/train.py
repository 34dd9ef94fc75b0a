"""The `train` section: one training job."""

from typing import Literal

import pydantic

from lcn_tf.config.types import Count, Positive, Rate
from lcn_tf.schema import Strict


class Train(Strict):
  """The `train` section."""

  preset: Literal["lcn", "twin"] = "lcn"
  """Optimizers: `lcn`, Adam on everything (row-wise on the tables); `twin`, AdaGrad on the tables and Adam on the
  rest."""
  learning_rate: Rate = 1e-3
  """Learning rate of the dense weights."""
  table_learning_rate: Rate | None = None
  """Learning rate of the tables; null = the preset's (`lcn`: learning_rate, `twin`: 0.05)."""
  schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
  """Course of both learning rates after the warm-up: `constant`; `linear` or `cosine`, down to `decay_factor` of the
  rate in `decay_steps`, where it stays; `step`, times `decay_factor` after every `decay_steps`."""
  warmup_steps: Count = 0
  """First steps of the job, over which both learning rates rise linearly from 0; 0 = none."""
  decay_steps: Count = 0
  """Steps of the decay that `schedule` names; it needs them unless it is `constant`."""
  decay_factor: float = pydantic.Field(0.1, ge=0, le=1)
  """Share of the learning rates that is left after `decay_steps`."""
  clip_norm: float = pydantic.Field(0.0, ge=0, allow_inf_nan=False)
  """Largest norm of the gradients of all dense weights together, summed over replicas; longer ones are shortened to it.
  0 = none. Rows of the tables are not clipped."""
  global_batch_size: Positive = 2048
  """Candidates per step, summed over replicas; a multiple of replicas x schema.candidates."""
  micro_batches: Positive = 1
  """Parts in which a step reads its batch, one after another, for less memory; they divide the requests of a replica.
  Losses and gradients are those of the whole batch, except CRP's, which are means over the parts: its negatives are of
  the same part."""
  ema_decay: float = pydantic.Field(0.0, ge=0, lt=1)
  """Decay of the moving averages of the dense weights, which are validated and exported then; 0 = none. Tables are not
  averaged."""
  source_ratio: Rate = 1.0
  """Source-domain requests per target-domain request of a batch, for models that learn from both."""
  epochs: Positive = 1
  """Passes over the training records."""
  steps_per_epoch: Count = 0
  """Steps of an epoch; 0 = all training records."""
  steps_per_execution: Positive = 1
  """Steps per call into the graph; 1 with several replicas, which exchange other rows in every step."""
  strategy: Literal["mirrored", "multi_worker", "parameter_server"] = "mirrored"
  """Distribution: `mirrored`, all visible GPUs of one machine, or logical CPU devices where there is none;
  `multi_worker`, the same command in every process that TF_CONFIG names, with one run folder that all of them see;
  `parameter_server`, the same for a chief, workers and servers (`ps`), which hold the tables in parts."""
  table_part_bytes: Positive = 2**20
  """Smallest part of a table, in bytes, that a server holds by itself (`parameter_server`)."""
  replicas: Count = 0
  """GPUs or logical CPU devices; 0 = all GPUs, or one CPU device."""
  mixed_precision: bool = False
  """bfloat16 compute, without loss scaling. Softmax, losses, and sums over behaviours of one age or one item are
  float32. Search scores are bfloat16 products, so behaviours may tie that the export, which computes in float32,
  tells apart. SIM's frozen vectors are always compared in float32."""
  jit_compile: bool = False
  """Compilation with XLA."""
  validates: bool = pydantic.Field(True, alias="validate")
  """Validation after every epoch, with the validation split of the records. Without it no such split is needed, no
  epoch is the best, training does not stop early, and the last epoch is the one that is exported and evaluated."""
  early_stopping: Count = 2
  """Epochs without a better validation AUC after which the job stops; 0 = never."""
  early_stopping_after: Count = 0
  """First epochs that `early_stopping` does not count. Models of sparse logs may stay at an AUC of 0.5 for several
  epochs before they learn."""
  shuffle_buffer: Positive = 8192
  """Records that are shuffled at a time, per domain."""
  length_buckets: tuple[Positive, ...] = ()
  """Widths of a batch's histories. A batch gets the smallest that holds its longest history. Empty = four to an octave,
  or powers of two with `jit_compile`, which compiles every pair of widths."""
  on_corrupt: Literal["error", "skip"] = "error"
  """Treatment of a broken record: `error` stops the job; `skip` counts, logs and leaves it out."""
  row_decay: float = pydantic.Field(0.0, ge=0)
  """Decoupled weight decay of the table rows that a step reads (preset `lcn`)."""
  checkpoint_every: Count = 0
  """Steps between checkpoints within an epoch; 0 = at its end, and by the clock."""
  checkpoint_minutes: float = pydantic.Field(10.0, ge=0)
  """Minutes between checkpoints within an epoch; 0 = at its end, and by the steps."""
  keep_checkpoints: Positive = 2
  """Newest checkpoints that stay in `checkpoints/last`. `pipelines.consistency --stale_checkpoint` reads older ones."""
  log_every: Count = 100
  """Steps between two points of the curves of `tensorboard/steps`, and between two versions of `metrics.prom`; 0 =
  neither."""
  profile: tuple[Positive, Positive] | None = None
  """First and last step of the job that TensorFlow's profiler records, counted from 1, for TensorBoard; null = none."""
  warm_start: str = ""
  """Run folder of the same model whose best weights the job begins with. The schema of its records is the same; where
  vocabularies differ, rows are carried by value. Empty = random weights."""
  warm_start_slots: bool = True
  """Use of the state of the run's optimizers (moments, accumulators and numbers of steps) by `warm_start`. Without it,
  and with another preset than the run's, the optimizers begin anew."""
  seed: Count = 0
  """Seed of weights, order of the records and dropout."""

  @property
  def changing_rate(self) -> bool:
    """Whether the learning rates are not those of the config in every step."""
    return self.warmup_steps > 0 or self.schedule != "constant"

  @pydantic.model_validator(mode="after")
  def _decays(self) -> "Train":
    if self.row_decay and self.preset == "twin":
      raise ValueError(
        f"row_decay {self.row_decay} is of preset 'lcn'; AdaGrad, the tables' optimizer of 'twin', has none"
      )
    return self

  @pydantic.model_validator(mode="after")
  def _has_servers(self) -> "Train":
    if self.strategy != "parameter_server":
      return self
    for name, value in (
      ("replicas", self.replicas > 1),
      ("steps_per_execution", self.steps_per_execution > 1),
      ("jit_compile", self.jit_compile),
      ("profile", self.profile),
      ("on_corrupt", self.on_corrupt == "skip"),
    ):
      if value:
        raise ValueError(f"{name} {getattr(self, name)!r} is not for strategy 'parameter_server'")
    return self

  @pydantic.field_validator("profile")
  @classmethod
  def _is_a_window(cls, profile: tuple[int, int] | None) -> tuple[int, int] | None:
    if profile and profile[0] > profile[1]:
      raise ValueError(f"the first step is above the last one: {list(profile)}")
    return profile

  @pydantic.model_validator(mode="after")
  def _has_a_course(self) -> "Train":
    if (self.schedule == "constant") != (self.decay_steps == 0):
      raise ValueError(
        f"decay_steps {self.decay_steps} with schedule {self.schedule!r}; expected a number of steps for 'linear', "
        "'cosine' and 'step', and 0 for 'constant'"
      )
    return self


def patience_is_over(epochs: int, best: int, patience: int, after: int = 0) -> bool:
  """Whether early stopping ends a job.

  Args:
    epochs: Number of finished epochs.
    best: Number of the best epoch, from 1; 0 = none is the best, and the job goes on.
    patience: Number of epochs without a better one, `Train.early_stopping`; 0 = never.
    after: Number of first epochs that do not count, `Train.early_stopping_after`.
  """
  return patience > 0 and best > 0 and epochs - max(best, after) >= patience
