"""The majority vote as a reward, which needs no label.

Test-time reinforcement learning, TTRL: Zuo et al. 2025, https://arxiv.org/abs/2504.16084. The
majority answer of a prompt's completions replaces the gold answer, so that training moves the
policy towards its own vote. A wrong majority is reinforced too: with an additional part "verifier"
of weight 0, `reward/majority/label_accuracy` reports how often it is right.
"""

import collections
from collections.abc import Hashable, Sequence
from typing import Any

from rlreason.rewards import answer, reading


def vote_answer(
    text: str, which_box: answer.WhichBox = "last", **where: Any
) -> Hashable | None:
  """The vote of a completion: the value of its boxed answer, or its text.

  None, no vote, without an answer or if it is too long to be right. `where` are the other options
  of `answer.extract_answer`.
  """
  found = answer.extract_answer(text, which_box=which_box, **where)
  if found is None or len(found) > answer.MAX_ANSWER_CHARACTERS:
    return None
  return reading.vote(reading.read(found))


def majority_reward(
    prompts: list[Any], completions: list[str], *, which_box: answer.WhichBox = "last",
    answer_tags: bool = False, answer_after: str = "", group: Sequence[int] | None = None,
    **unused_columns: list[Any],
) -> list[float]:
  """1 for a completion with the most frequent answer among those of its prompt, else 0.

  Answers of equal value count as one. Completions without an answer do not vote, and get 0; of
  answers with equally many votes the first counts. 7, 7, 5, 7, 3 get 1, 1, 0, 1, 0. The released
  code votes with 64 completions and trains on 32 of them; here all do both.

  Args:
    prompts: ignored.
    completions: texts.
    which_box, answer_tags, answer_after: where the answer is, as for `answer.extract_answer`.
    group: index of the prompt of each row.

  Raises:
    ValueError: an option is out of range, or the column is missing.
  """
  answer.check_which_box(which_box)
  if group is None:
    raise ValueError("group: got None, allowed: that column of a rollout")
  votes = [vote_answer(text, which_box, answer_tags=answer_tags, answer_after=answer_after)
           for text in completions]
  labels = {}
  for prompt in dict.fromkeys(group):
    cast = [vote for vote, other in zip(votes, group, strict=True)
            if other == prompt and vote is not None]
    # Counters keep the order of insertion, and so does `most_common` among equals.
    labels[prompt] = collections.Counter(cast).most_common(1)[0][0] if cast else None
  return [float(vote is not None and vote == labels[prompt])
          for vote, prompt in zip(votes, group)]
