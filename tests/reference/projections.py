"""Twin of lcn_tf/models/projections.py: TWIN's projections of items, item by item."""

import numpy as np


def of_items(model, domain):
  """K_h W_h of every catalogue row, from the tables by hand."""
  twin, embedder, schema = model.extractors[domain], model.embedder, model.schema
  rows = []
  for fields in embedder.catalogues[domain].numpy():
    parts, column = [], 0
    for feature in schema.catalogue_features(domain):
      ids = fields[column : column + feature.max_values]
      column += feature.max_values
      values = [embedder.tables.tables[feature.vocabulary].numpy()[i] for i in ids if i]
      parts.append(np.mean(values, axis=0) if values else np.zeros(8))
    item = np.concatenate(parts) @ embedder.projections[domain].kernel.numpy()
    rows.append(np.concatenate([item @ head for head in twin.key_weight.numpy()]))
  return np.array(rows)
