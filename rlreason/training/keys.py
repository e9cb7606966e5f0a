"""The random keys of a run other than those of steps, all folded from its seed."""

import jax

from rlreason.types import Key


def init_key(seed: int) -> Key:
  """The key of random parameters, apart from those of steps."""
  return jax.random.fold_in(jax.random.key(seed), 2**31 - 1)


def evaluation_key(seed: int) -> Key:
  """The key of evaluations, apart from those of steps and of random parameters."""
  return jax.random.fold_in(jax.random.key(seed), 2**30)


def preflight_key(seed: int) -> Key:
  """The key of the trial before the first step, separate from all others."""
  return jax.random.fold_in(jax.random.key(seed), 2**30 + 1)
