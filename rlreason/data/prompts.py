"""Token ids of prompts as one left-padded array, as wide as the smallest bucket that fits.

Few widths mean few compilations. Not here: chat templates and encoding (`tokenizers/`).
"""

from collections.abc import Sequence

import numpy as np

from rlreason import types


def doubling_buckets(smallest: int, max_length: int) -> tuple[int, ...]:
  """Widths smallest, 2 smallest, 4 smallest, ... up to `max_length`, which is always the last."""
  if smallest < 1 or max_length < 1:
    raise ValueError(f"smallest and max_length must be at least 1. Got: {smallest}, {max_length}")
  widths = []
  while smallest < max_length:
    widths.append(smallest)
    smallest *= 2
  return (*widths, max_length)


def fit_prompts(token_lists: Sequence[Sequence[int]], max_length: int) -> tuple[list[int], int]:
  """Places of the prompts of 1 to `max_length` tokens, and how many prompts are left out."""
  kept = [place for place, tokens in enumerate(token_lists) if 0 < len(tokens) <= max_length]
  return kept, len(token_lists) - len(kept)


def make_prompts(
    token_lists: Sequence[Sequence[int]],
    buckets: Sequence[int],
    first_index: int = 0,
    pad_id: int = 0,
) -> types.Prompts:
  """Pads prompts on the left: [5, 6] and [7, 8, 9] -> [[0, 5, 6], [7, 8, 9]] with bucket 3.

  Args:
    token_lists: ids of each of the P prompts; none empty.
    buckets: allowed widths.
    first_index: number of the first prompt in the global batch, when hosts hold parts of it.
    pad_id: what fills the padding; the mask comes from the lengths, not from this id.

  Returns:
    Prompts of numpy arrays, i32[P, S] with the smallest S of the buckets that fits.

  Raises:
    ValueError: there is no prompt, one is empty, or one is longer than every bucket.
  """
  lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int32)
  if not len(lengths) or not lengths.min():
    empty = np.flatnonzero(lengths == 0).tolist()
    raise ValueError(f"token_lists must hold prompts of at least 1 token. Got empty ones: {empty}")
  width = min((bucket for bucket in buckets if bucket >= lengths.max()), default=None)
  if width is None:
    raise ValueError(
        f"prompts must have at most {max(buckets)} tokens, the largest bucket. "
        f"Got: {lengths.max()}")
  mask = np.arange(width) >= width - lengths[:, None]
  tokens = np.full(mask.shape, pad_id, dtype=np.int32)
  tokens[mask] = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in token_lists])
  index = np.arange(first_index, first_index + len(lengths), dtype=np.int32)
  return types.Prompts(tokens=tokens, mask=mask, index=index)


def add_to_prompt(
    prompt: str | list[dict[str, str]], suffix: str
) -> str | list[dict[str, str]]:
  """A prompt with a text after it; of chat messages, after the text of the last."""
  if isinstance(prompt, str):
    return prompt + suffix
  return [*prompt[:-1], prompt[-1] | {"content": prompt[-1]["content"] + suffix}]
