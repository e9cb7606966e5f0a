"""Supervised examples, and their packing into rows.

An example is a dict of `tokens` i32[L] and `loss_weights` f32[L]; `loss_weights[t]` weighs the
prediction of `tokens[t]` from the tokens before it. Packing is first-fit (grain's), with segment
ids and positions so that examples of a row do not attend to each other. Not here: tokenizers (an
example starts as token ids) and the order of examples (`data/pipeline.py`).
"""

from collections.abc import Iterable, Mapping, Sequence

import grain
from grain import experimental as grain_experimental
import numpy as np

from rlreason import types

Example = dict[str, np.ndarray]


def make_example(
    prompt: Sequence[int],
    completion: Sequence[int],
    token_weights: Mapping[int, float] | None = None,
) -> Example:
  """One example that learns its completion.

  prompt [5, 6], completion [7, 8, 1], token_weights {8: 3} ->
    tokens        5  6  7  8  1
    loss_weights  0  0  1  3  1

  Args:
    prompt: token ids of the prompt.
    completion: token ids to predict, including the end of sequence.
    token_weights: token id -> weight of predicting it; 1 for ids not named.
  """
  return mask_example(
      [*prompt, *completion], [False] * len(prompt) + [True] * len(completion), token_weights)


def mask_example(
    tokens: Sequence[int],
    completion_mask: Sequence[bool],
    token_weights: Mapping[int, float] | None = None,
) -> Example:
  """One example that learns the tokens where the mask is True, such as all assistant's turns.

  Raises:
    ValueError: lengths differ.
  """
  if len(tokens) != len(completion_mask):
    raise ValueError(
        f"completion_mask: got {len(completion_mask)} values, allowed: {len(tokens)}, as many as "
        "tokens")
  weights = token_weights or {}
  loss_weights = np.array(
      [weights.get(token, 1.0) if is_kept else 0.0
       for token, is_kept in zip(tokens, completion_mask)], dtype=np.float32)
  loss_weights[:1] = 0.0  # the first token has no context to predict it from
  return dict(tokens=np.asarray(tokens, dtype=np.int32), loss_weights=loss_weights)


def fit_examples(
    examples: Iterable[Example], max_length: int
) -> tuple[list[Example], int]:
  """Keeps the examples that fit a row of `max_length` tokens and have a loss.

  Args:
    examples: of any length.
    max_length: tokens of a row.

  Returns:
    The kept examples, and how many were dropped: too long, or without any weight on the loss.
  """
  kept, dropped = [], 0
  for example in examples:
    if len(example["tokens"]) > max_length or not example["loss_weights"].any():
      dropped += 1
    else:
      kept.append(example)
  return kept, dropped


def pack(examples: grain.IterDataset, batch_size: int, length: int) -> grain.IterDataset:
  """Packs a stream of examples, first-fit, into batches `PackedBatch` of numpy arrays.

  Each batch is filled until an example fits into none of its rows, so that nothing is buffered and
  the stream can be resumed at any batch. Only the last batch of a stream that ends may have fewer
  rows.

  Args:
    examples: a grain stream of examples of at most `length` tokens.
    batch_size: B, rows of a batch.
    length: T, tokens of a row.
  """
  rows = grain_experimental.FirstFitPackIterDataset(
      examples,
      length_struct={"tokens": length, "loss_weights": length},
      num_packing_bins=batch_size,
      shuffle_bins=False,
      meta_features=("loss_weights",),  # follows the tokens: needs no separate segments
  )
  return rows.batch(batch_size).map(_to_packed_batch)


def _to_packed_batch(rows: dict[str, np.ndarray]) -> types.PackedBatch:
  return types.PackedBatch(
      tokens=rows["tokens"].astype(np.int32),
      segment_ids=rows["tokens_segment_ids"].astype(np.int32),
      positions=rows["tokens_positions"].astype(np.int32),
      loss_weights=rows["loss_weights"].astype(np.float32),
  )
