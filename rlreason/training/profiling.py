"""Traces a few steps of a run, and reports the time of their compiled programs.

The trace is that of `jax.profiler`: TensorBoard's profile plugin (xprof) and Perfetto show it.
"""

from collections.abc import Iterable
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax

from rlreason.training.settings.base import RunConfig

FOLDER = "profile"  # in the workdir
_MODULES_LINE = "XLA Modules"  # of an accelerator's trace: an event for each run of a program
_MOST_NAMED, _LEAST_SHARE = 8, 0.005  # programs, and their share of the time
_FORM = re.compile(r"(?:([A-Za-z_]\w*):)?(?:(\d+)|(\d+):(\d+))")


class Steps(NamedTuple):
  """The steps to trace.

  Attributes:
    stage: their stage; None: the first that runs.
    start: the first of them, counted from 1 as in metrics.jsonl, or within the stage if one is
      named; None: the second that this process runs of it, because the first one compiles.
    count: how many.
  """

  stage: str | None
  start: int | None
  count: int


def read_steps(text: str, recipe: RunConfig) -> Steps:
  """Reads `3`, `10:13` (steps 10, 11, 12), `rl:3` or `rl:10:13`.

  Raises:
    ValueError: it is none of these, or the run has no such stage or steps.
  """
  match = _FORM.fullmatch(text)
  if match is None:
    raise ValueError(
        f"--profile: got {text!r}, allowed: a number of steps such as 3, a range such as 10:13, "
        "either of a stage, such as rl:3")
  stage, count, first, stop = match.groups()
  sizes = {config.name: getattr(config, "steps", 0) for config in recipe.stages}
  if stage is not None and not sizes.get(stage):
    names = ", ".join(name for name, size in sizes.items() if size)
    raise ValueError(f"--profile: got the stage {stage!r}, allowed: {names}")
  steps = Steps(stage, int(first), int(stop) - int(first)) if first else Steps(
      stage, None, int(count))
  most = sum(sizes.values()) if stage is None else sizes[stage]
  start = 1 if steps.start is None else steps.start
  if steps.count < 1 or not 1 <= start <= most:
    raise ValueError(f"--profile: got {text!r}, allowed: one step or more of the {most} there are")
  return steps


class Profiler:
  """Traces the requested steps; the loop calls it for each step, and at the end of a stage."""

  def __init__(self, steps: Steps | None, workdir: pathlib.Path):
    self._steps, self._folder = steps, workdir / FOLDER
    self._range: range | None = None  # of the steps to trace, once known
    self._started: float | None = None  # seconds; None: not tracing

  def before_step(self, stage: str, step: int, number: int, state: Any) -> list[str]:
    """Starts or ends the trace when it is due.

    Args:
      stage: the current stage.
      step: index of the next step in its stage, from 0.
      number: number of that step in the run, from 1.
      state: the result of the previous steps: the trace ends when it is ready.

    Returns:
      Lines to show.
    """
    steps = self._steps
    if steps is None or steps.stage not in (None, stage):
      return []
    at = number if steps.stage is None else step + 1
    if self._range is None:
      start = at + 1 if steps.start is None else steps.start
      self._range = range(start, start + steps.count)
    if self._started is None and at in self._range:
      jax.block_until_ready(state)
      _start_trace(self._folder)
      self._started = time.monotonic()
      return []
    return self.end(state) if self._started is not None and at not in self._range else []

  def end(self, state: Any) -> list[str]:
    """Ends a running trace, and returns the lines about it."""
    if self._started is None:
      return []
    jax.block_until_ready(state)
    seconds = time.monotonic() - self._started
    jax.profiler.stop_trace()
    self._steps = self._started = None
    file = max(self._folder.glob("plugins/profile/*/*.xplane.pb"))  # the latest: by its time
    programs = program_times(jax.profiler.ProfileData.from_file(str(file)))
    return [f"profile: {seconds:.2f} s traced, in {file.parent}", *table(programs, seconds)]

  def close(self) -> list[str]:
    """Ends a running trace silently, and reports if nothing was traced."""
    if self._started is not None:
      jax.profiler.stop_trace()
    is_unused = self._steps is not None and self._started is None
    self._steps = self._started = None
    return ["profile: none of its steps was done here, and nothing traced"] * is_unused


