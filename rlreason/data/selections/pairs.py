"""Pairs of completions of one question, for preference tuning.

Not here: the losses (`losses/preference.py`), and pairs of human judgements, which come from files.
"""

from typing import Literal

from rlreason.data.selections import rows as rows_lib
from rlreason.data.tasks.base import Row


def preference_pairs(
    rows: list[Row], *, max_per_question: int = 1,
    chosen: Literal["right", "shortest_right"] = "right",
    rejected: Literal["wrong", "longest", "longest_right"] = "wrong",
    min_reward_gap: float = 0.0, min_token_gap: int = 0, allow_truncated: bool = True,
) -> list[Row]:
  """Pairs of a chosen and a rejected completion, question by question.

  Right against wrong is DPO with a verifier, https://arxiv.org/abs/2305.18290. The shortest right
  one against the longest of all reduces overthinking, as in https://arxiv.org/abs/2412.21187. The
  first chosen one is paired with the first rejected one, the second with the second, so that no
  completion is in two pairs; pairs without the gaps are dropped. Equal completions of a question
  count once.

  Args:
    rows: of stages that sample; those without a verdict are dropped.
    max_per_question: most pairs of a question; 0 = any number.
    chosen: right ones in their order, or from the shortest on; truncated ones are never chosen.
    rejected: wrong ones in their order, or those of any verdict, or right ones, from the longest
      on; a longest one always has more tokens than the chosen one.
    min_reward_gap: the chosen reward minus the rejected one must be at least this; if this is above
      0, completions without a reward are in no pair.
    min_token_gap: the rejected one must have at least this many more tokens, if this is above 0.
    allow_truncated: whether truncated completions may be rejected.

  Returns:
    Rows of the columns of the problem, `prompt_ids`, `chosen`, `chosen_ids`, `rejected`,
    `rejected_ids`, and the origin of the chosen one.

  Raises:
    ValueError: an option is out of range, or a row is not of a completion.
  """
  rows_lib.check_least(0, max_per_question=max_per_question, min_reward_gap=min_reward_gap,
                      min_token_gap=min_token_gap)
  rows_lib.check_columns(rows, "prompt", "prompt_ids", "completion", "completion_ids", "is_right",
                        "reward", "truncated", "tokens")
  is_longer = rejected != "wrong"
  token_gap = max(min_token_gap, 1) if is_longer else min_token_gap
  pairs = []
  for indices in rows_lib.by_question(rows):
    group = [rows[i] for i in rows_lib.distinct(rows, indices, "completion_ids")]
    right = [row for row in group if row["is_right"] and not row["truncated"]]
    others = [row for row in group if row["is_right"] is not None
              and (allow_truncated or not row["truncated"])]
    if rejected != "longest":
      others = [row for row in others if row["is_right"] == (rejected == "longest_right")]
    if chosen == "shortest_right":
      right.sort(key=lambda row: row["tokens"])
    if is_longer:
      others.sort(key=lambda row: -row["tokens"])
    fitting = [_pair(best, worst) for best, worst in zip(right, others)
               if _has_gaps(best, worst, min_reward_gap, token_gap)]
    pairs += fitting[:max_per_question or None]
  return pairs


def _has_gaps(chosen: Row, rejected: Row, min_reward_gap: float, min_token_gap: int) -> bool:
  rewards = chosen["reward"], rejected["reward"]
  if min_reward_gap and (None in rewards or rewards[0] - rewards[1] < min_reward_gap):
    return False
  return not min_token_gap or rejected["tokens"] - chosen["tokens"] >= min_token_gap


def _pair(chosen: Row, rejected: Row) -> Row:
  return rows_lib.problem(chosen) | {
      "chosen": chosen["completion"], "chosen_ids": chosen["completion_ids"],
      "rejected": rejected["completion"], "rejected_ids": rejected["completion_ids"],
  } | rows_lib.provenance(chosen)
