"""Random-access sources of rows: functions of an index, files and folders, tfds, mixtures.

A row is a dict with a `prompt` (text or chat messages), the other `required` columns (an `answer`
for RL, a `completion` for supervised learning), and any further columns. Files are read and checked
once; bad rows are dropped, and one line counts and locates them; only a file without any good row
is an error. Not here: file formats (`data/files.py`), the meaning of columns (`data/columns.py`),
and order, batches and resuming (`data/pipeline.py`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import json
import pathlib
import re
import textwrap
from absl import logging
import numpy as np

from rlreason import hub
from rlreason.data import columns
from rlreason.data.columns import Questions, make_row
from rlreason.data.files import expanded, find_files, matches, read_rows
from rlreason.data.tasks.base import Row, RowSource

_MAX_REASONS, _MAX_LINES = 3, 3  # in the line that counts bad rows; per reason
_MAX_REASON = 500  # characters
_MAX_TRIED = 20  # rows of a data set, to find a good one


class BadRows(list):
  """(line, reason) of each dropped row; `finish` logs them in one line."""

  def __init__(self, source: str, kind: str = "rows"):
    super().__init__()
    self._source, self._kind = source, kind

  def add(self, line: int | str, error: ValueError):
    """Notes a row that cannot be used."""
    self.append((line, textwrap.shorten(str(error), _MAX_REASON, placeholder=" ...")))

  def finish(self, total: int, names: Sequence[str] = ()):
    """Logs how many of `total` rows are dropped, the most frequent reasons and their lines.

    Args:
      total: rows that were read.
      names: columns of the first row, for the message.

    Raises:
      ValueError: all rows are dropped.
    """
    if len(self) == total:
      first = "row {}: {}".format(*self[0]) if self else "there are no rows"
      shown = textwrap.shorten(", ".join(names), _MAX_REASON, placeholder=" ...")
      columns_are = f" (its columns: {shown})" if shown else ""
      missing = re.search(r"there is no column '(?=(\w+)')|(?=(\w+): got None, allowed: )", first)
      if missing and shown:
        columns_are += f"; fields={{{(missing[1] or missing[2])!r}: NAME}} says which of them it is"
      raise ValueError(f"{self._source}: no usable row among {total}; {first}{columns_are}")
    if not self:
      return
    reasons = Counter(reason for _, reason in self).most_common(_MAX_REASONS)
    told = [f"{count} x {reason}{self._lines_of(reason)}" for reason, count in reasons]
    others = len(self) - sum(count for _, count in reasons)
    logging.warning("%s: %d of %d %s left out: %s", self._source, len(self), total, self._kind,
                    "; ".join(told + [f"{others} for other reasons"] * (others > 0)))

  def _lines_of(self, reason: str) -> str:
    lines = [str(line) for line, other in self if other == reason and line is not None]
    if len(lines) > _MAX_LINES:
      lines[_MAX_LINES:] = ["..."]
    return f" ({', '.join(lines)})" if lines else ""


def origin(rows: RowSource, index: int) -> int | str:
  """The origin of a row, for messages: its file and line if the source has them."""
  return rows.origin(index) if hasattr(rows, "origin") else index


class FunctionRows:
  """`size` rows, where row i is `function(i)`; the function must depend only on i.

  `rows`, if given, are those from whose i-th row i is made.
  """

  def __init__(self, function: Callable[[int], Row], size: int, rows: RowSource | None = None):
    if size < 1:
      raise ValueError(f"size: got {size}, allowed: 1 or more")
    self._function = function
    self._size = size
    self._rows = rows

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> Row:
    if not 0 <= index < self._size:
      raise IndexError(f"index: got {index}, allowed: 0 to {self._size - 1}")
    return self._function(int(index))

  def origin(self, index: int) -> int | str:
    """The origin of the row from which a row is made."""
    return index if self._rows is None else origin(self._rows, index)


class ChosenRows:
  """The rows of a source at some indices, in that order."""

  def __init__(self, rows: RowSource, indexes: Sequence[int]):
    self._rows, self._indexes = rows, indexes

  def __len__(self) -> int:
    return len(self._indexes)

  def __getitem__(self, index: int) -> Row:
    return self._rows[self._indexes[index]]

  def origin(self, index: int) -> int | str:
    """The origin of the row."""
    return origin(self._rows, self._indexes[index])


class FileRows:
  """The good rows of a file or of several, held in memory.

  Attributes:
    bad_rows: (line, reason) of each dropped row: the line, or in files without lines the index of
      the row from 1; after the name of the file if there are several.
  """

  def __init__(
      self,
      path: str | pathlib.Path,
      fields: Mapping[str, str] | None = None,
      required: Sequence[str] = ("prompt", "answer"),
      questions: Questions = "text",
  ):
    """Reads and checks the files.

    Args:
      path: a file of one of `files.KINDS`, with `.gz` or without; a folder of such files, or one
        that `datasets` saved; or a pattern, such as `data/train-*.parquet`.
      fields: column of a row -> column of the file or path inside one, such as {"answer":
        "reward_model.ground_truth"}. Columns that it does not name are searched
        (`data/columns.py`); other columns keep their names.
      required: columns each row must have.
      questions: the form of questions (`data/columns.py`).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the format of a file is unknown, or no row is good.
    """
    path = expanded(path)
    files, notes = find_files(path), Counter()
    self.bad_rows = BadRows(str(path))
    self._rows, self._origins = [], []
    names = None  # of the first row
    for file in files:
      name = file.relative_to(path) if path.is_dir() else file.name
      for line, raw in read_rows(file):
        try:
          if isinstance(raw, ValueError):
            raise raw
          if names is None:
            names = tuple(map(str, raw)) if isinstance(raw, Mapping) else ()
          self._rows.append(make_row(raw, fields, required, questions, notes))
          self._origins.append((file, line))
        except ValueError as error:
          self.bad_rows.add(line if files == [path] else f"{name}:{line}", error)
    self.bad_rows.finish(len(self.bad_rows) + len(self._rows), names or ())
    _log_notes(str(path), notes)
    # Reward functions take columns of the whole batch: every row gets every column.
    names = {name: None for row in self._rows for name in row}
    self._rows = [{**names, **row} for row in self._rows]

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Row:
    return self._rows[index]

  def origin(self, index: int) -> str:
    """The file and the line of a row."""
    file, line = self._origins[index]
    return f"{file}:{line}"


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
      questions: Questions = "text",
      data_dir: str | None = None,
      download: bool = False,
  ):
    """Opens a split and checks its first rows.

    Args:
      name: a registered dataset, or a folder that holds a prepared one.
      split: such as "train" or "train[:10%]".
      fields: as in `FileRows`.
      required: as in `FileRows`.
      questions: as in `FileRows`.
      data_dir: folder of prepared datasets; None for the default of tfds.
      download: whether to download and prepare a registered dataset that is absent.

    Raises:
      ValueError: the data are unavailable, or their rows lack a required column.
    """
    import tensorflow_datasets as tfds  # slow to import, and not needed by other sources

    try:
      if pathlib.Path(name).is_dir():
        self._source = tfds.builder_from_directory(name).as_data_source(split)
      else:
        self._source = tfds.data_source(name, split=split, data_dir=data_dir, download=download)
    except Exception as error:  # builders raise anything, including network errors
      reason = (str(error).splitlines() or [""])[0]
      hint = "check the network" if download else "prepare it first, or set download"
      raise ValueError(
          f"tensorflow-datasets cannot give {name!r} split {split!r} "
          f"(data_dir {data_dir}); {hint}. {type(error).__name__}: {reason}") from error
    self._make_row = functools.partial(
        make_row, fields=fields, required=required, questions=questions)
    if not len(self._source):
      raise ValueError(f"tensorflow-datasets: {name!r} split {split!r} is empty")
    self._check_some(name, split)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Row:
    return self._make_row(self._source[int(index)])

  def _check_some(self, name: str, split: str):
    """Raises errors of the columns before a run starts; a single bad row is allowed."""
    for index in range(min(_MAX_TRIED, len(self))):
      notes = Counter()
      try:
        self._make_row(self._source[index], notes=notes)
        return _log_notes(f"tensorflow-datasets {name!r} {split!r}, row {index}", notes)
      except ValueError as error:
        problem = error
    raise problem


class MixedRows:
  """Several sources in fixed proportions, evenly interleaved, with a `task_name` column.

  Row i is from the source that is furthest behind its share; each source is read in its order, and
  again from the start when it is exhausted.
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
      size: rows of the mixture; None for the number before a source is exhausted.

    Raises:
      ValueError: there is no source, names differ, or a weight is not positive.
    """
    if not sources:
      raise ValueError("sources: got none, allowed: one task or more")
    lengths = np.array([len(rows) for rows in sources.values()], dtype=np.float64)
    if weights is None:
      weights = dict(zip(sources, lengths))
    if set(weights) != set(sources):
      raise ValueError(f"weights: got those of {sorted(weights)}, allowed: of {sorted(sources)}")
    shares = np.array([weights[name] for name in sources], dtype=np.float64)
    if not (np.isfinite(shares).all() and (shares > 0).all()):
      raise ValueError(f"weights: got {dict(weights)}, allowed: finite numbers above 0")
    shares /= shares.sum()
    if size is None:
      size = round((lengths / shares).min())
    self._names = list(sources)
    self._sources = list(sources.values())
    self._which, self._index = lay_out_mixture(shares, size)

  def __len__(self) -> int:
    return len(self._which)

  def __getitem__(self, index: int) -> Row:
    which = self._which[index]
    source = self._sources[which]
    row = source[int(self._index[index]) % len(source)]
    return {**row, "task_name": self._names[which]}


def hold_out(rows: RowSource, share: float) -> tuple[list[int], list[int]]:
  """Divides rows into training and held-out ones, by their prompts only.

  The checksum of a prompt decides its side, so that copies of a problem are on one side, and a
  problem stays on its side when rows are added, except for the first few of a small number.

  Args:
    rows: with a prompt.
    share: approximate share of the different prompts, in 0..1. At least one is held out, and one is
      not.

  Raises:
    ValueError: all prompts are the same.
  """
  keys = [hashlib.sha256(json.dumps(rows[i]["prompt"], sort_keys=True).encode()).digest()
          for i in range(len(rows))]
  different = sorted(set(keys))
  if len(different) < 2:
    raise ValueError("got one problem alone, allowed: two or more different ones, of which some "
                     "are the test")
  count = sum(int.from_bytes(key[:6]) / 2**48 < share for key in different)
  held_out = set(different[:min(max(count, 1), len(different) - 1)])
  return ([i for i, key in enumerate(keys) if key not in held_out],
          [i for i, key in enumerate(keys) if key in held_out])


def _log_notes(source: str, notes: Counter[str]):
  """Logs where columns were found, which were not used, and which prompts were cut."""
  cut = notes.pop(columns.CUT, 0)
  left_out = [note for note in notes if note.startswith(columns.LEFT_OUT)]
  if left_out:
    logging.warning("%s: %s%s", source, columns.LEFT_OUT, ", ".join(
        f"{note.removeprefix(columns.LEFT_OUT)} ({notes.pop(note)})" for note in left_out))
  if notes:
    logging.info("%s: %s", source, "; ".join(
        f"{note} ({count})" for note, count in notes.items()))
  if cut:
    logging.warning("%s: %d rows: %s", source, cut, columns.CUT)


def lay_out_mixture(shares: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The source of each row of an even mixture, and its index in that source.

  The j-th row of a source with share s is due at (j + 1/2) / s rows, and rows come when due.

  Args:
    shares: f64[K] share of each source; they sum to 1.
    size: M, rows of the mixture.

  Returns:
    i64[M] source of each row; i64[M] its index among the rows of that source.
  """
  counts = np.ceil(shares * (size + len(shares))).astype(np.int64) + 1  # more than can be due
  which = np.repeat(np.arange(len(shares)), counts)
  index = np.concatenate([np.arange(count) for count in counts])
  order = np.argsort((index + 0.5) / shares[which], kind="stable")[:size]
  return which[order], index[order]


def digest(path: str | pathlib.Path) -> str:
  """SHA-256, in hexadecimal, of a file's content, or of the names and contents of several files.

  A folder or a pattern has several; the digest does not depend on their location. Hidden files
  (names that start with a dot) are not part of a folder, and links to files, as in caches, are
  followed.

  Raises:
    FileNotFoundError: there is neither a file nor a folder.
  """
  path = expanded(path)
  files = {file.name: file for file in matches(path)}
  if path.is_dir():
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*"))
             if file.is_file()}
    files = {name: file for name, file in files.items()
             if not any(part.startswith(".") for part in name.split("/"))}
  elif not all(file.is_file() for file in files.values()) or not files:
    raise FileNotFoundError(f"{path}: no such file or folder{hub.hint(path, 'dataset') or '.'}")
  if list(files.values()) == [path]:
    return _file_digest(path).hex()
  total = hashlib.sha256()
  for name, file in files.items():
    total.update(name.encode("utf-8", "surrogateescape") + b"\0" + _file_digest(file))
  return total.hexdigest()


def _file_digest(path: pathlib.Path) -> bytes:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").digest()
