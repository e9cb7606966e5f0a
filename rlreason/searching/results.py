"""What a search finds, and what it costs."""

from collections.abc import Sequence
from typing import NamedTuple

from rlreason.searching.scores import aggregate
from rlreason.searching.config import SearchConfig


class Candidate(NamedTuple):
  """One solution of a problem."""

  ids: tuple[int, ...]  # generated tokens, the end token included
  step_scores: tuple[float, ...] = ()  # of its steps, in [0, 1]; none without a scorer
  is_truncated: bool = False  # a limit ended it


class Cost(NamedTuple):
  """Tokens of one problem; each is counted once for a model that computes it once."""

  generated: int = 0  # by the policy, in all branches
  scored: int = 0  # by the reward model, its prompt included
  prompt: int = 0  # read by the policy

  def price(self, config: SearchConfig) -> float:
    """By the prices of the config, which are per million tokens."""
    return (self.generated * config.price_generated + self.scored * config.price_scored
            + self.prompt * config.price_prompt) / 1e6

  def plus(self, other: "Cost") -> "Cost":
    return Cost(*map(sum, zip(self, other, strict=True)))


class Found(NamedTuple):
  """All solutions of a problem, in the order in which they were found."""

  candidates: tuple[Candidate, ...]
  cost: Cost


def score_of(config: SearchConfig, candidate: Candidate) -> float:
  """The score of a solution, of those of its steps."""
  return aggregate(candidate.step_scores, config.aggregate)


def within_budget(config: SearchConfig, lengths: Sequence[int]) -> int:
  """How many of these lengths, in their order, are begun before `max_tokens` are generated."""
  if not config.max_tokens:
    return len(lengths)
  used, count = 0, 0
  for length in lengths:
    if used >= config.max_tokens:
      break
    used, count = used + length, count + 1
  return count
