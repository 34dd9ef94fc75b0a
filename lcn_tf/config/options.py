"""Check of `model.options` against the signature that takes them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pydantic

from lcn_tf.errors import UserError, unknown


def parameter_types(taker: Callable[..., Any]) -> dict[str, Any]:
  """Types of the named parameters of a function, by name; `Any` for a parameter without an annotation."""
  named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  parameters = [p for p in inspect.signature(taker).parameters.values() if p.kind in named and p.name != "self"]
  return {p.name: Any if p.annotation is p.empty else p.annotation for p in parameters}


def checked_options(where: str, types: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
  """The options, each converted to its type.

  YAML reads 1e2 as a string, and the string "false" would count as true.

  Args:
    where: First words of the error messages.
    types: Types of all options by name, as `parameter_types` returns them.
    given: Options by name.

  Raises:
    UserError: An option is unknown, or its value cannot be converted to its type without loss.
  """
  found = {}
  for name, value in given.items():
    if name not in types:
      raise unknown(where, "option", name, types)
    try:
      found[name] = pydantic.TypeAdapter(types[name]).validate_python(value)
    except pydantic.ValidationError as error:
      detail = error.errors()[0]
      place = "".join(f"[{part}]" for part in detail["loc"])
      raise UserError(f"{where}: {name}{place} is {value!r}: {detail['msg'].lower()}") from None
  return found
