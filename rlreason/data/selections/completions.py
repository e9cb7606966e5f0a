"""Selects sampled completions to train on: expert iteration, R1's filter, labels of returns.

They take the rows of a stage that samples (`rows.py`) and are the functions of stages of
the kind "select". Not here: pairs (`pairs.py`) and problems (`problems.py`).
"""

from collections.abc import Mapping
from typing import Literal

from rlreason.data.messages import add_to_prompt
from rlreason.data.selections import rows as rows_lib
from rlreason.data.tasks.base import Row

_DEDUPE_COLUMNS = {"ids": "completion_ids", "text": "completion"}
_CODE = "```"


def right_completions(
    rows: list[Row], *, max_per_question: int = 0,
    keep: Literal["first", "shortest", "random"] = "first",
    dedupe: Literal["ids", "text", "nothing"] = "ids", seed: int | None = None,
) -> list[Row]:
  """Right, untruncated completions, without duplicates, with a limit per question, in order.

  Expert iteration, https://arxiv.org/abs/2403.04642 (STaR, https://arxiv.org/abs/2203.14465, is one
  round of it with one sample; ReST-EM, https://arxiv.org/abs/2312.06585; the third step of
  DeepSeek-R1, https://arxiv.org/abs/2501.12948). Without a limit easy questions flood the data.
  With keep="first" appending rows only adds completions: with the samples of all rounds as inputs,
  in order, each round's data contain those of the previous round.

  Args:
    rows: of stages that sample; those without a verdict or truncated are dropped.
    max_per_question: most completions of a question; 0 = any number.
    keep: which of them are kept if there are more.
    dedupe: which completions of a question count as duplicates.
    seed: for keep="random" only; 0 or more.

  Raises:
    ValueError: an option is out of range, or a row is not of a completion.
  """
  rows_lib.check_least(0, max_per_question=max_per_question)
  if (keep == "random") != (seed is not None):
    raise ValueError(f"seed: got {seed} with keep={keep!r}, allowed: one with keep='random', and "
                     "None with any other")
  rows_lib.check_least(0, seed=seed or 0)
  rows_lib.check_columns(
      rows, "prompt", "completion", "completion_ids", "is_right", "truncated", "tokens")
  chosen = []
  for number, indices in enumerate(rows_lib.by_question(rows)):
    indices = [i for i in indices if rows[i]["is_right"] and not rows[i]["truncated"]]
    if dedupe != "nothing":
      indices = rows_lib.distinct(rows, indices, _DEDUPE_COLUMNS[dedupe])
    if keep == "shortest":
      indices.sort(key=lambda i: rows[i]["tokens"])
    elif keep == "random":
      indices = rows_lib.generator(seed, number).permutation(indices).tolist()
    chosen += indices[:max_per_question or None]
  return [rows[i] for i in sorted(chosen)]


def clean_completions(
    rows: list[Row], *, max_tokens: int = 0, max_paragraph: int = 0, allow_code: bool = True,
    min_rewards: Mapping[str, float] | None = None,
) -> list[Row]:
  """Readable completions, in their order, whether right or not.

  DeepSeek-R1, https://arxiv.org/abs/2501.12948, drops those with mixed languages, long paragraphs
  or code, and gives no thresholds. The reward "language" measures languages: give it to the stage
  that samples, with a weight of 0, and here min_rewards={"language": 0.9}.

  Args:
    rows: of stages that sample.
    max_tokens: of a completion; 0 = any number.
    max_paragraph: characters between two empty lines; 0 = any number.
    allow_code: whether fenced blocks of code are allowed.
    min_rewards: name of a part of the reward -> its minimum; one that could not be scored fails.

  Raises:
    ValueError: an option is out of range, or a row is not of a completion or lacks a reward.
  """
  rows_lib.check_least(0, max_tokens=max_tokens, max_paragraph=max_paragraph)
  rows_lib.check_columns(rows, "completion", "tokens")
  least = dict(min_rewards or {})
  if least:
    rows_lib.check_columns(rows, "rewards")
  for name in least:
    known = [row["rewards"].keys() for row in rows if name not in row["rewards"]]
    if known:
      raise ValueError(f"min_rewards: got {name!r}, allowed: rewards of the stage that samples "
                       f"({', '.join(sorted(known[0]))})")
  is_enough = lambda value, bound: value is not None and value >= bound
  return [
      row for row in rows
      if (not max_tokens or row["tokens"] <= max_tokens)
      and (not max_paragraph or _longest_paragraph(row["completion"]) <= max_paragraph)
      and (allow_code or _CODE not in row["completion"])
      and all(is_enough(row["rewards"][name], bound) for name, bound in least.items())]


def labelled_completions(
    rows: list[Row], *, good: str = " GOOD", bad: str = " BAD", allow_truncated: bool = False,
    unlabelled_every: int = 0,
) -> list[Row]:
  """Completions with a label of their outcome in the prompt: `good` if right, `bad` if wrong.

  Return-conditioned RL, https://arxiv.org/abs/2403.04642: after training on all of them, the policy
  is prompted with `good` (`evaluation.prompt_suffix`). There a reward model labels each step; here
  the verifier labels the whole completion. The labels must be in the tokenizer's vocabulary (for
  chains: `extra_words`).

  Args:
    rows: of stages that sample; those without a verdict are dropped.
    good: appended unchanged to the prompt, or to the text of its last message.
    bad: the same.
    allow_truncated: whether truncated completions are included; they train without an end token.
    unlabelled_every: keeps the prompt of every n-th row unchanged, so that the policy also works
      without a label: 4 = every fourth; 0 = none, as in the paper.

  Returns:
    The rows, in their order; those with a changed prompt lack `prompt_ids`, because it is tokenised
    again. `completion_ids` stay those that were sampled.

  Raises:
    ValueError: the labels are empty or the same, an option is out of range, or a row is not of a
      completion.
  """
  rows_lib.check_least(0, unlabelled_every=unlabelled_every)
  if not good.strip() or not bad.strip() or good == bad:
    raise ValueError(f"good, bad: got {good!r} and {bad!r}, allowed: two different texts")
  rows_lib.check_columns(rows, "prompt", "completion", "is_right", "truncated")
  kept = [row for row in rows
          if row["is_right"] is not None and (allow_truncated or not row["truncated"])]
  labelled = []
  for number, row in enumerate(kept, 1):
    if not unlabelled_every or number % unlabelled_every:
      row = {name: value for name, value in row.items() if name != "prompt_ids"} | {
          "prompt": add_to_prompt(row["prompt"], good if row["is_right"] else bad)}
    labelled.append(row)
  return labelled


def _longest_paragraph(text: str) -> int:
  return max(map(len, text.split("\n\n")))
