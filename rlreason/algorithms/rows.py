"""Forward passes over prompts with completions, for algorithms that score and train on them."""

from typing import Any, Callable

import jax
import jax.numpy as jnp

from rlreason.models import lora
from rlreason.models.config import ModelConfig
from rlreason.models.transformer import forward_and_balance
from rlreason.types import PairBatch, Params


def completion_features(
    model: ModelConfig, params: Params, rows: Any, completion_mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Hidden states from which each completion token was, or would be, sampled.

  Completions end on the right and attention is causal, so the padding after them needs no mask; but
  the experts' load counts only tokens.

  Args:
    model: the model.
    params: its parameters.
    rows: anything with prompt_tokens i32[B, S], prompt_mask bool[B, S] and completion_tokens
      i32[B, T].
    completion_mask: bool[B, T] tokens that count, with the prompts, in the load of the experts;
      None: it is not used.

  Returns:
    Hidden states [B, T, D], and the load-balancing loss of the experts, f32 scalar.
  """
  hidden, balance = features_with_last(model, params, rows, completion_mask)
  return hidden[:, :-1], balance


def features_with_last(
    model: ModelConfig, params: Params, rows: Any, completion_mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """As `completion_features`, but [B, T + 1, D], with the state after the last token."""
  join = lambda prompt, completion: jnp.concatenate([prompt, completion], axis=1)
  everything = jnp.ones(rows.completion_tokens.shape, bool)
  hidden, balance = forward_and_balance(
      model, params, join(rows.prompt_tokens, rows.completion_tokens),
      join(rows.prompt_mask, everything), is_counted=None if completion_mask is None else join(
          rows.prompt_mask, completion_mask))
  return hidden[:, rows.prompt_tokens.shape[1] - 1:], balance


def flatten_completions(batch: PairBatch) -> PairBatch:
  """The n completions of each row as separate rows, [B * n, ...], with their prompt."""
  num_rows, count, length = batch.completion_tokens.shape
  # Next to their row, so that rows that are split over devices stay there.
  repeat = lambda x: jnp.broadcast_to(
      x[:, None], (num_rows, count, x.shape[1])).reshape(-1, x.shape[1])
  return batch.replace(
      prompt_tokens=repeat(batch.prompt_tokens), prompt_mask=repeat(batch.prompt_mask),
      completion_tokens=batch.completion_tokens.reshape(-1, length),
      completion_mask=batch.completion_mask.reshape(-1, length))


def take_completions(batch: PairBatch, columns: slice) -> PairBatch:
  """The batch with some of the n completions of each row."""
  return batch.replace(
      completion_tokens=batch.completion_tokens[:, columns],
      completion_mask=batch.completion_mask[:, columns])


def in_chunks(fn: Callable, rows: Any, size: int) -> Any:
  """`fn(rows)` for rows that do not depend on each other, `size` of them at a time; 0: at once."""
  count = jax.tree.leaves(rows)[0].shape[0]
  if not size or count <= size or count % size:
    return fn(rows)
  # Every count // size-th row, so that rows that are split over devices stay there.
  split = lambda x: x.reshape(size, count // size, *x.shape[1:]).swapaxes(0, 1)
  merge = lambda x: x.swapaxes(0, 1).reshape(count, *x.shape[2:])
  return jax.tree.map(merge, jax.lax.map(fn, jax.tree.map(split, rows)))


def micro_batch_indices(num_rows: int, micro_batch_size: int) -> jax.Array:
  """i32[micro-batches, rows] of a batch in its order; a size of 0 is all rows.

  Raises:
    ValueError: the size does not divide the rows.
  """
  size = micro_batch_size or num_rows
  if num_rows % size:
    raise ValueError(f"micro_batch_size: got {size}, allowed: a divisor of the {num_rows} rows")
  return jnp.arange(num_rows).reshape(num_rows // size, size)


def reference_of(models: dict[str, Params]) -> Params:
  """The reference policy of {"params": of a state, "reference"}.

  For a policy with adapters it is the frozen base, with the adapters given as the reference, or
  with none if that is None.
  """
  policy, reference = models["params"]["policy"], models["reference"]
  if lora.has_adapters(policy):
    return lora.join(lora.base(policy), reference or {})
  return reference
