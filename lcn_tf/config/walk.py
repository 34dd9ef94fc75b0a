"""The `walk` section: training along a log, period by period."""

import pydantic

from lcn_tf.config.types import Count, Positive
from lcn_tf.schema import Strict


class Walk(Strict):
  """The `walk` section, which `pipelines.walk` alone reads."""

  start: float = pydantic.Field(0.5, gt=0, lt=1)
  """Quantile of the interactions' times (both domains) at which the first period begins. The base is older."""
  period: Positive = 86_400
  """Seconds of a period. A period without candidates is joined to the next one."""
  periods: Count = 10
  """Number of periods; 0 = all, to the end of the log."""
  epochs: Positive = 1
  """Passes over the records of a period, after its candidates were scored."""
  frozen: bool = True
  """Scores of the base's model for the candidates of every period, too. It grows by the new ids and is not trained."""
  keep: Count = 2
  """Newest periods whose records and checkpoints stay, and the base's checkpoints with `frozen`; 0 = all stay."""
