"""Random-access sources of rows: functions of an index, JSONL and parquet files, tfds, mixtures.

A row is a dict with a `prompt` (text or chat messages), what is `required` beside it (an `answer`
for reinforcement learning, a `completion` for supervised learning), and any further columns. Files
are read and checked once; a bad row is logged with its line, counted, and left out, and only a file
without any good row is an error. Not here: order, batches and resuming (`data/pipeline.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import hashlib
import json
import math
import pathlib
from typing import Any

from absl import logging
import numpy as np

from rlreason.data.tasks.base import Row, RowSource

PROMPT_COLUMNS = ("prompt", "messages", "problem", "question")  # where a prompt is looked for
MAX_LOGGED = 20  # bad rows logged one by one


class BadRows(list):
  """(place, reason) of each row left out; the first `MAX_LOGGED` are logged as they come."""

  def __init__(self, source: str):
    super().__init__()
    self._source = source

  def add(self, place: int, error: ValueError):
    """Notes a row that cannot be used."""
    self.append((place, str(error)))
    if len(self) <= MAX_LOGGED:
      logging.warning("%s:%d: row left out: %s", self._source, place, error)

  def finish(self, total: int):
    """Logs how many of `total` rows are left out.

    Raises:
      ValueError: all of them are.
    """
    if len(self) == total:
      first = "row {}: {}".format(*self[0]) if self else "there are no rows"
      raise ValueError(f"{self._source}: no usable row among {total}; {first}")
    if self:
      logging.warning("%s: %d of %d rows left out", self._source, len(self), total)


class FunctionRows:
  """`size` rows, row i being `function(i)`; the function must depend on i alone."""

  def __init__(self, function: Callable[[int], Row], size: int):
    if size < 1:
      raise ValueError(f"size must be at least 1. Got: {size}")
    self._function = function
    self._size = size

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> Row:
    if not 0 <= index < self._size:
      raise IndexError(f"index must be in 0..{self._size - 1}. Got: {index}")
    return self._function(int(index))


class FileRows:
  """The good rows of a `.jsonl` or `.parquet` file, held in memory.

  Attributes:
    bad_rows: (line, reason) of each row left out; lines of parquet files are row numbers from 1.
  """

  def __init__(
      self,
      path: str | pathlib.Path,
      fields: Mapping[str, str] | None = None,
      required: Sequence[str] = ("prompt", "answer"),
  ):
    """Reads and checks a file.

    Args:
      path: a file whose name ends in `.jsonl` or `.parquet`.
      fields: column of a row -> column of the file, such as {"answer": "final_answer"}. A prompt
        is also found under `messages`, `problem` or `question`; other columns keep their names.
      required: columns each row must have. With "completion" among them, chat messages that end
        in an assistant's turn are split into prompt and completion.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the kind of file is unknown, or no row is good.
    """
    path = pathlib.Path(path)
    if path.suffix not in _READERS:
      raise ValueError(f"{path}: the name must end in one of {sorted(_READERS)}.")
    if not path.is_file():
      raise FileNotFoundError(f"{path}: no such file.")
    self.bad_rows = BadRows(str(path))
    self._rows = []
    for line, raw in _READERS[path.suffix](path):
      try:
        if isinstance(raw, ValueError):
          raise raw
        self._rows.append(make_row(raw, fields, required))
      except ValueError as error:
        self.bad_rows.add(line, error)
    self.bad_rows.finish(len(self.bad_rows) + len(self._rows))
    # Reward functions take columns of the whole batch: every row gets every column.
    columns = {name: None for row in self._rows for name in row}
    self._rows = [{**columns, **row} for row in self._rows]

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Row:
    return self._rows[index]


class TfdsRows:
  """Rows of a tensorflow-datasets split, read without TensorFlow.

  The data must have been prepared in the array_record format; text is decoded from UTF-8.
  """

  def __init__(
      self,
      name: str,
      split: str,
      fields: Mapping[str, str] | None = None,
      required: Sequence[str] = ("prompt", "answer"),
      data_dir: str | None = None,
      download: bool = False,
  ):
    """Opens a split and checks its first rows.

    Args:
      name: a registered dataset, or a folder that holds a prepared one.
      split: such as "train" or "train[:10%]".
      fields: as in `FileRows`.
      required: as in `FileRows`.
      data_dir: where prepared datasets lie; None for the default of tfds.
      download: whether to download and prepare a registered dataset that is absent.

    Raises:
      ValueError: the data cannot be had, or its rows lack a required column.
    """
    import tensorflow_datasets as tfds  # slow to import, and not needed by other sources

    try:
      if pathlib.Path(name).is_dir():
        self._source = tfds.builder_from_directory(name).as_data_source(split)
      else:
        self._source = tfds.data_source(name, split=split, data_dir=data_dir, download=download)
    except Exception as error:  # builders raise anything, network errors among it
      reason = (str(error).splitlines() or [""])[0]
      hint = "check the network" if download else "prepare it first, or set download"
      raise ValueError(
          f"tensorflow-datasets cannot give {name!r} split {split!r} "
          f"(data_dir {data_dir}); {hint}. {type(error).__name__}: {reason}") from error
    self._fields = fields
    self._required = required
    if not len(self._source):
      raise ValueError(f"tensorflow-datasets: {name!r} split {split!r} is empty.")
    self._check_some()

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Row:
    return make_row(_to_python(self._source[int(index)]), self._fields, self._required)

  def _check_some(self):
    """Raises what is wrong with the columns before a run starts; one bad row is no reason."""
    for index in range(min(MAX_LOGGED, len(self))):
      try:
        return self[index]
      except ValueError as error:
        problem = error
    raise problem


class MixedRows:
  """Several sources in fixed proportions, evenly interleaved, with a `task_name` column.

  Row i is of the source that is furthest behind its share; each source is read in its own order,
  from the start again when it is used up.
  """

  def __init__(
      self,
      sources: Mapping[str, RowSource],
      weights: Mapping[str, float] | None = None,
      size: int | None = None,
  ):
    """Lays out the mixture.

    Args:
      sources: task name -> rows.
      weights: task name -> share, in any unit; None for shares as large as the sources.
      size: rows of the mixture; None for as many as there are before a source is used up.

    Raises:
      ValueError: there is no source, names differ, or a weight is not positive.
    """
    if not sources:
      raise ValueError("sources must name at least one task. Got none.")
    lengths = np.array([len(rows) for rows in sources.values()], dtype=np.float64)
    if weights is None:
      weights = dict(zip(sources, lengths))
    if set(weights) != set(sources):
      raise ValueError(f"weights must name {sorted(sources)}. Got: {sorted(weights)}")
    shares = np.array([weights[name] for name in sources], dtype=np.float64)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
      raise ValueError(f"weights must be positive. Got: {dict(weights)}")
    shares /= shares.sum()
    if size is None:
      size = round((lengths / shares).min())
    self._names = list(sources)
    self._sources = list(sources.values())
    self._which, self._place = lay_out_mixture(shares, size)

  def __len__(self) -> int:
    return len(self._which)

  def __getitem__(self, index: int) -> Row:
    which = self._which[index]
    source = self._sources[which]
    row = source[int(self._place[index]) % len(source)]
    return {**row, "task_name": self._names[which]}


def lay_out_mixture(shares: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Which source each row of an even mixture is of, and which row of that source.

  The j-th row of a source with share s is due at (j + 1/2) / s rows, and rows come when due.

  Args:
    shares: f64[K] share of each source; they sum to 1.
    size: M, rows of the mixture.

  Returns:
    i64[M] source of each row; i64[M] its number among the rows of that source.
  """
  counts = np.ceil(shares * (size + len(shares))).astype(np.int64) + 1  # more than can be due
  which = np.repeat(np.arange(len(shares)), counts)
  place = np.concatenate([np.arange(count) for count in counts])
  order = np.argsort((place + 0.5) / shares[which], kind="stable")[:size]
  return which[order], place[order]


