"""Completes and compares configs in JSON, which may be of an older version."""

import dataclasses
from typing import Any

from rlreason import config as config_lib

_ABSENT = object()  # stands for a field that one of two records lacks


def with_defaults(record: Any, config: Any) -> Any:
  """The record of a config, completed with the defaults of omitted fields.

  A dataclass may complete its record further, such as with defaults of the options of a function,
  by a method `with_default_options(record) -> record`.

  Args:
    record: a result of `config.to_dict`, maybe an old one, from when there were fewer fields.
    config: of the same kind: it defines the fields.

  Returns:
    The record, in which a field that it lacks has its default.
  """
  if isinstance(record, list) and isinstance(config, (list, tuple)) and len(record) == len(config):
    return [with_defaults(*pair) for pair in zip(record, config, strict=True)]
  if not isinstance(record, dict) or isinstance(config, type):
    return record
  if config_lib.is_mapping(config):
    return {name: with_defaults(value, config[name]) if name in config else value
            for name, value in record.items()}
  if not dataclasses.is_dataclass(config):
    return record
  fields = {field.name: field for field in dataclasses.fields(config)}
  record = {name if name in fields else config_lib.RENAMED.get(name, name): value
            for name, value in record.items()}
  found = dict(record)
  for name, field in fields.items():
    if name in record or not config_lib.is_required(field):
      value = record[name] if name in record else config_lib.to_dict(config_lib.default(field))
      found[name] = with_defaults(value, getattr(config, name))
  complete = getattr(config, "with_default_options", None)
  return found if complete is None else complete(found)


def differences(old: Any, new: Any, where: str = "config") -> list[str]:
  """Lists the fields in which two results of `config.to_dict` differ, as `path: old -> new`."""
  if isinstance(old, dict) and isinstance(new, dict):
    names = list(old) + [name for name in new if name not in old]
    return [
        line
        for name in names
        for line in differences(
            old.get(name, _ABSENT), new.get(name, _ABSENT), f"{where}.{name}")
    ]
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    return [
        line
        for i, (left, right) in enumerate(zip(old, new, strict=True))
        for line in differences(left, right, f"{where}[{i}]")
    ]
  shown = lambda value: "(absent)" if value is _ABSENT else repr(value)
  return [] if old is new or old == new else [f"{where}: {shown(old)} -> {shown(new)}"]
