"""The log that a command reads: files that its flags name, or what the config names."""

from lcn_tf.config import Records
from lcn_tf.data.build import tables
from lcn_tf.errors import UserError


def read(
  records: Records,
  interactions: str | None,
  items: str | None,
  users: str | None,
  begins: bool = True,
  memory: int | None = None,
) -> tables.RawTables:
  """The raw tables of a log.

  Args:
    records: Section `records` of the experiment.
    interactions, items, users: Parquet files or folders of them; None = not given.
    begins: True if the log begins; one that extends records may lack items.
    memory: Bytes for interactions that are looked at together; see `tables.read`.

  Raises:
    UserError: Some of the files are given and others lack, none is given and none is named, or they cannot be read.
  """
  if interactions and (items or not begins):
    return tables.read(interactions, items, users, memory)
  if interactions or items or users:
    raise UserError("--interactions and --items belong together (and --users to them); with --extend --items may lack")
  if records.interactions == "files":
    raise UserError("records.interactions is 'files', so --interactions and --items (and --users) must say which")
  from lcn_tf.data.sources import public  # its sources take a second to load

  return public.prepare(records)
