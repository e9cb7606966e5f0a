"""What sampling takes of memory at least, compared with what there is."""

import jax.numpy as jnp

from rlreason import models
from rlreason.models import ModelConfig, attention
from rlreason.parallel import memory
from rlreason.sampling import session

_TOKEN_BYTES = 9  # of a completion: its id, its log-prob and its mask


def check_memory(
    model: ModelConfig, *, prompts: int, columns: int, group_size: int, max_new_tokens: int,
    field: str = "max_new_tokens"):
  """Refuses to sample what cannot fit into the memory of all devices.

  A lower bound: of the cache the part that all rows begin with, or the whole of one row's.

  Args:
    model: that is sampled from.
    prompts: sampled from at once, over all devices.
    columns: of the prompts, tokens.
    group_size: completions of each.
    max_new_tokens: of each.
    field: that is named where it does not fit.

  Raises:
    ValueError: names what it takes and what there is.
  """
  rows = prompts * group_size
  of_token = (2 * model.num_layers * model.num_kv_heads * model.head_dim
              * jnp.dtype(model.compute_dtype).itemsize)
  started = rows * min(session.FIRST_SEGMENT, max_new_tokens)
  is_whole = attention.resolve(model, columns) == "xla"  # f32 scores of a layer at a time
  memory.check_fits(
      field,
      f"{max_new_tokens} new tokens of {rows} rows after {prompts} prompts of {columns} tokens", {
          "parameters": memory.tree_bytes(models.abstract_params(model)),
          "cache": of_token * (prompts * columns + max(started, max_new_tokens)),
          "scores": 4 * prompts * model.num_heads * columns**2 if is_whole else 0,
          "completions": _TOKEN_BYTES * rows * max_new_tokens})