def digest(path: str | pathlib.Path) -> str:
  """SHA-256, in hexadecimal, of what a file holds, or of the names and contents in a folder.

  A folder's is the same wherever it lies; what is hidden (a name with a dot before it) is no part
  of it, and links to files are followed, as caches have them.

  Raises:
    FileNotFoundError: there is neither a file nor a folder.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path}: no such file or folder.")
  if not path.is_dir():
    return _file_digest(path).hex()
  names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
  total = hashlib.sha256()
  for name in names:
    if not any(part.startswith(".") for part in name.split("/")):
      total.update(name.encode("utf-8", "surrogateescape") + b"\0" + _file_digest(path / name))
  return total.hexdigest()


def _file_digest(path: pathlib.Path) -> bytes:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").digest()


def make_row(raw: Any, fields: Mapping[str, str] | None, required: Sequence[str]) -> Row:
  """Checks one raw row and gives its columns the names of a task row.

  Raises:
    ValueError: says what is wrong with the row.
  """
  if not isinstance(raw, Mapping):
    raise ValueError(f"a row must be an object. Got: {type(raw).__name__}")
  row = dict(raw)
  fields = dict(fields or {})
  if "prompt" not in fields:
    fields["prompt"] = next((name for name in PROMPT_COLUMNS if name in raw), "prompt")
  for name, column in fields.items():
    if column not in raw:
      raise ValueError(f"there is no column {column!r} for {name!r}")
  for column in fields.values():
    row.pop(column, None)
  row.update({name: raw[column] for name, column in fields.items()})
  if "completion" in required and "completion" not in row:
    row["prompt"], row["completion"] = _split_messages(row["prompt"])
  for name in required:
    if name not in row:
      raise ValueError(f"there is no column {name!r}")
    row[name] = _check_prompt(row[name]) if name == "prompt" else _check_text(row[name], name)
  return row


def _check_prompt(value: Any) -> str | list[dict[str, str]]:
  if not isinstance(value, list):
    return _check_text(value, "prompt")
  if not value:
    raise ValueError("the list of messages is empty")
  for message in value:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
      raise ValueError("a message must have a role and a content")
    _check_text(message["role"], "role")
    _check_text(message["content"], "content")
  return value


def _check_text(value: Any, name: str) -> str:
  """Text as it is; a finite number as text."""
  if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
    value = str(value)
  if not isinstance(value, str):
    shown = value if isinstance(value, (int, float, type(None))) else type(value).__name__
    raise ValueError(f"{name} must be text or a finite number. Got: {shown}")
  if not value.strip():
    raise ValueError(f"{name} is empty")
  try:
    value.encode("utf-8")
  except UnicodeEncodeError as error:
    raise ValueError(f"{name} is not valid Unicode: {error}") from error
  return value


def _split_messages(messages: Any) -> tuple[list, str]:
  if not isinstance(messages, list) or len(messages) < 2 or not isinstance(messages[-1], Mapping):
    raise ValueError("there is no column 'completion' and no chat messages to take it from")
  if messages[-1].get("role") != "assistant":
    raise ValueError("the last message must be the assistant's")
  return messages[:-1], messages[-1].get("content")


def _read_jsonl(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """Yields (line, value or the ValueError that the line is); blank lines are passed over."""
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      line = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
      if not line:
        continue
      try:
        yield number, json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
      except ValueError as error:  # of the encoding, of JSON, and of absurdly long integers
        yield number, ValueError(str(error))
      except RecursionError:
        yield number, ValueError("nested too deeply")


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  import pyarrow  # comes with tensorflow-datasets; only this format needs it
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(path) as file:
      number = 0
      for batch in file.iter_batches():
        for row in batch.to_pylist():
          number += 1
          yield number, row
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f"{path}: not a readable parquet file: {error}") from error


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _refuse_constant(name: str):
  raise ValueError(f"{name} is not JSON")


def _to_python(value: Any) -> Any:
  """Arrays and bytes of tfds as plain Python values."""
  if isinstance(value, Mapping):
    return {name: _to_python(part) for name, part in value.items()}
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, np.generic):
    return _to_python(value.item())
  if isinstance(value, np.ndarray):
    return [_to_python(part) for part in value]
  return value
