"""Reading the fields of a configuration file."""

from collections.abc import Collection, Mapping
import reprlib
from typing import Any

import numpy as np


MAX_WHOLE = 2**31 - 1  # of sizes and positions, which are i32
_MAX_NUMBER = float(np.finfo(np.float32).max)
_MIN_NUMBER = float(np.finfo(np.float32).tiny)  # smaller ones become 0
_KINDS = {  # what a field may be -> whether a value is that; True is not a number
    "whole number": lambda value: type(value) is int and 0 <= value <= MAX_WHOLE,
    "whole number above 0": lambda value: type(value) is int and 0 < value <= MAX_WHOLE,
    "positive number": lambda value: (
        type(value) in (int, float) and _MIN_NUMBER <= value <= _MAX_NUMBER),
    "number of 0 or more": lambda value: (
        type(value) in (int, float) and 0 <= value <= _MAX_NUMBER),
    "truth value": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}
_LIMITS = dict.fromkeys(("whole number", "whole number above 0"), f" up to {MAX_WHOLE}") | (
    dict.fromkeys(("positive number", "number of 0 or more"), " that f32 has"))


def check_kinds(
    fields: Mapping[str, Any], kinds: Mapping[str, str], where: str = "config.json "
) -> None:
  """Checks the types of existing fields.

  Args:
    fields: field name to value.
    kinds: field name to its allowed kind: a key of the table above.
    where: prefix of the field's name in messages.

  Raises:
    ValueError: a field has another type; names it.
  """
  for name, kind in kinds.items():
    value = fields.get(name)
    if value is not None and not _KINDS[kind](value):
      raise ValueError(
          f"{where}{name}: got {short(value)}, allowed: a {kind}{_LIMITS.get(kind, '')}")


def required(fields: Mapping[str, Any], name: str, where: str = "config.json") -> Any:
  """The value of a field; raises ValueError if it is missing."""
  if fields.get(name) is None:
    raise ValueError(f"{where} {name}: missing; it holds {show(sorted(fields))}")
  return fields[name]


def choose(field: str, value: Any, allowed: Collection[Any]) -> Any:
  """`value`, if it is one of those allowed; raises ValueError otherwise."""
  if value not in allowed:
    raise ValueError(f"{field}: got {short(value)}, allowed: {show(allowed)}")
  return value


def show(values: Collection[Any]) -> str:
  """Names, or values, of a file as part of a message."""
  return ", ".join(text if text.isprintable() else repr(text) for text in map(str, values))


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 4, 120, 60, 120


def short(value: Any) -> str:
  """A value of a file, for a message: it may be long, or too deeply nested for `repr`."""
  return _SHORT.repr(value)


def shortest_float(value: float) -> float:
  """The shortest decimal number of an f32: 1e-05 and not 9.999999747378752e-06."""
  return float(str(np.float32(value)))
