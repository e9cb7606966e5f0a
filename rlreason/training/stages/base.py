"""What a stage is to the loop: a state, data, and one step. The loop owns everything around it."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import logging

from rlreason import hub, tokenizers
from rlreason.algorithms import TrainState
from rlreason.data import files, pipeline
from rlreason.data.columns import Questions
from rlreason.data.sources import FileRows
from rlreason.data.tasks.base import Row, RowSource
from rlreason.tokenizers import Tokenizer
from rlreason.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from rlreason.training.settings.base import StageConfig, stage_of
from rlreason.types import Key, Metrics, Params


class StepOutput(NamedTuple):
  """What one step gives to the loop."""

  state: TrainState
  device_metrics: Metrics  # (sum, denominator) pairs, perhaps not computed yet
  host_metrics: dict[str, float]
  tokens: int  # worked on
  samples: list[dict[str, Any]] = []  # to read
  rows: list[dict[str, Any]] = []  # of the stage's data


class Stage(NamedTuple):
  """A stage of a run."""

  name: str
  steps: int
  state: TrainState | None  # placed
  data: pipeline.BatchIterator
  # (state, step, data, key): takes from the data what it needs
  step: Callable[[TrainState, int, pipeline.BatchIterator, Key], StepOutput]
  trains: bool = True  # whether its state holds a policy for the stages after it
  # (parameters after the last step, folder): writes a model that is no policy; None: there is none.
  finish: Callable[[Params, pathlib.Path], None] | None = None
  # (parameters, key): metrics and samples of a few problems, which nothing is learned from; None:
  # there is nothing to try.
  preflight: Callable[[Params, Key], tuple[dict[str, float], list[dict[str, Any]]]] | None = None


def data_file(folder: pathlib.Path, stage: str) -> pathlib.Path:
  """Where the data of a stage is, in the run's folder."""
  return folder / "data" / f"{stage}.jsonl"


def model_folder(folder: pathlib.Path, stage: str) -> pathlib.Path:
  """Where the model of a stage is, in the run's folder."""
  return folder / "models" / stage


def is_of_stage(source: str) -> bool:
  """Whether a source is what another stage writes, and so not there before the run."""
  return stage_of(source) is not None


def read_source(
    source: str, folder: pathlib.Path, required: Sequence[str], questions: Questions = "text",
    fields: Mapping[str, str] | None = None,
) -> RowSource:
  """The rows of files, or of a stage ("stage:NAME") of the run in `folder`.

  Raises:
    FileNotFoundError, ValueError: as `FileRows`.
  """
  if is_of_stage(source):
    source = data_file(folder, stage_of(source))
  return FileRows(source, fields=fields, required=required, questions=questions)


def read_rows(
    stage: StageConfig, name: str, tokenizer: Tokenizer, folder: pathlib.Path,
    required: Sequence[str],
) -> RowSource:
  """The rows of the source that a field of the stage names, questions as the model is asked them.

  Raises:
    FileNotFoundError, ValueError: as `FileRows`.
  """
  questions = "text" if tokenizer.chat_template is None else "chat"
  field = f"config.{stage.name}.{name}"
  try:
    rows = read_source(vars(stage)[name], folder, required, questions, dict(stage.fields))
  except (FileNotFoundError, ValueError) as error:
    raise type(error)(f"{field}: {error}") from error
  warn_of_plain_prompts(field, rows, tokenizer)
  return rows


def warn_of_plain_prompts(field: str, rows: RowSource, tokenizer: Tokenizer):
  """Logs it where the first row of a source is text although the tokenizer has a chat template.

  Rows that a stage wrote bring the tokens of what was sampled, and are what they are.
  """
  is_sampled = "prompt_ids" in rows[0] or "completion_ids" in rows[0]
  if isinstance(rows[0]["prompt"], str) and not is_sampled and tokenizer.chat_template is not None:
    logging.warning(
        "%s: its prompts are plain text, and train as they are, without the chat template of the "
        "model; messages, and columns of another name (`question`), go through it", field)


def completion_ids(tokenizer: Tokenizer, row: Row, name: str) -> list[int]:
  """Token ids of a row's completion `name`, an end token last.

  Those that a stage sampled are taken as they are (`completion_ids`).
  """
  if row.get(f"{name}_ids"):
    return row[f"{name}_ids"]
  if not isinstance(row["prompt"], str):
    return tokenizers.encode_completion(tokenizer, row["prompt"], row[name])
  ids = tokenizer.encode(row[name])
  return ids if ids and ids[-1] in tokenizer.eos_ids else [*ids, tokenizer.eos_ids[0]]


def check_source(name: str, source: str, columns: str):
  """Raises FileNotFoundError or ValueError where a source is no file that can be read."""
  if not source or is_of_stage(source):
    return
  try:
    files.find_files(source)
  except FileNotFoundError as error:
    raise FileNotFoundError(
        f"{name}: {source!r} not found, allowed: a file ({files.KINDS}) of {columns}, a folder of "
        f"such files, or 'stage:' and the name of a stage"
        f"{hub.hint(source, 'dataset')}") from error
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error


def check_top_k(top_k: int, vocab_size: int):
  """Raises ValueError where a filter of the sampler would let every token pass."""
  if top_k >= vocab_size:
    raise ValueError(
        f"sampling.top_k: got {top_k}, allowed: less than the {vocab_size} tokens of the model, or "
        "0, which is all")


def check_bigrams(bigrams: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], vocab_size: int):
  """Raises ValueError where a pair of the sampler's blocked bigrams could never occur."""
  for pair in bigrams:
    if not all(any(0 <= token < vocab_size for token in tokens) for tokens in pair):
      raise ValueError(
          f"sampling.blocked_bigrams: got {pair}, allowed: pairs with ids below {vocab_size}, the "
          "tokens of the model")


def check_rows(name: str, rows: int, count: int):
  """Raises ValueError where `count` devices cannot split the rows."""
  if rows % count:
    raise ValueError(
        f"{name}: got {rows}, allowed: a multiple of {count}, the number of devices that split the "
        "rows")


def optimizer_of(config: OptimizerConfig, updates: int):
  """A stage's optimiser and learning rate; a stage of 0 steps has them without using them."""
  total = max(updates, config.warmup_steps + 1)
  return make_optimizer(config, total), make_schedule(config, total)
