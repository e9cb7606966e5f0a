"""The memory of programs on one device, by kind, as a table of 80 columns: of plans and of runs."""

from collections.abc import Mapping

from rlreason.parallel.memory import KINDS

LEAST_NAME, MOST_NAME = 12, 13  # columns of the names
_TITLES = ("params", "moments", "grads", "cache", "activ.", "rows", "all")


def name_of(stage: str, program: str) -> str:
  """The name of a row; of a long one the stage's name is cut."""
  return f"{stage[:max(1, MOST_NAME - 1 - len(program))]} {program}"[:MOST_NAME]


def unit_of(largest: float) -> tuple[float, str]:
  """The unit of a table whose largest entry has so many bytes, and its name."""
  return (1e9, "GB") if largest > 1e9 else (1e6, "MB")


def head(unit: tuple[float, str], total: float, width: int = MOST_NAME) -> str:
  """The first line; `total` is the memory of the device in bytes."""
  size, label = unit
  return (f"{label + ' a device':{width}}"[:width] + "".join(f"{title:>8}" for title in _TITLES)
          + f"  of {total / size:,.{1 if size == 1e9 else 0}f}")


def row(
    name: str, sizes: Mapping[str, float], unit: tuple[float, str], total: float, *,
    fits: bool | None = None, width: int = MOST_NAME,
) -> str:
  """The line of a program: bytes by kind, their sum, and its share of the device's memory.

  `fits` is whether it does, if the sum does not say so.
  """
  everything = sum(sizes.values())
  cells = [sizes.get(kind, 0) for kind in KINDS] + [everything]
  is_refused = everything > total if fits is None else not fits
  return (f"{name:{width}}"[:width] + "".join(f"{cell / unit[0]:8.2f}" for cell in cells)
          + f"{everything / total:>6.0%}" + (" NO" if is_refused else ""))
