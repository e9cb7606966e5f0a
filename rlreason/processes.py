"""The processes that run one program together: which one this is, what they agree on, their end.

Every process runs the same host program: each reads the same data and takes the same decisions,
from values that are the same on all of them. Arrays on devices are divided by the layout
(`parallel`); on the host only what is expensive is: each process scores its part of the completions
and the results are gathered (`gather`). One process writes the files of a run (`is_writer`), which
the others read after it has (`from_writer`, `barrier`).

`gather`, `from_writer`, `any_process` and `barrier` are called by the main thread of all processes
in the same order. They use the key-value store of JAX's coordination service, not the devices.

A process that fails says why, one that is killed falls silent: a thread of every other ends it with
one line that names the process. Without `connect` there is one process, and nothing of this.
"""

from collections.abc import Callable, Iterator
import contextlib
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from rlreason import last_words, version

AUTO = "auto"  # the coordinator is found by JAX: on TPU slices, GKE, SLURM and MPI
EXIT_LOST = 1  # of a process that ends because another one has

_BEAT_SECONDS = 2.0  # between signs of life
_CONNECT_SECONDS = 300  # for all processes to start
_SILENT_SECONDS = 25.0  # without a sign of life: the process counts as gone
_WAIT_SECONDS = 60.0  # a longer wait for another process is reported
_FOREVER_MS = 7 * 24 * 3600 * 1000
# Errors of communication, whose cause is usually another process.
_OF_OTHERS = re.compile("gloo|nccl|coordination|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED", re.I)


class _Link(NamedTuple):
  client: Any  # of JAX's coordination service
  index: int
  count: int


_link: _Link | None = None
_hosts: list[str] = []
_numbers = itertools.count(1)
_exchange = 0  # the number of the current one, or of the last
_is_waiting = False  # whether it waits for other processes
_failed_at: float | None = None
_is_ending = False  # because of another process
_reader: subprocess.Popen | None = None  # of this process's errors


def index() -> int:
  """The number of this process, from 0."""
  return _link.index if _link else 0


def count() -> int:
  """How many processes there are."""
  return _link.count if _link else 1


def is_writer() -> bool:
  """Whether this process writes the files of the run, and its messages."""
  return index() == 0


def connect(coordinator: str, num_processes: int | None = None, process: int | None = None) -> None:
  """Joins this process with the others, before JAX has used a device.

  Args:
    coordinator: HOST:PORT of process 0, or "auto".
    num_processes: how many there are; None: found by JAX.
    process: the number of this one, from 0; None: found by JAX.

  Raises:
    ValueError: an argument is out of range, JAX finds no cluster, or the processes differ in their
      versions.
  """
  global _link, _hosts
  _check(coordinator, num_processes, process)
  if num_processes == 1 or _link is not None:
    return
  import jax
  from jax._src import distributed  # its client has no public name; Orbax takes it here too

  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM
  given = {} if coordinator == AUTO else dict(coordinator_address=coordinator)
  if given and process == 0:
    _check_port(coordinator)
  others = "not all processes" if num_processes is None else f"not all {num_processes} processes"
  _set_last_words(f"{others} could connect to {coordinator} within {_CONNECT_SECONDS} s: are all "
                  "started, with the same coordinator, and does it reach process 0?")
  with _telling_of_wait(coordinator, num_processes):
    try:
      jax.distributed.initialize(
          **given, num_processes=num_processes, process_id=process,
          initialization_timeout=_CONNECT_SECONDS)
    except (ValueError, RuntimeError) as error:
      reason = " ".join(str(error).split())[:300]
      raise ValueError(
          f"coordinator: got {coordinator!r}, num_processes={num_processes}, process={process}, "
          f"allowed: what all processes of one job agree on ({reason})") from error
  state = distributed.global_state
  _link = _Link(state.client, state.process_id, state.num_processes)
  if _link.count == 1:
    _link = None
    return
  _set_last_words(
      f"process 0, the coordinator at {state.coordinator_address}, is gone; what was saved before "
      "is kept: the same command on all processes resumes from there")
  sys.excepthook = _fail_first(sys.excepthook)
  threading.Thread(target=_watch, args=(_link,), name="processes", daemon=True).start()
  told = gather({"host": socket.gethostname(), "versions": version.describe()})
  _hosts = [one["host"] for one in told]
  for number, one in enumerate(told):
    if one["versions"] != told[0]["versions"]:
      raise ValueError(f"{describe(number)}: got {one['versions']}, allowed: {told[0]['versions']},"
                       f" the versions of {describe(0)}")


def check_joined() -> None:
  """Raises ValueError if this host's devices are part of a slice, and its process is not."""
  import jax

  if (there := jax.process_count()) > count():
    raise ValueError(
        f"processes: got one of the {there} of a slice of devices, allowed: joined with the others "
        "by --coordinator=auto on each (processes.connect)")


