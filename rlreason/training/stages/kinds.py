"""The kinds of stages: their checks and makers. A new kind needs a line here."""

from collections.abc import Callable
import dataclasses
import os
import pathlib

from rlreason import config as config_lib, hub, weights
from rlreason.training.settings.base import START, StageConfig
from rlreason.training.settings.custom import CustomStage
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.settings.select import SelectStage
from rlreason.training.settings.sft import SFTStage
from rlreason.training.setup import check_same_adapters, check_same_shape
from rlreason.training.stages import policies
from rlreason.training.stages.base import Setup, Stage
from rlreason.training.stages.custom import check_custom, make_custom
from rlreason.training.stages.distill import check_distill, make_distill
from rlreason.training.stages.preference import check_preference, make_preference
from rlreason.training.stages.reward_model import check_reward_model, make_reward_model
from rlreason.training.stages.rl import check_rl, make_rl
from rlreason.training.stages.sample import check_sample, check_select, make_sample
from rlreason.training.stages.sft import check_sft, make_sft
from rlreason.types import Params
from rlreason.workers import WorkerPool


def _without_pool(make: Callable) -> Callable:
  """The maker of a stage without rewards, with the signature of one with a worker pool."""
  return lambda setup, stage, policy, seed, pool, folder: make(setup, stage, policy, seed, folder)


# Settings -> the check before the run, and the maker; None: a stage without steps.
KINDS = {
    SFTStage: (check_sft, _without_pool(make_sft)),
    RLStage: (check_rl, make_rl),
    SampleStage: (check_sample, make_sample),
    SelectStage: (check_select, None),
    PreferenceStage: (check_preference, _without_pool(make_preference)),
    RewardModelStage: (check_reward_model, _without_pool(make_reward_model)),
    DistillStage: (check_distill, _without_pool(make_distill)),
    CustomStage: (check_custom, _without_pool(make_custom)),
}


def check_stages(setup: Setup):
  """Checks all stages before the run, so that no mistake appears later.

  Raises:
    FileNotFoundError, ValueError: name the stage and the field.
  """
  for stage in setup.recipe.stages:
    try:
      check, _ = KINDS[type(stage)]
      check(setup, stage)
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
  _, make = KINDS[type(stage)]
  return make(setup, stage, policy, seed, pool, folder)
