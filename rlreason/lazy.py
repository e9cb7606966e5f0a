"""Attributes of a package that are imported when they are first used.

`import rlreason` then takes no time, and a worker process that needs one module loads only that.
"""

from collections.abc import Callable, Mapping, Sequence
import importlib
from typing import Any
import warnings

# Modules that have moved -> where they are. For one release the old name is an attribute of its
# package still, and configs may name functions by it.
MOVED = {
    "rlreason.data.completions": "rlreason.data.selections.completions",
    "rlreason.data.groups": "rlreason.data.group_packing",
    "rlreason.data.pairs": "rlreason.data.selections.pairs",
    "rlreason.data.restarts": "rlreason.data.selections.restarts",
    "rlreason.data.sampled": "rlreason.data.selections.rows",
    "rlreason.data.selection": "rlreason.data.selections.problems",
    "rlreason.training.checks": "rlreason.training.settings.checks",
    "rlreason.training.custom_stage": "rlreason.training.settings.custom",
    "rlreason.training.group_plans": "rlreason.training.stages.group_plans",
    "rlreason.training.recipe": "rlreason.training.settings.recipe",
    "rlreason.training.rl_metrics": "rlreason.training.stages.rl_metrics",
    "rlreason.training.stage_configs": "rlreason.training.settings.kinds",
}


def attributes(
    package: str, names: Sequence[str], homes: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
  """`__getattr__` and `__dir__` of a package.

  Args:
    package: its full name.
    names: what it has.
    homes: of those, the module that each is a name in; the others are modules of the package.
  """
  def get(name: str) -> Any:
    if name in (homes or {}):
      return getattr(importlib.import_module(homes[name]), name)
    if name in names:
      return importlib.import_module(f"{package}.{name}")
    found = MOVED.get(f"{package}.{name}")
    if found is None:
      raise AttributeError(
          f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")
    warnings.warn(f"{package}.{name} is now {found}", FutureWarning, stacklevel=2)
    return importlib.import_module(found)

  return get, lambda: list(names)


def current_name(function: str) -> str:
  """A function "package.module:function" by the name that its module has now."""
  module, colon, name = function.partition(":")
  return f"{MOVED.get(module, module)}{colon}{name}"
