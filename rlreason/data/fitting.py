"""Token ids of prompts, and the rows of a source whose prompts fit."""

from collections.abc import Collection

import numpy as np

from rlreason import tokenizers, tracking
from rlreason.data import prompts as prompts_lib
from rlreason.data.messages import ends_with_assistant
from rlreason.data.sources import BadRows, origin
from rlreason.data.tasks.base import Row, RowSource
from rlreason.rewards import answer, verifier
from rlreason.tokenizers import Tokenizer

_MAX_GOLDS = 2_000  # rows whose gold answers are looked at before a run


class EncodedRow(dict):
  """A row with the token ids of its prompt; what is made of it (`row | {...}`) has them no more."""

  def __init__(self, row: Row, tokenizer: Tokenizer, ids: np.ndarray):
    super().__init__(row)
    self.tokenizer, self.ids = tokenizer, ids  # i32[tokens] of this tokenizer


def encode_prompt(tokenizer: Tokenizer, row: Row) -> list[int]:
  """Token ids of a row's prompt: plain text, or chat messages through the template.

  A row that a stage wrote brings its `prompt_ids`, and one of `FittingRows` the ids that it was
  measured by: neither is tokenised again.
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
    """Encodes every prompt once; a bad row is logged, counted and left out like one too long.

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
          raise ValueError(f"the verifier needs the columns {missing}. Got: {sorted(row)}")
        if has_math_golds:
          answer.gold_text(row["answer"])
        if not row.get("prompt_ids") and ends_with_assistant(row["prompt"]):
          raise ValueError("the prompt ends with the assistant's turn")
        lists.append(encode_prompt(tokenizer, row))
      except ValueError as error:
        lists.append([])  # left out with the empty ones
        bad_rows.add(origin(rows, i), error)
    self._places, self.num_dropped = prompts_lib.fit_prompts(lists, max_length)
    self._rows, self._tokenizer = rows, tokenizer
    # In one array, which takes a tenth of the room of lists of ints.
    kept = [lists[place] for place in self._places]
    self._ends = np.cumsum([0, *map(len, kept)])
    self._ids = np.fromiter((token for ids in kept for token in ids), np.int32, self._ends[-1])
    if self._places or len(bad_rows) == len(rows):
      unfit = self.num_dropped - len(bad_rows)
      bad_rows += [(None, f"empty or longer than {max_length} tokens")] * unfit
      bad_rows.finish(len(rows))
    else:
      raise ValueError(
          f"prompts: got {len(rows)} that are all empty or longer than {max_length} tokens, the "
          "largest of prompt_buckets; allowed: at least one that fits")

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> EncodedRow:
    place = range(len(self))[index]  # counted from the end where it is negative
    ids = self._ids[self._ends[place]:self._ends[place + 1]]
    return EncodedRow(self._rows[self._places[place]], self._tokenizer, ids)


def check_fitting(
    rows: RowSource, tokenizer: Tokenizer, max_length: int, columns: Collection[str] = (),
    has_math_golds: bool = False,
) -> None:
  """Raises what `FittingRows` would, and looks no further than to the first row that fits.

  Gold answers that are no mathematics are counted and shown.
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
  """Logs which of the first gold answers are no mathematics."""
  golds = {}
  for i in range(min(len(rows), _MAX_GOLDS)):
    try:
      golds[origin(rows, i)] = answer.gold_text(rows[i].get("answer"))
    except ValueError:
      continue  # a bad row: `FittingRows` says so
  verifier.report_texts(golds)
