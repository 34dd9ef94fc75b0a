"""Check of `model.options` against the signature that takes them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from lcn_tf.errors import UserError, unknown


def checked_options(
  where: str, taker: Callable[..., Any], known: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
  """The options, each converted to the type of its annotation.

  YAML reads 1e2 as a string, and the string "false" would count as true.

  Args:
    where: First words of the error messages.
    taker: Function or class that takes the options. Its annotations are the types. An option that is no parameter is
      not converted.
    known: Names of all options.
    given: Options by name.

  Raises:
    UserError: An option is unknown, or its value cannot be converted to its type without loss.
  """
  parameters = inspect.signature(taker).parameters
  found = {}
  for name, value in given.items():
    if name not in known:
      raise unknown(where, "option", name, known)
    kind = parameters[name].annotation if name in parameters else Any
    try:
      found[name] = pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError as error:
      detail = error.errors()[0]
      place = "".join(f"[{part}]" for part in detail["loc"])
      raise UserError(f"{where}: {name}{place} is {value!r}: {detail['msg'].lower()}") from None
  return found
