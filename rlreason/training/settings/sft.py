"""The settings of supervised fine-tuning."""

from collections.abc import Mapping
import dataclasses
import math
from typing import ClassVar, Literal

from rlreason.algorithms import SFTConfig
from rlreason.config import Examples, Path, Rows, Tokens
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import (
    check_critic_rate, check_fields, check_micro_batch, check_positive, check_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTStage(StageConfig):
  """Supervised fine-tuning on demonstrations."""

  kind: Literal["sft"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # packed rows per step, over all devices
  length: Tokens  # of a packed row
  optimizer: OptimizerConfig
  # Files of {prompt, completion}, or "stage:NAME"; empty = the task's demonstrations.
  examples: Path = ""
  # Of `examples`: our column -> the file's, or a path in it such as "messages.0.content".
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Or: completions made from the task's answers, e.g. "\\boxed{{answer}}"; empty = none.
  answer_template: str = ""
  num_examples: Examples = 50_000  # most generated examples, if they are not from a file
  token_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)  # word -> weight
  sft: SFTConfig = SFTConfig()
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  suspects: ClassVar[str] = (
      "token_weights, and at the examples: is there a token of weight above 0 to learn?")

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    return self.batch_size, self.length

  def pass_rows(self, prompt_tokens: int) -> tuple[str, int, int]:
    return "length", self.sft.micro_batch_size or self.batch_size, self.length

  def __post_init__(self):
    check_positive(self, "batch_size", "length", "num_examples")
    check_steps(self.steps, self.steps, self.optimizer)
    check_fields(self, self.examples)
    check_micro_batch(
        "sft.micro_batch_size", self.sft.micro_batch_size, "batch_size", self.batch_size)
    check_critic_rate(self.optimizer, "in a supervised stage, which has no critic")
    if self.answer_template and self.examples:
      raise ValueError("answer_template: got one beside examples, allowed: one of the two")
    if self.answer_template and "{answer}" not in self.answer_template:
      raise ValueError(
          f"answer_template: got {self.answer_template!r}, allowed: text with {{answer}} in it")
    if "\\boxed{answer}" in self.answer_template:
      raise ValueError(
          "answer_template: got \\boxed{answer}, allowed: \\boxed{{answer}} (the inner braces are "
          "the placeholder's)")
    for word, weight in self.token_weights.items():
      if not 0 <= weight < math.inf:
        raise ValueError(f"token_weights.{word}: got {weight}, allowed: 0 or more, finite")
