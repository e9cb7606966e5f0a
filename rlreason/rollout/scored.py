"""Completions to texts to rewards: shared by training, evaluation and the library's users.

Generated ids are what is trained on; their text is decoded for the reward functions only, and never
tokenised again.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlreason import boxes, masks
from rlreason.data.tasks.base import Row
from rlreason.rewards import SCORE_COLUMN, CombinedReward, RewardResult, answer
from rlreason.tokenizers import Tokenizer
from rlreason.types import Rollout

# Of the end of a prompt: a few tags, written out, and the blanks around them.
_OPENING_TOKENS = 32


class Scored(NamedTuple):
  """A rollout's texts and rewards, on the host; lists of B."""

  completions: list[str]
  rewards: RewardResult
  totals: np.ndarray  # f32[B]; 0 where not scored
  is_scored: np.ndarray  # bool[B]
  lengths: np.ndarray  # i32[B] generated tokens
  reasoning_lengths: np.ndarray  # i32[B] of them, before the answer

  @property
  def is_right(self) -> np.ndarray:
    """bool[B]: the verifier gives 1 or more; False where it gives nothing."""
    return np.array([bool(verdict) for verdict in self.rewards.verdicts], bool)


class Sampled(NamedTuple):
  """Problems, their completions and what these score."""

  rows: list[Row]  # P
  rollout: Rollout  # B = P * G rows, numpy
  scored: Scored  # of the same

  def differs(
      self, group_size: int, by: Literal["reward", "accuracy"] = "reward"
  ) -> np.ndarray:
    """bool[P]: whether the scored completions of a group do not all have one reward or verdict."""
    values = self.scored.totals if by == "reward" else self.scored.is_right
    values, is_scored = (x.reshape(-1, group_size) for x in (values, self.scored.is_scored))
    values = values.astype(np.float32)
    lowest = np.min(values, axis=1, initial=np.inf, where=is_scored)
    return np.max(values, axis=1, initial=-np.inf, where=is_scored) > lowest


def completion_texts(tokenizer: Tokenizer, rollout: Rollout) -> list[str]:
  """The text of each completion, special tokens but tags like <think> left out."""
  return [tokenizer.decode(ids[mask].tolist())
          for ids, mask in zip(rollout.completion_tokens, rollout.token_mask, strict=True)]


def _opened(tokenizer: Tokenizer, rollout: Rollout, row: int) -> str:
  """The tags of reasoning that the prompt of a row ends with."""
  ids = rollout.prompt_tokens[row][rollout.prompt_mask[row]]
  return boxes.opened(tokenizer.decode(ids[-_OPENING_TOKENS:].tolist(), skip_special=False))


def tokens_until(tokenizer: Tokenizer, ids: Sequence[int], end: int) -> int:
  """The fewest first tokens whose text has `end` characters (above 0), if all of them have."""
  low, high = 0, len(ids)  # the text of the first `high` tokens is long enough, of `low` it is not
  while high - low > 1:
    middle = (low + high) // 2
    if len(tokenizer.decode(ids[:middle])) >= end:
      high = middle
    else:
      low = middle
  return high


def reasoning_tokens(
    tokenizer: Tokenizer, ids: Sequence[int], text: str, mark: str = "") -> int:
  """Generated tokens before the answer (`boxes.text_before_answer`); all of them without one."""
  start = len(answer.text_before_answer(text, mark))
  return len(ids) if start == len(text) else tokens_until(tokenizer, ids, start + 1) - 1


def score(
    reward: CombinedReward, tokenizer: Tokenizer, rows: Sequence[Row], rollout: Rollout,
    model_scores: np.ndarray | None = None,
) -> Scored:
  """Decodes a rollout on the host and scores it.

  Args:
    reward: of `rewards.combine`.
    tokenizer: that made the prompts.
    rows: the P task rows; their columns reach the reward functions, once per completion.
    rollout: B = P * G completions, numpy.
    model_scores: f32[B] of a reward model, for the reward `learned`; None: there is none.

  Returns:
    Texts and rewards of the B completions.
  """
  completions = completion_texts(tokenizer, rollout)
  group_size = len(completions) // len(rows)
  repeated = [row for row in rows for _ in range(group_size)]
  columns = {name: [row[name] for row in repeated] for name in rows[0]}
  prompts = columns.pop("prompt")
  reasoning_lengths = [
      reasoning_tokens(tokenizer, ids[mask].tolist(), text, reward.mark) for ids, mask, text in zip(
          rollout.completion_tokens, rollout.token_mask, completions, strict=True)]
  lengths = masks.lengths(rollout.token_mask)
  openings = [_opened(tokenizer, rollout, row * group_size) for row in range(len(rows))]
  columns |= {
      "tokens": lengths.tolist(), "opened": [text for text in openings for _ in range(group_size)],
      "reasoning_tokens": reasoning_lengths,
      "reasoning_text": [answer.text_before_answer(text, reward.mark) for text in completions],
      "truncated": rollout.truncated.tolist(),
      "turns": masks.runs(rollout.action_mask).max(axis=1).tolist(),
      "group": [row // group_size for row in range(len(completions))]}
  if model_scores is not None:
    columns[SCORE_COLUMN] = model_scores.tolist()
  result = reward(prompts, completions, **columns)
  return Scored(
      completions=completions, rewards=result,
      totals=np.array([total or 0.0 for total in result.total], np.float32),
      is_scored=np.array([total is not None for total in result.total]),
      lengths=lengths,
      reasoning_lengths=np.array(reasoning_lengths, np.int32))
