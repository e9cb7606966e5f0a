"""Custom tasks: problems in Python, as lists of rows or as objects that have them.

The input is one object, or one for each split, {"train": ..., "test": ..., "validation": ...} (the
last is optional). An object is either the rows, anything with a length whose items are dicts, or
has attributes:

    rows        of {prompt or question, answer, ...}, by the names that `data/columns.py` knows;
                without an answer where the verifier is a function
    name        that of the task in metrics
    verifier    as of `base.Task`; a function is called in this process
    vocabulary  words, for a model that is made from nothing

All but `rows` are optional. Rows are read once, checked, and held in memory, so that a run uses the
same rows to its end. From a single object a tenth of the different prompts, by their checksums, is
the test split.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any, Literal

from rlreason import config as config_lib, slots, tracking, users
from rlreason.data import sources
from rlreason.data.columns import make_row
from rlreason.data.tasks.base import Row, RowSource

SPLITS = ("train", "test", "validation")
_MAX_ROWS = 2**20  # they are held in memory
TEST_SHARE = 0.1  # of the different prompts, if no test split is given
_ALLOWED = ("allowed: a list of rows {prompt or question, answer, ...}, an object with `rows`, or "
            "{'train': ..., 'test': ...} of these")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTask:
  """Problems returned by a custom function, as rows, an object, or either for each split.

  It is called when the config is built.

  Attributes:
    parts: the returned problems, by split.
  """

  kind: Literal["own"]
  # A function, or its "package.module:function", that returns a list of rows, an object with
  # `rows`, or a dict of these by split.
  function: Callable[..., Any] | str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # its keyword arguments
  name: str = ""  # the task in metrics; empty = the object's name, or "own"
  template: str = "{question}"  # the user's turn; `{question}` is the row's prompt
  system: str = ""  # a system message before it; empty = that of the row or of the chat template
  is_chat: bool = True  # whether prompts go through the chat template
  verifier: str = ""  # as in `FileTask`; empty = that of the object, or "math"

  def __post_init__(self):
    function, name = self.function, getattr(self.function, "__qualname__", self.function)
    if isinstance(function, str):
      function = slots.import_function(function)
    with users.contained(f"function: {name!r}"):
      found = function(**self.options)
    object.__setattr__(self, "parts", read_parts(found, self.verifier))


@dataclasses.dataclass(frozen=True)
class Part:
  """A split as it was given."""

  rows: "OwnRows"
  name: str
  verifier: Callable[..., Any] | str
  vocabulary: Sequence[str] | None


class OwnRows:
  """Checked rows in memory.

  Attributes:
    raw: the rows as they were given.
    digest: SHA-256 of them all, in hexadecimal.
  """

  def __init__(self, raw: Sequence[Any], rows: Sequence[Row]):
    names = {name: None for row in rows for name in row}  # as of `sources.FileRows`
    self.raw, self._rows = raw, [{**names, **row} for row in rows]
    total = hashlib.sha256()
    for row in rows:
      total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    self.digest = total.hexdigest()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Row:
    return self._rows[index]

  def take(self, indices: Sequence[int]) -> "OwnRows":
    """The rows at some indices."""
    return OwnRows([self.raw[i] for i in indices], [self._rows[i] for i in indices])


def given(tasks: Any) -> Callable[..., Any]:
  """The function of an `OwnTask` for given tasks; functions and their names are unchanged."""
  is_called = callable(tasks) and (isinstance(tasks, type) or not hasattr(tasks, "rows"))
  if isinstance(tasks, str) or is_called:
    return tasks

  def return_tasks():
    return tasks

  return_tasks.__qualname__ = "given"  # as it is recorded
  return return_tasks


def read_parts(found: Any, verifier: str = "") -> dict[str, Part]:
  """The splits of the given problems; see above.

  Args:
    found: the result of a custom function.
    verifier: of the config, which overrides those of the objects; empty: none.

  Raises:
    ValueError: it has another type, or a row is bad; names the split and the row.
  """
  if not isinstance(found, Mapping):
    return _divide(_read_part("tasks", found, verifier))
  wrong = [name for name in found if name not in SPLITS]
  if wrong or not {"train", "test"} <= set(found):
    raise ValueError(f"got the splits {sorted(map(str, found))}, allowed: 'train' and 'test', and "
                     "'validation' if you like")
  train = _read_part("train", found["train"], verifier)
  parts = {"train": train, **{name: _read_part(name, found[name], verifier, train)
                              for name in SPLITS[1:] if name in found}}
  for name, part in parts.items():
    if config_lib.to_dict(part.verifier) != config_lib.to_dict(train.verifier):
      raise ValueError(f"{name}: got the verifier {config_lib.to_dict(part.verifier)!r}, allowed: "
                       f"{config_lib.to_dict(train.verifier)!r}, that of train")
  return {"validation": parts["test"], **parts}


def input_digests(task: Any) -> dict[str, dict[str, str]]:
  """The checksums of the rows of a custom task, as `inputs.read_inputs` gives those of files."""
  parts = task.parts if isinstance(task, OwnTask) else {}
  sums = {f"rows of {split}": part.rows.digest for split, part in parts.items()}
  return {"config.task": dict(sorted(sums.items()))} if sums else {}


def examples(part: Part) -> RowSource:
  """The rows of a part that have a completion or a worked solution, as {prompt, completion}.

  Raises:
    ValueError: there is none.
  """
  rows, bad_rows = [], sources.BadRows("the rows of the task")
  for i, raw in enumerate(part.rows.raw):
    try:
      rows.append(make_row(raw, None, ("prompt", "completion"), "templated"))
    except ValueError as error:
      bad_rows.add(i, error)
  bad_rows.finish(len(part.rows))
  return sources.FunctionRows(rows.__getitem__, len(rows))


def _read_part(where: str, found: Any, verifier: str, like: Part | None = None) -> Part:
  """One split; settings that it omits are those of `like`."""
  has_rows = hasattr(found, "rows") and not isinstance(found, type)
  rows = found.rows if has_rows else found
  if isinstance(rows, (str, bytes, Mapping, type)) or not (
      hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
    kind = f"class {rows.__name__}" if isinstance(rows, type) else type(rows).__name__
    raise ValueError(f"{where}: got {'`rows` of ' if has_rows else 'a '}{kind}, {_ALLOWED}")
  of = lambda name, default: getattr(found, name, default) if has_rows else default
  name = of("name", like.name if like else "own")
  verifier = verifier or of("verifier", like.verifier if like else "math")
  words = of("vocabulary", like.vocabulary if like else None)
  if not isinstance(name, str) or not name:
    raise ValueError(f"{where}: got the name {name!r}, allowed: text")
  if not isinstance(verifier, str) and not callable(verifier):
    raise ValueError(f"{where}: got the verifier {verifier!r}, allowed: a name of a verifier, or a "
                     "reward function")
  if words is not None and not (isinstance(words, (list, tuple)) and all(
      isinstance(word, str) for word in words)):
    raise ValueError(f"{where}: got the vocabulary {words!r}, allowed: a list of words")
  return Part(_read_rows(where, rows, verifier), name, verifier, words)


def _read_rows(where: str, rows: Any, verifier: Callable[..., Any] | str) -> OwnRows:
  """Every row; all must be good, because dropping one would shift the indices after it."""
  if not 1 <= len(rows) <= _MAX_ROWS:
    raise ValueError(f"{where}: got {len(rows)} rows, allowed: 1 to {_MAX_ROWS:,}, which are held "
                     "in memory")
  is_built_in = isinstance(verifier, str) and ":" not in verifier
  raw, made = [], []
  for i in tracking.each(f"reading the rows of {where}", len(rows)):
    try:
      with users.contained(f"{where}: row {i}"):
        raw.append(rows[i])
      made.append(_make_row(raw[-1], is_built_in))
    except (ValueError, LookupError, TypeError) as error:
      what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
      raise ValueError(f"{where}: row {i}: {what}{error}") from error
  return OwnRows(raw, made)


def _make_row(raw: Any, needs_answer: bool) -> Row:
  if isinstance(raw, Mapping):
    for name, value in raw.items():
      _check_value(str(name), value)
  try:
    return make_row(raw, None, ("prompt", "answer"), "templated")
  except ValueError:
    if needs_answer or not isinstance(raw, Mapping) or "answer" in raw:
      raise
  return {"answer": None, **make_row(raw, None, ("prompt",), "templated")}


def _check_value(name: str, value: Any):
  """Raises ValueError if a column would differ in another process."""
  parts = value.values() if isinstance(value, Mapping) else value
  if isinstance(value, (Mapping, list, tuple)):
    for part in parts:
      _check_value(name, part)
  elif not isinstance(value, str) and (
      isinstance(value, (set, frozenset)) or callable(value) or " at 0x" in repr(value)):
    raise ValueError(f"{name}: got a {type(value).__name__}, allowed: text, numbers, lists and "
                     "dicts of these")


def _divide(part: Part) -> dict[str, Part]:
  try:
    train, test = (dataclasses.replace(part, rows=part.rows.take(indices))
                   for indices in sources.hold_out(part.rows, TEST_SHARE))
  except ValueError as error:
    raise ValueError(f"tasks: {error}, or {{'train': ..., 'test': ...}}") from error
  return {"train": train, "test": test, "validation": test}
