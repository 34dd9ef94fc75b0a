"""From YAML and `key.path=value` settings to typed objects, with one message per mistake."""

import typing
from typing import Any

import pydantic
import yaml

from lcn_tf import files
from lcn_tf.errors import UserError, nearest

_Config = typing.TypeVar("_Config", bound=pydantic.BaseModel)
# seven times as fast where PyYAML has libyaml
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_tree(path: str, model: type[pydantic.BaseModel]) -> dict[str, Any]:
  """The mapping that a YAML file holds, not yet checked; `model` is what it should describe.

  Raises:
    UserError: No such file, not YAML, or no mapping.
  """
  file = files.local(path)
  if not file.is_file():
    there = [str(p) for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
    raise UserError(f"{path}: no such config file.{nearest(path, there)}")
  try:
    tree = _parsed(file.read_text(encoding="utf-8"))
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
  if not isinstance(tree, dict):
    raise UserError(f"{path}: expected a mapping with the keys {', '.join(_keys(model))}")
  return tree


def validated(model: type[_Config], tree: dict[str, Any], where: str) -> _Config:
  """The `model` that a mapping describes.

  Raises:
    UserError: A message per mistake, headed by `where`; an unknown key is told with the nearest known one.
  """
  try:
    return model.model_validate(tree)
  except pydantic.ValidationError as error:
    raise UserError("\n".join(_message(model, where, detail) for detail in error.errors())) from None


def difference(asked: Any, found: Any, path: str, place: str) -> str:
  """Where the tree of a config differs first from the one found in `place`, in words; empty if it does not."""
  if isinstance(asked, dict) and isinstance(found, dict):
    keys = sorted(set(asked) | set(found))
    return next(filter(None, (difference(asked.get(k), found.get(k), f"{path}.{k}", place) for k in keys)), "")
  return "" if asked == found else f"{path} is {asked!r} in the config, {found!r} in the {place}"


def override(tree: dict[str, Any], setting: str, flag: str = "--set") -> None:
  """Sets what `key.path=value` says, the value in YAML.

  Raises:
    UserError: It says nothing of the kind; the message is headed by the flag that it came with.
  """
  path, equals, value = setting.partition("=")
  if not equals or not path:
    raise UserError(f"{flag} {setting}: expected key.path=value")
  try:
    parsed = _parsed(value)
  except yaml.YAMLError:
    raise UserError(f"{flag} {setting}: {value!r} is not a YAML value") from None
  assign(tree, path, parsed, f"{flag} {setting}")


def _parsed(text: str) -> Any:
  """The tree of a YAML text.

  Raises:
    yaml.YAMLError: The text is no YAML, or no tree.
  """
  try:
    value = yaml.load(text, _LOADER)
  except ValueError as error:  # of dates that are none
    raise yaml.YAMLError(str(error)) from None
  except RecursionError:
    raise yaml.YAMLError("nested too deeply") from None
  _check_tree(value, {})
  return value


def _check_tree(value: Any, finished: dict[int, bool]) -> None:
  """Looks at every node once, however many aliases stand for it; those that are not `finished` are above this one."""
  if not isinstance(value, (dict, list)) or finished.get(id(value)):
    return
  if id(value) in finished:
    raise yaml.YAMLError("an alias (*) stands within what it stands for")
  finished[id(value)] = False
  for part in value.values() if isinstance(value, dict) else value:
    _check_tree(part, finished)
  finished[id(value)] = True


def assign(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
  """Sets `key.path` in a tree, making what is missing on the way.

  Raises:
    UserError: A key on the way holds a value; the message is headed by `where`.
  """
  *parents, last = path.split(".")
  node = tree
  for key in parents:
    if node.get(key) is None:
      node[key] = {}
    node = node[key]
    if not isinstance(node, dict):
      raise UserError(f"{where}: {key!r} holds a value, not further keys")
  node[last] = value


def _keys(model: type[pydantic.BaseModel]) -> list[str]:
  return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(root: type[pydantic.BaseModel], path: typing.Sequence[Any]) -> type[pydantic.BaseModel] | None:
  """The model class that the keys of `path` lead to from `root`."""
  model: Any = root
  name_follows = False
  for key in path:
    if isinstance(key, int) or name_follows:
      name_follows = False
      continue
    fields = {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}
    if key not in fields:
      return None
    options = [fields[key].annotation]
    while options:
      option = options.pop()
      name_follows = name_follows or typing.get_origin(option) is dict
      if isinstance(option, type) and issubclass(option, pydantic.BaseModel):
        model = option
        break
      options += typing.get_args(option)
  return model


def _message(root: type[pydantic.BaseModel], where: str, detail: Any) -> str:
  """The message of one mistake: the file, the key (none for a mistake of the whole `root`) and the reason."""
  location = detail["loc"]
  at = ": ".join(filter(None, [where, ".".join(str(part) for part in location)]))
  if detail["type"] == "extra_forbidden":
    model = _model_at(root, location[:-1])
    known = _keys(model) if model else []
    return f"{at}: unknown key.{nearest(str(location[-1]), known)} Known keys: {', '.join(known)}"
  if detail["type"] == "missing":
    return f"{at}: this key is missing"
  text = detail["msg"].removeprefix("Value error, ")
  if detail["type"] == "value_error":
    return f"{at}: {text}"
  return f"{at}: {text}; found {detail['input']!r}"
