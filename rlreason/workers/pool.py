"""Killable worker processes for untrusted code and text.

C code that hangs cannot be stopped from inside its process: here every request runs in a subprocess
(`process.py`) that is killed at the time limit and restarted. It uses plain subprocesses and
threads: no fork of a process with accelerator threads, no signals, no `__main__` guard, so that it
works in notebooks and outside the main thread. POSIX only (resource limits).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import functools
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple
import weakref

# The target in a worker: a self-contained Python file, a function in it, and its text arguments;
# the function that it returns is called with each request.
Target = tuple[str, ...]
_PROCESS_FILE = pathlib.Path(__file__).with_name("process.py")
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # never a second owner of the accelerator
    "OMP_NUM_THREADS": "1",  # each thread would reserve address space, and share the cores
    "OPENBLAS_NUM_THREADS": "1",
}
_LOAD_SECONDS = 120  # imports on a busy machine; not part of a request's time
_IS_GUARDED = sys.platform == "linux"  # see process.py
_GUARD_SECONDS = 30  # it takes milliseconds, unless the user's code has stopped it


class Reply(NamedTuple):
  """The result of one request.

  Attributes:
    value: the worker's answer; None if `failure` is set.
    failure: None, "timeout" (killed at the limit), "crash" (the process died), "error" (an
      exception, also of recursion or memory) or "refused" (see `process.py`).
    message: the exception's text for "error" and "refused".
  """

  value: Any = None
  failure: str | None = None
  message: str = ""


class PoolCounts(NamedTuple):
  """Running totals of a pool since it was made."""

  requests: int = 0
  timeouts: int = 0
  crashes: int = 0
  errors: int = 0


class WorkerPool:
  """Persistent worker processes, started when first needed.

  Args:
    num_workers: most processes, and requests answered at the same time.
    timeout_seconds: limit for one request; the process is killed when it is exceeded.
    memory_bytes: address space of one worker (Linux), more than the memory it uses: math-verify
      takes 0.1 GiB, a custom reward function that imports jax 1.5 GiB on two cores and more on
      machines with many.

  Raises:
    ValueError: a setting is out of range.
  """

  def __init__(
      self, num_workers: int = 2, timeout_seconds: float = 5.0, memory_bytes: int = 2 << 30
  ):
    for name, value in (
        ("num_workers", num_workers),
        ("timeout_seconds", timeout_seconds),
        ("memory_bytes", memory_bytes),
    ):
      if not value > 0:
        raise ValueError(f"{name}: got {value!r}, allowed: above 0")
    self.num_workers = num_workers
    self.timeout_seconds = timeout_seconds
    self.memory_bytes = memory_bytes
    self._workers = [_Worker(memory_bytes) for _ in range(num_workers)]
    self._idle = queue.LifoQueue()  # last in, first out: a warm worker is used before a cold one
    for worker in reversed(self._workers):
      self._idle.put(worker)
    self._lock = threading.Lock()
    self.counts = PoolCounts()
    # Runs at close(), at garbage collection, or at exit, whichever is first.
    self._finalizer = weakref.finalize(self, _close_workers, self._workers)

  def __enter__(self):
    return self

  def __exit__(self, *unused_exception):
    self.close()

  def close(self):
    """Kills all workers; the pool cannot be used afterwards. Safe to call twice."""
    self._finalizer()

  def map(self, target: Target, requests: Sequence[Mapping[str, Any]]) -> list[Reply]:
    """Answers all requests, `num_workers` at a time; replies in the order of the requests.

    Args:
      target: the target called in a worker, with the arguments of a request.
      requests: keyword arguments of each call, as JSON values (NumPy's are converted).

    Raises:
      ValueError: the target cannot be loaded, the arguments are not JSON, or the pool is closed.
    """
    if len(requests) <= 1 or self.num_workers == 1:
      return [self.call(target, request) for request in requests]
    with ThreadPoolExecutor(min(self.num_workers, len(requests))) as executor:
      return list(executor.map(functools.partial(self.call, target), requests))

  def call(self, target: Target, arguments: Mapping[str, Any]) -> Reply:
    """Answers one request; see `map`."""
    if not self._finalizer.alive:
      raise ValueError("this WorkerPool is closed: make a new one")
    line = _to_json(dict(call=target, arguments=arguments, seconds=self.timeout_seconds))
    worker = self._idle.get()
    try:
      worker.load(target)
      reply = worker.exchange(line, self.timeout_seconds)
    except BaseException:
      worker.close()  # an interrupted exchange leaves a pending reply: discard the process
      raise
    finally:
      self._idle.put(worker)
    failures = ("timeout", "crash", "error")
    with self._lock:
      added = (1, *(reply.failure == failure for failure in failures))
      self.counts = PoolCounts(*(old + new for old, new in zip(self.counts, added)))
    return reply


@functools.cache
def default_pool() -> WorkerPool:
  """The shared pool: one per process, with workers started only when needed."""
  return WorkerPool(num_workers=max(1, min(4, os.cpu_count() or 1)))


def _close_workers(workers):
  for worker in workers:
    worker.close()


def _to_json(message) -> bytes:
  try:
    return json.dumps(message, default=lambda value: value.tolist()).encode() + b"\n"
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(f"a worker takes JSON values only: {error}") from error


class _Worker:
  """One subprocess, started by `load`, used by one thread at a time."""

  def __init__(self, memory_bytes):
    self._memory_bytes = memory_bytes
    self._process = None
    self._owner = os.getpid()
    self._loaded = set()
    self._closing = threading.Lock()

  def load(self, target):
    """Starts the process if necessary and loads the target, both outside a request's time."""
    if target in self._loaded:
      return
    if self._process is None:
      self._start()
    reply = self.exchange(_to_json(dict(load=target, seconds=_LOAD_SECONDS)), _LOAD_SECONDS)
    if reply.failure:
      raise ValueError(
          f"a worker could not load {target[-1]!r} within {self._memory_bytes} bytes and"
          f" {_LOAD_SECONDS} s: {reply.message or reply.failure}"
      )
    self._loaded.add(target)

  def exchange(self, line, seconds) -> Reply:
    """Sends a line and waits for the reply; a worker that fails is killed."""
    process = self._process
    expired = threading.Event()

    def expire():
      expired.set()
      _kill(process)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    answer = b""
    with contextlib.suppress(OSError, ValueError):  # a broken or closed pipe: a crash, see below
      process.stdin.write(line)
      process.stdin.flush()
      answer = process.stdout.readline()
    timer.cancel()
    timer.join()  # it either never kills, or has killed *this* request
    if expired.is_set() or not answer.endswith(b"\n"):
      self.close()
      return Reply(failure="timeout" if expired.is_set() else "crash")
    reply = json.loads(answer)
    if "value" in reply:
      return Reply(value=reply["value"])
    if "refused" in reply:
      return Reply(failure="refused", message=reply["refused"])
    if reply["error"].startswith("MemoryError"):
      self.close()  # objects that filled the memory may still be referenced
    return Reply(failure="error", message=reply["error"])

  def close(self):
    """Kills the process and all it started, and reaps it."""
    if os.getpid() != self._owner:
      return  # a forked copy of the pool must not end its parent's workers
    with self._closing:
      process, self._process = self._process, None
      self._loaded.clear()
      if process is None:
        return
      _kill(process)
      process.wait()
      for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
          stream.close()

  def _start(self):
    path = [folder or os.getcwd() for folder in sys.path]
    settings = dict(memory_bytes=self._memory_bytes, path=path)
    self._process = subprocess.Popen(
        [sys.executable, "-I", str(_PROCESS_FILE), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # own group: Ctrl-C reaches only the parent; children die with it
        env={**os.environ, **_ENVIRONMENT},
    )


def _kill(process):
  """Ends the process and all it started; it still has to be reaped."""
  if process.returncode is not None:
    return
  # The group's id is valid until the process is reaped, which another thread may have done.
  with contextlib.suppress(ProcessLookupError, ChildProcessError, PermissionError):
    if _IS_GUARDED:  # the guard also ends those that left the group
      os.kill(process.pid, signal.SIGTERM)
      _wait(process.pid, _GUARD_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)


def _wait(pid, seconds):
  """Returns when a child has ended, or after that time; it still has to be reaped."""
  limit = time.monotonic() + seconds
  while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
    if time.monotonic() > limit:
      return
    time.sleep(0.002)
