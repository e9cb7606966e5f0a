"""From the choice of a task to its splits."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from rlreason.config import Path
from rlreason.data import sources
from rlreason.data.tasks import arithmetic, chain, countdown, workings
from rlreason.data.tasks.base import Row, RowSource, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountdownTask:
  """Countdown problems, generated; comes with demonstrations of search."""

  kind: Literal["countdown"]
  problems: countdown.CountdownConfig = countdown.CountdownConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainTask:
  """Chains of operations modulo a number, generated; comes with demonstrations."""

  kind: Literal["chain"]
  problems: chain.ChainConfig = chain.ChainConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArithmeticTask:
  """Problems with numeric answers from reasoning-gym."""

  kind: Literal["arithmetic"]
  problems: arithmetic.ArithmeticConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTask:
  """Problems from JSONL or parquet files of {prompt, answer, ...}."""

  kind: Literal["file"]
  name: str
  train: Path
  test: Path
  validation: Path = ""  # empty = the test file
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # ours -> the file's
  template: str = "{question}"  # the user's turn; `{question}` is the row's prompt
  is_chat: bool = True  # whether prompts go through the chat template
  verifier: str = "math"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsTask:
  """Problems from a tensorflow-datasets folder or builder, read without TensorFlow."""

  kind: Literal["tfds"]
  name: Path  # of the builder, or its folder
  fields: Mapping[str, str]  # ours -> the data set's
  train: str = "train"  # split
  test: str = "test"  # split
  validation: str = ""  # split; empty = the test split
  data_dir: Path | None = None  # where prepared data sets lie; None = where tfds keeps them
  download: bool = False  # download and prepare a builder's data where they are absent
  template: str = "{question}"
  is_chat: bool = True
  verifier: str = "math"


TaskConfig = CountdownTask | ChainTask | ArithmeticTask | FileTask | TfdsTask
# Tasks in words of their own, with demonstrations in them.
_WORD_TASKS = {CountdownTask: countdown, ChainTask: chain}
_DEMONSTRATIONS = {CountdownTask: countdown.CountdownDemonstrations,
                   ChainTask: chain.ChainDemonstrations}


def load_tasks(config: TaskConfig) -> dict[str, Task]:
  """The splits "train", "validation" and "test".

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: rows are all bad, or the generator refuses its options.
  """
  if type(config) in _WORD_TASKS:
    task = _WORD_TASKS[type(config)]
    return {split: task.make_task(config.problems, split) for split in task.SPLITS}
  loaders = {
      ArithmeticTask: lambda: arithmetic.make_tasks(config.problems),
      FileTask: lambda: _rows_tasks(
          config, lambda path: sources.FileRows(path, fields=dict(config.fields))),
      TfdsTask: lambda: _rows_tasks(
          config, lambda split: sources.TfdsRows(
              config.name, split, fields=dict(config.fields), data_dir=config.data_dir,
              download=config.download)),
  }
  return loaders[type(config)]()


def vocabulary(config: TaskConfig) -> list[str] | None:
  """The words of a task that has a vocabulary of its own, for `WordTokenizer`; else None."""
  if type(config) not in _WORD_TASKS:
    return None
  return _WORD_TASKS[type(config)].vocabulary(config.problems)


def behaviour_words(config: TaskConfig) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
  """The words of such a task that mean going back, and checking; else None."""
  task = _WORD_TASKS.get(type(config))
  return None if task is None else (task.BACK_WORDS, task.CHECK_WORDS)


def demonstrations(config: TaskConfig, train: RowSource, size: int) -> RowSource:
  """Examples {prompt, completion} of the task's own.

  Args:
    config: of the task.
    train: its training rows.
    size: how many; where each training row makes one, at most that many.

  Raises:
    ValueError: the task has none.
  """
  if type(config) in _DEMONSTRATIONS:
    return _DEMONSTRATIONS[type(config)](config.problems, size)
  if not isinstance(config, ArithmeticTask):
    raise ValueError(
        "this task has no demonstrations of its own, allowed: `examples`, a file of {prompt, "
        "completion}, or `answer_template`")
  workings.check_tasks(list(config.problems.tasks))
  return sources.FunctionRows(
      lambda i: {**train[i], "completion": workings.demonstration(train[i])},
      min(len(train), size))


def _rows_tasks(config: FileTask | TfdsTask, read) -> dict[str, Task]:
  if "{question}" not in config.template:
    raise ValueError(f"template: got {config.template!r}, allowed: text with {{question}} in it")
  splits = {"train": config.train, "validation": config.validation or config.test,
            "test": config.test}
  rows = {name: read(name) for name in dict.fromkeys(splits.values())}
  return {split: Task(name=config.name, rows=_Templated(rows[name], config),
                      verifier=config.verifier) for split, name in splits.items()}


class _Templated:
  """Rows whose prompt is put into the template; chat messages are left as they are."""

  def __init__(self, rows: Any, config: FileTask | TfdsTask):
    self._rows, self._config = rows, config

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Row:
    row = self._rows[index]
    if not isinstance(row["prompt"], str):
      return row
    # Not str.format: a template asks for `\boxed{}`, braces and all.
    prompt = self._config.template.replace("{question}", row["prompt"])
    if self._config.is_chat:
      prompt = [{"role": "user", "content": prompt}]
    return row | {"prompt": prompt}
