"""Starts a run in its folder: checks whether it may write there, and makes its set-up."""

from collections.abc import Sequence
import contextlib
import json
import pathlib
import time

from rlreason import config as config_lib, files, processes, records
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

_SECONDS_TO_APPEAR = 10.0  # of a file, on a network file system that remembers that it was missing


def enter(
    recipe: Recipe, workdir: pathlib.Path, allow_changed_inputs: bool, stack: contextlib.ExitStack
) -> tuple[Setup, Params]:
  """Locks the folder until `stack` ends, and makes the set-up of the run.

  A missing folder is made once the recipe is known to be valid, and a folder of something else is
  unchanged. Of several processes one works in the folder; all have to read the same.
  """
  _check_same(recipe)
  recipe = model_paths.resolve(recipe)
  is_there, grown = processes.from_writer(lambda: _look(recipe, workdir, stack))
  inputs = inputs_lib.read_inputs(recipe)
  for file, digest in sorted(inputs.items()):
    processes.check_same(f"the files of {file}", json.dumps(digest, sort_keys=True))
  processes.from_writer(
      lambda: inputs_lib.check_inputs(workdir, inputs, allow_changed_inputs))
  setup, policy = make_setup(recipe)
  check_stages(setup)

  def begin():
    if not is_there:
      stack.enter_context(files.locked(workdir))
      workdir_lib.check_free(workdir)  # another process may have used it
    _check_config(recipe, workdir, grown)
    if grown:
      workdir_lib.write_steps(workdir, recipe)
    checkpoint_lib.write_json(workdir / workdir_lib.INPUTS, inputs)

  processes.from_writer(begin)
  _check_shared(workdir)
  return setup, policy


def _look(
    recipe: Recipe, workdir: pathlib.Path, stack: contextlib.ExitStack) -> tuple[bool, list[str]]:
  """Whether the folder exists, which is then locked, and the fields that grow on a resume."""
  workdir_lib.check_free(workdir)
  grown = list(workdir_lib.grown_steps(workdir, recipe))
  if checkpoint_lib.has_checkpoints(workdir):
    _check_config(recipe, workdir, grown)
  is_there = workdir.is_dir()
  if is_there:
    stack.enter_context(files.locked(workdir))
  return is_there, grown


def _check_config(recipe: Recipe, workdir: pathlib.Path, grown: Sequence[str]):
  checkpoint_lib.check_config(str(workdir), recipe, free=(*_FREE_FIELDS, *grown))


def _check_shared(workdir: pathlib.Path):
  """Raises ValueError if a process does not see what the one that writes has written."""
  file, end = workdir / workdir_lib.INPUTS, time.monotonic() + _SECONDS_TO_APPEAR
  while not (is_there := file.exists()) and time.monotonic() < end:
    time.sleep(1.0)
  for number, sees in enumerate(processes.gather(is_there)):
    if not sees:
      raise ValueError(f"workdir: {processes.describe(number)} does not see {str(file)!r}, which "
                       f"{processes.describe(0)} has written, allowed: a folder that all share")


def _check_same(recipe: Recipe):
  """Raises ValueError if another process runs another recipe."""
  told = processes.gather(json.loads(json.dumps(config_lib.to_dict(recipe))))
  for number, other in enumerate(told):
    if lines := records.differences(told[0], other):
      raise ValueError(f"config: {processes.describe(number)} has another than "
                       f"{processes.describe(0)} ({'; '.join(lines[:4])}), allowed: the same")
