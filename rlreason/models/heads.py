"""The scalar head: a value at every token, or the reward of a whole text at its last one."""

import jax
import jax.numpy as jnp

from rlreason.types import Key, Params


def init_value_head(width: int) -> Params:
  """A linear map to a scalar, all zero: V = 0 before the first update."""
  return {"kernel": jnp.zeros((width,), jnp.float32), "bias": jnp.zeros((), jnp.float32)}


def init_reward_head(width: int, key: Key) -> Params:
  """A linear map to a scalar; normal weights with std 1 / sqrt(width + 1), bias 0.

  As reward models are initialised in https://arxiv.org/abs/2403.17031.
  """
  kernel = jax.random.normal(key, (width,), jnp.float32) / (width + 1) ** 0.5
  return {"kernel": kernel, "bias": jnp.zeros((), jnp.float32)}


def apply_value_head(head: Params, hidden: jax.Array) -> jax.Array:
  """f32[...] values of hidden states [..., D], in f32: targets differ in the third digit."""
  return hidden.astype(jnp.float32) @ head["kernel"] + head["bias"]


def reward_of_rows(head: Params, hidden: jax.Array, mask: jax.Array) -> jax.Array:
  """The reward of whole texts: the head at the last token of each.

  Args:
    head: as from `init_value_head`.
    hidden: [B, T, D].
    mask: bool[B, T], padding on either side; a row without tokens gets 0.

  Returns:
    f32[B].
  """
  from_end = jnp.argmax(mask[:, ::-1], axis=1)
  last = mask.shape[1] - 1 - from_end
  chosen = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  return jnp.where(jnp.any(mask, axis=1), apply_value_head(head, chosen), 0.0)
