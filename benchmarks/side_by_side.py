"""Runs programs alternately in one session, each peer in a separate process.

A result is a ratio of two programs that alternated on the same machine, so that other load affected
both. This module does not know what is measured.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


class Worker:
  """A process that answers each JSON line on its stdin with one on its stdout.

  Attributes:
    hello: the object the worker printed when it was ready.
  """

  def __init__(self, command, *, stderr=None):
    """Starts `command`; its stderr goes to the file `stderr`, or to that of this process.

    Raises:
      RuntimeError: the worker ended before it was ready.
    """
    self._process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
    self.hello = self._read()

  def _read(self):
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(
          f"the worker {self._process.args} ended with {self._process.wait()}; its stderr says why")
    return json.loads(line)

  def ask(self, **request):
    """Sends one request and returns the answer."""
    self._process.stdin.write(json.dumps(request) + "\n")
    self._process.stdin.flush()
    return self._read()

  def close(self):
    """Ends the worker."""
    self._process.stdin.close()
    self._process.wait(timeout=60)


def start_peer(environment, script, argument, *, log="worker", made_by="peers.sh"):
  """Starts `script` of benchmarks/ with the Python of .peers/`environment`.

  Args:
    environment: name of a folder in .peers.
    script: file name of the worker in benchmarks/.
    argument: of its command line.
    log: its stderr goes to .peers/`log`.log.
    made_by: the script of benchmarks/ that makes the environment.

  Raises:
    FileNotFoundError: the environment is not there.
    RuntimeError: the worker ended before it was ready.
  """
  python = ROOT / ".peers" / environment / "bin" / "python"
  if not python.exists():
    raise FileNotFoundError(f"{python} is missing: run `bash benchmarks/{made_by}` once")
  with open(ROOT / ".peers" / f"{log}.log", "w", encoding="utf-8") as stderr:
    return Worker([str(python), str(ROOT / "benchmarks" / script), argument], stderr=stderr)


def process_memory(field):
  """A field of this process's status, bytes: VmRSS now, VmHWM at the peak."""
  for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
    if line.startswith(f"{field}:"):
      return int(line.split()[1]) * 1024
  raise RuntimeError(f"{field} is not in /proc/self/status")


def forget_peak():
  """Resets VmHWM."""
  pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def take_turns(sides, *, rounds, warm_up):
  """Calls every side once per round, in reversed order every other round.

  Args:
    sides: {name: function of the round number that does one unit of work and returns a result}.
    rounds: counted rounds.
    warm_up: rounds before those, discarded (compilation, caches).

  Returns:
    {name: list of `rounds` results}.
  """
  results = {name: [] for name in sides}
  for index in range(warm_up + rounds):
    names = list(sides) if index % 2 == 0 else list(reversed(sides))
    for name in names:
      result = sides[name](index)
      if index >= warm_up:
        results[name].append(result)
  return results


def median_ratio(numerators, denominators):
  """Median of the ratios of the same rounds, with the smallest and the largest."""
  ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
  return {"median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3),
          "high": round(max(ratios), 3), "rounds": len(ratios)}


def median_of_parts(results):
  """Median seconds of every part named in a list of {part: seconds}."""
  return {part: round(statistics.median([result[part] for result in results]), 4)
          for part in results[0]}


def print_line(benchmark, **fields):
  """Prints the JSON line of a benchmark, with the machine it ran on."""
  machine = {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2),
             "python": sys.version.split()[0]}
  print(json.dumps({"benchmark": benchmark, **fields, "machine": machine}), flush=True)
