"""The settings of preference tuning."""

from collections.abc import Mapping
import dataclasses
from typing import Literal

from rlreason.algorithms import PreferenceConfig
from rlreason.config import Path, Rows, Tokens
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import (
    check_critic_rate, check_fields, check_micro_batch, check_positive, check_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceStage(StageConfig):
  """Preference tuning: DPO and similar methods."""

  kind: Literal["preference"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # prompts per step, over all devices
  completion_length: Tokens  # rows with a longer completion are dropped
  # Files of {prompt, chosen, rejected}, without pairs (KTO) of {prompt, completion,
  # is_right}; or "stage:NAME".
  examples: Path
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as in `SFTStage`
  preference: PreferenceConfig
  optimizer: OptimizerConfig
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    rows = self.batch_size * (2 if self.preference.has_pairs else 1)
    return rows, prompt_tokens + self.completion_length

  def pass_rows(self, prompt_tokens: int) -> tuple[str, int, int]:
    return ("completion_length", self.preference.micro_batch_size or self.batch_size,
            prompt_tokens + self.completion_length)

  def __post_init__(self):
    check_positive(self, "batch_size", "completion_length")
    check_fields(self, self.examples)
    check_steps(self.steps, self.steps, self.optimizer)
    check_critic_rate(self.optimizer, "in a preference stage, which has no critic")
    check_micro_batch("preference.micro_batch_size", self.preference.micro_batch_size,
                      "batch_size", self.batch_size)