def describe(number: int) -> str:
  """`process 3 (its host)`."""
  return f"process {number}" + (f" ({_hosts[number]})" if number < len(_hosts) else "")


def gather(value: Any) -> list[Any]:
  """The values of all processes, in their order, on every process.

  Args:
    value: of JSON; NaN and infinities are allowed.
  """
  if _link is None:
    return [value]
  told = _exchange_texts(json.dumps(value))
  return [json.loads(told[number]) for number in range(_link.count)]


def from_writer(make: Callable[[], Any]) -> Any:
  """A value of JSON that the writer makes, on every process; the others do not call `make`."""
  if _link is None:
    return make()
  return json.loads(_exchange_texts(json.dumps(make()) if is_writer() else None)[0])


def any_process(flag: bool) -> bool:
  """Whether the flag of any process is set."""
  return flag if _link is None else bool(_exchange_texts("1" if flag else None))


def barrier() -> None:
  """Waits until every process is here: what one wrote before it, the others can read after it."""
  if _link is not None:
    _exchange_texts(None)


def check_same(name: str, value: str) -> None:
  """Raises ValueError if a text, such as a digest, is not the same on every process."""
  for number, other in enumerate(gather(value)):
    if other != (first := value if not number else first):
      raise ValueError(f"{name}: {describe(number)} has {other[:200]!r}, allowed: "
                       f"{first[:200]!r}, what {describe(0)} has")


