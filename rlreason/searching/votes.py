"""Votes for answers: equal answers are one, and answers that cannot be read are none.

Self-consistency (Wang et al. 2022, https://arxiv.org/abs/2203.11171), weighted by scores as in
https://arxiv.org/abs/2206.02336. Not here: reading answers (`rewards/answer.py`).
"""

from collections.abc import Callable, Hashable, Sequence
import math
from typing import Literal

Choice = Literal["vote", "weighted_vote", "best"]


def merge_equal(
    votes: Sequence[Hashable | None], answers: Sequence[str | None],
    is_equal: Callable[[str, str], bool],
) -> list[int | None]:
  """Numbers the classes of equal answers, in the order of their first; None stays None.

  Answers with equal votes are equal, and so are those for which `is_equal` is true in either
  order, and those that are equal to the same one: "0.5" = "1/2" and "1/2" = "2/4" are one class.

  Args:
    votes: of each solution; None: no answer, which is in no class.
    answers: the texts of the same.
    is_equal: (answer, answer) -> whether a verifier accepts the first for the second.
  """
  found, class_of = [], {}  # one answer of each class; vote -> class
  parents = []

  def root(i):
    while parents[i] != i:
      i = parents[i]
    return i

  for vote, answer in zip(votes, answers, strict=True):
    if vote is None or vote in class_of:
      continue
    mine = class_of[vote] = len(parents)
    parents.append(mine)
    for other, text in enumerate(found):
      if root(other) != root(mine) and (is_equal(answer, text) or is_equal(text, answer)):
        low, high = sorted((root(other), root(mine)))
        parents[high] = low
    found.append(answer)
  order = {}
  number = lambda vote: order.setdefault(root(class_of[vote]), len(order))
  return [None if vote is None else number(vote) for vote in votes]


def choose(
    classes: Sequence[Hashable | None], scores: Sequence[float] | None, how: Choice
) -> int | None:
  """The index of the chosen solution; None if there is none.

  With votes it is a solution of the class with the most votes, or with the largest sum of scores:
  its best by score, or else its first. Of classes with equally many votes the first wins, so that a
  vote is no search by scores. If no solution has an answer, the best one is chosen.

  Args:
    classes: of the answers (`merge_equal`, or values); None: no answer, and no vote.
    scores: of each solution, 0 or more in weighted votes (those below count as 0); None: all equal.
    how: vote, weighted_vote or best.

  Raises:
    ValueError: no scores, where they are needed; or as many scores as solutions are not given.
  """
  if scores is None and how != "vote":
    raise ValueError(f"scores: got None, allowed: a score for each solution, with {how!r}")
  if scores is not None and len(scores) != len(classes):
    raise ValueError(f"scores: got {len(scores)}, allowed: {len(classes)}, one for each solution")
  if not len(classes):
    return None
  of = [0.0] * len(classes) if scores is None else [float(score) for score in scores]
  best = max(range(len(classes)), key=lambda i: (of[i], -i))
  voters = {}
  for i, one in enumerate(classes):
    if one is not None:
      voters.setdefault(one, []).append(i)
  if how == "best" or not voters:
    return best
  weight = (lambda i: max(of[i], 0.0)) if how == "weighted_vote" else (lambda i: 1.0)

  winners = max(voters.values(), key=lambda members: (
      math.fsum(map(weight, members)), -members[0]))
  return max(winners, key=lambda i: (of[i], -i))
