"""A task: rows of problems with verifiable answers, and the name of their verifier.

Not here: the verifiers (`rewards/`), and the iterators over rows (`data/pipeline.py`).
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

# A row holds `prompt` (text, or a list of chat messages), `answer` (text), and any further columns
# that a reward function may request by name.
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
    name: that of the task in metrics.
    rows: random-access source of rows.
    verifier: name of a verifier of `rewards/verifier.py`, or a reward function that returns 1 for
      right: either a callable, which is called in this process, or "package.module:function", which
      is called in the killable workers.
  """

  name: str
  rows: RowSource
  verifier: str | Callable[..., Any] = "math"
