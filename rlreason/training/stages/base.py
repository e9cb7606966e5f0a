"""The interface of a stage: a state, data, sampling, and an update. The loop does the rest."""

from collections.abc import Callable
import pathlib
from typing import Any, NamedTuple

from rlreason.algorithms.base import TrainState, trained_part
from rlreason.data import pipeline
from rlreason.data.tasks.base import Task
from rlreason.models.config import ModelConfig
from rlreason.parallel import memory
from rlreason.parallel.layout import Layout
from rlreason.tokenizers.base import Tokenizer
from rlreason.training.settings.base import RunConfig
from rlreason.types import Key, Metrics, Params


class Setup(NamedTuple):
  """Objects that all stages of a run share."""

  recipe: RunConfig
  model: ModelConfig  # of the policy, with its adapters if the recipe has any
  tokenizer: Tokenizer
  tasks: dict[str, Task]  # by split
  layout: Layout
  evaluate: Callable  # of `make_evaluator`


class StepOutput(NamedTuple):
  """The results of one step."""

  state: TrainState
  device_metrics: Metrics  # (sum, denominator) pairs, perhaps not computed yet
  host_metrics: dict[str, float]
  tokens: int  # processed
  samples: list[dict[str, Any]] = []  # for reading
  rows: list[dict[str, Any]] = []  # of the stage's data


def next_batch(params: Params, data: pipeline.BatchIterator | None, key: Key) -> Any:
  """The `draw` of stages that do not sample: the next batch of their data, if they have any."""
  del params, key
  return None if data is None else next(data)


class Stage(NamedTuple):
  """A stage of a run."""

  name: str
  steps: int
  state: TrainState | None  # placed
  data: pipeline.BatchIterator | None  # or another iterator with such a state; None: there is none
  # (state, step, result of `draw`, key)
  learn: Callable[[TrainState, int, Any, Key], StepOutput]
  # (parameters, data, key) -> the experience of a step; reads the data that it needs, and of the
  # parameters only the policy and its value head.
  draw: Callable[[Params, pipeline.BatchIterator, Key], Any] = next_batch
  draws_ahead: int = 0  # number of steps between a draw and its update
  trains: bool = True  # whether its state holds a policy for later stages
  # (parameters after the last step, folder): writes a model other than a policy; None: there is
  # none.
  finish: Callable[[Params, pathlib.Path], None] | None = None
  # (parameters, key): metrics and samples of a few problems, without training; None: there is
  # nothing to try.
  preflight: Callable[[Params, Key], tuple[dict[str, float], list[dict[str, Any]]]] | None = None
  beside: Any = ()  # parameters that it keeps besides its state, such as a reference

  def held(self) -> dict[str, int]:
    """Bytes on a device that a stage with its state keeps while its programs run, by kind."""
    state, others = self.state, [self.beside]
    if self.draws_ahead:
      others += [trained_part(state).params["policy"]] * self.draws_ahead
    return {"parameters": memory.device_bytes_of([state.params, state.extra, *others]),
            "moments": memory.device_bytes_of(state.opt_state)}

  def step(self, state: TrainState, number: int, data: Any, key: Key) -> StepOutput:
    """A draw with the state's own parameters, and its update."""
    return self.learn(state, number, self.draw(state.params, data, key), key)


def data_file(folder: pathlib.Path, stage: str) -> pathlib.Path:
  """The data file of a stage in the run's folder."""
  return folder / "data" / f"{stage}.jsonl"


def model_folder(folder: pathlib.Path, stage: str) -> pathlib.Path:
  """The model folder of a stage in the run's folder."""
  return folder / "models" / stage
