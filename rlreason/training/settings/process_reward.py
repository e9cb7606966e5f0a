"""The settings of a stage that trains a process reward model."""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Literal

from rlreason.algorithms import ProcessRewardConfig
from rlreason.config import Path, Rows, Tokens, check_unread
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import (
    check_critic_rate, check_fields, check_micro_batch, check_positive, check_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessRewardStage(StageConfig):
  """A model of steps on the backbone of a policy: models/<stage>/. The policy does not change."""

  kind: Literal["process_reward"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # prompts per step, over all devices
  completion_length: Tokens  # rows whose steps together are longer are dropped
  # Files of {prompt, steps, labels}, of PRM800K or of Math-Shepherd; or "stage:NAME".
  examples: Path
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as in `SFTStage`
  step_separator: str = "\n"  # text that ends a step, put between steps that lack it
  # What the rating 0 counts as, for a loss of two labels; none: such steps are not trained on.
  neutral: Literal["right", "wrong", "none"] = "right"
  # Share of the prompts that are not trained on; the model is measured on them at the end.
  held_out_share: float = 0.1
  threshold: float = 0.5  # steps with a lower probability of being right are predicted to be wrong
  optimizer: OptimizerConfig
  process_reward: ProcessRewardConfig = ProcessRewardConfig()
  start: Path = "previous"  # the backbone: as in the other stages, see `START`

  trains: ClassVar[bool] = False  # the policy does not change
  suspects: ClassVar[str] = "the labels of the examples (are all steps right, or all wrong?)"

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    return self.batch_size, prompt_tokens + self.completion_length

  def pass_rows(self, prompt_tokens: int) -> tuple[str, int, int]:
    return ("completion_length", self.process_reward.micro_batch_size or self.batch_size,
            prompt_tokens + self.completion_length)

  def __post_init__(self):
    check_positive(self, "batch_size", "completion_length")
    check_fields(self, self.examples)
    check_steps(self.steps, self.steps, self.optimizer)
    check_critic_rate(self.optimizer, "in a process_reward stage, which has no critic")
    check_micro_batch("process_reward.micro_batch_size", self.process_reward.micro_batch_size,
                      "batch_size", self.batch_size)
    if not self.step_separator:
      raise ValueError("step_separator: got '', allowed: text")
    if not 0 <= self.held_out_share < 1:
      raise ValueError(f"held_out_share: got {self.held_out_share}, allowed: 0 to below 1")
    if not 0 < self.threshold < 1:
      raise ValueError(f"threshold: got {self.threshold}, allowed: above 0 and below 1")
    if self.process_reward.num_classes > 1:
      check_unread(self, "with a loss of ratings", "neutral")
    if not self.held_out_share:
      check_unread(self, "with held_out_share=0", "threshold")
