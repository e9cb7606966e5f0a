"""Runs of `tiny_run.py` in processes of their own, and what two of them must share."""

import os
import pathlib
import subprocess
import sys

from rlreason.training import metrics
from tests import compiler

_ROOT = pathlib.Path(__file__).parents[2]


def run_process(workdir, moment, cache, *options):
  """Runs `tiny_run.py` on one device; programs are compiled once and then found in `cache`."""
  environment = os.environ | {
      "PYTHONPATH": str(_ROOT), "XLA_FLAGS": compiler.FLAGS, "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
  return subprocess.run(
      [sys.executable, str(_ROOT / "tests/training/tiny_run.py"), str(workdir), moment, *options],
      env=environment, capture_output=True, text=True, timeout=280, check=False)


def reproducible_lines(workdir):
  """The metrics without what depends on the machine."""
  return [{name: value for name, value in line.items() if metrics.is_reproducible(name)}
          for line in metrics.read_lines(workdir / "metrics.jsonl")]
