"""The live display of a run: one live line, or plain lines in a log.

Not here: the header of a run (header.py), tables of results (tables.py), its files (metrics.py) and
its plots (report.py).
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import datetime
import math
import time
from typing import Any

import rich.console
import rich.progress
import rich.text

from rlreason import processes, tracking
from rlreason.parallel import memory
from rlreason.training import memory_table

# Metrics to show, if a step has them, the most informative first, and their short names.
LIVE_METRICS = {
    "loss/sft": "loss",
    "loss/preference": "loss",
    "loss/reward_model": "loss",
    "loss/process_reward": "loss",
    "loss/distill": "loss",
    "reward/total/mean": "reward",
    "rollout/accuracy": "right",
    "preference/accuracy": "right",
    "reward_model/accuracy": "right",
    "process_reward/accuracy": "right",
    "policy/kl": "kl",
    "policy/entropy": "entropy",
    "rollout/length/mean": "length",
    "optim/grad_norm": "gradient",
}

# Rates are over this many latest steps, so that compilation at the start soon drops out.
_WINDOW = 20
_LEAST_METRICS = 2  # that stay when a line is too narrow for all
_BAR, _LEAST_BAR = 24, 8  # columns of a bar
_LEAST_NAME = 8  # columns of a name that is too long
_REFRESH = 0.5  # seconds between changes of a notebook's line


class _Work:
  """Work in progress: how much is done, how fast, and its latest metrics."""

  def __init__(
      self, work: tracking.Work, clock: Callable[[], float], done: float = 0,
      window: int | None = None):
    """With a `window` the rate is over that many latest updates, else over all of the time."""
    self.name, self.total, self.unit, self.done = *work, done
    self._clock, self._window = clock, window
    self._history = collections.deque([(clock(), done, 0)])
    self.started = self.printed = clock()
    self.printed_done: float | None = None  # amount done at the last print
    self.metrics: Mapping[str, float] = {}

  def update(self, done: float, tokens: int, metrics: Mapping[str, float]) -> None:
    self.done, self.metrics = done, metrics
    self._history.append((self._clock(), done, self._history[-1][2] + tokens))
    if self._window is None and len(self._history) > 2:
      del self._history[1]
    elif self._window is not None and len(self._history) > self._window + 1:
      self._history.popleft()

  def tokens_per_second(self) -> float | None:
    (start, _, before), (end, _, after) = self._history[0], self._history[-1]
    return (after - before) / (end - start) if end > start and after > before else None

  def seconds_left(self) -> float | None:
    (start, first, _), (end, done, _) = self._history[0], self._history[-1]
    if self.total is None or done <= first:
      return None
    return (end - start) / (done - first) * (self.total - done)

  def count(self) -> str:
    """`3/10`, `0.5/1.2 GB`, or the elapsed time if the total is unknown."""
    if self.total is None:
      return format_seconds(self._clock() - self.started)
    if self.unit == "B":
      size, unit = _unit_of(self.total)
      return f"{self.done / size:.1f}/{self.total / size:.1f} {unit}"
    return f"{self.done:.0f}/{self.total:.0f}"

  def parts(self) -> list[tuple[int, str]]:
    """Texts to show after the count, in order, and their ranks: larger ones are dropped first."""
    rate, left = self.tokens_per_second(), self.seconds_left()
    parts = [] if rate is None else [(1, f"{rate:,.0f} tokens/s")]
    parts += [] if left is None else [(0, f"{format_seconds(left)} left")]
    shown = [f"{label} {self.metrics[name]:.3g}" for name, label in LIVE_METRICS.items()
             if self.metrics.get(name) is not None]
    return parts + [(0 if i < _LEAST_METRICS else 2 + i, text) for i, text in enumerate(shown)]

  def texts(self, width: int | None = None) -> tuple[str, str]:
    """Name and count, and the further texts, or as many as fit `width` columns."""
    count, parts = self.count(), self.parts()
    size = lambda: len(self.name) + 1 + len(count) + sum(2 + len(text) for _, text in parts)
    while width is not None and size() > width and any(rank for rank, _ in parts):
      parts.remove(max(parts, key=lambda part: part[0]))
    name = self.name
    if width is not None:
      name = shortened(name, max(_LEAST_NAME, len(name) + width - size()))
    return f"{name} {count}", "".join(f"  {text}" for _, text in parts)

  def line(self, width: int | None = None) -> str:
    """The complete line."""
    return "".join(self.texts(width))[:width]


class _Line(rich.progress.ProgressColumn):
  """The line of a piece of work, with a bar if there is space."""

  max_refresh = None

  def __init__(self, console: rich.console.Console):
    super().__init__()
    self._console = console

  def render(self, task: rich.progress.Task) -> rich.text.Text:
    work, width = task.fields["work"], self._console.width - 1  # a full line may wrap
    if work.total is None:
      return rich.text.Text(work.line(width), no_wrap=True)
    needed = f"{work.name} {work.count()}{work.texts(0)[1]}"
    size = min(_BAR, width - len(needed) - 2)  # a bar comes before a third metric
    if size < _LEAST_BAR:
      return rich.text.Text(work.line(width), no_wrap=True)
    head, rest = work.texts(width - size - 2)
    full = round(size * min(1.0, work.done / max(work.total, 1)))
    ink, paper = ("#", ".") if self._console.options.ascii_only else ("━", "─")
    return rich.text.Text.assemble(
        (head, "bold"), "  ", (ink * full, "bar.complete"), (paper * (size - full), "bar.back"),
        rest, no_wrap=True)


class Progress:
  """Shows how far a run is: one live line on a terminal or in a notebook, else lines in a log.

  A log gets one line every `interval` seconds. Use as a context manager, within which it also shows
  work reported through `tracking`:

      with Progress() as progress:
        progress.start_stage("rl", 100)
        progress.update(1, tokens=4096, metrics={"policy/kl": 0.01})
  """

  def __init__(
      self,
      *,
      interval: float = 10.0,
      console: rich.console.Console | None = None,
      clock=time.monotonic,
  ):
    """Makes the display; nothing is shown before `start_stage` or reported work.

    Args:
      interval: seconds between lines if the output is not a terminal.
      console: where to show it; None: standard output, of the process that writes.
      clock: seconds.
    """
    self._interval = interval
    self._console = console or rich.console.Console(quiet=not processes.is_writer())
    self._clock = clock
    self._bar: rich.progress.Progress | None = None
    self._notebook = _NotebookLine(self._console, clock) if self._console.is_jupyter else None
    self._task = None
    self._stage: _Work | None = None
    self._works: list[_Work] = []  # in progress besides the stage, each within the previous one
    self._programs: dict[tuple[str, str], int] = {}  # (of what, name) -> the most bytes shown
    self._held: Mapping[str, float] = {}  # kind -> bytes that the stage keeps beside its programs
    self._unit: tuple[float, str] | None = None  # of the table of memory
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> "Progress":
    is_live = self._console.is_terminal and not self._console.is_dumb_terminal
    if is_live and self._notebook is None:
      self._bar = rich.progress.Progress(_Line(self._console), console=self._console)
      self._stack.enter_context(self._bar)
    self._stack.enter_context(tracking.shown_by(self))
    return self

  def __exit__(self, *unused_exception) -> None:
    if self._notebook is not None and self._stage is not None:
      self._notebook.show(self._stage, is_last=True)
    self._stack.close()

  def start_stage(self, name: str, total_steps: int, done_steps: int = 0) -> None:
    """Begins a stage, of which `done_steps` were done before a resume."""
    self._end_stage()
    self._programs.clear()
    self._stage = _Work(tracking.Work(name, total_steps), self._clock, done_steps, _WINDOW)
    self._stage.printed = -math.inf
    if self._bar is not None:
      self._task = self._add(self._stage)

  def update(
      self, step: int, *, tokens: int = 0, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Shows that `step` steps of the stage are done.

    Args:
      step: steps of this stage done so far.
      tokens: tokens processed since the last call.
      metrics: of the latest step; those in `LIVE_METRICS` are shown.
    """
    self._stage.update(step, tokens, metrics or {})
    if step >= self._stage.total:
      self._held = {}
    self._show(self._stage, is_last=step >= self._stage.total)

  @contextlib.contextmanager
  def work(self, work: tracking.Work) -> Iterator[Callable[..., None]]:
    """Shows work besides the stage until it ends; see `tracking`.

    It appears in a log if it takes longer than the interval.
    """
    shown = _Work(work, self._clock)
    self._works.append(shown)
    task = None if self._bar is None else self._add(shown)

    def done(more: float, metrics: Mapping[str, float] | None = None):
      shown.update(shown.done + more, 0, metrics or shown.metrics)
      self._show(shown)

    if self._notebook is not None:
      self._notebook.show(shown)
    try:
      yield done
    finally:
      self._works.remove(shown)
      if task is not None:
        self._bar.remove_task(task)
      if self._notebook is not None or shown.printed_done not in (None, shown.done):
        self._show(shown, is_last=True)

  def program(self, name: str, sizes: Mapping[str, int]) -> None:
    """Shows the device memory of a compiled program, if it is more than before.

    It is a line of the table that plans have too, with what the stage keeps beside the program.
    """
    total = sum(sizes.values())
    outer = self._works[0].name if len(self._works) > 1 else ""  # the last is its compilation
    where = outer.partition(",")[0] or (self._stage.name if self._stage else "start")
    if not total or total <= self._programs.get((where, name), 0):
      return
    self._programs[where, name] = total
    limit, sizes = memory.share_bytes(), {**sizes, **self._held}
    unit = memory_table.unit_of(sum(sizes.values()))
    if unit != self._unit:
      self._unit = unit
      self._print(memory_table.head(unit, limit))
    self._print(memory_table.row(memory_table.name_of(where, name), sizes, unit, limit))

  def hold(self, sizes: Mapping[str, float]) -> None:
    """Receives what a stage keeps on a device from now to its last step: bytes by kind."""
    self._held = sizes

  def copies(self, size: int) -> None:
    """Says how many bytes a checkpoint takes on the host, if it is more than before."""
    if size > self._programs.get(("", "saving"), 0):
      self._programs["", "saving"] = size
      self._print(f"memory: a checkpoint is first copied to the host: {format_bytes(size)}")

  def message(self, text: str) -> None:
    """Shows a line above the live line."""
    self._print(text)

  def messages(self, lines: Sequence[str]) -> None:
    """Shows several lines."""
    self.message("\n".join(lines))

  def tokens_per_second(self) -> float | None:
    """Tokens per second over the latest steps; None before the first, or without tokens."""
    return self._stage.tokens_per_second()

  def seconds_left(self) -> float | None:
    """The time left in this stage, at the rate of the latest steps; None before the first."""
    return self._stage.seconds_left()

  def _add(self, work: _Work) -> rich.progress.TaskID:
    return self._bar.add_task(work.name, total=work.total, work=work)

  def _end_stage(self) -> None:
    """Prints the last line of the stage, and clears the display for the next."""
    if self._bar is not None and self._task is not None:
      self._bar.remove_task(self._task)
      self._print(self._stage.line(self._console.width - 1))
    self._task = None

  def _print(self, text: str) -> None:
    # A log file has no width: lines are not wrapped, and a "[" is not markup.
    print_to(self._console, rich.text.Text(text), soft_wrap=True)

  def _show(self, work: _Work, is_last: bool = False) -> None:
    now = self._clock()
    if self._notebook is not None:
      self._notebook.show(work, is_last)
    elif self._bar is not None:
      self._bar.refresh() if is_last else None
    elif is_last or now - work.printed >= self._interval:
      work.printed, work.printed_done = now, work.done
      self._print(work.line())


