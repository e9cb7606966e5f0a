"""Tests of rlreason.workers: its pool and its processes, on reward functions."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rlreason.rewards import worker
from rlreason.workers import pool as pools
from tests import waiting

ROOT = pathlib.Path(__file__).parents[2]

REWARDS = r'''
import json, os, subprocess, sys, time, warnings

def length(prompts, completions, **columns):
  print("a print of a library must not reach the protocol")
  os.write(1, b"nor may a write to the descriptor\n")
  assert len(prompts) == len(completions) == 1
  return [len(completions[0])]

def columns(prompts, completions, answer, numbers, scale):
  return [scale * (answer[0] + sum(numbers[0]))]

def hang(prompts, completions, **columns):
  time.sleep(0 if completions[0] == "quick" else 1000)
  return [1.0]

def spin(prompts, completions, **columns):
  return [float(len(str(9 ** 9 ** 9)))]

def recurse(prompts, completions, **columns):
  return recurse(prompts, completions)

kept = []

def flood(prompts, completions, **columns):
  while completions[0] == "flood":
    kept.append(bytearray(1 << 24))
  return [1.0]

def crash(prompts, completions, **columns):
  os._exit(3)

def leave(prompts, completions, **columns):
  sys.exit(3)

def close(prompts, completions, **columns):
  os.closerange(3, 1000)
  return [1.0]

class Mute(Exception):
  def __str__(self):
    raise RuntimeError

def mute(prompts, completions, **columns):
  raise Mute

def read(prompts, completions, **columns):
  return [float(len(sys.stdin.read()))]

def child(prompts, completions, pid_file):
  process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
  with open(pid_file[0], "w") as file:
    file.write(str(process.pid))
  process.wait()

def daemon(prompts, completions, pid_file, after):
  """Leaves a child in a session of its own, whose parent is gone, and ends as told."""
  child = os.fork()
  if not child:
    os.setsid()
    if os.fork():
      os._exit(0)
    with open(pid_file[0] + ".new", "w") as file:
      file.write(str(os.getpid()))
    os.rename(pid_file[0] + ".new", pid_file[0])
    time.sleep(1000)
  os.waitpid(child, 0)
  while not os.path.exists(pid_file[0]):
    time.sleep(0.01)
  if after[0] == "hang":
    time.sleep(1000)
  if after[0] == "crash":
    os._exit(3)
  return [1.0]

def two(prompts, completions, **columns):
  return [1.0, 2.0]

def nothing(prompts, completions, **columns):
  return [None]

def identity(prompts, completions, **columns):
  return [os.getpid()]

def warn(prompts, completions, **columns):
  warnings.warn("of the user's")
  warnings.warn_explicit("of a dependency", UserWarning, json.__file__, 1)
  return [1.0]
'''


@pytest.fixture(autouse=True)
def user_module(tmp_path, monkeypatch):
  """A module of the user's, found through the parent's sys.path."""
  (tmp_path / "my_rewards.py").write_text(REWARDS)
  monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def patient():
  with pools.WorkerPool(1, timeout_seconds=60) as pool:
    yield pool


@pytest.fixture
def quick():
  with pools.WorkerPool(1, timeout_seconds=2.0, memory_bytes=1 << 29) as pool:
    yield pool


def my(name):
  """The target of a function of REWARDS."""
  return worker.row_target(f"my_rewards:{name}")


def row(completion="", **columns):
  return dict(prompt="p", completion=completion, columns=columns, options={})


def is_running(pid):
  """Whether a process exists that is no zombie."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  stat = pathlib.Path(f"/proc/{pid}/stat")
  return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid):
  waiting.wait_until(lambda: not is_running(pid))


def test_user_functions_get_their_row(patient):
  replies = patient.map(my("length"), [row("abc"), row(""), row("\u2212\ud800x\n")])
  assert [reply.value for reply in replies] == [3.0, 0.0, 4.0]
  request = row(answer=np.float32(1.5), numbers=np.array([1, 2]))
  request["options"] = dict(scale=2)
  assert patient.call(my("columns"), request).value == 9.0
  assert patient.call(my("nothing"), row()) == pools.Reply(value=None)
  assert patient.call(my("read"), row()).value == 0.0


def test_a_user_function_may_warn_and_its_dependencies_may_not(patient, capfd):
  assert patient.call(my("warn"), row()).value == 1.0
  patient.close()
  err = capfd.readouterr().err
  assert "UserWarning: of the user's" in err and "of a dependency" not in err


@pytest.mark.parametrize("name", ["hang", "spin"])
def test_a_hanging_function_is_killed_alone(quick, name):
  quick.call(my("length"), row())
  replies = quick.map(my(name), [row("slow")])
  assert [reply.failure for reply in replies] == ["timeout"]
  assert quick.call(my("hang"), row("quick")).value == 1.0
  assert quick.counts == pools.PoolCounts(requests=3, timeouts=1)


def test_failures_are_told_apart(quick):
  errors = {
      "recurse": "RecursionError", "leave": "SystemExit",
      "mute": "Mute: (it cannot say what)", "two": "two: got 2 scores, allowed: 1",
      "columns": "TypeError",
  }  # fmt: skip
  for name, message in errors.items():
    reply = quick.call(my(name), row())
    assert reply.failure == "error" and message in reply.message
  assert quick.call(my("crash"), row()).failure == "crash"
  assert quick.call(my("close"), row()).failure == "crash"
  assert quick.call(my("length"), row("ab")).value == 2.0
  assert quick.counts == pools.PoolCounts(requests=8, crashes=2, errors=5)


