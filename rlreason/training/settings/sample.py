"""The settings of a stage that samples data."""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Literal

from rlreason.config import Path, Rows, check_unread
from rlreason.rewards import RewardSpec
from rlreason.sampling import SamplingOptions
from rlreason.training.settings.base import StageConfig, named_stages
from rlreason.training.settings.checks import (
    check_fields, check_filters, check_learned, check_lengths_paid, check_positive, check_rows,
    check_samples_differ)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleStage(StageConfig):
  """Completions of problems, with their rewards, as data: data/<stage>.jsonl."""

  kind: Literal["sample"]
  name: str
  steps: int  # batches of problems
  num_prompts: Rows  # problems of a batch, over all devices
  group_size: Rows  # completions of each
  # Problems sampled at once, over all devices; the others wait in a queue and take the slots of
  # those whose completions have ended. The completions are the same. 0 = all of the batch.
  prompts_at_once: Rows = 0
  sampling: SamplingOptions
  rewards: tuple[RewardSpec, ...]  # a section for each, by its name
  reward_clip: tuple[float, float] = (-10.0, 10.0)  # range of the sum of the rewards
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`
  problems: Path = ""  # as in `RLStage`
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as in `SFTStage`
  reward_model: Path = ""  # as in `RLStage`
  process_model: Path = ""  # as in `RLStage`
  # A folder or .gguf file to sample from instead of the policy, such as a larger teacher's.
  model: Path = ""

  trains: ClassVar[bool] = False

  @property
  def writes_data(self) -> bool:
    return True

  def model_sources(self) -> dict[str, str]:
    return named_stages(self, "reward_model", "process_model")

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    return self.num_prompts * self.group_size, prompt_tokens + self.sampling.max_new_tokens

  def __post_init__(self):
    check_positive(self, "steps", "num_prompts", "group_size")
    check_rows(self)
    if not 0 <= self.prompts_at_once <= self.num_prompts:
      raise ValueError(
          f"prompts_at_once: got {self.prompts_at_once}, allowed: 0 to num_prompts="
          f"{self.num_prompts}")
    check_fields(self, self.problems)
    check_learned(self.rewards, self.reward_model, self.process_model)
    check_samples_differ(self.sampling, self.group_size)
    check_filters(self.sampling)
    check_lengths_paid(self.rewards, self.sampling, self.group_size)
    if self.model:
      check_unread(self, "with a model of its own", "start")
