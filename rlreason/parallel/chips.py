"""Chips, and the projected time of a program on one of them.

The numbers of a chip are those of its maker: the peak of bf16 products, and the bandwidth of its
links in one direction. The memory is what its compiler lets a program take. The clock follows from
the peak: a v5e has 4 units of 128 x 128 that multiply and add once a cycle, so that 197 TFLOP/s are
1.5 GHz. For v6e this takes 4 units of 256 x 256, on which its maker's pages differ (2 or 4): of the
three its clock is the least certain.
"""

import dataclasses

from rlreason.parallel.hlo import Collective, Counts

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a projection assumes of a device."""

  name: str
  memory: float  # bytes
  peak: float  # FLOP/s of bf16 products
  links: float  # bytes/s of all its links to other devices together
  clock: float  # cycles/s in which the compiler's estimates are; 0: it makes none
  kernel_efficiency: float = 0.45  # share of the peak that custom kernels reach
  link_efficiency: float = 0.5  # share of `links` that collectives reach


CHIPS = {
    "v5e": Chip("TPU v5e", 15.75 * _GIB, 197e12, 200e9, 1.5e9),
    "v5p": Chip("TPU v5p", 95.74 * _GIB, 459e12, 600e9, 1.75e9),
    "v6e": Chip("TPU v6e", 31.25 * _GIB, 918e12, 400e9, 1.75e9),
}
# Others, by a part of their name; their memory is what the machine says. XLA estimates no cycles.
_GPUS = {"A100": Chip("A100", 0, 312e12, 300e9, 0.0), "H100": Chip("H100", 0, 989e12, 450e9, 0.0),
         "H200": Chip("H200", 0, 989e12, 450e9, 0.0), "B200": Chip("B200", 0, 2250e12, 900e9, 0.0)}
_TPU_NAMES = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}  # of JAX
CPU = Chip("CPU", 0, 50e9, 10e9, 0.0)  # a core of a common server


def named(kind: str) -> Chip:
  """The chip that JAX calls `kind`.

  One that is not known has the speed of a core of a CPU, which is to be set.
  """
  if kind in _TPU_NAMES:
    return CHIPS[_TPU_NAMES[kind]]
  found = next((chip for name, chip in _GPUS.items() if name in kind), CPU)
  return dataclasses.replace(found, name="CPU" if kind == "cpu" else kind)


@dataclasses.dataclass(frozen=True)
class Seconds:
  """The projected time of one run of a program; the parts are taken not to overlap."""

  compute: float  # scheduled work
  kernels: float  # custom kernels, which the compiler does not estimate
  links: float  # collectives

  @property
  def total(self) -> float:
    return self.compute + self.kernels + self.links


def project(counts: Counts, chip: Chip) -> Seconds:
  """The time that a program takes, by the compiler's cycles or else by its products."""
  if counts.cycles and chip.clock:
    compute = counts.cycles / chip.clock
  else:
    compute = sum(counts.flops.values()) / (chip.peak * chip.kernel_efficiency)
  kernels = sum(flops for _, flops in counts.kernels.values())
  sent = sum(sent_bytes(kind, devices, found)
             for (kind, devices), found in counts.collectives.items())
  return Seconds(
      compute, kernels / (chip.peak * chip.kernel_efficiency),
      sent / (chip.links * chip.link_efficiency))


def sent_bytes(kind: str, devices: int, found: Collective) -> float:
  """The bytes that each device sends, by the algorithms of rings."""
  if kind == "collective-permute":
    return found.bytes
  share = 1.0 if devices < 2 else (devices - 1) / devices
  return found.bytes * share * (2 if kind == "all-reduce" else 1)
