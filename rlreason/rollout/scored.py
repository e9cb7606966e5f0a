"""Completions to texts to rewards, for training, evaluation and users of the library.

Training uses the generated ids; their text is decoded only for the reward functions, and never
tokenised again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rlreason import boxes, masks, processes
from rlreason.data.tasks.base import Row
from rlreason.rewards import CombinedReward, RewardResult, answer
from rlreason.tokenizers import Tokenizer
from rlreason.types import Rollout

# The end of a prompt: a few tags, and the blanks around them.
_OPENING_TOKENS = 32


class Scored(NamedTuple):
  """A rollout's texts and rewards, on the host; lists of B."""

  completions: list[str]
  rewards: RewardResult
  totals: np.ndarray  # f32[B]; 0 where not scored
  is_scored: np.ndarray  # bool[B]
  lengths: np.ndarray  # i32[B] generated tokens
  reasoning_lengths: np.ndarray  # i32[B] those before the answer

  @property
  def is_right(self) -> np.ndarray:
    """bool[B]: the verifier gives 1 or more; False where it gives no score."""
    return np.array([bool(verdict) for verdict in self.rewards.verdicts], bool)


class Sampled(NamedTuple):
  """Problems, their completions and the rewards of these."""

  rows: list[Row]  # P
  rollout: Rollout  # B = P * G rows, numpy
  scored: Scored  # of the same

  def differs(
      self, group_size: int, by: Literal["reward", "accuracy"] = "reward"
  ) -> np.ndarray:
    """bool[P]: whether rewards, or verdicts, differ among the scored completions of a group."""
    values = self.scored.totals if by == "reward" else self.scored.is_right
    values, is_scored = (x.reshape(-1, group_size) for x in (values, self.scored.is_scored))
    values = values.astype(np.float32)
    lowest = np.min(values, axis=1, initial=np.inf, where=is_scored)
    return np.max(values, axis=1, initial=-np.inf, where=is_scored) > lowest


def completion_texts(tokenizer: Tokenizer, rollout: Rollout) -> list[str]:
  """The text of each completion, without special tokens except tags like <think>."""
  return [tokenizer.decode(ids[mask].tolist())
          for ids, mask in zip(rollout.completion_tokens, rollout.token_mask, strict=True)]


def _opened(tokenizer: Tokenizer, rollout: Rollout, row: int) -> str:
  """The tags of reasoning that the prompt of a row ends with."""
  ids = rollout.prompt_tokens[row][rollout.prompt_mask[row]]
  return boxes.opened(tokenizer.decode(ids[-_OPENING_TOKENS:].tolist(), skip_special=False))


def tokens_until(tokenizer: Tokenizer, ids: Sequence[int], end: int, low: int = 0) -> int:
  """The least number of first tokens whose text has `end` (> 0) characters; at most all.

  It is known to be more than `low`.
  """
  high = len(ids)  # `high` tokens are long enough, `low` are not
  while high - low > 1:
    middle = (low + high) // 2
    if len(tokenizer.decode(ids[:middle])) >= end:
      high = middle
    else:
      low = middle
  return high


def reasoning_tokens(
    tokenizer: Tokenizer, ids: Sequence[int], text: str, mark: str = "") -> int:
  """Generated tokens before the answer (`boxes.text_before_answer`); all if there is none."""
  start = len(answer.text_before_answer(text, mark))
  return len(ids) if start == len(text) else tokens_until(tokenizer, ids, start + 1) - 1


def score(
    reward: CombinedReward, tokenizer: Tokenizer, rows: Sequence[Row], rollout: Rollout,
    model_columns: Mapping[str, Sequence[Any]] | None = None, first_group: int = 0,
) -> Scored:
  """Decodes a rollout on the host and scores it.

  Args:
    reward: of `rewards.combine`.
    tokenizer: the one that encoded the prompts.
    rows: the P task rows; the reward functions receive their columns, once per completion.
    rollout: B = P * G completions, numpy.
    model_columns: further columns for the rewards, [B] each: what models of rewards say.
    first_group: the index of the first prompt, if these are a part of a rollout.

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
      "group": [first_group + row // group_size for row in range(len(completions))]}
  columns |= {name: list(column) for name, column in (model_columns or {}).items()}
  return _scored(completions, reward(prompts, completions, **columns), lengths, reasoning_lengths)


def score_together(
    reward: CombinedReward, tokenizer: Tokenizer, rows: Sequence[Row], rollout: Rollout,
    model_columns: Mapping[str, Sequence[Any]] | None = None,
) -> Scored:
  """`score`, where each process scores the groups of its part of the prompts.

  All processes have to call it, with the same arguments; all get the same result.
  """
  part = processes.my_part(len(rows))
  mine = None
  if part.start < part.stop:
    some, size = take_prompts(rollout, part, len(rows)), len(rollout.token_mask) // len(rows)
    given = {name: column[part.start * size:part.stop * size]
             for name, column in (model_columns or {}).items()}
    found = score(reward, tokenizer, rows[part], some, given, first_group=part.start)
    mine = {"completions": found.completions, "rewards": found.rewards._asdict(),
            "reasoning_lengths": found.reasoning_lengths.tolist()}
  parts = [one for one in processes.gather(mine) if one is not None]
  joined = lambda name: [value for one in parts for value in one[name]]
  return _scored(joined("completions"), _joined([one["rewards"] for one in parts]),
                 masks.lengths(rollout.token_mask), joined("reasoning_lengths"))


def take_prompts(rows: Any, part: slice, num_prompts: int) -> Any:
  """The rows of some of the prompts: of arrays [P * G, ...], those of `part` of the P prompts."""
  def take(x):
    size = x.shape[0] // num_prompts
    return x[part.start * size:part.stop * size]
  return jax.tree.map(take, rows)


def _scored(
    completions: list[str], result: RewardResult, lengths: np.ndarray,
    reasoning_lengths: Sequence[int],
) -> Scored:
  return Scored(
      completions=completions, rewards=result,
      totals=np.array([total or 0.0 for total in result.total], np.float32),
      is_scored=np.array([total is not None for total in result.total]),
      lengths=lengths,
      reasoning_lengths=np.array(reasoning_lengths, np.int32))


def _joined(parts: Sequence[dict[str, Any]]) -> RewardResult:
  """The rewards of parts of the completions, each as the fields of a `RewardResult`."""
  def placed(name):
    if all(part[name] is None for part in parts):
      return None
    return [[tuple(entry) for entry in row] for part in parts
            for row in part[name] or [[]] * len(part["total"])]

  total = [value for part in parts for value in part["total"]]
  names, counted = parts[0]["parts"], parts[0]["counts"]
  return RewardResult(
      total, {name: [value for part in parts for value in part["parts"][name]] for name in names},
      {name: sum(part["counts"][name] for part in parts) for name in counted},
      placed("placed"), placed("potentials"))
