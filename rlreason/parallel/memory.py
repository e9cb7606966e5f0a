"""The memory of the devices, and whether something can fit into it."""

from collections.abc import Mapping
import math
import os
from typing import Any

import jax


def device_bytes() -> int:
  """The total memory of all devices; that of the machines if they share it. All processes have the
  same.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  limits = [entry["bytes_limit"] for entry in stats if "bytes_limit" in entry]
  here = sum(limits) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return here * jax.process_count()


def share_bytes() -> int:
  """The memory of one device: an equal share of the machine's if they share it."""
  return device_bytes() // len(jax.devices())


def program_bytes(compiled: Any) -> dict[str, int]:
  """Bytes that a compiled program takes on each device: arguments, results and temporaries.

  They add up: results that reuse the buffers of arguments count once. Empty if the backend does not
  report it.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    return {}
  results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  return {"in": analysis.argument_size_in_bytes, "out": max(0, results),
          "temp": analysis.temp_size_in_bytes}


def tree_bytes(tree: Any) -> int:
  """Bytes of the arrays of a tree, or of their shapes."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_fits(field: str, got: str, parts: Mapping[str, int]):
  """Raises if something takes more memory than there is.

  Args:
    field: the field that causes it, or most of it.
    got: its value, and those of others that the size depends on.
    parts: name -> bytes, which exist at one time.

  Raises:
    ValueError: their sum is more than all devices have.
  """
  total, limit = sum(parts.values()), device_bytes()
  if total > limit:
    named = ", ".join(
        f"{name} {size / 1e9:,.1f}" for name, size in parts.items() if size > total / 100)
    raise ValueError(
        f"{field}: got {got}: at least {total / 1e9:,.1f} GB ({named}), allowed: what fits into "
        f"{limit / 1e9:,.1f} GB, the memory of all devices")
