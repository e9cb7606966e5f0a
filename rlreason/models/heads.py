"""The scalar head: a value at every token, or the reward of a whole text at its last one.

That of a process reward model may have several classes.
"""

import jax
import jax.numpy as jnp

from rlreason.types import Key, Params


def init_value_head(width: int) -> Params:
  """A linear map to a scalar, all zero: V = 0 before the first update."""
  return {"kernel": jnp.zeros((width,), jnp.float32), "bias": jnp.zeros((), jnp.float32)}


def init_reward_head(width: int, key: Key, num_classes: int = 1) -> Params:
  """A linear map to a scalar; normal weights with std 1 / sqrt(width + 1), bias 0.

  As reward models are initialised in https://arxiv.org/abs/2403.17031. With several classes, to
  that many: kernel f32[D, classes], bias f32[classes].
  """
  shape = () if num_classes == 1 else (num_classes,)
  kernel = jax.random.normal(key, (width, *shape), jnp.float32) / (width + 1) ** 0.5
  return {"kernel": kernel, "bias": jnp.zeros(shape, jnp.float32)}


def apply_value_head(head: Params, hidden: jax.Array) -> jax.Array:
  """f32[...] values of hidden states [..., D], in f32: targets differ in the third digit.

  With a head of several classes f32[..., classes].
  """
  values = hidden.astype(jnp.float32) @ head["kernel"]
  return values + jnp.broadcast_to(head["bias"], values.shape)


def num_classes(head: Params) -> int:
  """Of a head; 1 for a scalar."""
  return head["kernel"].shape[1] if head["kernel"].ndim > 1 else 1


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
