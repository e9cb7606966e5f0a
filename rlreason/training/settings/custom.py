"""The settings of a custom stage."""

import dataclasses
from typing import Literal

from rlreason.config import Path
from rlreason.slots import Slot
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import check_positive

OFFERED = ("setup", "stage", "policy", "seed", "folder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CustomStage(StageConfig):
  """A stage made by a custom function, as `training.stages` makes the built-in ones."""

  kind: Literal["custom"]
  name: str
  steps: int  # calls of its `learn`
  # Returns a `training.stages.Stage` whose state has params["policy"]. It receives those that it
  # names of `setup` (of the run), `stage` (these settings), `policy` (parameters, with adapters if
  # it has any; it owns them), `seed` (of the order of its data) and `folder` (of the run).
  make: Slot
  start: Path = "previous"  # see `settings.base.START`

  def work(self, prompt_tokens: int) -> str:
    return f"{self.steps:,} steps of {self.make.name}"

  def __post_init__(self):
    check_positive(self, "steps")
    self.make.check(OFFERED)
