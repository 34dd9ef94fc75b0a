"""The data sets that the program can make itself."""

from collections.abc import Callable

from lcn_tf.config import Records
from lcn_tf.data.build.tables import RawTables
from lcn_tf.data.sources import complete_journey, movielens, synthetic
from lcn_tf.errors import unknown

__all__ = ["DATA_SETS", "RawTables", "prepare"]

DATA_SETS: dict[str, Callable[[Records], RawTables]] = {
  "movielens": lambda config: movielens.read(config.raw),
  "complete_journey": lambda config: complete_journey.read(config.raw),
  "synthetic": lambda config: synthetic.generate(config.synthetic, config.seed),
}


def prepare(config: Records) -> RawTables:
  """The tables of the data set that `config.interactions` names.

  Raises:
    UserError: It names none of `DATA_SETS` (`files` are read from the command's flags), or its raw files cannot be had.
  """
  if config.interactions not in DATA_SETS:
    raise unknown("records.interactions", "data set", config.interactions, DATA_SETS)
  return DATA_SETS[config.interactions](config)
