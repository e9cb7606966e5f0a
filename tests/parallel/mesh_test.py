"""Which devices a configuration takes, and what it refuses."""

import math
import os
import subprocess
import sys

import jax
import pytest

from rlreason.parallel import ParallelConfig, mesh as mesh_lib
from rlreason.parallel.mesh import AXES, make_mesh, mesh_devices


def test_the_suite_has_eight_devices():
  assert len(jax.devices()) == 8


@pytest.mark.parametrize("fields, sizes", [
    (dict(), dict(data=8)), (dict(data=1), dict()), (dict(data=3), dict(data=3)),
    (dict(fsdp=2), dict(data=4, fsdp=2)), (dict(fsdp=2, tensor=2), dict(data=2, fsdp=2, tensor=2)),
    (dict(data=1, tensor=8), dict(tensor=8)),
    (dict(expert=2, sequence=2), dict(data=2, expert=2, sequence=2)),
    (dict(fsdp=3), dict(data=2, fsdp=3)),  # the rest is rounded down: two devices are idle
    (dict(mode="pmap"), dict(data=8)), (dict(mode="pmap", data=2), dict(data=2)),
    (dict(strategy="data"), dict(data=8)), (dict(mode="pmap", strategy="data"), dict(data=8)),
    (dict(strategy="fsdp"), dict(fsdp=8)),
    (dict(strategy="fsdp+data", data=2), dict(data=2, fsdp=4)),
    (dict(strategy="fsdp+tensor", tensor=2), dict(fsdp=4, tensor=2)),
    (dict(strategy="data+fsdp+tensor", fsdp=2, tensor=2), dict(data=2, fsdp=2, tensor=2)),
    (dict(strategy="fsdp+tensor+sequence", tensor=2, sequence=2),
     dict(fsdp=2, tensor=2, sequence=2)),
    (dict(strategy="expert+fsdp", fsdp=2), dict(expert=4, fsdp=2)),
])
def test_sizes_of_the_axes(fields, sizes):
  devices, got = mesh_devices(ParallelConfig(**fields))
  assert got == dict.fromkeys(AXES, 1) | sizes
  assert devices == jax.devices()[:math.prod(sizes.values())]


def test_mesh_axes_are_named_and_left_to_the_partitioner():
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2))
  assert tuple(mesh.shape) == AXES
  assert dict(mesh.shape) == dict.fromkeys(AXES, 1) | {"data": 2, "fsdp": 2, "tensor": 2}
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize("fields, message", [
    (dict(mode="xmap"), "mode: got 'xmap', allowed: jit, pmap"),
    (dict(data=0), "data: got 0, allowed: 1 or more, or -1 for the rest"),
    (dict(data=-2), "data: got -2, allowed: 1 or more, or -1"),
    (dict(fsdp=0), "fsdp: got 0, allowed: 1 or more"),
    (dict(tensor=-1), "tensor: got -1, allowed: 1 or more"),
    (dict(cpu_devices=-1), "cpu_devices: got -1, allowed: 0 or more"),
    (dict(mode="pmap", fsdp=2), "fsdp: got 2 with mode='pmap', allowed: 1"),
    (dict(mode="pmap", tensor=2), "tensor: got 2 with mode='pmap', allowed: 1"),
    (dict(expert=0), "expert: got 0, allowed: 1 or more"),
    (dict(mode="pmap", strategy="fsdp"), "strategy: got 'fsdp' with mode='pmap', allowed: data"),
    (dict(strategy="fsdp+model"),
     r"strategy: got 'fsdp\+model', allowed: one or more of data, fsdp, expert, sequence, tensor"),
    (dict(strategy="fsdp+fsdp"), "strategy: got .*, each once"),
    (dict(strategy="fsdp", fsdp=4), "fsdp: got 4 with strategy='fsdp', allowed: 1: the first axis"),
    (dict(strategy="fsdp+tensor"),
     r"tensor: got 1 with strategy='fsdp\+tensor', allowed: 2 or more"),
    (dict(strategy="fsdp+data"), r"data: got -1 with strategy='fsdp\+data', allowed: 2 or more"),
    (dict(strategy="fsdp", tensor=2),
     r"tensor: got 2 with strategy='fsdp', allowed: 1, or strategy='fsdp\+tensor'"),
])
def test_settings_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    ParallelConfig(**fields)


@pytest.mark.parametrize("fields", [
    dict(data=9), dict(data=4, fsdp=4), dict(tensor=16), dict(mode="pmap", data=9),
    dict(strategy="fsdp+tensor", tensor=16)])
def test_more_devices_than_there_are(fields):
  with pytest.raises(ValueError, match="allowed: a product of at most 8, the number of devices"):
    mesh_devices(ParallelConfig(**fields))


def test_axes_that_do_not_fit_the_links_between_devices(monkeypatch):
  """On TPUs: a traceback of JAX otherwise."""
  class Device:
    def __init__(self, *coords):
      self.coords = coords

  def refuse(*args, **kwargs):
    raise NotImplementedError("Failed to find assignment for logical_axis_index 2")

  monkeypatch.setattr(mesh_lib, "find_devices", lambda: [
      Device(x, y, z) for x in range(4) for y in range(2) for z in range(1)])
  monkeypatch.setattr(jax, "make_mesh", refuse)
  with pytest.raises(ValueError, match=(
      "config.parallel: got data=2, fsdp=4, allowed: sizes that are each a product of sides of the "
      "slice, 4 x 2 x 1")):
    make_mesh(ParallelConfig(fsdp=4))


_COUNT_DEVICES = """
from rlreason.parallel import ParallelConfig
from rlreason.parallel.mesh import mesh_devices
print(mesh_devices(ParallelConfig(cpu_devices=3))[1]["data"])
print(mesh_devices(ParallelConfig(cpu_devices=2))[1]["data"])  # too late
"""


@pytest.mark.parametrize("flags, sizes", [
    ("", "3"), ("--xla_force_host_platform_device_count=5", "5")])
def test_the_cpu_is_split_once_and_the_environment_wins(flags, sizes):
  done = subprocess.run(
      [sys.executable, "-c", _COUNT_DEVICES], env=os.environ | {"XLA_FLAGS": flags},
      capture_output=True, text=True, check=True)
  assert done.stdout.split("\n")[:2] == [sizes, sizes]
