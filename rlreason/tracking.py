"""How far long work is: told by whoever does it, shown by a display, where there is one.

    with tracking.work("reading", 1000) as done:
      done(500)

Nothing is shown, and nothing costs time, outside of `shown_by`. Not here: displays
(`training/progress.py`).
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import contextvars
from typing import NamedTuple, Protocol


class Work(NamedTuple):
  """Something that takes a while."""

  name: str
  total: float | None = None  # how much there is to do; None: nobody knows
  unit: str = ""  # of the total: "B" for bytes, empty for a count


class Display(Protocol):
  """What shows work."""

  def work(self, work: Work) -> contextlib.AbstractContextManager[Callable[..., None]]:
    """Shows it until the context ends; what comes is called with (more done, metrics or None)."""

  def program(self, name: str, sizes: Mapping[str, int]) -> None:
    """Is told how many bytes a compiled program takes on a device, by what for."""


DISPLAY: contextvars.ContextVar[Display | None] = contextvars.ContextVar("display", default=None)


def display() -> Display | None:
  """The display that shows work, if there is one."""
  return DISPLAY.get()


@contextlib.contextmanager
def shown_by(shower: Display | None) -> Iterator[None]:
  """Shows the work that is done within; None: nowhere."""
  token = DISPLAY.set(shower)
  try:
    yield
  finally:
    DISPLAY.reset(token)


@contextlib.contextmanager
def work(name: str, total: float | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
  """Tells of work until the context ends.

  Args:
    name: what is done, for a person.
    total: how much there is to do; None: nobody knows.
    unit: of the total: "B" for bytes, empty for a count.

  Yields:
    A function to be called with how much more is done, and with metrics to show, if there are any.
  """
  shower = DISPLAY.get()
  if shower is None:
    yield lambda more, metrics=None: None
    return
  with shower.work(Work(name, total, unit)) as done:
    yield done


def each(name: str, total: int) -> Iterator[int]:
  """The numbers below `total`: work of which one more is done when the next is asked for."""
  with work(name, total) as done:
    for i in range(total):
      yield i
      done(1)


def program(name: str, sizes: Mapping[str, int]) -> None:
  """Tells how many bytes a compiled program takes on a device, by what for."""
  shower = DISPLAY.get()
  if shower is not None:
    shower.program(name, sizes)
