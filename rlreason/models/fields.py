"""Reading the fields of a configuration file."""

from collections.abc import Collection, Mapping
import math
from typing import Any

import numpy as np


_KINDS = {  # what a field may be -> whether a value is that; True is no number
    "whole number": lambda value: type(value) is int and value >= 0,
    "positive number": lambda value: type(value) in (int, float) and 0 < value < math.inf,
    "number of 0 or more": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    "truth value": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}


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
      raise ValueError(f"{where}{name}: got {value!r}, expected a {kind}")


def required(fields: Mapping[str, Any], name: str, where: str = "config.json") -> Any:
  """The value of a field; raises ValueError where there is none."""
  if fields.get(name) is None:
    raise ValueError(f"{where} {name}: missing; it holds {show(sorted(fields))}")
  return fields[name]


def choose(field: str, value: Any, allowed: Collection[Any]) -> Any:
  """`value`, if it is one of those allowed; raises ValueError otherwise."""
  if value not in allowed:
    raise ValueError(f"{field}: got {value!r}, allowed: {show(allowed)}")
  return value


def show(values: Collection[Any]) -> str:
  return ", ".join(map(str, values))


def shortest_float(value: float) -> float:
  """The decimal number an f32 was written for: 1e-05 and not 9.999999747378752e-06."""
  return float(str(np.float32(value)))
