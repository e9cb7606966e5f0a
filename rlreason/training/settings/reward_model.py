"""The settings of a stage that trains a reward model."""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Literal

from rlreason.algorithms import RewardModelConfig
from rlreason.config import Path, Rows, Tokens
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import (
    check_fields, check_micro_batch, check_positive, check_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelStage(StageConfig):
  """A reward model on the backbone of a policy: models/<stage>/. The policy does not change."""

  kind: Literal["reward_model"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # prompts per step, over all devices
  completion_length: Tokens  # rows with a longer completion are dropped
  # As in `PreferenceStage`: pairs, or completions with verdicts; or {prompt, ranking}, completions
  # from the best to the worst. A number `weight` of a row is its weight in the loss.
  examples: Path
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as in `SFTStage`
  optimizer: OptimizerConfig
  reward_model: RewardModelConfig = RewardModelConfig()
  # Scores of the examples' completions get mean 0 and variance 1 after the last step. With verdicts
  # instead of pairs a score is the log-odds of being right, which this would undo.
  standardize: bool = True
  start: Path = "previous"  # the backbone: as in the other stages, see `START`

  trains: ClassVar[bool] = False  # the policy does not change

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    rows = self.batch_size * (1 if self.reward_model.form == "verdicts" else 2)
    return rows, prompt_tokens + self.completion_length

  def pass_rows(self, prompt_tokens: int) -> tuple[str, int, int]:
    return ("completion_length", self.reward_model.micro_batch_size or self.batch_size,
            prompt_tokens + self.completion_length)

  def __post_init__(self):
    check_positive(self, "batch_size", "completion_length")
    check_fields(self, self.examples)
    check_steps(self.steps, self.steps, self.optimizer)
    check_micro_batch("reward_model.micro_batch_size", self.reward_model.micro_batch_size,
                      "batch_size", self.batch_size)
