"""What a stage is to the loop: a state, data, draws, and how it learns. The loop owns the rest."""

from collections.abc import Callable
import pathlib
from typing import Any, NamedTuple

from rlreason.algorithms.base import TrainState
from rlreason.data import pipeline
from rlreason.data.tasks.base import Task
from rlreason.models.config import ModelConfig
from rlreason.parallel.layout import Layout
from rlreason.tokenizers.base import Tokenizer
from rlreason.training.settings.base import RunConfig
from rlreason.types import Key, Metrics, Params


class Setup(NamedTuple):
  """What every stage of a run shares."""

  recipe: RunConfig
  model: ModelConfig  # of the policy, with its adapters if the recipe has any
  tokenizer: Tokenizer
  tasks: dict[str, Task]  # by split
  layout: Layout
  evaluate: Callable  # of `make_evaluator`


class StepOutput(NamedTuple):
  """What one step gives to the loop."""

  state: TrainState
  device_metrics: Metrics  # (sum, denominator) pairs, perhaps not computed yet
  host_metrics: dict[str, float]
  tokens: int  # worked on
  samples: list[dict[str, Any]] = []  # to read
  rows: list[dict[str, Any]] = []  # of the stage's data


def next_batch(params: Params, data: pipeline.BatchIterator | None, key: Key) -> Any:
  """The draw of stages that sample nothing: the next batch of their data, if they have any."""
  del params, key
  return None if data is None else next(data)


class Stage(NamedTuple):
  """A stage of a run."""

  name: str
  steps: int
  state: TrainState | None  # placed
  data: pipeline.BatchIterator
  # (state, step, what was drawn, key)
  learn: Callable[[TrainState, int, Any, Key], StepOutput]
  # (parameters, data, key) -> what a step learns from; takes from the data what it needs, and of
  # the parameters no more than the policy and its value head.
  draw: Callable[[Params, pipeline.BatchIterator, Key], Any] = next_batch
  draws_ahead: int = 0  # steps that a draw begins before it is learned from
  trains: bool = True  # whether its state holds a policy for the stages after it
  # (parameters after the last step, folder): writes a model that is no policy; None: there is none.
  finish: Callable[[Params, pathlib.Path], None] | None = None
  # (parameters, key): metrics and samples of a few problems, which nothing is learned from; None:
  # there is nothing to try.
  preflight: Callable[[Params, Key], tuple[dict[str, float], list[dict[str, Any]]]] | None = None

  def step(self, state: TrainState, number: int, data: Any, key: Key) -> StepOutput:
    """A draw with the state's own parameters, and what it teaches."""
    return self.learn(state, number, self.draw(state.params, data, key), key)


def data_file(folder: pathlib.Path, stage: str) -> pathlib.Path:
  """Where the data of a stage is, in the run's folder."""
  return folder / "data" / f"{stage}.jsonl"


def model_folder(folder: pathlib.Path, stage: str) -> pathlib.Path:
  """Where the model of a stage is, in the run's folder."""
  return folder / "models" / stage
