"""Progress of long work: reported by the code that does it, shown by a display, if there is one.

    with tracking.work("reading", 1000) as done:
      done(500)

Outside of `shown_by` nothing is shown, at no cost. Not here: displays (`training/progress.py`).
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import contextvars
from typing import NamedTuple, Protocol


class Work(NamedTuple):
  """A piece of work that takes a while."""

  name: str
  total: float | None = None  # how much there is to do; None: unknown
  unit: str = ""  # of the total: "B" for bytes, empty for a count


class Display(Protocol):
  """An object that shows work."""

  def work(self, work: Work) -> contextlib.AbstractContextManager[Callable[..., None]]:
    """Shows it until the context ends; yields a function of (more done, metrics or None)."""

  def program(self, name: str, sizes: Mapping[str, int]) -> None:
    """Receives the bytes that a compiled program takes on a device, by purpose."""


DISPLAY: contextvars.ContextVar[Display | None] = contextvars.ContextVar("display", default=None)


def display() -> Display | None:
  """The display that shows work, if there is one."""
  return DISPLAY.get()


@contextlib.contextmanager
def shown_by(shower: Display | None) -> Iterator[None]:
  """Shows the work done within the context; None: nowhere."""
  token = DISPLAY.set(shower)
  try:
    yield
  finally:
    DISPLAY.reset(token)


@contextlib.contextmanager
def work(name: str, total: float | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
  """Reports a piece of work until the context ends.

  Args:
    name: a description for the user.
    total: how much there is to do; None: unknown.
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
  """The numbers below `total`; each counts as done when the next is requested."""
  with work(name, total) as done:
    for i in range(total):
      yield i
      done(1)


def program(name: str, sizes: Mapping[str, int]) -> None:
  """Reports the bytes that a compiled program takes on a device, by purpose."""
  shower = DISPLAY.get()
  if shower is not None:
    shower.program(name, sizes)
