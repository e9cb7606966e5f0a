"""The memory of the devices, and whether something can fit into it."""

from collections.abc import Mapping
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

# Names of models in the first argument of a program.
_MODELS = {"params", "policy", "reference", "critic", "value_head", "teacher", "trunk"}
_KEY_BYTES = 8
# Of the memory of a program, as `program_kinds` has them.
KINDS = ("parameters", "moments", "gradients", "cache", "activations", "rows")


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
  given = analysis.argument_size_in_bytes
  results = max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
  temporary = analysis.temp_size_in_bytes
  results_on = jax.tree.leaves(compiled.output_shardings)[:1]
  if any(device.platform == "tpu" for sharding in results_on for device in sharding.device_set):
    # Where loops do not need their temporaries at one time a TPU's sum of them is more than the
    # memory that the compiler fits the program into. On a CPU the peak leaves temporaries out.
    temporary = max(0, analysis.peak_memory_in_bytes - given - results)
  return {"in": given, "out": results, "temp": temporary}


def program_kinds(
    own: Mapping[str, int], args: tuple, cache: int = 0, is_model_first: bool = True
) -> dict[str, float]:
  """The bytes of a program on each device by kind, which add up to those of `program_bytes`.

  Args:
    own: of `program_bytes`; if it is empty, so is the result.
    args: its arguments, or their shapes. The first holds parameters, or is a train state with
      them; the others are rows.
    cache: bytes of keys and values among the temporaries, if that is known.
    is_model_first: whether that is so; False: all of them are rows.

  Returns:
    "parameters", "moments" (the optimiser's state), "gradients" (f32, of the parameters that have
    moments), "cache", "activations" (all other temporaries) and "rows" (other arguments, and
    results).
  """
  if not own:
    return {}
  name_of = lambda part: str(getattr(part, "key", getattr(part, "name", "")))
  state = [(tuple(map(name_of, path)), leaf) for path, leaf in jax.tree.leaves_with_path(
      args[:1] if is_model_first else ())]
  # The path of a moment ends with that of its parameter.
  moved = {path[i:] for path, _ in state if "opt_state" in path for i in range(len(path))}
  found = {"parameters": 0, "moments": 0, "gradients": 0}
  for path, leaf in state:
    size = device_bytes_of(leaf)
    if "opt_state" in path:
      found["moments"] += size
    elif _MODELS.intersection(path):
      found["parameters"] += size
      if path[1:2] == ("params",) and path[2:] in moved:
        found["gradients"] += 4 * size // leaf.dtype.itemsize
  found["gradients"] = min(found["gradients"], own["temp"])
  cache = min(cache, own["temp"] - found["gradients"])
  rows = max(0, own["in"] - found["parameters"] - found["moments"]) + own["out"]
  return {**found, "cache": cache, "rows": rows,
          "activations": own["temp"] - cache - found["gradients"]}


def device_bytes_of(tree: Any) -> int:
  """Bytes of the arrays of a tree, or of their shapes, on one device."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    total += math.prod(shape) * (_KEY_BYTES if is_key else leaf.dtype.itemsize)
  return total


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