def _start_trace(folder: pathlib.Path):
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # Python calls would fill the trace, and take most of the time
  jax.profiler.start_trace(str(folder), profiler_options=options)


def table(programs: dict[str, tuple[float, int]], seconds: float) -> list[str]:
  """Lines of the slowest programs.

  Args:
    programs: as from `program_times`.
    seconds: of the trace.
  """
  order = sorted(programs.items(), key=lambda item: -item[1][0])
  named = [entry for entry in order[:_MOST_NAMED] if entry[1][0] >= _LEAST_SHARE * seconds]
  others = order[len(named):]
  rows = [(name.removeprefix("jit_"), time_of, f" in {runs:,} runs" if runs else "")
          for name, (time_of, runs) in named]
  rows += [(f"{len(others)} other programs", sum(time for _, (time, _) in others), "")
           ] if others else []
  idle = seconds - sum(time_of for time_of, _ in programs.values())
  rows += [("no program", idle, ": rewards, data, files, waiting")] if idle > 0 else []
  return [f"profile: {time_of:8.3f} s  {time_of / seconds:4.0%}  {name}{note}"
          for name, time_of, note in rows]


def program_times(profile: Any) -> dict[str, tuple[float, int]]:
  """The time of every compiled program in a trace, on the device that was busy longest.

  Args:
    profile: a `jax.profiler.ProfileData`, or what has its planes, lines and events.

  Returns:
    Name -> (seconds, runs). The runs are 0 if the trace has only kernels, as on a GPU: the seconds
    are then the sum of theirs.
  """
  planes = list(profile.planes)
  devices = [plane for plane in planes if plane.name.startswith("/device:")]
  found = [times for plane in devices for times in _times_of(plane) if times]
  if not found:
    found = [times for plane in planes for times in _times_of(plane) if times]
  return max(found, key=lambda times: sum(time for time, _ in times.values()), default={})


def _times_of(plane: Any) -> Iterable[dict[str, tuple[float, int]]]:
  """The result of `program_times` for each device of a plane."""
  lines = list(plane.lines)
  modules = [line for line in lines if line.name == _MODULES_LINE]
  if modules:
    runs = [(event.name.partition("(")[0], event.duration_ns)
            for line in modules for event in line.events]
    return [_summed(runs, is_counted=True)]
  spans, kernels = {}, []
  for line in lines:
    for event in line.events:
      stats = dict(event.stats)
      if "hlo_module" not in stats:
        continue
      name = str(stats["hlo_module"])
      if "run_id" not in stats:
        kernels.append((name, event.duration_ns))
        continue
      # The trace has the operations of a run, on several threads and nested.
      device = spans.setdefault(stats.get("device_ordinal", 0), {})
      key, end = (name, stats["run_id"]), event.start_ns + event.duration_ns
      first, last = device.get(key, (event.start_ns, end))
      device[key] = min(first, event.start_ns), max(last, end)
  runs = [[(name, last - first) for (name, _), (first, last) in device.items()]
          for device in spans.values()]
  return [*(_summed(device, is_counted=True) for device in runs),
          _summed(kernels, is_counted=False)]


def _summed(
    runs: Iterable[tuple[str, float]], *, is_counted: bool) -> dict[str, tuple[float, int]]:
  """(name, nanoseconds) of runs -> name -> (seconds, runs)."""
  sums = {}
  for name, nanoseconds in runs:
    seconds, count = sums.get(name, (0.0, 0))
    sums[name] = seconds + nanoseconds / 1e9, count + is_counted
  return sums
