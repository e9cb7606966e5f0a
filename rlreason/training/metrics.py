"""Writers of metrics and samples, reduction of metrics on the host, and the machine's own figures.

    <workdir>/metrics.jsonl   one JSON object per line: step, stage, then metrics `group/quantity`
    <workdir>/samples.jsonl   one completion per line: step, stage, prompt, completion, ...
    <workdir>/tensorboard/    the same metrics for TensorBoard, the config, and a few completions

Every metric is reproducible: the same config and seed give the same bytes, even after a kill and a
resume. The only exceptions are the prefixes `time/` (seconds, tokens per second) and `system/`
(compilations, memory), which depend on the machine; they are at the end of a line.

Not here: the metrics themselves (algorithms/, evaluation/) and their display (progress.py,
report.py).
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import hashlib
import json
import math
import os
import pathlib
import resource
import sys
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from rlreason import files, processes, types

MACHINE_PREFIXES = ("time/", "system/")

_FLUSH_SECONDS = 10.0  # largest delay of TensorBoard; a flush waits for the disk
_TEXTS, _TEXT_CHARACTERS = 4, 8000  # completions shown of an evaluation, and most of one text
_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_NOTEWORTHY = 0.5  # seconds; most programs are a single operation


def is_reproducible(name: str) -> bool:
  """Whether a metric is the same on every machine and in every run of one config and seed."""
  return not name.startswith(MACHINE_PREFIXES)


def reduce_metrics(metrics: types.Metrics) -> dict[str, float]:
  """Divides the sums of metrics by their denominators, on the host.

  Leading axes (epochs, minibatches, devices) are summed first, in f64, so that the result is the
  mean over everything and not a mean of means. A metric with a denominator of 0 is omitted: there
  was nothing to measure, which is not 0.

  Args:
    metrics: name -> (sum, denominator), arrays of one shape.

  Returns:
    name -> value.
  """
  host = jax.device_get(metrics)
  totals = {
      name: (float(np.sum(numerator, dtype=np.float64)), float(np.sum(count, dtype=np.float64)))
      for name, (numerator, count) in host.items()
  }
  return {name: numerator / count for name, (numerator, count) in totals.items() if count != 0}


class JsonLines:
  """A file of JSON objects, one per line, that can be cut back to an earlier state.

  Of several processes one writes it; on the others it is empty, and stays so.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens `path` for appending; it is made, with its folder, if missing."""
    self.path = pathlib.Path(path if processes.is_writer() else os.devnull)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    is_odd = self.path.exists() and not self.path.is_file()
    if is_odd and processes.is_writer():  # opening a pipe would block
      raise ValueError(
          f"{str(self.path)!r} is no file; put it back from a copy or give a new workdir")
    # Unbuffered: what did not fit on a full disk is not written again on close.
    self._file = open(self.path, "ab", buffering=0)
    self._sum = hashlib.sha256()  # of the file's content, from `truncate_to` on

  def append(self, line: Mapping[str, Any]) -> None:
    """Writes a line and passes it to the operating system, so that a kill loses nothing.

    Raises:
      OSError: names the file, whose end may then be half a line.
    """
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    # A lone surrogate, which UTF-8 cannot hold, becomes its JSON escape.
    rest = memoryview(text.encode("utf-8", errors="backslashreplace") + b"\n")
    with files.naming(self.path):
      while rest:
        count = self._file.write(rest)
        self._sum.update(rest[:count])
        rest = rest[count:]

  def cursor(self) -> int:
    """The size in bytes, all synced to disk; checkpoints store it."""
    if not processes.is_writer():
      return 0
    with files.naming(self.path):
      os.fsync(self._file.fileno())
      return self._file.seek(0, os.SEEK_END)

  def digest(self) -> str:
    """SHA-256 of the content so far."""
    return self._sum.hexdigest()

  def truncate_to(self, cursor: int, digest: str | None = None) -> None:
    """Drops everything after `cursor`, a half-written line included.

    Args:
      cursor: bytes that are kept.
      digest: their digest when they were written; None: from a run of an older version.

    Raises:
      ValueError: the file is shorter, so that lines before the checkpoint are missing; or its
        content has changed.
    """
    if not processes.is_writer():
      return
    size = self.path.stat().st_size
    if not 0 <= cursor <= size:
      raise ValueError(
          f"{str(self.path)!r} has {size} bytes, but the checkpoint was saved when it had "
          f"{cursor}; it was changed or belongs to another run: restore it or give a new workdir"
      )
    self._sum = _sum_of(self.path, cursor)
    if digest is not None and self.digest() != digest:
      raise ValueError(
          f"{str(self.path)!r} does not hold what was written there; it is damaged or was changed: "
          "put it back from a copy or give a new workdir")
    self._file.truncate(cursor)
    self._file.seek(cursor)

  def close(self) -> None:
    self._file.close()


class MetricsWriter:
  """Writes metrics to metrics.jsonl, to TensorBoard and to a further writer."""

  def __init__(self, workdir: str | os.PathLike, also: Any = None):
    """Opens the files in `workdir`. After a restart call `truncate_to` before the first `write`.

    Args:
      workdir: the folder of the run.
      also: a `WandbLog`, or None.
    """
    self._also = also
    self._workdir = pathlib.Path(workdir)
    self._lines = JsonLines(self._workdir / "metrics.jsonl")
    self._tensorboard = None
    self._warned = set()

  def write(self, step: int, stage: str, values: Mapping[str, Any]) -> None:
    """Writes one line.

    Numbers keep all digits. A value that is not finite is written as null, with one warning for
    each metric.

    Args:
      step: the global step.
      stage: name of the stage.
      values: name -> number, on the host.
    """
    numbers = {name: self._finite(step, name, values[name]) for name in _ordered(values)}
    self._lines.append({"step": int(step), "stage": stage, **numbers})
    if not processes.is_writer():
      return
    if self._tensorboard is None:
      # Made only now: after a resume it replaces TensorBoard's events from this step on.
      self._tensorboard = _TensorBoard(self._workdir / "tensorboard", purge_step=int(step))
    self._tensorboard.write(int(step), numbers)
    if self._also is not None:
      self._also.write(int(step), stage, numbers)

  def write_samples(self, step: int, stage: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """Shows completions in TensorBoard and `also` for a step that has been written."""
    if self._tensorboard is not None:
      self._tensorboard.write_text(int(step), f"samples/{stage}", _as_markdown(samples))
    if self._also is not None:
      self._also.write_samples(int(step), stage, _plain(list(samples)))

  def cursor(self) -> int:
    """The current end of the file; see `JsonLines.cursor`."""
    return self._lines.cursor()

  def digest(self) -> str:
    """Of the file up to now; see `JsonLines.digest`."""
    return self._lines.digest()

  def truncate_to(self, cursor: int, digest: str | None = None) -> None:
    """Drops the lines after a checkpoint; 0 drops all. See `JsonLines.truncate_to`."""
    self._lines.truncate_to(cursor, digest)

  def close(self) -> None:
    self._lines.close()
    for other in (self._tensorboard, self._also):
      if other is not None:
        other.close()

  def _finite(self, step: int, name: str, value: Any) -> int | float | None:
    number = _plain(value)
    if number is not None:
      return number
    if name not in self._warned:
      self._warned.add(name)
      logging.warning("metric %s is %s at step %d; written as null", name, value, step)
    return None


class _TensorBoard:
  """Writes the metrics for TensorBoard; best effort.

  An error of its file, such as a full disk, gives one warning and disables it: metrics.jsonl holds
  the same. The caller's thread writes: tensorboardX's own writer has a thread, which such an error
  kills, and a queue, which then fills and blocks the run.
  """

  def __init__(self, folder: pathlib.Path, purge_step: int):
    """Opens a file for events from `purge_step` on, which replace existing ones."""
    from tensorboardX import event_file_writer  # imports torch where that is installed: seconds
    from tensorboardX.proto import event_pb2

    self._folder, self._file, self._flushed, self._pb = folder, None, 0.0, event_pb2
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    with self._best_effort():
      folder.mkdir(parents=True, exist_ok=True)
      # The process id, because two processes may start within the second in the name.
      self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
      for event in ({"file_version": "brain.Event:2"}, {"session_log": start}):
        self._file.write_event(event_pb2.Event(step=purge_step, **event))
      config = folder.parent / "config.json"
      if config.exists():
        lines = config.read_text(encoding="utf-8", errors="replace").splitlines()
        self.write_text(purge_step, "config", "\n".join(f"    {line}" for line in lines))

  def write_text(self, step: int, name: str, text: str) -> None:
    """Markdown."""
    if self._file is None:
      return
    from tensorboardX import summary

    text = text.encode("utf-8", errors="backslashreplace").decode()  # no lone surrogates
    with self._best_effort():
      self._file.write_event(self._pb.Event(
          step=step, wall_time=time.time(), summary=summary.text(name, text)))

  def write(self, step: int, numbers: Mapping[str, float | None]) -> None:
    if self._file is None:
      return
    from tensorboardX.summary import scalar

    now = time.time()
    with self._best_effort():
      for name, number in numbers.items():
        if number is not None:
          self._file.write_event(self._pb.Event(
              step=step, wall_time=now, summary=scalar(name, number)))
      if now - self._flushed > _FLUSH_SECONDS:
        self._flushed = now
        self._file.flush()

  def close(self) -> None:
    if self._file is not None:
      with self._best_effort():
        self._file.close()
      self._file = None

  @contextlib.contextmanager
  def _best_effort(self):
    try:
      yield
    except OSError as error:
      logging.warning(
          "%s: %s; TensorBoard gets nothing more of this run, metrics.jsonl has it all",
          self._folder, error.strerror)
      file, self._file = self._file, None
      if file is not None:
        with contextlib.suppress(OSError):  # it would try to write the rest
          file.close()


def _as_markdown(samples: Sequence[Mapping[str, Any]]) -> str:
  """A few completions, with unchanged texts."""
  parts = []
  for sample in list(samples)[:_TEXTS]:
    rewards = ", ".join(f"{part} {value}" for part, value in (sample.get("rewards") or {}).items())
    parts.append(f"answer {sample.get('answer')}; {rewards}")
    for name in ("prompt", "completion"):
      text = sample.get(name, "")
      text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
      parts.append("\n".join(f"    {line}" for line in text[:_TEXT_CHARACTERS].splitlines()))
  return "\n\n".join(parts)


class SamplesWriter:
  """Writes completions, with their data, to samples.jsonl."""

  def __init__(self, workdir: str | os.PathLike):
    self._lines = JsonLines(pathlib.Path(workdir) / "samples.jsonl")

  def write(self, step: int, stage: str, samples: Iterable[Mapping[str, Any]]) -> None:
    """Writes one line per sample.

    Args:
      step: the global step.
      stage: name of the stage.
      samples: dicts, usually of `prompt`, `completion`, `answer`, `rewards` (name -> number or
        None); numbers that are not finite become null.
    """
    for sample in samples:
      self._lines.append({"step": int(step), "stage": stage, **_plain(sample)})

  def cursor(self) -> int:
    """The current end of the file; see `JsonLines.cursor`."""
    return self._lines.cursor()

  def digest(self) -> str:
    """Of the file up to now; see `JsonLines.digest`."""
    return self._lines.digest()

  def truncate_to(self, cursor: int, digest: str | None = None) -> None:
    """Drops the lines after a checkpoint; 0 drops all. See `JsonLines.truncate_to`."""
    self._lines.truncate_to(cursor, digest)

  def close(self) -> None:
    self._lines.close()


def _sum_of(path: pathlib.Path, size: int) -> Any:
  """The running SHA-256 of the first bytes of a file."""
  total = hashlib.sha256()
  with open(path, "rb") as file:
    while size and (piece := file.read(min(size, 1 << 20))):
      total.update(piece)
      size -= len(piece)
  return total


def write_lines(path: str | os.PathLike, lines: Iterable[Mapping[str, Any]]) -> None:
  """Writes a file of JSON objects, one per line, atomically; an existing file is replaced.

  Numbers that are not finite become null. Of several processes one writes.
  """
  if not processes.is_writer():
    return
  files.write_whole(path, "".join(
      json.dumps(_plain(line), ensure_ascii=False) + "\n" for line in lines))


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads a file that `JsonLines` writes, without an incomplete last line; [] if it is missing.

  Raises:
    ValueError: a line is not a JSON object; names the file and the line.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return []
  lines = []
  for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
    try:
      lines.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f"{path}:{number}: damaged, not a line of JSON: {error}") from error
  return lines


class CompilationCounter:
  """Counts the programs requested from XLA since this counter was made.

  A program found in the persistent cache counts as well, because it also means a new shape or
  function. In a loop of fixed shapes the count is constant after the first step.
  """

  def __init__(self):
    self.count = 0
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  def close(self) -> None:
    """Stops counting."""
    jax.monitoring.unregister_event_duration_listener(self._on_event)

  def _on_event(
      self, event: str, duration: float, *, fun_name: str = "a program", **unused_details: Any,
  ) -> None:
    if event == _COMPILE_EVENT:
      self.count += 1
      if duration > _NOTEWORTHY:
        logging.info("compiled %s in %.1f s", fun_name, duration)


def peak_memory() -> dict[str, float]:
  """The most memory used so far, in bytes.

  Returns:
    `system/peak_host_memory` of this process and, if the backend reports it,
    `system/peak_device_memory`, that of the local device with the most.
  """
  # Linux counts in kilobytes, macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  peak = {"system/peak_host_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  device_peaks = [entry["peak_bytes_in_use"] for entry in stats if "peak_bytes_in_use" in entry]
  return {**peak, **({"system/peak_device_memory": max(device_peaks)} if device_peaks else {})}


def _ordered(names: Iterable[str]) -> list[str]:
  """Sorted, with machine metrics last, so that the starts of two runs' lines can be compared."""
  return sorted(names, key=lambda name: (not is_reproducible(name), name))


def _plain(value: Any) -> Any:
  """Python values that JSON can hold; a number that is not finite becomes None."""
  if isinstance(value, Mapping):
    return {str(name): _plain(inner) for name, inner in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(inner) for inner in value]
  if isinstance(value, (np.generic, np.ndarray, jax.Array)):
    return _plain(np.asarray(value).tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
