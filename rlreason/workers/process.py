r"""The process of `pool.py`: untrusted code and text run here, never in the main process.

A separate script (standard library only; importing rlreason or jax here would cost seconds and
gigabytes at each restart), run as `python -I process.py SETTINGS`. It reads one JSON request per
line from stdin and answers with one JSON line on stdout:

    {"load": TARGET, "seconds": LIMIT}                        -> {"value": true} or {"error": TEXT}
    {"call": TARGET, "seconds": LIMIT, "arguments": {...}}    -> {"value": ...} or {"error": TEXT}
                                                                 or {"refused": TEXT}

TARGET is [FILE, NAME, *TEXTS]: the function `NAME(*TEXTS)` of a Python file, which is
self-contained like this one, makes the function that is called. Its exceptions with a true
`is_refusal` are reported as "refused", which the caller treats as a fault of the function,
independent of its arguments. Modules that TEXTS name ("package.module:function") are the user's:
their warnings are shown.

Three limits bound a request: the parent kills the process at the time limit; RLIMIT_AS bounds
memory; a CPU limit and an alarm, both with their default action (death), end a hung worker whose
parent has died. An idle worker ends with its stdin.

On Linux the process that the parent starts is only a guard: it forks the worker, becomes the parent
of every orphan of the worker's descendants, in any session, and when the worker ends, or on
SIGTERM, it ends them all and itself. Elsewhere the parent kills the group.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import resource
import signal
import sys

_SPARE_SECONDS = 2  # the parent's own limit always comes first
_USERS_FILE = pathlib.Path(__file__).parents[1] / "users.py"
_PR_SET_CHILD_SUBREAPER = 36  # of Linux: orphans below a process become its children


def answer_request(request, functions, files):
  """The reply to one request; `functions` holds the loaded targets, `files` their modules."""
  try:
    if "load" in request:
      file, name, *texts = request["load"]
      if file not in files:
        files[file] = load_file(file)
      functions[tuple(request["load"])] = getattr(files[file], name)(*texts)
      return {"value": True}
    return {"value": functions[tuple(request["call"])](**request["arguments"])}
  except BaseException as error:  # including SystemExit of a user's function: the worker survives
    if getattr(type(error), "is_refusal", False):
      return {"refused": text_of(error)}
    return {"error": f"{type(error).__name__}: {text_of(error)[:500]}"}


def text_of(error):
  """The message of an error, if it has one."""
  try:
    return str(error)
  except Exception:
    return "(it cannot say what)"


def limit_resources(memory_bytes):
  """Bounds the address space of this process, and leaves no core files."""
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  if sys.platform == "linux":  # macOS refuses this limit
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def limit_next_request(seconds):
  """Death by the kernel if the next request outlives the parent's limit, and the parent."""
  seconds = int(seconds) + _SPARE_SECONDS
  usage = resource.getrusage(resource.RUSAGE_SELF)
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  # CPU time of this process is a running total: the soft limit moves along with it.
  resource.setrlimit(
      resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + seconds + 1, hard)
  )
  signal.signal(signal.SIGALRM, signal.SIG_DFL)
  signal.alarm(seconds)


def guard_worker():
  """Returns in a new process, the worker; this one ends with all descendants of the worker."""
  import ctypes

  ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  signals = {signal.SIGTERM, signal.SIGCHLD}
  before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # they wait for sigwait
  worker = os.fork()
  if not worker:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return
  for descriptor in (0, 1):  # the pipes must close when the worker ends
    os.close(descriptor)
  while signal.sigwait(signals) == signal.SIGCHLD and worker not in reap(os.WNOHANG):
    pass
  end_descendants()
  reap(0)
  os._exit(0)


def end_descendants():
  """Kills every descendant of this process: first all are stopped, so that none forks."""
  stopped = set()
  while new := find_descendants(os.getpid()) - stopped:
    send_all(new, signal.SIGSTOP)
    stopped |= new
  send_all(stopped, signal.SIGKILL)


def send_all(processes, number):
  """Sends a signal to processes, some of which may have ended, or belong to another user."""
  for process in processes:
    with contextlib.suppress(ProcessLookupError, PermissionError):
      os.kill(process, number)


def find_descendants(root):
  """Ids of the processes below `root`; ended ones too, until they are reaped."""
  parents = {}
  for name in filter(str.isdigit, os.listdir("/proc")):
    with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
      parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
  found, new = set(), {root}
  while new:
    new = {process for process, parent in parents.items() if parent in new} - found
    found |= new
  return found


def reap(flags):
  """Reaps children that have ended, only those with os.WNOHANG; returns their ids."""
  ended = set()
  with contextlib.suppress(ChildProcessError):
    while child := os.waitpid(-1, flags)[0]:
      ended.add(child)
  return ended


def load_file(file):
  """Loads a module from its file, without its package, which need not be on the path."""
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def main():
  settings = json.loads(sys.argv[1])
  if sys.platform == "linux":
    guard_worker()
  sys.path.extend(path for path in settings["path"] if path not in sys.path)
  # The protocol uses private descriptors: libraries print to stderr, and their stdin is empty.
  requests = os.fdopen(os.dup(0), encoding="utf-8")
  replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(2, 1)
  limit_resources(settings["memory_bytes"])
  users, functions, files = load_file(_USERS_FILE), {}, {}
  users.hide_warnings_of_others()
  for line in requests:
    request = json.loads(line)
    if "load" in request:
      for text in request["load"][2:]:
        users.name_module(text.partition(":")[0])
    limit_next_request(request["seconds"])
    reply = answer_request(request, functions, files)
    signal.alarm(0)
    try:
      replies.write(json.dumps(reply) + "\n")
      replies.flush()
    except OSError:  # the function closed descriptors of this script
      os._exit(1)


if __name__ == "__main__":
  main()
