"""A task: rows of problems with checkable answers, and the name of the verifier that scores them.

Not here: the verifiers (`rewards/`), and the iterators over rows (`data/pipeline.py`).
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

# A row holds `prompt` (text, or a list of chat messages), `answer` (text), and any further columns
# a reward function may ask for by name.
Row = dict[str, Any]


class RowSource(Protocol):
  """Random access to rows: the row at an index is always the same row."""

  def __len__(self) -> int:
    ...

  def __getitem__(self, index: int) -> Row:
    ...


@dataclasses.dataclass(frozen=True)
class Task:
  """Problems of one kind and split.

  Attributes:
    name: what metrics call the task.
    rows: random-access source of rows.
    verifier: name of the verifier of `rewards/verifier.py` that scores a completion of a row, or a
      reward function, of which 1 is right: itself, which is called in this process, or as
      "package.module:function", which is called in the killable workers.
  """

  name: str
  rows: RowSource
  verifier: str | Callable[..., Any] = "math"
