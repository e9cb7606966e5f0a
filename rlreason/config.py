"""Converts a ConfigDict, as experiments write it, to the library's frozen dataclasses.

`build` checks every field once, at the start of a run: an unknown or missing field, a value of the
wrong type, or one that a dataclass refuses raises a ValueError of one line that names the field by
its full path (`config.optimizer.learning_rate`), the value given, and the values allowed.

Not here: flags and command-line overrides (ml_collections.config_flags) and the dataclasses
themselves, which are next to the code they configure.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import difflib
import functools
import inspect
import numbers
import re
import types
import typing
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

from absl import logging
import ml_collections

from rlreason import hub

T = TypeVar("T")
# The type of a field that holds a path of this machine, or a name that may be given instead of one.
# A `~` is expanded, and an address (gs://) refused.
Path = typing.NewType("Path", str)
# The range of the types that numbers are computed in: beyond it they become infinity, or 0.
_MAX_INT = 2**31 - 1
_MAX_FLOAT, _MIN_FLOAT = 3.4028235e38, 1.1754944e-38
# Old names of fields, accepted for one release -> their new names.
RENAMED = {
    "drop_normalizer": "advantage_threshold_normalizer",
    "drop_threshold": "advantage_threshold",
    "max_rounds": "max_resample_rounds",
    "min_reasoning": "min_reasoning_tokens",
    "useful_by": "filter_groups_by",
}


class AtMost(NamedTuple):
  """In an annotation, `Annotated[int, AtMost(1024, "...")]`: the largest value, and why."""

  limit: float
  reason: str


Rows = Annotated[int, AtMost(2**20, "rows of a step, which are in memory at once")]
Examples = Annotated[int, AtMost(2**26, "examples, which are made before the run")]
Tokens = Annotated[int, AtMost(2**24, "tokens of a row, which are in memory at once")]


def build(
    cls: type[T], mapping: Any, where: str = "config", *, sections: Collection[str] = ()
) -> T:
  """Builds the dataclass `cls`, and the dataclasses inside it, from a mapping.

  Lists become tuples where the field is a tuple, and an int becomes a float where the field is a
  float; nothing else is converted. Old names of fields are accepted with a warning (`RENAMED`).
  From a union of dataclasses, `build` chooses the one whose `Literal` fields without a default
  agree with the mapping. Where a field's default is an instance of its dataclass, fields that the
  mapping omits keep that instance's values. Numbers must be finite and fit an int32 or float32; an
  annotation may set a further limit (`AtMost`).

  Args:
    cls: a dataclass whose annotations define the allowed values.
    mapping: a ConfigDict or dict of its fields, or an instance of `cls`, returned as it is.
    where: the path of `mapping`, for messages.
    sections: names below `where` that are not its fields, for messages.

  Returns:
    An instance of `cls`.

  Raises:
    ValueError: a field is unknown, missing, of the wrong type, or refused by `__post_init__`.
  """
  if isinstance(mapping, cls):
    return mapping
  if not is_mapping(mapping):
    raise ValueError(f"{where}: got {show(mapping)}, allowed: the fields of {cls.__name__}")
  fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
  mapping = with_new_names(mapping, fields, where)
  for name in mapping:
    if name not in fields:
      raise ValueError(_unknown_field(where, str(name), list(fields), cls))
  hints = _hints(cls)
  values = {}
  for name, field in fields.items():
    if name in mapping:
      value = mapping[name]
      is_section = dataclasses.is_dataclass(hints[name]) and hints[name] is type(field.default)
      if is_section and is_mapping(value):
        value = {**_fields_of(field.default), **value}
      values[name] = convert(hints[name], value, f"{where}.{name}")
    elif is_required(field):
      raise ValueError(
          f"{where}.{name}: missing, and {cls.__name__} has no default for it; "
          f"allowed: {_type_name(hints[name])}"
      )
  try:
    return cls(**values)
  except ValueError as error:
    raise ValueError(at(where, error, (*fields, *sections))) from error


def with_new_names(
    mapping: Mapping[str, Any], fields: Collection[str], where: str,
) -> dict[str, Any]:
  """The entries of a mapping, under the current names of its fields.

  Args:
    mapping: a section of a config.
    fields: the current names; they may include one that is an old name elsewhere.
    where: the path of the section, for messages. There is one warning for each field.

  Raises:
    ValueError: a field is set by both of its names.
  """
  found = {}
  for name in mapping:
    new = RENAMED.get(name, name)
    if name in fields or new not in fields:
      new = name
    elif new in mapping:
      raise ValueError(
          f"{where}.{name}: got {show(mapping[name])} beside {new}={mapping[new]!r}, allowed: "
          f"{new} alone, the name that the field has now")
    else:
      _warn_of_name(f"{where}.{name}", new)
    found[new] = mapping[name]
  return found


def held_name(mapping: Mapping[str, Any], name: str) -> str:
  """The name of a field in a mapping: the one given, or else its old or its new one."""
  others = [old for old, new in RENAMED.items() if new == name] + [RENAMED.get(name, name)]
  return next((other for other in others if name not in mapping and other in mapping), name)


@functools.lru_cache(maxsize=None)
def _warn_of_name(field: str, name: str):
  logging.warning("%s is now %s; its old name works in this release, not in the next", field, name)


@functools.lru_cache(maxsize=None)
def _hints(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls, include_extras=True)


def at(where: str, error: Exception, names: Collection[str]) -> str:
  """The message of an error, with the full path of the field that it begins with.

  Args:
    where: the path of the section that the error is about.
    error: whose message may begin with the name of a field.
    names: of the fields in the section.
  """
  message = re.sub(r"^options of \w+: (?=\w+: )", "options.", str(error))  # of a slot
  if message.startswith(where):
    return message
  # Ours begin `field: got`; a class of the user's may say `field must be ...`.
  name = re.match(r"(\w+)(?=[:.,\[]| must )", message)
  return f"{where}.{message}" if name and name[1] in names else f"{where}: {message}"


class Unread(ValueError):
  """A field is set that has no effect, because of another field of the config."""


def check_unread(config: Any, reason: str, *names: str, allowed: str = ""):
  """Raises if fields are set that have no effect because of another field of the config.

  Args:
    config: a dataclass.
    reason: why they have no effect, such as "with critic='none'".
    *names: of fields, each with a default.
    allowed: what to do, other than leaving the field at its default.

  Raises:
    Unread: one of them is not at its default.
  """
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name in names and value != field.default:
      raise Unread(
          f"{field.name}: got {value!r} {reason}, allowed: {field.default!r}, the default"
          f"{', or ' if allowed else ' '}{allowed or '(nothing would read another value)'}")


def to_dict(config: Any, *, keep_functions: bool = False, where: str = "config") -> Any:
  """Turns a config (dataclass, ConfigDict or dict) into plain JSON values.

  Tuples become lists and functions `module:name`, so that two configs are equal when their JSON is.

  Args:
    config: of those, or a value in one.
    keep_functions: leaves functions as they are, for `build`.
    where: the path of `config`, for messages.

  Raises:
    ValueError: a value has no JSON form.
  """
  inner = functools.partial(to_dict, keep_functions=keep_functions)
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    return {f.name: inner(getattr(config, f.name), where=f"{where}.{f.name}")
            for f in dataclasses.fields(config)}
  if is_mapping(config):
    return {str(name): inner(config[name], where=f"{where}.{name}") for name in config}
  if isinstance(config, (list, tuple)):
    return [inner(value, where=f"{where}[{i}]") for i, value in enumerate(config)]
  if config is None or isinstance(config, (bool, int, float, str)):
    return config
  if callable(config):
    named = config if hasattr(config, "__qualname__") else type(config)  # an object, a partial
    return config if keep_functions else f"{named.__module__}:{named.__qualname__}"
  raise ValueError(
      f"{where}: got {show(config)}, allowed: plain values, functions and dataclasses")


def options_of(function: Callable[..., Any], skipped: Collection[str] = ()) -> dict[str, Any]:
  """The parameters of a function whose defaults can be written as JSON, with these defaults.

  Args:
    function: or a class.
    skipped: names of parameters that are not options.
  """
  try:
    parameters = inspect.signature(function).parameters.values()
  except ValueError:  # some functions of C have none
    return {}
  found = {}
  for parameter in parameters:
    if parameter.default is not parameter.empty and parameter.name not in skipped:
      try:
        found[parameter.name] = to_dict(parameter.default)
      except ValueError:
        pass
  return found


def paths(config: Any, where: str = "config") -> Iterator[tuple[str, str]]:
  """(field, value) of every field of a dataclass, and of those in it, that is a `Path`."""
  hints = typing.get_type_hints(type(config))
  for field in dataclasses.fields(config):
    value, name = getattr(config, field.name), f"{where}.{field.name}"
    if isinstance(value, str):
      if Path in (hints[field.name], *typing.get_args(hints[field.name])):
        yield name, value
      continue
    parts = [(f"{name}[{i}]", part) for i, part in enumerate(value)] if isinstance(
        value, tuple) else [(name, value)]
    for name, part in parts:
      if dataclasses.is_dataclass(part) and not isinstance(part, type):
        yield from paths(part, name)


def _fields_of(instance: Any) -> dict[str, Any]:
  return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance) if f.init}


def convert(hint: Any, value: Any, where: str) -> Any:
  """Returns `value` as an annotation allows it.

  Args:
    hint: of a field, or of an option of a function.
    value: what was given.
    where: its path, for messages.

  Raises:
    ValueError: of another type, out of range, or none of the allowed ones.
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any or isinstance(hint, TypeVar) or origin is Callable or hint is Callable:
    _check_numbers(value, where)
    return value
  if origin is Annotated:
    return _convert_annotated(arguments, value, where)
  if hint is Path:
    return hub.local_path(where, _convert_plain(str, value, where))
  if origin in (Union, types.UnionType):
    return _convert_union(arguments, value, where)
  if origin is Literal:
    # type() as well, because 1 == True.
    if any(value == choice and type(value) is type(choice) for choice in arguments):
      return value
    raise ValueError(_wrong_value(hint, value, where, _did_you_mean(value, arguments)))
  if dataclasses.is_dataclass(hint):
    return build(hint, value, where)
  if hint is tuple or origin is tuple:
    return _convert_tuple(hint, arguments, value, where)
  if origin in (dict, Mapping) or hint in (dict, Mapping):
    if not is_mapping(value):
      raise ValueError(_wrong_value(hint, value, where))
    item = arguments[1] if arguments else Any
    return {name: convert(item, value[name], f"{where}.{name}") for name in value}
  if hint is None or hint is type(None):
    if value is not None:
      raise ValueError(_wrong_value(hint, value, where))
    return None
  return _convert_plain(origin or hint, value, where)