def on_stderr() -> Progress:
  """A display for commands whose results go to standard output."""
  return Progress(console=rich.console.Console(stderr=True, quiet=not processes.is_writer()))


@contextlib.contextmanager
def shown() -> Iterator[None]:
  """Shows the work within on a terminal or in a notebook, unless it is already shown."""
  console = rich.console.Console(stderr=True, quiet=not processes.is_writer())
  with contextlib.ExitStack() as stack:
    if tracking.display() is None and (console.is_terminal or console.is_jupyter):
      stack.enter_context(Progress(console=console))
    yield


class _NotebookLine:
  """One line below a cell that changes in place."""

  def __init__(self, console: rich.console.Console, clock: Callable[[], float]):
    self._width, self._clock = console.width, clock
    self._handle, self._shown = None, -math.inf

  def show(self, work: _Work, is_last: bool = False) -> None:
    """Shows the line of a work, unless another was shown just now."""
    if not is_last and self._clock() - self._shown < _REFRESH:
      return
    from IPython import display  # only where a notebook runs it

    self._shown = self._clock()
    content = {"text/plain": work.line(self._width)}
    if self._handle is None:
      self._handle = display.display(content, raw=True, display_id=True)
    else:
      self._handle.update(content, raw=True)


def print_to(console: rich.console.Console, *args: Any, **kwargs: Any) -> None:
  """Prints if possible: a log on a full disk, or a closed pipe, must not end a run."""
  try:
    console.print(*args, **kwargs)
  except (OSError, SystemExit):  # rich exits where a pipe is broken
    console.quiet = True


def format_bytes(size: float) -> str:
  """Formats bytes as `25.3 GB` or `1.2 MB`."""
  unit, name = _unit_of(size)
  return f"{size / unit:.1f} {name}"


def format_seconds(seconds: float) -> str:
  """Formats a time as `0:01:30`."""
  return str(datetime.timedelta(seconds=round(seconds)))


def _unit_of(size: float) -> tuple[float, str]:
  """The bytes of the unit for a size, and its name."""
  return next((unit for unit in ((1e9, "GB"), (1e6, "MB")) if size >= unit[0]), (1e3, "kB"))


def shortened(text: str, width: int) -> str:
  """A text, truncated to `width`."""
  return text if len(text) <= width else f"{text[:max(0, width - 1)]}…"
