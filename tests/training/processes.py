"""Runs of `tiny_run.py` in processes of their own, and what two of them must share."""

import os
import pathlib
import sys
from typing import NamedTuple

from rlreason.training import metrics
from tests import compiler, waiting
from tests.training import tiny_run

_ROOT = pathlib.Path(__file__).parents[2]


class Ended(NamedTuple):
  """How a process ended, and what it and those after it printed."""

  returncode: int
  stdout: str
  stderr: str


def run_process(workdir, moment, cache, *options):
  """`run_processes` of one moment."""
  return run_processes(workdir, [moment], cache, *options)[0]


def run_processes(workdir, moments, cache, *options):
  """Runs `tiny_run.py` on one device; programs are compiled once and then found in `cache`.

  Returns an `Ended` for each moment; stderr is that of all.
  """
  environment = os.environ | {
      "PYTHONPATH": str(_ROOT), "XLA_FLAGS": compiler.FLAGS, "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "OPENBLAS_NUM_THREADS": "1"}
  process = waiting.run(
      [sys.executable, str(_ROOT / "tests/training/tiny_run.py"), str(workdir), ",".join(moments),
       *options], env=environment)
  assert process.returncode == 0, process.stderr[-2000:]
  ended, stdout = [], []
  for line in process.stdout.splitlines():
    if line.startswith(tiny_run.ENDED):
      ended.append(Ended(int(line.removeprefix(tiny_run.ENDED)), "\n".join(stdout), process.stderr))
      stdout = []
    else:
      stdout.append(line)
  return ended


def reproducible_lines(workdir):
  """The metrics without what depends on the machine."""
  return [{name: value for name, value in line.items() if metrics.is_reproducible(name)}
          for line in metrics.read_lines(workdir / "metrics.jsonl")]
