"""Token ids of prompts: the rows of a source whose prompts fit, and padded arrays of them.

Arrays are left-padded to the smallest bucket that fits: few widths need few compilations.
"""

from collections.abc import Collection, Sequence

import numpy as np

from rlreason import tokenizers, tracking, types
from rlreason.data.messages import ends_with_assistant
from rlreason.data.sources import BadRows, origin
from rlreason.data.tasks.base import Row, RowSource
from rlreason.rewards import answer, verifier
from rlreason.tokenizers import Tokenizer

_MAX_GOLDS = 2_000  # rows whose gold answers are checked before a run


class EncodedRow(dict):
  """A row with the token ids of its prompt; dicts made from it (`row | {...}`) lack them."""

  def __init__(self, row: Row, tokenizer: Tokenizer, ids: np.ndarray):
    super().__init__(row)
    self.tokenizer, self.ids = tokenizer, ids  # i32[tokens] of this tokenizer


def encode_prompt(tokenizer: Tokenizer, row: Row) -> list[int]:
  """Token ids of a row's prompt: plain text, or chat messages through the template.

  A row written by a stage has `prompt_ids`, and one of `FittingRows` has the ids by which it was
  measured: neither is tokenised again.
  """
  if getattr(row, "tokenizer", None) is tokenizer:
    return row.ids.tolist()
  if row.get("prompt_ids"):
    return row["prompt_ids"]
  if isinstance(row["prompt"], str):
    return tokenizer.encode(row["prompt"], add_special=True)
  return tokenizers.encode_prompt(tokenizer, row["prompt"])


class FittingRows:
  """The rows of a source whose prompts have at most `max_length` tokens."""

  def __init__(
      self, rows: RowSource, tokenizer: Tokenizer, max_length: int, columns: Collection[str] = (),
      has_math_golds: bool = False,
  ):
    """Encodes every prompt once; a bad row is logged, counted and dropped like one too long.

    Args:
      rows: of a task.
      tokenizer: of the policy.
      max_length: tokens.
      columns: that each row must have and fill: those of its verifier.
      has_math_golds: whether `answer` is read as mathematics; a row without a gold answer (`proof`)
        is bad.

    Raises:
      ValueError: all rows are bad, or no prompt fits.
    """
    lists, bad_rows = [], BadRows("prompts", "prompts")
    for i in tracking.each("tokenising prompts", len(rows)):
      try:
        row = rows[i]
        missing = sorted(name for name in columns if row.get(name) is None)
        if missing:
          raise ValueError(f"columns: got {sorted(row)}, allowed: with {missing}, which the "
                           "verifier reads")
        if has_math_golds:
          answer.gold_text(row["answer"])
        if not row.get("prompt_ids") and ends_with_assistant(row["prompt"]):
          raise ValueError("prompt: got a chat that ends with the assistant's turn, allowed: with "
                           "another's")
        lists.append(encode_prompt(tokenizer, row))
      except ValueError as error:
        lists.append([])  # dropped with the empty ones
        bad_rows.add(origin(rows, i), error)
    self._kept, self.num_dropped = fit_prompts(lists, max_length)
    self._rows, self._tokenizer = rows, tokenizer
    # In one array, which takes a tenth of the memory of lists of ints.
    kept = [lists[i] for i in self._kept]
    self._ends = np.cumsum([0, *map(len, kept)])
    self._ids = np.fromiter((token for ids in kept for token in ids), np.int32, self._ends[-1])
    if self._kept or len(bad_rows) == len(rows):
      unfit = self.num_dropped - len(bad_rows)
      bad_rows += [(None, f"empty or longer than {max_length} tokens")] * unfit
      bad_rows.finish(len(rows))
    else:
      raise ValueError(
          f"prompts: got {len(rows)} that are all empty or longer than {max_length} tokens, the "
          "largest of prompt_buckets; allowed: at least one that fits")

  def __len__(self) -> int:
    return len(self._kept)

  def __getitem__(self, index: int) -> EncodedRow:
    position = range(len(self))[index]  # counted from the end where it is negative
    ids = self._ids[self._ends[position]:self._ends[position + 1]]
    return EncodedRow(self._rows[self._kept[position]], self._tokenizer, ids)


def check_fitting(
    rows: RowSource, tokenizer: Tokenizer, max_length: int, columns: Collection[str] = (),
    has_math_golds: bool = False,
) -> None:
  """Raises what `FittingRows` would, but stops at the first row that fits.

  Gold answers that are not mathematics are counted and shown.
  """
  if has_math_golds:
    report_golds(rows)
  for i in range(len(rows)):
    try:
      row = rows[i]
      is_full = all(row.get(name) is not None for name in columns) and not ends_with_assistant(
          row["prompt"])
      if is_full and has_math_golds:
        answer.gold_text(row["answer"])
      if is_full and 0 < len(encode_prompt(tokenizer, row)) <= max_length:
        return
    except ValueError:
      continue
  FittingRows(rows, tokenizer, max_length, columns, has_math_golds)


def report_golds(rows: RowSource) -> None:
  """Logs which of the first gold answers are not mathematics."""
  golds = {}
  for i in range(min(len(rows), _MAX_GOLDS)):
    try:
      golds[origin(rows, i)] = answer.gold_text(rows[i].get("answer"))
    except ValueError:
      continue  # a bad row: `FittingRows` reports it
  verifier.report_texts(golds)


def doubling_buckets(smallest: int, max_length: int) -> tuple[int, ...]:
  """Widths smallest, 2 smallest, 4 smallest, ... up to `max_length`, which is always the last."""
  if smallest < 1 or max_length < 1:
    raise ValueError(
        f"smallest, max_length: got {smallest}, {max_length}, allowed: 1 or more of both")
  widths = []
  while smallest < max_length:
    widths.append(smallest)
    smallest *= 2
  return (*widths, max_length)


def fit_prompts(token_lists: Sequence[Sequence[int]], max_length: int) -> tuple[list[int], int]:
  """Indices of the prompts of 1 to `max_length` tokens, and the number of dropped prompts."""
  kept = [i for i, tokens in enumerate(token_lists) if 0 < len(tokens) <= max_length]
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
    first_index: index of the first prompt in the global batch, if hosts hold parts of it.
    pad_id: the id in the padding; the mask comes from the lengths, not from this id.

  Returns:
    Prompts of numpy arrays, i32[P, S] with the smallest S of the buckets that fits.

  Raises:
    ValueError: there is no prompt, one is empty, or one is longer than every bucket.
  """
  lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int32)
  if not len(lengths) or not lengths.min():
    empty = np.flatnonzero(lengths == 0).tolist()
    raise ValueError(f"token_lists: got {len(lengths)} prompts, of which {empty} are empty, "
                     "allowed: one or more, of 1 token or more")
  width = min((bucket for bucket in buckets if bucket >= lengths.max()), default=None)
  if width is None:
    raise ValueError(
        f"token_lists: got a prompt of {lengths.max()} tokens, allowed: at most {max(buckets)}, "
        "the largest bucket")
  mask = np.arange(width) >= width - lengths[:, None]
  tokens = np.full(mask.shape, pad_id, dtype=np.int32)
  tokens[mask] = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in token_lists])
  index = np.arange(first_index, first_index + len(lengths), dtype=np.int32)
  return types.Prompts(tokens=tokens, mask=mask, index=index)
