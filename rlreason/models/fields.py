"""Reading the fields of a configuration file."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


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
