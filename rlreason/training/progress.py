"""What a person sees of a run: a progress bar, or plain lines in a log, and a table at the end.

Not here: the files of a run (metrics.py) and its plots (report.py).
"""

import collections
from collections.abc import Mapping
import datetime
import math
import time
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

# Metrics beside the bar, where a step has them, and what they are called there.
LIVE_METRICS = {
    "loss/sft": "loss",
    "reward/total/mean": "reward",
    "rollout/accuracy": "right",
    "policy/kl": "kl",
    "policy/entropy": "entropy",
    "rollout/length/mean": "length",
}

# Rates come from this many latest steps, so that compiling at the start is soon forgotten.
_WINDOW = 20
# Columns of a table where there is no terminal to measure, so that its cells are not folded.
_LOG_WIDTH = 160


class Progress:
  """Shows how far a run is: a live bar on a terminal, else one line every `interval` seconds.

  Use as a context manager:

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
    """Makes the display; nothing is shown before `start_stage`.

    Args:
      interval: seconds between lines where the output is not a terminal.
      console: where to show it; standard output if None.
      clock: seconds.
    """
    self._interval = interval
    self._console = console or rich.console.Console()
    self._clock = clock
    self._bar = None
    self._task = None
    self._stage, self._total = "", 0
    self._history = collections.deque(maxlen=_WINDOW + 1)  # (seconds, step, tokens in all)
    self._printed = -math.inf

  def __enter__(self) -> "Progress":
    if self._console.is_terminal:
      self._bar = rich.progress.Progress(
          rich.progress.TextColumn("[bold]{task.description}"),
          rich.progress.BarColumn(bar_width=24),
          rich.progress.MofNCompleteColumn(),
          rich.progress.TextColumn("{task.fields[status]}"),
          console=self._console,
      )
      self._bar.start()
    return self

  def __exit__(self, *unused_exception) -> None:
    if self._bar is not None:
      self._bar.stop()

  def start_stage(self, name: str, total_steps: int, done_steps: int = 0) -> None:
    """Begins a stage, of which `done_steps` were done before a resume."""
    self._stage, self._total = name, total_steps
    self._history.clear()
    self._history.append((self._clock(), done_steps, 0))
    self._printed = -math.inf
    if self._bar is not None:
      self._task = self._bar.add_task(name, total=total_steps, completed=done_steps, status="")

  def update(
      self, step: int, *, tokens: int = 0, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Shows that `step` steps of the stage are done.

    Args:
      step: steps of this stage done so far.
      tokens: tokens worked on since the last call.
      metrics: of the latest step; those in `LIVE_METRICS` are shown.
    """
    now = self._clock()
    self._history.append((now, step, self._history[-1][2] + tokens))
    status = self._status(metrics or {})
    if self._bar is not None:
      self._bar.update(self._task, completed=step, status=status)
    elif step >= self._total or now - self._printed >= self._interval:
      self._printed = now
      self._print(f"{self._stage} {step}/{self._total}  {status}")

  def message(self, text: str) -> None:
    """Shows a line of its own, above the bar."""
    self._print(text)

  def tokens_per_second(self) -> float | None:
    """Over the latest steps; None before the first, or where no tokens were given."""
    (start, _, before), (end, _, after) = self._history[0], self._history[-1]
    return (after - before) / (end - start) if end > start and after > before else None

  def seconds_left(self) -> float | None:
    """Of this stage, at the speed of the latest steps; None before the first."""
    (start, first, _), (end, step, _) = self._history[0], self._history[-1]
    return (end - start) / (step - first) * (self._total - step) if step > first else None

  def _status(self, metrics: Mapping[str, float]) -> str:
    rate, left = self.tokens_per_second(), self.seconds_left()
    parts = [] if rate is None else [f"{rate:,.0f} tokens/s"]
    parts += [] if left is None else [f"{format_seconds(left)} left"]
    parts += [
        f"{label} {metrics[name]:.3g}"
        for name, label in LIVE_METRICS.items()
        if metrics.get(name) is not None
    ]
    return "  ".join(parts)

  def _print(self, text: str) -> None:
    # A log file has no width: a line is a line, and a "[" in it is no markup.
    _print(self._console, rich.text.Text(text), soft_wrap=True)