def _convert_annotated(arguments: tuple, value: Any, where: str) -> Any:
  hint, *notes = arguments
  value = convert(hint, value, where)
  for note in notes:
    if isinstance(note, AtMost) and value > note.limit:
      raise ValueError(
          f"{where}: got {show(value)}, allowed: at most {note.limit} ({note.reason})")
  return value


def _check_numbers(value: Any, where: str) -> None:
  """Raises if an option of a function, whose type is unknown here, is a number out of range."""
  if is_mapping(value):
    for name in value:
      _check_numbers(value[name], f"{where}.{name}")
  elif isinstance(value, (list, tuple)):
    for i, element in enumerate(value):
      _check_numbers(element, f"{where}[{i}]")
  elif isinstance(value, numbers.Real) and not isinstance(value, bool):
    _to_float(value, where)


def _to_float(value: numbers.Real, where: str) -> float:
  """A number as a float that fits a float32."""
  size = abs(value)
  if not (size == 0 or _MIN_FLOAT <= size <= _MAX_FLOAT):  # NaN is neither
    raise ValueError(
        f"{where}: got {show(value)}, allowed: a finite number that float32 holds, 0 or "
        f"{_MIN_FLOAT:.2g} to {_MAX_FLOAT:.2g} in size")
  return float(value)


