"""Devices that are not there: programs are compiled for them, and nothing runs.

    with topology.devices("v5e:4x4") as found:
      layout = make_layout(config)  # over the 16 devices of `found`
      layout.compile_update(...).lower(shapes).compile()

`cpu:8` are devices of this machine's CPU, on which programs may run as well. A TPU needs its
compiler, libtpu (the extra `tpu`), and no TPU.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import os
import re
from typing import NamedTuple

import jax

from rlreason.parallel import chips, memory
from rlreason.parallel.chips import CHIPS, CPU, Chip
from rlreason.parallel.mesh import find_devices

_FORMS = "cpu:N, v5e:AxB (up to 16x16), v5p:AxBxC, v6e:AxB, or '' for the devices of this machine"
# Without them libtpu asks the network which machine it is on. No device is opened, so that another
# process may hold them.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}


class Topology(NamedTuple):
  """Devices, and what they are."""

  name: str
  devices: list[jax.Device]
  chip: Chip
  platform: str  # of JAX


def check(name: str):
  """Raises ValueError if there is no such topology, before JAX starts."""
  kind, _, sizes = name.partition(":")
  pattern = {"cpu": r"[1-9]\d*", "v5p": r"\d+x\d+x\d+"}.get(kind, r"\d+x\d+")
  if name and (kind not in ("cpu", *CHIPS) or not re.fullmatch(pattern, sizes)):
    raise ValueError(f"--topology: got {name!r}, allowed: {_FORMS}")


@contextlib.contextmanager
def devices(name: str) -> Iterator[Topology]:
  """The devices of a topology, which are those of JAX until the context ends.

  Within it `jax.devices` gives them and `jax.default_backend` their platform, because what a
  program is made of depends on these: the mesh, the kernels of attention, options of the compiler.
  JAX itself runs on what it ran on before.

  Args:
    name: as the forms in the error; "" for the devices of this machine.

  Raises:
    ValueError: there is no such topology, or nothing that compiles for it.
  """
  check(name)
  found = (_of_machine() if not name else
           _cpus(int(name.partition(":")[2])) if name.startswith("cpu:") else _tpus(name))
  real = jax.devices, jax.default_backend
  jax.devices, jax.default_backend = lambda *_: found.devices, lambda: found.platform
  try:
    yield found
  finally:
    jax.devices, jax.default_backend = real


def _of_machine() -> Topology:
  found = find_devices()
  chip = dataclasses.replace(chips.named(found[0].device_kind), memory=memory.share_bytes())
  return Topology("this machine", found, chip, found[0].platform)


def _cpus(count: int) -> Topology:
  with contextlib.suppress(RuntimeError):  # JAX has started, with devices of its own
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
      jax.config.update("jax_num_cpu_devices", count)
  found = jax.devices("cpu")
  if len(found) < count:
    raise ValueError(f"--topology: got cpu:{count}, allowed: at most cpu:{len(found)}, what JAX "
                     "was started with (XLA_FLAGS)")
  size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // count
  return Topology(
      f"cpu:{count}", found[:count], dataclasses.replace(CPU, memory=size), "cpu")


def _tpus(name: str) -> Topology:
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  try:
    import libtpu  # pylint: disable=unused-import
  except ModuleNotFoundError as error:
    raise ValueError(
        f"--topology: got {name!r} without its compiler, allowed: cpu:N, or after pip install -e "
        "'.[tpu]' (libtpu)") from error
  from jax.experimental import topologies

  try:
    found = list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
  except Exception as error:  # of several kinds, by version
    reason = str(error).splitlines()[0].rpartition("INVALID_ARGUMENT: ")[2][:200]
    raise ValueError(f"--topology: got {name!r}, allowed: {_FORMS} ({reason})") from error
  return Topology(name, found, CHIPS[name.partition(":")[0]], "tpu")
