"""Tables of item ids that begin with item vectors instead of random values."""

from collections.abc import Mapping

import numpy as np

from lcn_tf.config import Model
from lcn_tf.errors import UserError
from lcn_tf.layers.tables import initial_limit
from lcn_tf.pretraining.vectors import Pretrained
from lcn_tf.schema import DomainName, Schema, item_vocabulary


def id_tables(
  schema: Schema, config: Model, pretrained: Pretrained, catalogues: Mapping[DomainName, np.ndarray]
) -> dict[str, np.ndarray]:
  """The item vectors at the rows of their ids, as `model.embedding.init_from` begins with them.

  Columns of the vectors are in the order of their singular values, so the first ones are the best vectors of that
  width. The root mean square of the vectors of both domains becomes that of the table's random initial values, which is
  limit / sqrt(3). With `init: scaled_uniform` and tables of one width this is one factor for both domains. Rows of
  padding, of out-of-vocabulary values and of ids without a vector are zeros.

  Args:
    schema: Schema with sizes.
    config: `model` section of the experiment.
    pretrained: Item vectors `[items, P]` per domain.
    catalogues: Item catalogues `[items, columns]`, whose first column is the index of the id, of the domains that are
      read.

  Returns:
    Tables `[size, width]` float32 by vocabulary.

  Raises:
    UserError: The vectors are narrower than a table.
  """
  tables, limits = {}, {}
  for d, catalogue in catalogues.items():
    name, vectors = item_vocabulary(d), pretrained.vectors[d]
    vocabulary, width = schema.vocabularies[name], config.embedding.id_widths()[name]
    if vectors.shape[1] < width:
      raise UserError(
        f"model.embedding.init_from: the item vectors are {vectors.shape[1]} wide, fewer than the {width} columns of "
        f"the table of {name}. Run pipelines.pretrain with model.pretraining.dim {width}, or set "
        f"model.embedding.dims.{name} to {vectors.shape[1]}"
      )
    index = catalogue[:, 0]
    known = index > vocabulary.oov
    tables[name] = np.zeros((vocabulary.size, width), np.float32)
    tables[name][index[known]] = vectors[known, :width]
    limits[name] = initial_limit(config.embedding.init, vocabulary.size, width, config.embedding.init_scale)
  rows = [table[np.any(table != 0, axis=1)] for table in tables.values()]
  size = np.sqrt(sum(np.sum(np.square(part, dtype=np.float64)) for part in rows) / max(1, sum(p.size for p in rows)))
  return {name: table * np.float32(limits[name] / np.sqrt(3) / max(size, 1e-12)) for name, table in tables.items()}