def _convert_plain(hint: type, value: Any, where: str) -> Any:
  is_bool = isinstance(value, bool)
  if hint is float and isinstance(value, numbers.Real) and not is_bool:
    return _to_float(value, where)
  if hint is int and isinstance(value, numbers.Integral) and not is_bool:
    if abs(value) > _MAX_INT:
      raise ValueError(
          f"{where}: got {show(value)}, allowed: at most {_MAX_INT} in size, as int32 holds it")
    return int(value)
  if hint not in (int, float) and (not isinstance(hint, type) or isinstance(value, hint)):
    return value  # a hint that is not a type, such as a user's NewType, is not checked
  raise ValueError(_wrong_value(hint, value, where))


def _convert_tuple(hint: Any, arguments: tuple, value: Any, where: str) -> tuple:
  if not isinstance(value, (list, tuple)):
    raise ValueError(_wrong_value(hint, value, where))
  if not arguments:
    return tuple(value)
  if len(arguments) == 2 and arguments[1] is Ellipsis:
    arguments = (arguments[0],) * len(value)
  if len(arguments) != len(value):
    raise ValueError(_wrong_value(hint, value, where, f" ({len(arguments)} values)"))
  pairs = enumerate(zip(arguments, value, strict=True))
  return tuple(convert(item, element, f"{where}[{i}]") for i, (item, element) in pairs)


