"""When JAX computes on the CPU of a machine that seems to have an accelerator."""

from types import SimpleNamespace

import jax
import pytest

from rlreason import parallel
from rlreason.parallel import accelerators


@pytest.mark.parametrize("file, environment, expected", [
    ("dev/nvidia0", {}, "NVIDIA GPU"), ("dev/nvidia7", {}, "NVIDIA GPU"),
    ("dev/dxg", {}, "NVIDIA GPU"), ("dev/accel0", {}, "TPU"), ("dev/kfd", {}, "AMD GPU"),
    ("", {"TPU_NAME": "local"}, "TPU"), ("", {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}, "TPU"),
    ("dev/nvidia0", {"CUDA_VISIBLE_DEVICES": "0"}, "NVIDIA GPU"),
    ("dev/nvidia0", {"CUDA_VISIBLE_DEVICES": ""}, None),
    ("dev/nvidia0", {"CUDA_VISIBLE_DEVICES": "-1"}, None),
    ("dev/nvidiactl", {}, None), ("dev/null", {}, None), ("", {"TPU_NAME": ""}, None)])
def test_an_accelerator_is_found(tmp_path, file, environment, expected):
  if file:
    (tmp_path / "dev").mkdir()
    (tmp_path / file).touch()
  found = accelerators._find(environment, str(tmp_path))
  assert (found and found.name) == expected


@pytest.mark.parametrize("backend, platforms, is_said", [
    ("cpu", None, True), ("cpu", "", True), ("cpu", "cpu", False), ("gpu", None, False),
    ("tpu", None, False)])
def test_a_cpu_beside_it_is_said_unless_it_is_meant(monkeypatch, backend, platforms, is_said):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr(jax, "config", SimpleNamespace(jax_platforms=platforms))
  monkeypatch.setenv("TPU_NAME", "local")
  monkeypatch.setattr(accelerators, "_KINDS", accelerators._KINDS[2:3])
  line = parallel.cpu_fallback()
  assert bool(line) == is_said
  if is_said:
    assert line.startswith("JAX runs on the CPU, though this machine seems to have a TPU: pip")
    assert f"'jax[tpu]=={jax.__version__}'" in line and "JAX_PLATFORMS=cpu" in line


def test_a_command_that_looks_for_devices_says_so(monkeypatch, caplog):
  monkeypatch.setattr(parallel.mesh, "cpu_fallback", lambda: "on the CPU")
  assert parallel.find_devices() == jax.devices()
  assert "on the CPU" in caplog.text
