"""A slot: a pure function and its options, chosen by a configuration.

The positional parameters of a slot's function are arrays, told apart by their names; its
keyword-only parameters are options. Whoever calls a slot offers arrays by name, and the function
gets those it names. A new function needs no registration: a config gives it as it is, or as
"package.module:function".
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
import inspect
import types
import typing
from typing import Any

from flax.core import FrozenDict

from rlreason import config as config_lib, lazy, users


def import_function(path: str) -> Callable[..., Any]:
  """The function "package.module:function".

  Raises:
    ValueError: no such form, module or function.
  """
  module, colon, name = lazy.current_name(path).partition(":")
  if not (colon and name.isidentifier() and module.replace(".", "_").isidentifier()):
    raise ValueError(f"function: got {path!r}, allowed: 'package.module:function'")
  try:
    users.name_module(module)
    with users.contained(f"function: {path!r}"):
      function = vars(importlib.import_module(module)).get(name)
  except ImportError as error:
    raise ValueError(f"function: {path!r} cannot be imported: {error}") from error
  if not callable(function):
    raise ValueError(f"function: got {path!r}, but {module} has no function {name!r}")
  return function


@dataclasses.dataclass(frozen=True)
class Slot:
  """A function that takes arrays by name, and its options."""

  function: Callable[..., Any] | str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if isinstance(self.function, str):
      object.__setattr__(self, "function", import_function(self.function))
    if not (callable(self.function) and hasattr(self.function, "__qualname__")):
      raise ValueError(
          f"function: got {self.function!r}, allowed: a function, or its 'package.module:function'")
    options = {name: tuple(value) if isinstance(value, list) else value
               for name, value in self.options.items()}
    object.__setattr__(self, "options", FrozenDict(options))  # a config can be hashed
    parameters = self._parameters(inspect.Parameter.KEYWORD_ONLY)
    required = {name for name, p in parameters.items() if p.default is p.empty}
    unknown, missing = set(self.options) - set(parameters), required - set(self.options)
    if unknown or missing:
      raise ValueError(
          f"options of {self.name}: got {sorted(self.options)}, allowed: {sorted(parameters)}"
          + (f", with {sorted(required)}" if required else ""))
    hints = typing.get_type_hints(self.function)
    for name, value in self.options.items():
      if name in hints and not _fits(hints[name], value):
        raise ValueError(
            f"options of {self.name}: {name}: got {value!r}, allowed: {_show(hints[name])}")

  @property
  def name(self) -> str:
    """Of the function."""
    return self.function.__name__

  @property
  def arrays(self) -> tuple[str, ...]:
    """Names of the arrays that the function takes."""
    return tuple(self._parameters(inspect.Parameter.POSITIONAL_OR_KEYWORD))

  def with_default_options(self, record: dict[str, Any]) -> dict[str, Any]:
    """A record (`config.with_defaults`) of a slot of this function with all of its options."""
    if isinstance(record.get("function"), str):
      record = record | {"function": lazy.current_name(record["function"])}
    if record.get("function") != config_lib.to_dict(self.function):
      return record
    defaults = {name: config_lib.to_dict(parameter.default)
                for name, parameter in self._parameters(inspect.Parameter.KEYWORD_ONLY).items()
                if parameter.default is not parameter.empty}
    return record | {"options": {**defaults, **record.get("options", {})}}

  def check(self, offered: tuple[str, ...]):
    """Raises ValueError where the function asks for an array that this slot does not offer."""
    unknown = sorted(set(self.arrays) - set(offered))
    if unknown:
      raise ValueError(f"{self.name}: asks for {unknown}, allowed: {sorted(offered)}")

  def __call__(self, **offered: Any) -> Any:
    """The function of those of the `offered` arrays that it names."""
    return self.function(**{name: offered[name] for name in self.arrays}, **self.options)

  def _parameters(self, kind) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(self.function).parameters
    return {name: p for name, p in parameters.items() if p.kind == kind}


def _fits(hint: Any, value: Any) -> bool:
  """Whether an option may have this value; of a tuple or mapping not what is in it."""
  origin = typing.get_origin(hint)
  if origin is typing.Literal:
    return value in typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(choice, value) for choice in typing.get_args(hint))
  if origin is not None:
    return isinstance(value, origin)
  if hint is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  return isinstance(value, hint) if isinstance(hint, type) else True


def _show(hint: Any) -> str:
  if typing.get_origin(hint) is typing.Literal:
    return ", ".join(repr(choice) for choice in typing.get_args(hint))
  return hint.__name__ if isinstance(hint, type) else str(hint)
