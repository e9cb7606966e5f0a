"""A slot: a pure function and its options, chosen by a configuration.

The positional parameters of a slot's function are arrays, identified by their names; its
keyword-only parameters are options. The caller of a slot offers arrays by name, and the function
receives those it names. A new function needs no registration: a config contains the function
itself, or "package.module:function".
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import importlib
import inspect
import typing
from typing import Any

from flax.core import FrozenDict

from rlreason import config as config_lib, users


def check_path(path: str, where: str = "function") -> tuple[str, str]:
  """The module and the name in "package.module:function".

  Raises:
    ValueError: it does not have that form.
  """
  module, colon, name = path.partition(":")
  if not (colon and name.isidentifier() and module.replace(".", "_").isidentifier()):
    raise ValueError(f"{where}: got {path!r}, allowed: 'package.module:function'")
  return module, name


def import_function(path: str, where: str = "function") -> Callable[..., Any]:
  """The function "package.module:function".

  Args:
    path: "package.module:function".
    where: what it is, for messages.

  Raises:
    ValueError: no such form, module or function.
  """
  module, name = check_path(users.current_name(path), where)
  try:
    users.name_module(module)
    with users.contained(f"{where}: {path!r}"):
      function = vars(importlib.import_module(module)).get(name)
  except ImportError as error:
    raise ValueError(f"{where}: {path!r} cannot be imported: {error}") from error
  if not callable(function):
    raise ValueError(f"{where}: got {path!r}, but {module} has no function {name!r}")
  return function


def option_names(function: Callable[..., Any], skipped: Collection[str] = ()) -> dict[str, bool]:
  """The keyword-only parameters of a function, and whether each is required."""
  return {name: parameter.default is parameter.empty
          for name, parameter in inspect.signature(function).parameters.items()
          if parameter.kind == parameter.KEYWORD_ONLY and name not in skipped}


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], skipped: Collection[str] = ()):
  """Checks the options of a function that a config names.

  Args:
    function: its keyword-only parameters are its options.
    options: the given options.
    skipped: names of parameters that are not options.

  Raises:
    ValueError: an option is unknown or missing, or its annotation does not allow the value.
  """
  names, where = option_names(function, skipped), f"options of {function.__name__}"
  required = sorted(name for name, is_required in names.items() if is_required)
  if set(options) - set(names) or set(required) - set(options):
    raise ValueError(
        f"{where}: got {sorted(options)}, allowed: {sorted(names)}"
        + (f", with {required}" if required else ""))
  hints = typing.get_type_hints(function)
  for name, value in options.items():
    if name in hints:
      config_lib.convert(hints[name], value, f"{where}: {name}")


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
    check_options(self.function, self.options)

  @property
  def name(self) -> str:
    """Of the function."""
    return self.function.__name__

  @property
  def arrays(self) -> tuple[str, ...]:
    """Names of the arrays that the function takes."""
    return tuple(self._parameters(inspect.Parameter.POSITIONAL_OR_KEYWORD))

  def with_default_options(self, record: dict[str, Any]) -> dict[str, Any]:
    """A record (`records.with_defaults`) of a slot of this function with all of its options."""
    if isinstance(record.get("function"), str):
      record = record | {"function": users.current_name(record["function"])}
    if record.get("function") != config_lib.to_dict(self.function):
      return record
    defaults = {name: config_lib.to_dict(parameter.default)
                for name, parameter in self._parameters(inspect.Parameter.KEYWORD_ONLY).items()
                if parameter.default is not parameter.empty}
    return record | {"options": {**defaults, **record.get("options", {})}}

  def check(self, offered: tuple[str, ...]):
    """Raises ValueError if the function takes an array that this slot does not offer."""
    unknown = sorted(set(self.arrays) - set(offered))
    if unknown:
      raise ValueError(f"{self.name}: asks for {unknown}, allowed: {sorted(offered)}")

  def __call__(self, **offered: Any) -> Any:
    """Calls the function with those of the `offered` arrays that it names."""
    return self.function(**{name: offered[name] for name in self.arrays}, **self.options)

  def _parameters(self, kind) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(self.function).parameters
    return {name: p for name, p in parameters.items() if p.kind == kind}
