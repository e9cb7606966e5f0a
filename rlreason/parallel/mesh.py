"""The arrangement of devices in a mesh."""

import dataclasses
import math
import os
from typing import Literal

from absl import logging
import jax
from jax.sharding import AxisType, Mesh

from rlreason import processes
from rlreason.parallel.accelerators import cpu_fallback
from rlreason.parallel.rules import make_table

AXES = ("data", "fsdp", "tensor")
_MAX_CPU_DEVICES = 512


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """The distribution over devices.

  `jit` shards one program over a mesh; `pmap` replicates the parameters and splits the rows.
  """

  mode: Literal["jit", "pmap"] = "jit"  # one program over a mesh, or a copy for each device
  data: int = -1  # devices that split the rows; -1 = all that the other axes leave
  fsdp: int = 1  # devices that split the rows and the parameters; jit only
  tensor: int = 1  # devices that split heads, mlp and vocabulary; jit only
  # Other mesh axes for axes of parameters, such as "vocab:none" or "embed:data"; jit only.
  rules: tuple[str, ...] = ()
  # Of products of f32 values on a TPU or GPU, which by default round these to bf16 or tf32.
  precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
  cpu_devices: int = 0  # devices to split the CPU into, if JAX has not started; 0 = unchanged

  def __post_init__(self):
    if self.mode not in ("jit", "pmap"):
      raise ValueError(f"mode: got {self.mode!r}, allowed: jit, pmap")
    if self.precision not in ("float32", "tensorfloat32", "bfloat16"):
      raise ValueError(
          f"precision: got {self.precision!r}, allowed: float32, tensorfloat32, bfloat16")
    for name in AXES:
      size = getattr(self, name)
      if size < 1 and not (name == "data" and size == -1):
        raise ValueError(f"{name}: got {size}, allowed: 1 or more" +
                         (", or -1 for the rest" if name == "data" else ""))
    if not 0 <= self.cpu_devices <= _MAX_CPU_DEVICES:
      raise ValueError(f"cpu_devices: got {self.cpu_devices}, allowed: 0 or more, up to "
                       f"{_MAX_CPU_DEVICES} (each has threads of its own)")
    make_table(self.rules, AXES)
    if self.mode == "pmap" and self.rules:
      raise ValueError(f"rules: got {self.rules} with mode='pmap', allowed: () (use 'jit')")
    if self.mode == "pmap" and (self.fsdp > 1 or self.tensor > 1):
      raise ValueError(
          f"fsdp, tensor: got {self.fsdp}, {self.tensor} with mode='pmap', allowed: 1 (use 'jit')")


def mesh_devices(config: ParallelConfig) -> tuple[list[jax.Device], tuple[int, int, int]]:
  """The devices in use and the sizes of the axes (data, fsdp, tensor).

  Raises:
    ValueError: the axes do not fit the devices there are.
  """
  _split_cpu(config.cpu_devices)
  devices = find_devices()
  inner = config.fsdp * config.tensor
  data = config.data if config.data > 0 else len(devices) // inner
  sizes = (data, config.fsdp, config.tensor)
  if math.prod(sizes) > len(devices) or data < 1:
    raise ValueError(
        f"config.parallel: got data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, "
        f"allowed: a product of at most {len(devices)}, the number of devices")
  if processes.count() > 1:
    _check_processes(config.mode, math.prod(sizes), len(devices))
  return devices[:math.prod(sizes)], sizes


def _check_processes(mode: str, used: int, there: int):
  if mode == "pmap":
    raise ValueError(f"config.parallel.mode: got 'pmap' in {processes.count()} processes, allowed: "
                     "'jit', or one process")
  if used != there:  # a process without a device in the mesh could not take part
    raise ValueError(
        f"config.parallel: got axes of {used} devices in {processes.count()} processes, allowed: "
        f"a product of {there}, all devices of all of them (data=-1 takes the rest)")


def find_devices() -> list[jax.Device]:
  """All devices. Warns if they are CPUs of a machine that has an accelerator.

  Raises:
    ValueError: JAX has no backend for what JAX_PLATFORMS names.
  """
  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as error:  # JAX asserts if a plugin is not installed
    reason = (str(error).splitlines() or ["no backend for it"])[0]
    raise ValueError(
        f"JAX_PLATFORMS: got {jax.config.jax_platforms!r}, allowed: what this machine has, such as "
        f"'cpu', or '' ({reason})") from error
  processes.check_joined()
  line = cpu_fallback()
  if line:
    logging.log_first_n(logging.WARNING, line, 1)
  return devices


def _split_cpu(num_devices: int):
  """Makes several devices of the CPU, so that a small model's step is spread over its cores.

  One device parallelises a large product over all cores, but little else: neither the attention of
  a decode step, nor most element-wise operations.
  """
  if num_devices == 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return  # the environment takes precedence
  try:
    jax.config.update("jax_num_cpu_devices", num_devices)
  except RuntimeError:
    pass  # JAX has started: it keeps its devices, which changes the time but no result


def make_mesh(config: ParallelConfig) -> Mesh:
  """A mesh with axes data, fsdp, tensor; the partitioner chooses what is not constrained."""
  devices, sizes = mesh_devices(config)
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
