"""Flags that name files and folders, which may lie in an object store."""

from typing import Literal

from absl import flags

from lcn_tf.remote import mirror, working

Use = Literal["input", "model", "records", "output", "new_records"]


class PathParser(flags.ArgumentParser):
  """A path or a URL.

  Attributes:
    use: Treatment of a URL. `input`: a file or a whole folder is copied. `model`: of an export folder the
      newest version is copied. `records`: it stays, for `RecordSet.open`. `output`: a working copy is put back at the
      end. `new_records`: the same for a record set, of which nothing is copied.
  """

  def __init__(self, use: Use):
    super().__init__()
    self.use = use

  def local(self, path: str) -> str:
    """The path that the command works with."""
    if self.use == "records":
      return path
    if self.use in ("output", "new_records"):
      return working.working(path, "records" if self.use == "new_records" else "folder")
    return mirror.copied_model(path) if self.use == "model" else mirror.copied(path)


def define_path(
  values: flags.FlagValues, name: str, help: str, use: Use, required: bool = False, multiple: bool = False
) -> flags.FlagHolder:  # type: ignore[type-arg]
  """Defines a flag that names a file or a folder.

  Args:
    values: Flags of the command.
    name: Name of the flag.
    help: Help text.
    use: Use of what it names, see `PathParser`.
    required: True if the flag has to be given.
    multiple: True if it may be repeated; the value is a list then.
  """
  parser = PathParser(use)
  if multiple:
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    default: list[str] | None = None if required else []
    return flags.DEFINE_multi(parser, serializer, name, default, help, flag_values=values, required=required)
  return flags.DEFINE(parser, name, None, help, flag_values=values, required=required)


def take(values: flags.FlagValues) -> None:
  """Gives path flags, whose values are read, the local paths that the command works with. Errors as `entry.parse`."""
  for name in values:
    flag = values[name]
    if isinstance(flag.parser, PathParser) and flag.value:
      paths = flag.value
      local = flag.parser.local
      flag.value = [local(path) for path in paths] if isinstance(paths, list) else local(paths)