def _print(console: rich.console.Console, *args: Any, **kwargs: Any) -> None:
  """Prints, or does without: a log on a full disk, or a pipe that nobody reads, ends no run."""
  try:
    console.print(*args, **kwargs)
  except (OSError, SystemExit):  # rich exits where a pipe is broken
    console.quiet = True


def print_summary(
    summary: Mapping[str, Any],
    places: Mapping[str, str],
    console: rich.console.Console | None = None,
) -> None:
  """Prints the results of all stages, one column each, and where everything is.

  Args:
    summary: what summary.json holds.
    places: what -> path, such as checkpoint, metrics, samples, plots.
    console: where to print; standard output if None.
  """
  console = console or rich.console.Console()
  if not console.is_terminal:
    console.width = max(console.width, _LOG_WIDTH)
  table = rich.table.Table(title="Summary, with 95% confidence intervals", title_justify="left")
  table.add_column("")
  for stage in summary["stages"]:
    table.add_column(stage["name"], justify="right")
  for i, (title, rows) in enumerate(summary_rows(summary)):
    if i:
      table.add_section()
    table.add_row(rich.text.Text(title, style="bold"))
    for name, cells in rows:
      table.add_row(rich.text.Text(f"  {name}"), *map(rich.text.Text, cells))
  _print(console, table)
  width = max(map(len, places), default=0)
  for name, path in places.items():
    _print(console, rich.text.Text(f"{name:{width}}  {path}"), soft_wrap=True)


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
  """Lays out a summary as sections of rows with one text per stage; "-" where there is nothing.

  Returns:
    (title, [(row name, cells)]): first the effort of the stages, then one section per task.
  """
  stages = summary["stages"]
  effort = [
      ("steps", [f"{stage['steps']:,}" for stage in stages]),
      ("tokens", [f"{stage['tokens']:,}" for stage in stages]),
      ("time", [format_seconds(stage["seconds"]) for stage in stages]),
  ]
  sections = [("training", effort)]
  for task in _names(stage["evaluation"] for stage in stages):
    results = [stage["evaluation"].get(task, {}) for stage in stages]
    rows = [
        (name, [format_result(name, result[name]) if name in result else "-" for result in results])
        for name in _names(results)
    ]
    counts = {entry["n"] for result in results for entry in result.values()}
    problems = f" ({max(counts)} problems)" if counts else ""
    sections.append((f"{task}{problems}", rows))
  return sections


def is_share(name: str) -> bool:
  """Whether an evaluation metric is a share of problems, shown in percent."""
  is_accuracy = name.startswith(("avg@", "pass@", "maj@")) or name in ("greedy", "greedy_unboxed")
  return is_accuracy or name.endswith("_fraction")


def format_result(name: str, entry: Mapping[str, Any]) -> str:
  """Formats {value, low, high}: `42.0% [38.1, 46.0]`, or `1.90 [1.75, 2.05]` if not a share.

  Of several seeds with their standard deviation: `42.0% ±1.2 [38.1, 46.0]`.
  """
  values = [entry["value"], entry["low"], entry["high"]]
  if values[0] is None:
    return "-"
  if is_share(name):
    texts = ["?" if value is None else f"{100 * value:.1f}" for value in values]
    spread = f" ±{100 * entry['std']:.1f}" if "std" in entry else ""
    return f"{texts[0]}%{spread} [{texts[1]}, {texts[2]}]"
  digits = 2 if abs(values[0]) < 100 else 0
  texts = ["?" if value is None else f"{value:,.{digits}f}" for value in values]
  spread = f" ±{entry['std']:,.{digits}f}" if "std" in entry else ""
  return f"{texts[0]}{spread} [{texts[1]}, {texts[2]}]"


def format_seconds(seconds: float) -> str:
  """Formats a time as `0:01:30`."""
  return str(datetime.timedelta(seconds=round(seconds)))


def _names(mappings) -> list[str]:
  """The keys of all mappings, in the order they first appear."""
  return list(dict.fromkeys(name for mapping in mappings for name in mapping))