def my_part(size: int) -> slice:
  """The part of `size` items that this process works on: equal parts, in the order of processes."""
  bounds = [size * number // count() for number in (index(), index() + 1)]
  return slice(*bounds)


def in_parts(size: int, work: Callable[[slice], list[Any]]) -> list[Any]:
  """The results for `size` items, of which each process works on its part; the same on all.

  Args:
    size: how many items there are.
    work: results of JSON for a part of the items, which is not empty.
  """
  if _link is None:
    return work(slice(0, size))
  part = my_part(size)
  told = gather(work(part) if part.start < part.stop else [])
  return [result for results in told for result in results]


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """If the work within it fails, tells the other processes, which end too, at once.

  If it failed because of another process, that one is named first: this does not return then.
  """
  try:
    yield
  except BaseException as error:
    fail(error)
    raise


def fail(error: BaseException) -> None:
  """Tells the other processes that this one ends, unless another has ended before."""
  global _failed_at
  if _link is None or _failed_at is not None or _is_agreed(error):
    return
  text = " ".join(f"{type(error).__name__}: {error}".split())
  if type(error).__name__ == "JaxRuntimeError" or _OF_OTHERS.search(text):
    time.sleep(_SILENT_SECONDS + 5 * _BEAT_SECONDS)  # the thread ends this process if one is gone
    while _is_ending:
      time.sleep(_BEAT_SECONDS)
  _failed_at = time.monotonic()
  with contextlib.suppress(Exception):
    _link.client.key_value_set(f"rlreason/failed/{_link.index}", text[:1000])


def leave(code: int) -> None:
  """Ends this process after a failure, without waiting for the others; returns if it is alone."""
  if _link is None:
    return
  if is_writer():  # the store is in this process: the others have to read it first
    time.sleep(2 * _BEAT_SECONDS)
  _exit(code)


def _check(coordinator: str, num_processes: int | None, process: int | None):
  if coordinator != AUTO and not re.fullmatch(r"\[?[\w.:\-]+\]?:\d+", coordinator):
    raise ValueError(f"coordinator: got {coordinator!r}, allowed: HOST:PORT of process 0, or "
                     f"{AUTO!r} where JAX knows the cluster (TPU slices, GKE, SLURM, MPI)")
  if coordinator != AUTO and None in (num_processes, process):
    raise ValueError(f"num_processes, process: got {num_processes}, {process}, allowed: both, with "
                     f"a coordinator other than {AUTO!r}")
  if num_processes is not None and num_processes < 1:
    raise ValueError(f"num_processes: got {num_processes}, allowed: 1 or more")
  if process is not None and not 0 <= process < (num_processes or sys.maxsize):
    raise ValueError(f"process: got {process}, allowed: 0 to {(num_processes or 1) - 1}")


@contextlib.contextmanager
def _telling_of_wait(coordinator: str, num_processes: int | None):
  """Says that the others are missing if joining them takes long."""
  others = "the other processes" if num_processes is None else f"all {num_processes} processes"
  timer = threading.Timer(10.0, lambda: print(
      f"waiting for {others} to connect to {coordinator}, for {_CONNECT_SECONDS} s at most",
      file=sys.stderr, flush=True))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _check_port(coordinator: str):
  """Raises ValueError if another program listens there: JAX would crash."""
  with socket.socket() as held:
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      held.bind(("", int(coordinator.rpartition(":")[2])))
    except (OSError, OverflowError) as error:
      raise ValueError(f"coordinator: got {coordinator!r}, whose port cannot be used ({error}), "
                       "allowed: a free port of this host") from error


def _set_last_words(line: str):
  """Sets the line that replaces what JAX writes before it aborts this process.

  It does so in C++, at once, when process 0 is gone or the processes do not find each other. A
  small process between the errors of this one and the terminal passes on everything else.
  """
  global _reader
  sys.stderr.flush()
  if _reader is None:
    script = pathlib.Path(__file__).with_name("last_words.py")
    _reader = subprocess.Popen(
        [sys.executable, "-I", str(script)], stdin=subprocess.PIPE, start_new_session=True)
    os.dup2(_reader.stdin.fileno(), 2)
  os.write(2, last_words.MARK + f"rlreason: {line}\n".encode())


def _fail_first(hook: Callable) -> Callable:
  """An exception hook that does not wait for the other processes at exit."""
  def on_exception(kind, error, trace):
    fail(error)
    hook(kind, error, trace)
    if not _is_agreed(error):
      leave(EXIT_LOST)
  return on_exception


def _is_agreed(error: BaseException) -> bool:
  """Whether all processes raise it, after a signal to one of them."""
  return type(error).__name__ == "Interrupted"


def _exchange_texts(text: str | None) -> dict[int, str]:
  """The texts of the processes that give one, by their numbers, once all are here."""
  global _exchange, _is_waiting
  if threading.current_thread() is not threading.main_thread():
    raise RuntimeError("processes talk to each other from their main threads only")
  client, number = _link.client, next(_numbers)
  folder = f"rlreason/{number}"
  _exchange, _is_waiting = number, True
  try:
    if text is not None:
      client.key_value_set(f"{folder}/{_link.index}", text)
    client.wait_at_barrier(folder, _FOREVER_MS)
    found = _by_number(client.key_value_dir_get(f"{folder}/"))
  finally:
    _is_waiting = False
  if number > 1:  # everyone has read it, who is here
    client.key_value_delete(f"rlreason/{number - 1}/{_link.index}")
  return found


def _by_number(entries: list[tuple[str, str]]) -> dict[int, str]:
  """Entries of a folder of the store, whose keys end with the number of a process."""
  return {int(key.rpartition("/")[2]): text for key, text in entries}


def _watch(link: _Link):
  """Gives signs of life, and ends this process if another one has failed or fallen silent."""
  client, heard = link.client, {}
  reported = spoke = time.monotonic()
  for beat in itertools.count():
    now = time.monotonic()
    try:
      client.key_value_set(
          f"rlreason/beats/{link.index}", f"{beat} {_exchange}", allow_overwrite=True)
      failed = _by_number(client.key_value_dir_get("rlreason/failed/"))
      beats = _by_number(client.key_value_dir_get("rlreason/beats/")) if link.index == 0 else {}
      spoke = now
    except Exception:
      if now - spoke > _SILENT_SECONDS:
        _end(f"process 0, the coordinator, has not answered for {now - spoke:.0f} s")
      time.sleep(_BEAT_SECONDS)
      continue
    _end_with(link, failed)
    for number, value in beats.items():
      if heard.get(number, ("", 0.0))[0] != value:
        heard[number] = value, now
    for number, (_, at) in heard.items():
      if now - at > _SILENT_SECONDS:
        client.key_value_set(f"rlreason/failed/{number}", "it was killed, or its host is gone",
                             allow_overwrite=True)
    reported = _report_wait(heard, reported, now)
    time.sleep(_BEAT_SECONDS)


def _report_wait(heard: dict[int, tuple[str, float]], reported: float, now: float) -> float:
  """Says, on the writer, for which processes it has been waiting; returns when it last did."""
  if not _is_waiting or not heard:
    return now
  if now - reported < _WAIT_SECONDS:
    return reported
  late = [describe(number) for number, (value, _) in sorted(heard.items())
          if int(value.split()[1]) < _exchange]
  if late:
    print(f"waiting for {', '.join(late[:4])}{' and others' if late[4:] else ''}: it computes or "
          "scores longer than the others", file=sys.stderr, flush=True)
  return now


def _end_with(link: _Link, failed: dict[int, str]):
  others = {number: text for number, text in failed.items() if number != link.index}
  if _failed_at is not None:
    if time.monotonic() - _failed_at > _SILENT_SECONDS:  # it waits for others that have ended
      _exit(EXIT_LOST)
  elif others:
    number, text = min(others.items())
    _end(f"{describe(number)} ended: {text}")


def _end(reason: str):
  global _is_ending
  _is_ending = True
  with contextlib.suppress(OSError, ValueError):
    print(f"rlreason: {reason}; what was saved before is kept: the same command on all processes "
          "resumes from there", file=sys.stderr, flush=True)
  if is_writer():  # the others read the reason in this process
    time.sleep(3 * _BEAT_SECONDS)
  _exit(EXIT_LOST)


def _exit(code: int):
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code)
