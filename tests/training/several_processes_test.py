"""Runs of several processes: the numbers of one process, and all end when one does."""

import json
import os
import pathlib
import signal
import socket
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlreason.training import metrics
from tests import compiler, waiting
from tests.training.processes import reproducible_lines

ROOT = pathlib.Path(__file__).parents[2]
# Every kind of stage that writes for others or gathers, over parameters that no process has whole.
STAGES = "sft,samples,pairs,reward_model,full"
FIELDS = ("--config.parallel.fsdp=2", "--config.checkpoint.every_steps=1")


def free_port():
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    return held.getsockname()[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def environment(cache, devices=1):
  return os.environ | {
      "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1",
      "XLA_FLAGS": f"{compiler.FLAGS} --xla_force_host_platform_device_count={devices}",
      "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def arguments(workdir, *fields, stages=STAGES):
  return [f"--config={ROOT}/tests/every_stage.py:{stages}", f"--workdir={workdir}", *FIELDS,
          *fields]


def join(workdir, cache, place, *fields, devices=1, stages=STAGES, cwd=None):
  """Starts a process of a run: `place` is how many there are, its number, and the port."""
  count, number, port = place
  joined = (f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}", f"--process={number}")
  return waiting.Running(
      [sys.executable, "-m", "rlreason", "train", *arguments(workdir, *fields, stages=stages),
       *(joined if count > 1 else ())], env=environment(cache, devices), cwd=cwd)


def start(workdir, cache, count, *fields, **options):
  """Starts all processes of a run."""
  port = free_port()
  return [join(workdir, cache, (count, i, port), *fields, **options) for i in range(count)]


def finish(running):
  """The exit codes, and what went to the errors."""
  ended = [one.finish() for one in running]
  return [one.returncode for one in ended], [one.stderr for one in ended]


def send_at(running, workdir, steps, number, which, stage="full"):
  """Sends a signal to one process once a stage has done some steps."""
  def is_due():
    lines = metrics.read_lines(workdir / "metrics.jsonl")
    return sum(line["stage"] == stage for line in lines) >= steps

  running[which].wait_until(is_due, workdir)
  os.kill(running[which].process.pid, number)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp("one") / "run"
  codes, errors = finish(start(workdir, cache, 1, devices=2))
  assert codes == [0], errors
  return workdir


def check_same(workdir, expected):
  """Bitwise: the mesh is the same, whatever the processes."""
  assert (workdir / "samples.jsonl").read_bytes() == (expected / "samples.jsonl").read_bytes()
  assert reproducible_lines(workdir) == reproducible_lines(expected)
  for part in ("data", "evaluation"):
    for file in sorted((expected / part).iterdir()):
      assert (workdir / part / file.name).read_bytes() == file.read_bytes(), file.name
  for file in sorted((expected / "models").glob("*/*.safetensors")):
    there = load_file(workdir / "models" / file.parent.name / file.name)
    for name, value in load_file(file).items():
      np.testing.assert_array_equal(there[name], value, err_msg=name)


def test_a_run_ends_together_and_goes_on_with_any_number_of_processes(
    tmp_path, cache, one_process):
  """One that is killed ends the other, which names it; the same command goes on; a signal to one
  saves and ends both; one process with two devices does the rest. The numbers are those of a run
  of one process that nothing ended.
  """
  workdir = tmp_path / "run"
  running = start(workdir, cache, 2)
  send_at(running, workdir, 1, signal.SIGKILL, 1)
  codes, errors = finish(running)
  assert codes == [1, -signal.SIGKILL]
  check_one_line(errors[0], "process 1")

  running = start(workdir, cache, 2)
  send_at(running, workdir, 3, signal.SIGTERM, 1)
  codes, errors = finish(running)
  assert codes == [143, 143] and all("stopped on request after step" in text for text in errors)

  codes, errors = finish(start(workdir, cache, 1, devices=2))
  assert codes == [0], errors
  check_same(workdir, one_process)
  made = json.loads((workdir / "summary.json").read_text())["provenance"]["processes"]
  counts = [one["devices"].get("processes", 1) for one in made]
  assert set(counts[:-1]) == {2} and counts[-1] == 1
  assert all(one["devices"]["count"] == 2 for one in made)


def test_four_processes_then_one(tmp_path, cache):
  """Sums over four processes are in another order than over four devices of one: f32 numbers then
  differ by some 2^-24 of the largest summand, and parameters by that share of a learning rate.
  """
  workdir, expected, stages = tmp_path / "run", tmp_path / "one", "sft,grpo"
  codes, errors = finish(start(expected, cache, 1, devices=4, stages=stages))
  assert codes == [0], errors
  running = start(workdir, cache, 4, stages=stages)
  send_at(running, workdir, 1, signal.SIGTERM, 3, stage="sft")
  codes, errors = finish(running)
  assert codes == [143] * 4, errors
  codes, errors = finish(start(workdir, cache, 1, devices=4, stages=stages))
  assert codes == [0], errors
  assert (workdir / "samples.jsonl").read_bytes() == (expected / "samples.jsonl").read_bytes()
  for found, wanted in zip(
      reproducible_lines(workdir), reproducible_lines(expected), strict=True):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
      is_number = isinstance(value, float)
      assert found[name] == (pytest.approx(value, 1e-5, 1e-6) if is_number else value), name
  for file in sorted((expected / "models").glob("*/*.safetensors")):
    there = load_file(workdir / "models" / file.parent.name / file.name)
    for name, value in load_file(file).items():
      np.testing.assert_allclose(there[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_tasks_of_slurm_find_each_other_and_the_end_of_the_first_is_one_line(tmp_path, cache):
  workdir, running = tmp_path / "run", []
  for i in range(2):
    task = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": "0"}
    running.append(waiting.Running(
        [sys.executable, "-m", "rlreason", "train", "--coordinator=auto",
         *arguments(workdir, "--config.sft.steps=1000", stages="sft")],
        env=environment(cache) | task))
  send_at(running, workdir, 1, signal.SIGKILL, 0, stage="sft")
  codes, errors = finish(running)
  assert codes[0] == -signal.SIGKILL and codes[1] not in (0, 2)
  check_one_line(errors[1], "process 0, the coordinator at 127.0.0.1:")


def test_the_launch_file_of_one_machine_passes_a_signal_on(tmp_path, cache):
  command = tmp_path / "bin" / "rlreason"
  command.parent.mkdir()
  command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rlreason "$@"\n')
  command.chmod(0o755)
  workdir, path = tmp_path / "run", f"{command.parent}:{os.environ['PATH']}"
  running = [waiting.Running(
      [str(ROOT / "experiments/launch/local.sh"), "2",
       *arguments(workdir, "--config.sft.steps=1000", stages="sft")],
      env=environment(cache) | {"PATH": path, "PORT": str(free_port())})]
  send_at(running, workdir, 1, signal.SIGTERM, 0, stage="sft")
  codes, errors = finish(running)
  assert codes == [143] and errors[0].count("stopped on request after step") == 2, errors


def check_one_line(text, words):
  lines = [line for line in text.splitlines() if line.startswith("rlreason:")]
  assert len(lines) == 1 and words in lines[0] and "resumes from there" in lines[0], text
  assert "stack trace" not in text and "Traceback" not in text


def test_processes_that_differ_do_not_start(tmp_path, cache):
  """All say why, and none is left waiting."""
  port, stages = free_port(), "sft"
  running = [join(tmp_path / "run", cache, (2, i, port), f"--config.seed={i}", stages=stages)
             for i in range(2)]
  codes, errors = finish(running)
  assert codes == [2, 2]
  assert all("config.seed: 0 -> 1" in text and "allowed: the same" in text for text in errors)
  assert not (tmp_path / "run").exists()


def test_processes_that_do_not_share_the_workdir_do_not_start(tmp_path, cache):
  """Each has a folder of its own under the same name."""
  fields, port = {"stages": "sft"}, free_port()
  running = []
  for i in range(2):
    there = tmp_path / f"host{i}"
    there.mkdir()
    running.append(join("run", cache, (2, i, port), cwd=there, **fields))
  codes, errors = finish(running)
  assert codes == [2, 2]
  assert all("workdir: process 1" in text and "does not see" in text for text in errors)


def test_an_error_of_one_ends_the_other_which_names_it(tmp_path, cache):
  """A reward function that fails in the process that scores the last prompts."""
  reward = {"weight": 1.0, "function": "tests.every_stage:fails_late"}
  codes, errors = finish(start(
      tmp_path / "run", cache, 2, f"--config.samples.rewards.mine={reward}", stages="samples"))
  assert codes[1] == 2 and "too late" in errors[1], errors
  check_one_line(errors[0], "process 1")
  assert "too late" in errors[0]
