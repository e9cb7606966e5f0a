"""The settings of a selection from the data of earlier stages."""

import dataclasses
from typing import ClassVar, Literal

from rlreason.slots import Slot
from rlreason.training.settings.base import StageConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectStage(StageConfig):
  """Data selected from those of earlier stages: data/<stage>.jsonl. Computes nothing else."""

  kind: Literal["select"]
  name: str
  inputs: tuple[str, ...]  # stages, whose rows are concatenated
  # A pure function of `rows`, a list of dicts, to such a list (`data.selections`), and of `encode`,
  # text -> token ids of the policy, if it names that. Without rows it returns none, and checks its
  # options.
  select: Slot

  trains: ClassVar[bool] = False
  has_steps: ClassVar[bool] = False
  start: ClassVar[str] = "previous"

  @property
  def writes_data(self) -> bool:
    return True

  def data_sources(self) -> dict[str, tuple[str, ...]]:
    return {"inputs": self.inputs}

  def work(self, prompt_tokens: int) -> str:
    return "a selection, without steps"

  def __post_init__(self):
    if not self.inputs:
      raise ValueError("inputs: got none, allowed: names of earlier stages")
    self.select.check(("rows", "encode"))