def _convert_union(choices: tuple, value: Any, where: str) -> Any:
  """Converts to the one choice that fits; with a mapping, to a dataclass chosen by its Literals."""
  if value is None and type(None) in choices:
    return None
  allowed = Union[choices]
  choices = tuple(choice for choice in choices if choice is not type(None))
  classes = [choice for choice in choices if dataclasses.is_dataclass(choice)]
  if is_mapping(value) and classes:
    return build(_choose_class(classes, value, where), value, where)
  # An exact type goes first, so that the int 1 stays an int in `float | int`.
  for choice in sorted(choices, key=lambda choice: choice is not type(value)):
    try:
      return convert(choice, value, where)
    except ValueError as error:
      if str(error) != _wrong_value(choice, value, where):  # of its type, and out of range
        raise
  raise ValueError(_wrong_value(allowed, value, where))


def _choose_class(classes: list[type], mapping: Any, where: str) -> type:
  """Returns the class whose Literal fields without a default allow the values in `mapping`."""
  if len(classes) == 1:
    return classes[0]
  fitting, allowed = [], {}
  for cls in classes:
    hints = _hints(cls)
    literals = {
        field.name: typing.get_args(hints[field.name]) for field in dataclasses.fields(cls)
        if typing.get_origin(hints[field.name]) is Literal and is_required(field)}
    for name, choices in literals.items():
      allowed.setdefault(name, []).extend(c for c in choices if c not in allowed.get(name, []))
    if all(name in mapping and mapping[name] in choices for name, choices in literals.items()):
      fitting.append(cls)
  if len(fitting) == 1:
    return fitting[0]
  names = ", ".join(cls.__name__ for cls in classes)
  got = {name: mapping[name] for name in allowed if name in mapping}
  hint = "".join(_did_you_mean(got[name], allowed[name]) for name in got)
  raise ValueError(
      f"{where}: got {got or show(mapping)}, allowed: one of {names} with {allowed}{hint}"
  )


def is_mapping(value: Any) -> bool:
  # A ConfigDict is not registered as a Mapping.
  return isinstance(value, (Mapping, ml_collections.ConfigDict))


def default(field: dataclasses.Field) -> Any:
  """The default of a field."""
  return field.default_factory() if field.default is dataclasses.MISSING else field.default


def is_required(field: dataclasses.Field) -> bool:
  """Whether it has no default."""
  return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown_field(where: str, name: str, known: list[str], cls: type) -> str:
  hint = _did_you_mean(name, known)
  return f"{where}.{name}: unknown field of {cls.__name__}{hint}; allowed: {', '.join(known)}"


def _did_you_mean(value: Any, known: Any) -> str:
  names = [choice for choice in known if isinstance(choice, str)]
  close = difflib.get_close_matches(str(value), names, n=1)
  return f", did you mean {close[0]!r}?" if close else ""


def _wrong_value(hint: Any, value: Any, where: str, note: str = "") -> str:
  return f"{where}: got {show(value)}, allowed: {_type_name(hint)}{note}"


def _type_name(hint: Any) -> str:
  if typing.get_origin(hint) is Annotated:
    return _type_name(typing.get_args(hint)[0])
  if hint is Path:
    return "str"
  if typing.get_origin(hint) is Literal:
    return ", ".join(repr(choice) for choice in typing.get_args(hint))
  if typing.get_origin(hint) in (Union, types.UnionType):
    return " or ".join(_type_name(choice) for choice in typing.get_args(hint))
  if hint is type(None) or hint is None:
    return "None"
  return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def show(value: Any) -> str:
  """Describes a value in at most one line: its type and, cut, its repr."""
  text = " ".join(repr(value).split())
  text = text if len(text) <= 80 else text[:77] + "..."
  return f"{text} ({type(value).__name__})"
