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

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
_UNSET = {name: -1 if name == "data" else 1 for name in AXES}
_MAX_CPU_DEVICES = 512


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """The distribution over devices.

  `jit` shards one program over a mesh; `pmap` replicates the parameters and splits the rows.
  """

  mode: Literal["jit", "pmap"] = "jit"  # one program over a mesh, or a copy for each device
  # Names of axes, such as "fsdp+tensor", of which the first takes the devices that the others
  # leave; empty = `data` takes them.
  strategy: str = ""
  data: int = -1  # devices that split the rows; -1 = all that the other axes leave
  fsdp: int = 1  # devices that split the rows and the parameters; jit only
  expert: int = 1  # devices that split the rows and the experts of a layer; jit only
  sequence: int = 1  # devices that split the tokens of a row; jit only
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
    if self.strategy:
      _check_strategy(self)
    if self.mode == "pmap":
      _check_pmap(self)


def _check_strategy(config: ParallelConfig):
  got, names = f"strategy={config.strategy!r}", config.strategy.split("+")
  if set(names) - set(AXES) or len(set(names)) < len(names):
    raise ValueError(f"strategy: got {config.strategy!r}, allowed: one or more of "
                     f"{', '.join(AXES)}, each once, with + between them")
  for name in AXES:
    size = getattr(config, name)
    if name == names[0] and size != _UNSET[name]:
      raise ValueError(f"{name}: got {size} with {got}, allowed: {_UNSET[name]}: the first axis "
                       "takes the devices that the others leave")
    if name in names[1:] and size < 2:
      raise ValueError(f"{name}: got {size} with {got}, allowed: 2 or more")
    if name not in names and size not in (1, _UNSET[name]):
      raise ValueError(f"{name}: got {size} with {got}, allowed: {_UNSET[name]}, or "
                       f"strategy='{config.strategy}+{name}'")


def _check_pmap(config: ParallelConfig):
  if config.strategy not in ("", "data"):
    raise ValueError(
        f"strategy: got {config.strategy!r} with mode='pmap', allowed: data (or use 'jit')")
  if config.rules:
    raise ValueError(f"rules: got {config.rules} with mode='pmap', allowed: () (use 'jit')")
  for name in AXES[1:]:
    if getattr(config, name) > 1:
      raise ValueError(
          f"{name}: got {getattr(config, name)} with mode='pmap', allowed: 1 (use 'jit')")


def mesh_devices(config: ParallelConfig) -> tuple[list[jax.Device], dict[str, int]]:
  """The devices in use and the sizes of the axes, by the names of `AXES`.

  Raises:
    ValueError: the axes do not fit the devices there are.
  """
  _split_cpu(config.cpu_devices)
  devices = find_devices()
  sizes = {name: getattr(config, name) for name in AXES}
  if config.strategy and config.data == -1:
    sizes["data"] = 1
  first = config.strategy.split("+")[0] or "data"
  if first != "data" or config.data == -1:  # it takes the rest
    sizes[first] = len(devices) // math.prod(sizes[name] for name in AXES if name != first)
  count = math.prod(sizes.values())
  if not 1 <= count <= len(devices):
    got = ", ".join(f"{name}={getattr(config, name)}" for name in AXES
                    if getattr(config, name) != 1)
    raise ValueError(f"config.parallel: got {got}, allowed: a product of at most {len(devices)}, "
                     "the number of devices")
  if processes.count() > 1:
    _check_processes(config.mode, count, len(devices))
  return devices[:count], sizes


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
  """A mesh with the axes `AXES`; the partitioner chooses what is not constrained.

  Raises:
    ValueError: the axes do not fit the devices there are, or the links between them.
  """
  devices, sizes = mesh_devices(config)
  try:
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
  except NotImplementedError as error:  # on TPUs: an axis would be a part of a row of links
    got = ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1)
    sides = " x ".join(str(max(x) + 1) for x in zip(*(device.coords for device in devices)))
    raise ValueError(f"config.parallel: got {got}, allowed: sizes that are each a product of sides "
                     f"of the slice, {sides}") from error
