"""Counts how often a solution backtracks and verifies itself.

Two kinds of text are counted: traces of a word vocabulary, by whole words (such as those of
`data/tasks/countdown.py`), and natural language, by patterns. Patterns count what a text claims to
do, not whether it does it: use them to compare models, not as absolute values.

Only text before the first boxed answer is reasoning: later text is ignored. Not here: means over
solutions (`evaluation/metrics.py`) and lengths in tokens, which the rollout has.
"""

from collections.abc import Sequence
import re
from typing import NamedTuple

from rlreason.rewards import answer

# Phrases that abandon a line of thought. One match of the joined pattern counts as one
# backtracking, so that "Wait, let me try another way" counts once.
BACK_PATTERNS = (
    # Not in "they wait for an hour": only at the start of a clause.
    r"(?:^|[.!?,;:\n(][ \t]{0,8}|\b(?:but|no|oh)\s+)wait\b[^.!?\n]{0,60}",
    r"\b(?:hmm+|oops|hold on|scratch that)\b[^.!?\n]{0,60}",
    r"\bactually\s*,[^.!?\n]{0,60}",
    r"\b(?:go|going|went|step|stepping)\s+back\b",
    r"\bbacktrack(?:ing)?\b",
    r"\balternatively\b",
    r"\b(?:another|a different|an alternative)\s+(?:way|approach|method|idea|strategy)\b",
    r"\b(?:start|try|begin)(?:ing)?\s+(?:over|again|afresh|anew)\b",
    r"\b(?:this|that|it)\s+(?:does\s*n['’]t|did\s*n['’]t|does not|did not|won['’]t)\s+work\b",
    r"\b(?:i|we)\s+made\s+(?:a|an)\s+(?:mistake|error)\b",
)
# Phrases that test a result.
CHECK_PATTERNS = (
    r"\b(?:let me|let['’]s|let us|i['’]ll|i will|i should|we should|we can|to|now)\s+"
    r"(?:double[- ]?check|re-?check|check|verify|confirm)\b",
    r"\b(?:double[- ]?check|re-?check|verify|check|confirm|substitut|plugg)ing\b",
    r"\b(?:verification|sanity check)\b",
    r"\b(?:plug|substitute)\b[^.!?\n]{0,40}\bback\b",
    r"\bis (?:this|that|it) (?:correct|right)\b",
)


class Behaviours(NamedTuple):
  """Counts of one solution: how often it backtracks, and how often it verifies."""

  going_back: int
  checking: int


def count_words(text: str, words: Sequence[str]) -> int:
  """How many of the whitespace-separated words of a text are among `words`."""
  wanted = set(words)
  return sum(word in wanted for word in text.split())


def count_patterns(text: str, patterns: Sequence[str]) -> int:
  """The number of case-insensitive matches of the patterns, overlapping ones counted once."""
  return sum(1 for _ in re.finditer("|".join(patterns), text, re.IGNORECASE))


def trace_behaviours(
    completion: str, back_words: Sequence[str], check_words: Sequence[str], *, mark: str = "",
) -> Behaviours:
  """Behaviours of a trace: whole words for backtracking, and words for verification.

  Only of the text before the answer, as by `boxes.text_before_answer`.
  """
  text = answer.text_before_answer(completion, mark)
  return Behaviours(count_words(text, back_words), count_words(text, check_words))


def text_behaviours(
    completion: str,
    back_patterns: Sequence[str] = BACK_PATTERNS,
    check_patterns: Sequence[str] = CHECK_PATTERNS,
    *, mark: str = "",
) -> Behaviours:
  """Behaviours of natural language: regular expressions for backtracking and verification."""
  text = answer.text_before_answer(completion, mark)
  return Behaviours(count_patterns(text, back_patterns), count_patterns(text, check_patterns))
