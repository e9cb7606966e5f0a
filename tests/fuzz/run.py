"""Damaged model files: nothing uncaught, nothing slow, nothing large.

    python -m tests.fuzz.run --cases=3000
    python -m tests.fuzz.run --cases=3000 --seconds=40      # as many as fit, at most

A case is a number: the same number damages the same file in the same way. Each is tried in a child
that is kept until it dies. Exit code 1, with a line for each, where a case was not held: an
exception that is no one-line message to the user, more than 10 s of a processor (or two minutes of
a busy one), more than 2 GB, or a dead child.
"""

import argparse
import collections
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.fuzz import seeds

MAX_SECONDS = 10  # of a processor
_WALL_SECONDS = 120  # imports, or a case that waits
MAX_BYTES = 2 * 10**9
HELD = ("loaded", "refused")
_TICKS = os.sysconf("SC_CLK_TCK")


class Child:
  """A process of `attempt.py`."""

  def __init__(self, folder: str):
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "RUST_BACKTRACE": "0",
        # What a case compiles, the next need not.
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/.programs",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    self._process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.attempt", folder], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    self._rest = b""

  def attempt(self, number: int) -> dict[str, Any]:
    """Tries a case; a child that is too slow or too large is dead afterwards."""
    self._process.stdin.write(f"{number}\n".encode())
    self._process.stdin.flush()
    case, limit, started = {"number": number}, time.monotonic() + _WALL_SECONDS, None
    while "outcome" not in case:
      ready, _, _ = select.select([self._process.stdout], [], [], 0.05)
      if ready:
        chunk = os.read(self._process.stdout.fileno(), 1 << 16)
        if not chunk:
          return case | {"outcome": "died", "message": f"exit code {self._process.wait()}"}
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
          case |= json.loads(line)
          if "stage" in case and started is None:
            started = self._usage()[0]
        continue
      seconds, size = self._usage()
      if size > MAX_BYTES:
        return case | {"outcome": "large", "message": f"{size} bytes"}
      if time.monotonic() > limit or started is not None and seconds - started > MAX_SECONDS:
        return case | {"outcome": "slow", "message": f"more than {MAX_SECONDS} s"}
    if case["kilobytes"] * 1024 > MAX_BYTES:
      case |= {"outcome": "large", "message": f"{case['kilobytes']} KiB"}
    return case

  def kill(self):
    self._process.kill()
    self._process.wait()

  def _usage(self) -> tuple[float, int]:
    """Seconds of a processor so far, and bytes in memory."""
    try:
      stat = pathlib.Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
      return 0.0, 0
    return (int(stat[11]) + int(stat[12])) / _TICKS, int(stat[21]) * os.sysconf("SC_PAGE_SIZE")


def run(first: int, count: int, seconds: float, folder: str):
  """Yields the outcome of each case."""
  child, end = None, time.monotonic() + seconds
  for number in range(first, first + count):
    if time.monotonic() > end:
      break
    child = child or Child(folder)
    case = child.attempt(number)
    if case["outcome"] in ("died", "slow", "large"):
      child.kill()
      child = None
    yield case
  if child:
    child.kill()


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--cases", type=int, default=3000)
  parser.add_argument("--first", type=int, default=0, help="number of the first case")
  parser.add_argument("--seconds", type=float, default=float("inf"), help="no new case after them")
  parser.add_argument("--log", help="file for a line of JSON per case")
  options = parser.parse_args()
  table = collections.Counter()
  slowest, largest, start = 0.0, 0, time.monotonic()
  with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
    for name, make in seeds.SEEDS.items():
      make(pathlib.Path(folder) / name)
    for case in run(options.first, options.cases, options.seconds, folder):
      table[case.get("stage", "load"), case["outcome"]] += 1
      slowest = max(slowest, case.get("seconds", 0.0))
      largest = max(largest, case.get("kilobytes", 0) * 1024)
      if options.log:
        with open(options.log, "a", encoding="utf-8") as file:
          file.write(json.dumps(case) + "\n")
      if case["outcome"] not in HELD:
        print(json.dumps(case), flush=True)
  for (stage, outcome), count in sorted(table.items()):
    print(f"{stage:8} {outcome:14} {count:6}")
  lost = sum(count for (_, outcome), count in table.items() if outcome not in HELD)
  print(f"{sum(table.values())} cases in {time.monotonic() - start:.0f} s, {lost} not held; the "
        f"slowest {slowest:.1f} s, the largest process {largest / 1e9:.2f} GB")
  sys.exit(bool(lost))


if __name__ == "__main__":
  main()
