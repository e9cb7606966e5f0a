"""The settings of a stage of the user's own."""

import dataclasses
from typing import Literal

from rlreason.config import Path
from rlreason.slots import Slot
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import check_positive

OFFERED = ("setup", "stage", "policy", "seed", "folder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CustomStage(StageConfig):
  """A stage that a function of the user's makes, as `training.stages` makes ours."""

  kind: Literal["custom"]
  name: str
  steps: int  # calls of its `learn`
  # Returns a `training.stages.Stage` whose state has params["policy"]. It is given what it names of
  # `setup` (of the run), `stage` (these settings), `policy` (parameters, with their adapters if it
  # has any; it takes them over), `seed` (of the order of its data) and `folder` (of the run).
  make: Slot
  start: Path = "previous"  # see `settings.base.START`

  def work(self, prompt_tokens: int) -> str:
    return f"{self.steps:,} steps of {self.make.name}"

  def __post_init__(self):
    check_positive(self, "steps")
    self.make.check(OFFERED)
