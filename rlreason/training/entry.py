"""Starts a run in its folder: checks whether it may write there, and makes its set-up."""

import contextlib
import pathlib

from rlreason import files
from rlreason.training import (
    checkpoint as checkpoint_lib, inputs as inputs_lib, model_paths, workdir as workdir_lib)
from rlreason.training.settings.recipe import Recipe
from rlreason.training.setup import make_setup
from rlreason.training.stages import check_stages
from rlreason.training.stages.base import Setup
from rlreason.types import Params

# Fields that may differ when a run is resumed: none changes a result.
_FREE_FIELDS = (
    "config.checkpoint.every_steps", "config.checkpoint.max_to_keep", "config.reward_workers",
    "config.parallel", "config.preflight", "config.evaluation.expected")


def enter(
    recipe: Recipe, workdir: pathlib.Path, allow_changed_inputs: bool, stack: contextlib.ExitStack
) -> tuple[Setup, Params]:
  """Locks the folder until `stack` ends, and makes the set-up of the run.

  A missing folder is made once the recipe is known to be valid, and a folder of something else is
  unchanged.
  """
  recipe = model_paths.resolve(recipe)
  workdir_lib.check_free(workdir)
  grown = workdir_lib.grown_steps(workdir, recipe)
  check_config = lambda: checkpoint_lib.check_config(
      str(workdir), recipe, free=(*_FREE_FIELDS, *grown))
  if checkpoint_lib.has_checkpoints(workdir):
    check_config()
  is_there = workdir.is_dir()
  if is_there:
    stack.enter_context(files.locked(workdir))
  inputs = inputs_lib.read_inputs(recipe)
  inputs_lib.check_inputs(workdir, inputs, allow_changed_inputs)
  setup, policy = make_setup(recipe)
  check_stages(setup)
  if not is_there:
    stack.enter_context(files.locked(workdir))
    workdir_lib.check_free(workdir)  # another process may have used it
  check_config()
  if grown:
    workdir_lib.write_steps(workdir, recipe)
  checkpoint_lib.write_json(workdir / workdir_lib.INPUTS, inputs)
  return setup, policy
