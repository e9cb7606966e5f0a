"""Attributes of a package that are imported when they are first used.

`import rlreason` then takes no time, and a worker process that needs one module loads only that.
"""

from collections.abc import Callable, Mapping, Sequence
import importlib
from typing import Any
import warnings

from rlreason import users


def attributes(
    package: str, names: Sequence[str], homes: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """`__getattr__` and `__dir__` of a package.

  Args:
    package: its full name.
    names: those of its attributes.
    homes: for some of them, the module that defines each; the others are modules of the package.
  """
  def get(name: str) -> Any:
    if name in (homes or {}):
      return getattr(importlib.import_module(homes[name]), name)
    if name in names:
      return importlib.import_module(f"{package}.{name}")
    found = users.MOVED.get(f"{package}.{name}")
    if found is None:
      raise AttributeError(
          f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")
    warnings.warn(f"{package}.{name} is now {found}", FutureWarning, stacklevel=2)
    return importlib.import_module(found)

  return get, lambda: list(names)
