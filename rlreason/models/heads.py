"""The scalar value head, on the policy's trunk or on a critic's own."""

import jax
import jax.numpy as jnp

from rlreason.types import Params


def init_value_head(width: int) -> Params:
  """A linear map to a scalar, all zero: V = 0 before the first update."""
  return {"kernel": jnp.zeros((width,), jnp.float32), "bias": jnp.zeros((), jnp.float32)}


def apply_value_head(head: Params, hidden: jax.Array) -> jax.Array:
  """f32[...] values of hidden states [..., D], in f32: targets differ in the third digit."""
  return hidden.astype(jnp.float32) @ head["kernel"] + head["bias"]
