"""Compares a lower bound of the memory of sampling with the memory available."""

import jax.numpy as jnp

from rlreason import models
from rlreason.models import ModelConfig, attention
from rlreason.parallel import memory
from rlreason.sampling import segments

_TOKEN_BYTES = 9  # of a completion: its id, its log-prob and its mask


def check_memory(
    model: ModelConfig, *, prompts: int, columns: int, group_size: int, max_new_tokens: int,
    field: str = "max_new_tokens"):
  """Raises if sampling cannot fit into the memory of all devices.

  The bound includes the initial cache of all rows, or the full cache of one row.

  Args:
    model: the sampled model.
    prompts: number sampled at once, over all devices.
    columns: width of the prompts, tokens.
    group_size: completions of each.
    max_new_tokens: of each.
    field: the field named in the message.

  Raises:
    ValueError: it does not fit; names the memory needed and available.
  """
  rows = prompts * group_size
  of_token = (2 * model.num_layers * model.num_kv_heads * model.head_dim
              * jnp.dtype(model.compute_dtype).itemsize)
  started = rows * min(segments.FIRST_SEGMENT, max_new_tokens)
  is_whole = attention.resolve(model, columns) == "xla"  # f32 scores of a layer at a time
  memory.check_fits(
      field,
      f"{max_new_tokens} new tokens of {rows} rows after {prompts} prompts of {columns} tokens", {
          "parameters": memory.tree_bytes(models.abstract_params(model)),
          "cache": of_token * (prompts * columns + max(started, max_new_tokens)),
          "scores": 4 * prompts * model.num_heads * columns**2 if is_whole else 0,
          "completions": _TOKEN_BYTES * rows * max_new_tokens})
