"""The settings of a stage that labels the steps of solutions by completions of their prefixes."""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Literal

from rlreason.config import Path, Rows
from rlreason.rewards import RewardSpec
from rlreason.sampling import SamplingOptions
from rlreason.slots import Slot
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.checks import (
    check_fields, check_filters, check_positive, check_samples_differ)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelStepsStage(StageConfig):
  """Labels of the steps of solutions without people: data/<stage>.jsonl of {prompt, steps, labels}.

  Where completions of a prefix reach the answer, its last step is right. The policy samples them.
  """

  kind: Literal["label_steps"]
  name: str
  steps: int  # batches of solutions
  num_prompts: Rows  # solutions of a batch, over all devices
  num_completions: Rows = 8  # N of each prefix
  # Solutions: files of {prompt, completion, answer}, or "stage:NAME" of a stage that samples.
  examples: Path
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as in `SFTStage`
  step_separator: str = "\n"  # text that ends a step
  # Which prefixes are completed, and what follows for the labels: every_step, first_error or
  # omega_tree of rollout/step_labels.py.
  search: Slot
  sampling: SamplingOptions  # max_new_tokens: of a prefix and its completion together
  rewards: tuple[RewardSpec, ...]  # one section, verifier: it says what is right
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  trains: ClassVar[bool] = False
  reward_clip: ClassVar[tuple[float, float]] = (-10.0, 10.0)  # of a reward that is not paid

  @property
  def group_size(self) -> int:
    """Rows of a prompt that are sampled at once."""
    return self.num_completions

  @property
  def writes_data(self) -> bool:
    return True

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    return (self.num_prompts * self.num_completions,
            prompt_tokens + self.sampling.max_new_tokens)

  def __post_init__(self):
    check_positive(self, "steps", "num_prompts", "num_completions")
    check_fields(self, self.examples)
    check_samples_differ(self.sampling, self.num_completions)
    check_filters(self.sampling)
    self.search.check(("solution",))
    if not self.step_separator:
      raise ValueError("step_separator: got '', allowed: text")
    if [spec.name for spec in self.rewards] != ["verifier"]:
      raise ValueError(f"rewards: got {[spec.name for spec in self.rewards]}, allowed: verifier")
