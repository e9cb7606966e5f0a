"""The common interface of the settings of all stages, and how stages name each other.

A stage that trains starts from the previous policy, from the initial weights, from the end of an
earlier stage, or from a folder. Later stages refer to a stage's data (`data/<stage>.jsonl`), or the
reward model that it trains, as "stage:NAME".
"""

from typing import Any, ClassVar, Protocol

# The origin of a stage's policy: the previous stage that trains, the recipe's model, or else the
# name of an earlier stage that trains, or a folder as a run writes it.
START = ("previous", "initial")
BEST = "-best"  # after the name of a stage: its best model, next to its final one
_STAGE_PREFIX = "stage:"


class StageConfig:
  """The settings of a stage; each kind is a frozen dataclass with `kind`, `name` and its fields."""

  trains: ClassVar[bool] = True  # whether it changes the policy
  has_steps: ClassVar[bool] = True
  has_preflight: ClassVar[bool] = False  # whether a few problems may be tried before its first step
  # What to check if its gradient is 0.
  suspects: ClassVar[str] = (
      "the examples (are both completions of a pair the same?) and at the weights of the loss")

  @property
  def writes_data(self) -> bool:
    """Whether it writes data/<stage>.jsonl."""
    return False

  def data_sources(self) -> dict[str, tuple[str, ...]]:
    """Field -> the stages whose data it names."""
    return {field: (name,)
            for field, name in named_stages(self, "examples", "problems").items()}

  def model_sources(self) -> dict[str, str]:
    """Field -> the stage whose model of rewards it names."""
    return {}

  def step_rows(self, prompt_tokens: int) -> tuple[int, int] | None:
    """Rows of a step, and the most tokens of a row, both upper bounds; None: unknown.

    `prompt_tokens` are those of the longest prompt.
    """
    return None

  def pass_rows(self, prompt_tokens: int) -> tuple[str, int, int] | None:
    """Of its gradient passes: the field of their length, rows and tokens per row; None: unknown.

    A lower bound where rows may be shorter than the longest.
    """
    return None

  def work(self, prompt_tokens: int) -> str:
    """A description for the user: steps, and the rows and the most tokens of each."""
    found = self.step_rows(prompt_tokens)
    if found is None:
      return f"{self.steps:,} steps"
    rows, tokens = found
    return f"{self.steps:,} steps of {rows:,} rows, at most {rows * tokens:,} tokens a step"


class RunConfig(Protocol):
  """The part of a `Recipe` that the loop and the stages read, without its kinds of stages."""

  seed: int
  stages: tuple[StageConfig, ...]
  prompt_buckets: tuple[int, ...]
  evaluation: Any  # an `EvaluationConfig`
  checkpoint: Any  # a `CheckpointConfig`
  lora: Any
  preflight: bool
  samples_per_step: int
  max_skipped_in_a_row: int
  reward_workers: int
  reward_timeout: float


def stage_of(source: str) -> str | None:
  """NAME of "stage:NAME", which a stage of the run writes; None for a path."""
  return source.removeprefix(_STAGE_PREFIX) if source.startswith(_STAGE_PREFIX) else None


def named_stages(stage: StageConfig, *fields: str) -> dict[str, str]:
  """Field -> stage, for fields that name a stage; a kind may lack some of the fields."""
  named = {field: stage_of(vars(stage).get(field, "")) for field in fields}
  return {field: name for field, name in named.items() if name is not None}
