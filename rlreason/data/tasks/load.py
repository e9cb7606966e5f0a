"""Loads the splits of a task from its config."""

from collections.abc import Callable, Mapping
import dataclasses
import json
from typing import Any, Literal

from absl import logging

from rlreason.config import Path
from rlreason.data import columns, sources
from rlreason.data.tasks import arithmetic, chain, countdown, own, workings
from rlreason.data.tasks.base import Row, RowSource, Task
from rlreason.data.tasks.own import OwnTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountdownTask:
  """Generated Countdown problems, with demonstrations of search."""

  kind: Literal["countdown"]
  problems: countdown.CountdownConfig = countdown.CountdownConfig()
  verifier: str = ""  # as in `FileTask`; empty = the task's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainTask:
  """Generated chains of operations modulo a number, with demonstrations."""

  kind: Literal["chain"]
  problems: chain.ChainConfig = chain.ChainConfig()
  verifier: str = ""  # as in `FileTask`; empty = the task's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArithmeticTask:
  """Problems with numeric answers from reasoning-gym."""

  kind: Literal["arithmetic"]
  problems: arithmetic.ArithmeticConfig
  verifier: str = ""  # as in `FileTask`; empty = the task's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTask:
  """Problems from files of {prompt, answer, ...}, in the layouts that `data/columns.py` reads."""

  kind: Literal["file"]
  name: str  # of the task, in metrics and tables
  train: Path  # of a file or a folder, or a pattern
  test: Path = ""  # likewise; empty = problems of the training files are held out
  held_out: float = own.TEST_SHARE  # about this share of them, if there is no test file
  validation: Path = ""  # likewise; empty = the test split
  # Ours -> the file's, or a path in it such as "reward_model.ground_truth".
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  template: str = "{question}"  # the user's turn; `{question}` is the row's prompt
  system: str = ""  # a system message before it; empty = that of the row or of the chat template
  is_chat: bool = True  # whether prompts go through the chat template
  # The verifier, in training and in evaluation: a name of `rewards.verifier.VERIFIERS`, or a reward
  # function, "package.module:function", that returns 1 for right.
  verifier: str = "math"

  def __post_init__(self):
    if not 0 < self.held_out < 1:
      raise ValueError(f"held_out: got {self.held_out}, allowed: between 0 and 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsTask:
  """Problems from a tensorflow-datasets folder or builder, read without TensorFlow."""

  kind: Literal["tfds"]
  name: Path  # of the builder, or its folder
  # Ours -> the data set's, or a path in it.
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  train: str = "train"  # split
  test: str = "test"  # split
  validation: str = ""  # split; empty = the test split
  data_dir: Path | None = None  # folder of prepared data sets; None = tfds's default
  download: bool = False  # download and prepare a builder's data if absent
  template: str = "{question}"  # as in `FileTask`
  system: str = ""  # as in `FileTask`
  is_chat: bool = True  # as in `FileTask`
  verifier: str = "math"  # as in `FileTask`


_NO_DEMONSTRATIONS = (
    "this task has no demonstrations of its own, allowed: `examples`, a file of {prompt, "
    "completion}, or `answer_template`")


def verifier_of(config: "TaskConfig") -> str | Callable[..., Any]:
  """The verifier of a task, as in `Task`."""
  return config.verifier or own_verifier(config)


def own_verifier(config: "TaskConfig") -> str | Callable[..., Any]:
  """The verifier of a task whose config names none."""
  if isinstance(config, OwnTask):
    return config.parts["train"].verifier
  return "countdown" if isinstance(config, CountdownTask) else "math"


TaskConfig = CountdownTask | ChainTask | ArithmeticTask | FileTask | TfdsTask | OwnTask
# Tasks with their own vocabulary, and demonstrations in it.
_WORD_TASKS = {CountdownTask: countdown, ChainTask: chain}
_DEMONSTRATIONS = {CountdownTask: countdown.CountdownDemonstrations,
                   ChainTask: chain.ChainDemonstrations}


def load_tasks(config: TaskConfig) -> dict[str, Task]:
  """The splits "train", "validation" and "test".

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: rows are all bad, or the generator refuses its options.
  """
  tasks = _load_tasks(config)
  return {split: dataclasses.replace(task, verifier=config.verifier or task.verifier)
          for split, task in tasks.items()}


def _load_tasks(config: TaskConfig) -> dict[str, Task]:
  if type(config) in _WORD_TASKS:
    task = _WORD_TASKS[type(config)]
    return {split: task.make_task(config.problems, split) for split in task.SPLITS}
  loaders = {
      ArithmeticTask: lambda: arithmetic.make_tasks(config.problems),
      FileTask: lambda: _rows_tasks(
          config, lambda path: sources.FileRows(
              path, fields=dict(config.fields), questions="templated")),
      TfdsTask: lambda: _rows_tasks(
          config, lambda split: sources.TfdsRows(
              config.name, split, fields=dict(config.fields), questions="templated",
              data_dir=config.data_dir, download=config.download)),
      OwnTask: lambda: _own_tasks(config),
  }
  return loaders[type(config)]()


def vocabulary(config: TaskConfig) -> list[str] | None:
  """The vocabulary of a task that has its own, for `WordTokenizer`; else None."""
  if isinstance(config, OwnTask):
    words = config.parts["train"].vocabulary
    return None if words is None else list(words)
  if type(config) not in _WORD_TASKS:
    return None
  return _WORD_TASKS[type(config)].vocabulary(config.problems)


def behaviour_words(config: TaskConfig) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
  """The words of such a task for backtracking, and for checking; else None."""
  task = _WORD_TASKS.get(type(config))
  return None if task is None else (task.BACK_WORDS, task.CHECK_WORDS)


def demonstrations(config: TaskConfig, train: RowSource, size: int) -> RowSource:
  """The task's own examples {prompt, completion}: generated, or the solutions in its files.

  Args:
    config: of the task.
    train: its training rows.
    size: how many; if each training row gives one, at most the number of rows.

  Raises:
    ValueError: the task has none.
  """
  if type(config) in _DEMONSTRATIONS:
    return _DEMONSTRATIONS[type(config)](config.problems, size)
  if isinstance(config, FileTask):
    return _solutions(config, train, size)
  if isinstance(config, OwnTask):
    try:
      rows = _Templated(own.examples(config.parts["train"]), config)
    except ValueError as error:
      raise ValueError(f"{_NO_DEMONSTRATIONS}; {error}") from error
    return sources.FunctionRows(rows.__getitem__, min(len(rows), size), rows)
  if not isinstance(config, ArithmeticTask):
    raise ValueError(_NO_DEMONSTRATIONS)
  workings.check_tasks(list(config.problems.tasks))
  return sources.FunctionRows(
      lambda i: {**train[i], "completion": workings.demonstration(train[i])},
      min(len(train), size))


def _solutions(config: FileTask, train: RowSource, size: int) -> RowSource:
  """The problems of the training files with their solutions, as prompts of the task."""
  try:
    rows = sources.FileRows(
        config.train, fields=dict(config.fields), required=("prompt", "completion"),
        questions="templated")
  except (FileNotFoundError, ValueError) as error:
    raise ValueError(f"{_NO_DEMONSTRATIONS}; {error}") from error
  rows = _Templated(rows, config)
  if not config.test:  # some of the file's problems are held out
    prompts = {json.dumps(train[i]["prompt"]) for i in range(len(train))}
    rows = sources.ChosenRows(
        rows, [i for i in range(len(rows)) if json.dumps(rows[i]["prompt"]) in prompts])
    if not len(rows):
      raise ValueError(f"{_NO_DEMONSTRATIONS}; {config.train} has solutions of held-out problems "
                       "alone")
  return sources.FunctionRows(rows.__getitem__, min(len(rows), size), rows)


def _divided(rows: RowSource, share: float) -> dict[str, RowSource]:
  """The training rows of a file, and the held-out ones."""
  try:
    chosen = sources.hold_out(rows, share)
  except ValueError as error:
    raise ValueError(f"config.task.train: {error}, or a file as config.task.test") from error
  logging.info("config.task: %d rows to train on, %d held out", *map(len, chosen))
  return {split: sources.ChosenRows(rows, indexes)
          for split, indexes in zip(("train", "test"), chosen, strict=True)}


def _own_tasks(config: OwnTask) -> dict[str, Task]:
  _check_template(config)
  return {split: Task(name=config.name or part.name, rows=_Templated(part.rows, config),
                      verifier=part.verifier) for split, part in config.parts.items()}


def _check_template(config: FileTask | TfdsTask | OwnTask):
  if "{question}" not in config.template:
    raise ValueError(f"template: got {config.template!r}, allowed: text with {{question}} in it")
  if config.system and not config.is_chat:
    raise ValueError(f"system: got {config.system!r} with is_chat=False, allowed: '' (a system "
                     "message is one of a chat)")


def _rows_tasks(config: FileTask | TfdsTask, read) -> dict[str, Task]:
  _check_template(config)
  is_divided = isinstance(config, FileTask) and not config.test
  splits = {"train": config.train, "test": config.train if is_divided else config.test}
  splits["validation"] = config.validation or splits["test"]
  rows = {}
  for split, name in splits.items():
    if name not in rows:
      try:
        rows[name] = read(name)
      except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.task.{split}: {error}") from error
  train = rows[config.train]
  if (config.template != "{question}" and isinstance(train, sources.FileRows)
      and not isinstance(train[0]["prompt"], str)):
    logging.warning("config.task.template: prompts of %r are chat messages, which are left as they "
                    "are", config.train)
  by_split = {split: rows[name] for split, name in splits.items()}
  if is_divided:
    by_split |= _divided(train, config.held_out)
    if not config.validation:
      by_split["validation"] = by_split["test"]
  return {split: Task(name=config.name, rows=_Templated(rows, config), verifier=config.verifier)
          for split, rows in by_split.items()}


class _Templated:
  """Rows whose prompts are put into the template, after their system message, if they have one.

  Chat messages are unchanged.
  """

  def __init__(self, rows: RowSource, config: FileTask | TfdsTask | OwnTask):
    self._rows, self._config = rows, config

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Row:
    row = self._rows[index]
    if not isinstance(row["prompt"], str):
      return row
    system = self._config.system or row.get("system")
    row = {name: value for name, value in row.items() if name != "system"}
    # Not str.format: templates contain `\boxed{}` with its braces.
    prompt = self._config.template.replace("{question}", row["prompt"])
    return row | {"prompt": columns.with_system(prompt, system, self._config.is_chat)}

  def origin(self, index: int) -> int | str:
    """The origin of the row."""
    return sources.origin(self._rows, index)
