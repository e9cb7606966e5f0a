"""A stage that is ready to run: its state, data and step. The loop does the rest."""

import typing

from rlreason import lazy

__all__ = [
    "Setup", "Stage", "StepOutput", "check_stages", "data_file", "make_stage", "model_folder"]
_NAMES = {
    "rlreason.training.stages.base": (
        "Setup", "Stage", "StepOutput", "data_file", "model_folder"),
    "rlreason.training.stages.kinds": ("check_stages", "make_stage"),
}

if typing.TYPE_CHECKING:
  from rlreason.training.stages.base import Setup, Stage, StepOutput, data_file, model_folder
  from rlreason.training.stages.kinds import check_stages, make_stage
else:
  __getattr__, __dir__ = lazy.attributes(
      __name__, __all__, {name: module for module, names in _NAMES.items() for name in names})
