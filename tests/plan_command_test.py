"""`rlreason plan` as a program of its own: what it prints, its file, and mistakes in one line."""

import fcntl
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from rlreason import main
from tests.main_test import CONFIG, no_compilation_cache, run_main  # pylint: disable=unused-import

ROOT = pathlib.Path(__file__).parents[1]
HAS_TPU_COMPILER = importlib.util.find_spec("libtpu") is not None


def plan(*flags):
  """Of the two-stage recipe on Countdown; JAX has the devices that the topology asks for."""
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  return subprocess.run(
      [sys.executable, "-m", "rlreason", "plan", f"--config={CONFIG}", *flags], cwd=ROOT,
      env=environment, capture_output=True, text=True, check=False)


def programs(file):
  found = json.loads(file.read_text(encoding="utf-8"))
  return found, {f"{stage['name']} {program['name']}": program for stage in found["stages"]
                 for program in stage["programs"]}


ALL = {"sft update", "rl sampling", "rl scoring", "rl batch", "rl update"}


def test_a_recipe_is_planned_on_devices_of_the_cpu(tmp_path):
  done = plan("--topology=cpu:4", "--peak=0.02", "--kernel_efficiency=1",
              f"--output={tmp_path / 'plan.json'}", "--config.parallel.fsdp=2")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0].startswith("devices     4 x CPU (data 2, fsdp 2), ")
  assert "peak 0.02 TFLOP/s" in " ".join(done.stdout.split())
  assert max(map(len, lines)) <= 80
  found, each = programs(tmp_path / "plan.json")
  assert set(each) == ALL and found["devices"] == 4 and found["fits"]
  update = each["sft update"]
  # At the peak: what it multiplies is what it takes, and collectives.
  assert update["seconds"]["compute"] == pytest.approx(sum(update["flops"].values()) / 0.02e12)
  assert update["collectives"] and update["seconds"]["links"] > 0


@pytest.mark.skipif(not HAS_TPU_COMPILER, reason="libtpu is not installed")
def test_a_recipe_is_planned_on_a_tpu(tmp_path):
  lock = pathlib.Path(tempfile.gettempdir(), "rlreason-tests-libtpu.lock")
  with lock.open("w", encoding="utf-8") as file:  # two of its compilers at once abort
    fcntl.flock(file, fcntl.LOCK_EX)
    done = plan("--topology=v5e:2x2", f"--output={tmp_path / 'plan.json'}")
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("devices     4 x TPU v5e (data 4), 16.9 GB each")
  found, each = programs(tmp_path / "plan.json")
  assert set(each) == ALL and found["assumed"]["clock"] == 1.5e9
  assert all(program["cycles"] > 0 and not program["unknown_loops"] for program in each.values())
  assert each["sft update"]["seconds"]["compute"] == pytest.approx(
      each["sft update"]["cycles"] / 1.5e9)


@pytest.mark.parametrize("flags, expected", [
    (["--topology=v5e"], "--topology: got 'v5e', allowed: cpu:N, v5e:AxB"),
    (["--topology=cpu:99"], "allowed: at most cpu:8"),
    (["--topology=cpu:2", "--config.parallel.fsdp=3"], "allowed: a product of at most 2"),
    (["--topology=cpu:8", "--config.sft.batch_size=9"], "a multiple of 8"),
    (["--topology=cpu:8", "--completion_tokens=0"], "--completion_tokens=0"),
    (["--topology=cpu:8", "--programs=updates"], "--programs: got 'updates', allowed: sampling"),
    (["--topology=cpu:8", "--output=setup.py"], "setup.py"),
    (["--topology=cpu:8", "--config.model=None"], "config.model")])
def test_mistakes_are_said_in_a_line(capsys, monkeypatch, flags, expected):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  code, out, err = run_main(capsys, "plan", f"--config={CONFIG}", *flags)
  assert code == main.EXIT_USER and expected in err and err.count("\n") == 1 and not out


def test_without_the_compiler_of_tpus_the_extra_is_named(capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  code, _, err = run_main(capsys, "plan", f"--config={CONFIG}", "--topology=v5e:2x2")
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert "--topology: got 'v5e:2x2' without its compiler, allowed: cpu:N" in err and "[tpu]" in err
