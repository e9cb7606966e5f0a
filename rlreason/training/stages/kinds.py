"""Checks and makes stages of all kinds, each in a module of its own."""

import dataclasses
import importlib
import os
import pathlib
import types

from rlreason import config as config_lib, hub, weights
from rlreason.training.settings.base import START, StageConfig
from rlreason.training.setup import check_same_adapters, check_same_shape
from rlreason.training.stages import policies
from rlreason.training.stages.base import Setup, Stage
from rlreason.types import Params
from rlreason.workers import WorkerPool


def _module(stage: StageConfig) -> types.ModuleType:
  """The module with the stage's `check(setup, stage)` and, if it has steps, `make`.

  It is the one of its settings or, if that is in `training/settings`, its namesake in
  `training/stages`. The arguments of `make` are those of `make_stage`.

  Raises:
    ValueError: a function is missing.
  """
  name, here = type(stage).__module__, "rlreason.training.settings."
  module = importlib.import_module(
      f"rlreason.training.stages.{name.removeprefix(here)}" if name.startswith(here) else name)
  missing = [function for function in ("check", *(["make"] if stage.has_steps else []))
             if not callable(getattr(module, function, None))]
  if missing:
    raise ValueError(f"kind: got {stage.kind!r}, whose module {module.__name__} has no {missing}, "
                     "allowed: a module with check and make")
  return module


def check_stages(setup: Setup):
  """Checks all stages before the run, so that no mistake appears later.

  Raises:
    FileNotFoundError, ValueError: name the stage and the field.
  """
  for stage in setup.recipe.stages:
    try:
      _module(stage).check(setup, stage)
      if stage.has_steps:
        _check_start(setup, stage)
    except (ValueError, FileNotFoundError) as error:
      fields = [field.name for field in dataclasses.fields(stage)]
      raise type(error)(config_lib.at(f"config.{stage.name}", error, fields)) from error


def _check_start(setup: Setup, stage: StageConfig):
  names = (*START, *(other.name for other in setup.recipe.stages))
  if stage.start in names:
    return
  if not os.path.exists(stage.start):
    raise FileNotFoundError(
        f"start: {stage.start!r} not found, allowed: {', '.join(map(repr, START))}, an earlier "
        f"stage that trains, or a folder{hub.hint(stage.start)}")
  has_adapters = setup.model.lora is not None
  try:
    if has_adapters:
      opened, _ = weights.load_adapters(stage.start, setup.model)
    else:
      opened, tokenizer = weights.open_model(stage.start)
  except (ValueError, FileNotFoundError) as error:
    raise type(error)(f"start: {error}") from error
  if has_adapters:
    check_same_adapters(stage.start, opened.lora, setup.model.lora)
  else:
    check_same_shape(stage.start, opened, setup.model)
    policies.check_vocabulary(setup, "start", tokenizer)


def make_stage(
    setup: Setup, stage: StageConfig, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> Stage:
  """Makes a stage that starts from `policy`.

  Args:
    setup: of the run.
    stage: its settings; not those of a `SelectStage`, which `select` does.
    policy: parameters sharded as in the layout, with the adapters from which the stage starts, if
      there are any. A stage that trains owns them, except for a reference.
    seed: of the order of its data.
    pool: for verifiers.
    folder: of the run, for data of earlier stages.
  """
  return _module(stage).make(setup, stage, policy, seed, pool, folder)
