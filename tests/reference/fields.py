"""Embeddings of fields, one value at a time."""

import numpy as np


def embed_fields(fields, indices, values, tables, slopes, end=""):
  """The embedding of each field of one user, item, candidate or behaviour.

  Args:
    fields: Fields, in the order of the columns.
    indices: Vocabulary indices, one per value of a field; 0 = no value.
    values: Float values: one of a standardised number, a weight per value of a weighted list, none of other fields.
    tables: Embedding tables by name.
    slopes: Vectors of the standardised fields, by name of the table.
    end: End of the tables' names.
  """
  indices, values = list(indices), list(values)
  found = []
  for field in fields:
    name = field.vocabulary + end
    own = [int(indices.pop(0)) for _ in range(field.max_values)]
    if field.max_values == 1:
      row = tables[name][own[0]]
      found.append(row + values.pop(0) * slopes[name] if field.standardise else row)
      continue
    weights = [values.pop(0) if field.weights else 1.0 for _ in own]
    total, weight_sum = np.zeros(tables[name].shape[1]), 0.0
    for index, weight in zip(own, weights, strict=True):
      if index > 0:
        total, weight_sum = total + weight * tables[name][index], weight_sum + weight
    found.append(total / weight_sum if weight_sum else total)
  assert not indices
  assert not values
  return found


def project_vectors(vectors, values, kernels):
  """The projection of each vector of one user.

  Args:
    vectors: Vectors of the schema, in the order of the columns.
    values: Numbers of all vectors, side by side.
    kernels: Projections `[width, columns]` by name.
  """
  values = list(values)
  found = []
  for vector in vectors:
    own = [values.pop(0) for _ in range(vector.width)]
    found.append(sum(number * row for number, row in zip(own, np.asarray(kernels[vector.name]), strict=True)))
  assert not values
  return found
