"""The settings of distillation from a teacher."""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Literal

from rlreason.algorithms import DistillConfig
from rlreason.config import Path, Rows, check_unread
from rlreason.sampling import SamplingOptions
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import (
    check_critic_rate, check_fields, check_filters, check_micro_batch, check_positive, check_rows,
    check_samples_differ, check_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillStage(StageConfig):
  """Token-level distillation from a teacher of the same vocabulary."""

  kind: Literal["distill"]
  name: str
  steps: int  # optimiser steps
  teacher: Path  # a folder or .gguf file
  num_prompts: Rows  # per step, over all devices
  sampling: SamplingOptions
  distill: DistillConfig
  optimizer: OptimizerConfig
  group_size: Rows = 1  # completions per prompt
  # Share of the steps, in [0, 1], on the student's own samples; the others are on the completions
  # of `examples`: files of {prompt, completion}, or "stage:NAME".
  student_fraction: float = 1.0
  examples: Path = ""  # empty: the problems of the task, and a student_fraction of 1
  problems: Path = ""  # without examples, as in `RLStage`
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of either of these
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  suspects: ClassVar[str] = (
      "the teacher (is it the model that is trained?) and at the completions")

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    return self.num_prompts * self.group_size, prompt_tokens + self.sampling.max_new_tokens

  def __post_init__(self):
    check_positive(self, "num_prompts", "group_size")
    check_rows(self)
    check_fields(self, self.examples or self.problems)
    check_steps(self.steps, self.steps, self.optimizer)
    if not 0 <= self.student_fraction <= 1:
      raise ValueError(f"student_fraction: got {self.student_fraction}, allowed: 0 to 1")
    if self.student_fraction < 1 and not self.examples:
      raise ValueError(
          f"student_fraction: got {self.student_fraction} without examples, allowed: 1")
    check_critic_rate(self.optimizer, "in a distillation stage, which has no critic")
    check_micro_batch("distill.micro_batch_size", self.distill.micro_batch_size,
                      "num_prompts * group_size", self.num_prompts * self.group_size)
    if self.examples:
      check_unread(self, "with examples, whose prompts are the problems", "problems")
    if self.student_fraction:
      check_samples_differ(self.sampling, self.group_size)
      check_filters(self.sampling)
    elif self.group_size > 1:
      raise ValueError(
          f"group_size: got {self.group_size} with student_fraction=0, allowed: 1 (each prompt has "
          "one completion in the examples)")
    elif self.sampling != SamplingOptions(max_new_tokens=self.sampling.max_new_tokens):
      raise ValueError(
          "sampling: got options with student_fraction=0, allowed: max_new_tokens alone (nothing "
          "is sampled)")
