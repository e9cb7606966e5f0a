"""Configs from files: `get_config()` of an experiment, or of a recipe of the package."""

import dataclasses
import importlib.util
import inspect
import os
import sys

from absl import logging
import ml_collections

from rlreason import config as config_lib, recipe_files, users


def load_config_file(path: str) -> ml_collections.ConfigDict:
  """Returns `get_config()` of an experiment file, or of a recipe that comes with the package.

  Args:
    path: as `recipe_files.locate`; it may end in `:argument`, which is passed to
      `get_config(argument)`.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file is not Python, has no function `get_config`, or one without a parameter
      where an argument is given.
  """
  file, argument = recipe_files.locate(path)
  logging.info("the experiment is %s", file)
  spec = importlib.util.spec_from_file_location("rlreason_experiment", file)
  module = importlib.util.module_from_spec(spec)
  folder = os.path.dirname(os.path.abspath(file))
  sys.path.insert(0, folder)  # as Python does for a program: modules next to it can be imported
  try:
    with users.contained(f"config file {file!r}"):
      spec.loader.exec_module(module)
  finally:
    sys.path.remove(folder)
  if not callable(vars(module).get("get_config")):
    raise ValueError(f"config file {file!r} has no function get_config()")
  if argument and not inspect.signature(module.get_config).parameters:
    raise ValueError(
        f"config: got {argument!r} after the colon of {file!r}, allowed: no argument, as its "
        "get_config() has no parameter")
  with users.contained(f"config file {file!r}"):
    config = module.get_config(argument) if argument else module.get_config()
  if not config_lib.is_mapping(config):
    raise ValueError(
        f"get_config() of {file!r}: got {config_lib.show(config)}, allowed: a ConfigDict")
  config = ml_collections.ConfigDict(config)
  _open_dataclasses(config)
  return config


def _open_dataclasses(config: ml_collections.ConfigDict):
  """Makes sections of dataclasses, such as presets, so that flags reach their fields."""
  with config.unlocked(), config.ignore_type():
    for name, value in config.items():
      if dataclasses.is_dataclass(value):
        config[name] = ml_collections.ConfigDict(config_lib.to_dict(value, keep_functions=True))
      elif isinstance(value, ml_collections.ConfigDict):
        _open_dataclasses(value)
