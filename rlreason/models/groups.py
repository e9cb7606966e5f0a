"""Packed rows in training: groups that share their prompt, and sequences without padding.

The prompt of a group is computed once, and its completions are packed into rows.

The tokens of prompts and of packed rows go through norms, projections and feed-forward layers
together; a completion's attention reads the keys and values of its prompt, whose gradients add up
over the group. Values and gradients equal those of rows with one prompt and completion each.
"""

import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.models.attention import group_masks, of_rows
from rlreason.models.config import ModelConfig
from rlreason.models.moe import balance_loss
from rlreason.models.transformer import Transformer, forward_and_balance
from rlreason.types import GroupPacking, Params, RowPacking


def pack(packing: GroupPacking | RowPacking, x: jax.Array) -> jax.Array:
  """[B, T], a value per completion token -> [R, W], or [C, K] with `RowPacking`; 0 on padding."""
  if isinstance(packing, RowPacking):
    return _of_parts(x, packing.targets)
  source = (packing.segment_ids - 1) * x.shape[1] + packing.steps
  return _take(x, source, packing.segment_ids > 0)


def unpack(packing: GroupPacking | RowPacking, x: jax.Array, columns: int = 0) -> jax.Array:
  """An array like the result of `pack` -> [B, T]; 0 where there is no value.

  `columns` is T; only with `RowPacking`.
  """
  if isinstance(packing, GroupPacking):
    return _take(x, packing.places, packing.places >= 0)
  steps, starts = jnp.arange(columns), packing.starts[..., None]
  is_token = (starts >= 0) & (steps[None, None] < packing.lengths[..., None])
  return _take(x, starts + steps[None, None], is_token)


def _of_parts(x: jax.Array, indices: jax.Array) -> jax.Array:
  """Entries of x, rows of C parts, by their index in each part, [C, ...] like `indices`."""
  parts = indices.shape[0]
  taken = jnp.take_along_axis(x.reshape(parts, -1), indices.reshape(parts, -1), axis=1)
  return taken.reshape(indices.shape)


def _take(x: jax.Array, indices: jax.Array, is_kept: jax.Array) -> jax.Array:
  """Entries of x by their index in each part, [C, rows, columns] -> [C * rows, columns]."""
  parts, _, columns = indices.shape
  index = jnp.where(is_kept, indices, 0).reshape(parts, -1)
  taken = jnp.take_along_axis(x.reshape(parts, -1), index, axis=1)
  return masks.zero_masked(taken.reshape(-1, columns), is_kept.reshape(-1, columns))


def forward_groups(
    config: ModelConfig, params: Params, rows, packing: GroupPacking
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Hidden states of prompts and of their packed completions.

  Args:
    config: the model.
    params: its parameters.
    rows: anything with prompt_tokens, prompt_mask ([B, S], equal for the rows of a group, at least
      one token each) and completion_tokens ([B, T]).
    packing: of these rows.

  Returns:
    [P, S, D] and [R, W, D] in `config.dtype`, arbitrary on padding; and the load-balancing loss as
    `forward_and_balance` has it for the unpacked rows: a prompt's token counts once per row.
  """
  first = lambda x: x.reshape(-1, packing.group_size, x.shape[1])[:, 0]
  prompt_tokens, prompt_mask = first(rows.prompt_tokens), first(rows.prompt_mask)
  parts, _, width = packing.steps.shape
  segment_ids, steps = (x.reshape(-1, width) for x in (packing.segment_ids, packing.steps))
  is_token = segment_ids > 0
  start = of_rows(jnp.sum(prompt_mask, axis=1, dtype=jnp.int32), packing.prompt_of_row)
  positions = jnp.where(is_token, start[:, None] + steps, 0)
  join = lambda prompts, rows: jnp.concatenate(
      [prompts.reshape(parts, -1), rows.reshape(parts, -1)], axis=1)

  counts = join(packing.group_size * prompt_mask.astype(jnp.float32), is_token.astype(jnp.float32))
  hidden, _, loads = Transformer(config).apply(
      {"params": params}, join(prompt_tokens, pack(packing, rows.completion_tokens)),
      join(masks.positions_from_mask(prompt_mask), positions),
      group_masks(config, packing, prompt_mask, positions), counts,
      # Values on padding, even NaN, do not propagate.
      is_token=counts > 0)
  cut = prompt_mask.size // parts
  return (hidden[:, :cut].reshape(*prompt_mask.shape, -1),
          hidden[:, cut:].reshape(*positions.shape, -1), balance_loss(loads, jnp.sum(counts)))


def row_features(
    config: ModelConfig, params: Params, rows, packing: RowPacking
) -> tuple[jax.Array, jax.Array]:
  """Hidden states [C, K, D] that the completion tokens of a pass were sampled from.

  Args:
    config: the model.
    params: its parameters.
    rows: anything with prompt_tokens [B, S] and completion_tokens [B, T].
    packing: of these rows.

  Returns:
    The states, arbitrary on padding; and the load-balancing loss of the experts.
  """
  parts, _, width = packing.segment_ids.shape
  both = jnp.concatenate([rows.prompt_tokens, rows.completion_tokens], axis=1)
  in_rows = lambda x: x.reshape(-1, width)
  hidden, balance = forward_and_balance(
      config, params, in_rows(_of_parts(both, packing.sources)), in_rows(packing.segment_ids),
      in_rows(packing.positions))
  # Part by part, so that each stays on its device.
  chosen = jax.vmap(lambda hidden, reads: hidden[reads])(
      hidden.reshape(parts, -1, hidden.shape[-1]), packing.reads)
  return chosen, balance


def packed_features(
    config: ModelConfig, params: Params, rows, packing: GroupPacking | RowPacking
) -> tuple[jax.Array, jax.Array]:
  """Hidden states of `row_features`, or [R, W, D] from which each token of a group was sampled.

  The first token of a completion was sampled from the last one of its prompt. Arguments are those
  of `forward_groups`.
  """
  if isinstance(packing, RowPacking):
    return row_features(config, params, rows, packing)
  prompts, hidden, balance = forward_groups(config, params, rows, packing)
  last = of_rows(prompts[:, -1], packing.prompt_of_row)[:, None]
  before = jnp.concatenate([jnp.zeros_like(last), hidden[:, :-1]], axis=1)
  is_first = packing.steps.reshape(*before.shape[:2], 1) == 0
  return jnp.where(is_first, last, before), balance