def test_a_memory_flood_is_an_error_and_leaves_a_fresh_worker():
  with pools.WorkerPool(1, timeout_seconds=60, memory_bytes=1 << 28) as pool:
    reply = pool.call(my("flood"), row("flood"))
    assert reply.failure == "error" and reply.message.startswith("MemoryError")
    assert pool.call(my("flood"), row()).value == 1.0
    assert pool.counts.errors == 1


def test_children_of_a_worker_die_with_it(quick, tmp_path):
  path = tmp_path / "pid"
  assert quick.call(my("child"), row(pid_file=str(path))).failure == "timeout"
  wait_until_gone(int(path.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's subreapers")
@pytest.mark.parametrize("after, failure", [
    ("hang", "timeout"), ("crash", "crash"), ("return", None)])
def test_children_that_leave_the_group_die_with_the_worker(tmp_path, after, failure):
  path = tmp_path / "pid"
  with pools.WorkerPool(1, timeout_seconds=2 if after == "hang" else 60) as pool:
    reply = pool.call(my("daemon"), row(pid_file=str(path), after=after))
    assert reply.failure == failure
    pid = int(path.read_text())
    assert is_running(pid) == (failure is None)  # what a function leaves running is its own matter
  assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's subreapers")
def test_children_that_leave_the_group_die_with_the_parent(tmp_path):
  path = tmp_path / "pid"
  code = f"""
from rlreason.rewards import worker
from rlreason.workers import pool as pools
row = dict(prompt="", completion="", columns=dict(pid_file={str(path)!r}, after=""), options={{}})
pools.WorkerPool(1, timeout_seconds=60).call(worker.row_target("my_rewards:daemon"), row)
import os
os.kill(os.getpid(), 9)
"""
  subprocess.run([sys.executable, "-c", code], check=False,
                 env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"})
  wait_until_gone(int(path.read_text()))


@pytest.mark.parametrize(
    "target, message",
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("my_rewards:no_such_function", "no_such_function"),
    ],
)
def test_a_target_that_cannot_be_loaded_is_an_error(patient, target, message):
  with pytest.raises(ValueError, match=message):
    patient.map(worker.row_target(target), [row()])
  assert patient.call(my("length"), row("ab")).value == 2.0


def test_arguments_must_be_json(patient):
  with pytest.raises(ValueError, match="JSON"):
    patient.call(my("length"), row(answer=object()))


def test_workers_are_lazy_shared_and_gone_after_close():
  pool = pools.WorkerPool(3, timeout_seconds=60)
  pids = {pool.call(my("identity"), row()).value for _ in range(5)}
  assert len(pids) == 1  # requests one after the other need one process
  replies = pool.map(my("identity"), [row()] * 30)
  pids |= {reply.value for reply in replies}
  assert 1 <= len(pids) <= 3 and os.getpid() not in pids
  pool.close()
  pool.close()
  for pid in pids:
    assert not pathlib.Path(f"/proc/{int(pid)}").exists()  # reaped, no zombie
  with pytest.raises(ValueError, match="closed"):
    pool.call(my("identity"), row())


def test_a_hang_delays_its_own_worker_only():
  with pools.WorkerPool(2, timeout_seconds=3) as pool:
    pool.map(my("hang"), [row("quick")] * 8)
    replies = pool.map(my("hang"), [row("slow"), *[row("quick")] * 20])
  assert replies[0].failure == "timeout"
  assert [reply.value for reply in replies[1:]] == [1.0] * 20


def test_other_threads_may_use_the_pool():
  results = {}
  with pools.WorkerPool(2, timeout_seconds=60) as pool:

    def use(number):
      replies = pool.map(my("length"), [row("x" * number)] * 5)
      results[number] = [reply.value for reply in replies]

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert pool.counts.requests == 20
  assert results == {number: [float(number)] * 5 for number in range(4)}


def test_garbage_pools_take_their_workers_along():
  pool = pools.WorkerPool(1, timeout_seconds=60)
  pid = int(pool.call(my("identity"), row()).value)
  del pool
  wait_until_gone(pid)


PARENT = """
import sys, time
from rlreason.rewards import worker
from rlreason.workers import pool as pools
pool = pools.WorkerPool(1, timeout_seconds=1)
row = dict(prompt="p", completion="slow", columns={}, options={})
print(int(pool.call(worker.row_target("my_rewards:identity"), row).value), flush=True)
if sys.argv[1] == "hang":
  pool.timeout_seconds = 2
  pool.call(worker.row_target("my_rewards:hang"), row)
elif sys.argv[1] == "idle":
  time.sleep(1000)
"""


@pytest.mark.parametrize("state", ["idle", "hang", "exit"])
def test_workers_do_not_outlive_their_parent(tmp_path, state):
  environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
  parent = subprocess.Popen(
      [sys.executable, "-c", PARENT, state], stdout=subprocess.PIPE, env=environment
  )
  pid = int(parent.stdout.readline())
  if state != "exit":
    assert is_running(pid)
    time.sleep(0.2)  # into the hang
    parent.send_signal(signal.SIGKILL)
  parent.wait()
  parent.stdout.close()
  wait_until_gone(pid)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_workers=0), "num_workers: got 0, allowed: above 0"),
        (dict(timeout_seconds=-1), "timeout_seconds"),
        (dict(memory_bytes=0), "memory_bytes"),
    ],
)
def test_settings_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    pools.WorkerPool(**options)


def test_the_default_pool_is_one_and_starts_nothing(monkeypatch):
  monkeypatch.setattr(pools.subprocess, "Popen", None)  # would fail when called
  pools.default_pool.cache_clear()
  assert pools.default_pool() is pools.default_pool()
