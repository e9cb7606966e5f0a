"""Compiled programs: their names, what they take before they first run, and the rows they get."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import numpy as np

from rlreason import tracking
from rlreason.parallel import memory


def told(name: str, program: Callable) -> Callable:
  """A jitted function that tells a display, if there is one, what it takes before it first runs.

  Compiling it by hand fills the cache that its call looks into: nothing is compiled twice.
  """
  shapes = set()

  def call(*args):
    if tracking.display() is not None:
      shape = tuple((np.shape(x), getattr(x, "dtype", None)) for x in jax.tree.leaves(args))
      if shape not in shapes:
        shapes.add(shape)
        with tracking.work(f"compiling {name}"):
          compiled = program.lower(*args).compile()
          tracking.program(name, memory.program_bytes(compiled))
    return program(*args)

  call.lower = program.lower  # as jitted functions have it
  return call


def name_of(fn: Callable) -> str:
  """What a program is called in logs and profiles: the name of its function."""
  while isinstance(fn, functools.partial):
    fn = fn.func
  name = getattr(fn, "__name__", "").strip("_")
  return name if name.isidentifier() else "program"  # a lambda's is none


def check_rows(tree: Any, num_shards: int):
  """Raises ValueError where so many devices cannot split the rows of a tree."""
  for leaf in jax.tree.leaves(tree):
    if np.shape(leaf)[0] % num_shards:
      raise ValueError(
          f"rows: got {np.shape(leaf)[0]}, allowed: a multiple of {num_shards}, the number of "
          "devices that split them")
