"""Local copies of inputs that lie in a store."""

import re

from lcn_tf.places import place
from lcn_tf.remote import store

_VERSION = re.compile(r"(\d+)/saved_model\.pb")
_OF_RUN = ("history.csv", "experiment.yaml")  # what an evaluation reads of the run beside an export


def copied(path: str) -> str:
  """The local copy of a file, or of a folder with all that is in it; a local path as it is."""
  where = store.url(path)
  if where is None:
    return path
  to = place(where)
  if (size := store.size(where)) is not None:
    store.fetch(where, to, size)
  else:
    store.fetch_all(store.listing(where), where, to)
  return str(to)


def copied_model(path: str) -> str:
  """The local copy of a SavedModel: of the newest version of an export folder alone, or of a file of predictions."""
  where = store.url(path)
  if where is None:
    return path
  if store.size(where) is not None:
    return copied(path)
  to, there = place(where), store.listing(where)
  numbers = [int(found[1]) for found in map(_VERSION.fullmatch, there) if found]
  export = where
  if "saved_model.pb" in there:
    export = where.rpartition("/")[0]
  elif numbers:
    there = {name: size for name, size in there.items() if name.startswith(f"{max(numbers)}/")}
  else:  # not a model: the message says so
    there = {name: size for name, size in there.items() if name.endswith("saved_model.pb")}
  store.fetch_all(there, where, to)
  run = export.rpartition("/")[0]
  for name in _OF_RUN if "/" in run.partition("://")[2] else ():
    if (size := store.size(f"{run}/{name}")) is not None:
      store.fetch(f"{run}/{name}", place(f"{run}/{name}"), size)
  return str(to)
