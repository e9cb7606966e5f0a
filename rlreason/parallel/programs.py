"""Compiled programs: in which order they begin, their names, and what they take."""

from collections.abc import Callable
import functools
import threading

import jax
import numpy as np

from rlreason import tracking
from rlreason.parallel import memory


# Programs of several devices have to begin in one order on all of them, or their collectives wait
# for each other for ever: threads hand them over one at a time.
_TURN = threading.Lock()


def in_turn(program: Callable) -> Callable:
  """A jitted function that no other thread's program begins beside."""
  def call(*args):
    with _TURN:
      return program(*args)

  call.lower = program.lower  # as jitted functions have it
  return call


def told(name: str, program: Callable) -> Callable:
  """A jitted function that tells a display, if there is one, what it takes before it first runs.

  Compiling it by hand fills the cache that its call looks into: nothing is compiled twice.
  """
  shapes, begin = set(), in_turn(program)

  def call(*args):
    if tracking.display() is not None:
      shape = tuple((np.shape(x), getattr(x, "dtype", None)) for x in jax.tree.leaves(args))
      if shape not in shapes:
        shapes.add(shape)
        with tracking.work(f"compiling {name}"):
          compiled = program.lower(*args).compile()
          tracking.program(name, memory.program_bytes(compiled))
    return begin(*args)

  call.lower = program.lower
  return call


def name_of(fn: Callable) -> str:
  """What a program is called in logs and profiles: the name of its function."""
  while isinstance(fn, functools.partial):
    fn = fn.func
  name = getattr(fn, "__name__", "").strip("_")
  return name if name.isidentifier() else "program"  # a lambda's is none
