"""Reading the fields of a configuration file."""

from collections.abc import Collection, Mapping
import reprlib
from typing import Any

import numpy as np


MAX_WHOLE = 2**31 - 1  # of sizes and positions, which are i32
_MAX_NUMBER = float(np.finfo(np.float32).max)
_MIN_NUMBER = float(np.finfo(np.float32).tiny)  # smaller ones are 0 where they are used
_KINDS = {  # what a field may be -> whether a value is that; True is no number
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
  """Checks what the fields hold that are there.

  Args:
    fields: field name to value.
    kinds: field name to what it may be: a key of the table above.
    where: of messages, put before the field's name.

  Raises:
    ValueError: a field holds something else; names it.
  """
  for name, kind in kinds.items():
    value = fields.get(name)
    if value is not None and not _KINDS[kind](value):
      raise ValueError(
          f"{where}{name}: got {short(value)}, allowed: a {kind}{_LIMITS.get(kind, '')}")


def required(fields: Mapping[str, Any], name: str, where: str = "config.json") -> Any:
  """The value of a field; raises ValueError where there is none."""
  if fields.get(name) is None:
    raise ValueError(f"{where} {name}: missing; it holds {show(sorted(fields))}")
  return fields[name]


def choose(field: str, value: Any, allowed: Collection[Any]) -> Any:
  """`value`, if it is one of those allowed; raises ValueError otherwise."""
  if value not in allowed:
    raise ValueError(f"{field}: got {short(value)}, allowed: {show(allowed)}")
  return value


def show(values: Collection[Any]) -> str:
  """Names, or values, of a file as part of a line."""
  return ", ".join(text if text.isprintable() else repr(text) for text in map(str, values))


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 4, 120, 60, 120


def short(value: Any) -> str:
  """What a file holds, for a message: it may be long, or nested so deep that `repr` gives up."""
  return _SHORT.repr(value)


def shortest_float(value: float) -> float:
  """The decimal number an f32 was written for: 1e-05 and not 9.999999747378752e-06."""
  return float(str(np.float32(value)))
