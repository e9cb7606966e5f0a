"""Waiting for processes: a slow one is told from one that hangs by what it does, not by a clock."""

from collections.abc import Callable
import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from typing import Any

# Seconds without a sign of life, of which each starts them anew. What is waited for here takes a
# few seconds of one core from sign to sign, so that a machine a hundred times as slow passes.
PATIENCE = 1200


def wait_until(is_over: Callable[[], Any], signs: Callable[[], Any] = lambda: None):
  """Returns what is true of `is_over()`, once it is.

  Args:
    is_over: what is waited for.
    signs: of life: whatever changes where there is progress, such as the sizes of files.

  Raises:
    AssertionError: `signs()` stayed as it was for `PATIENCE`.
  """
  last, since = signs(), time.monotonic()
  while not (result := is_over()):
    if (now := signs()) != last:
      last, since = now, time.monotonic()
    assert time.monotonic() - since < PATIENCE, f"no progress for {PATIENCE} s: {last}"
    time.sleep(0.05)
  return result


class Running:
  """A process of its own session, whose output is its sign of life; see `start`."""

  def __init__(self, arguments, **options):
    self._files = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]
    out, err = self._files
    environment = {**options.pop("env", os.environ), "PYTHONUNBUFFERED": "1"}
    self.process = subprocess.Popen(
        arguments, stdout=out, stderr=err, env=environment, start_new_session=True, **options)

  def wait_until(self, is_over: Callable[[], Any] = lambda: False, *folders: pathlib.Path):
    """Waits until the process ends or `is_over()`; files that grow in `folders` are signs as well.

    Raises:
      AssertionError: no sign of life; the process is killed then, and all that it started.
    """
    def signs():
      # Not rglob, which fails where a folder vanishes meanwhile.
      files = [pathlib.Path(path, name) for folder in folders for path, _, names in os.walk(folder)
               for name in names if name.endswith(".jsonl")]
      return [os.fstat(file.fileno()).st_size for file in self._files], [
          file.stat().st_size for file in files]

    try:
      wait_until(lambda: self.process.poll() is not None or is_over(), signs)
    except AssertionError as error:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self.process.pid, signal.SIGKILL)
      raise AssertionError(f"{error}; stderr: {self.finish().stderr[-2000:]}") from None

  def finish(self) -> subprocess.CompletedProcess:
    """Waits for the end; returns the exit status and what was printed."""
    if self.process.poll() is None:
      self.wait_until()
    texts = []
    for file in self._files:
      file.seek(0)
      texts.append(file.read())
      file.close()
    return subprocess.CompletedProcess(self.process.args, self.process.returncode, *texts)


def run(arguments, **options) -> subprocess.CompletedProcess:
  """`subprocess.run` that captures the output and gives up only on a process without progress."""
  return Running(arguments, **options).finish()
