"""The programs of a stage of any kind."""

from rlreason.training.planning import others, rl
from rlreason.training.planning.placed import Planned
from rlreason.training.planning.programs import Programs
from rlreason.training.settings.base import StageConfig

_KINDS = {
    "sft": others.of_sft, "preference": others.of_preference,
    "reward_model": others.of_reward_model, "process_reward": others.of_process_reward,
    "distill": others.of_distill,
    "sample": others.of_sample, "rl": rl.programs_of}


def programs_of(planned: Planned, stage: StageConfig) -> Programs | None:
  """The programs of a stage; None: it has none that are known before it runs."""
  make = _KINDS.get(stage.kind)
  return None if make is None else make(planned, stage)
