r"""Outcome verifiers: is the final answer of a completion right?

Numbers and equal texts are decided here, exactly and at once. Only what needs mathematics (roots,
polynomials, sets) goes to math-verify, in the killable processes of `pool.py`.

Decisions where answers could be read in two ways (math-verify alone says yes to each of them):

- A gold answer that is a plain number wants a plain number: `1+1` or `\sqrt{4}` is not 2. Otherwise
  copying the question into the box would be right ("What is 7 + 8?").
- Numbers are equal exactly: 0.333333 is not 1/3.
- 50% is 50/100: it equals 1/2 and 0.5, not 50.
- A gold answer that is a word of three letters or more is compared as a word, ignoring case: SymPy
  would read it as a product, in which the order of the letters does not matter.
- A unit in `\text{}` after a number and a degree sign are dropped.

Otherwise symbolic equality is math-verify's, decimals to 6 places: an answer that restates a
symbolic question, such as an unfactored polynomial, is equal to the gold answer and scores 1.
"""

from collections.abc import Sequence
import dataclasses
from fractions import Fraction
import inspect
import re
from typing import Any

from rlreason.rewards import answer as answers
from rlreason.rewards import countdown
from rlreason.rewards import pool as pools

_WORD = re.compile(r"[A-Za-z]{3,}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathVerifier:
  r"""Scores 1 for a right boxed answer and 0 for a wrong one; RLSP: first box, -0.5 without one.

  Attributes:
    which_box: "last" or "first" `\boxed{}` of the completion.
    no_box_score: score, at most 0, of a completion without an answer.
    answer_tags: look for the answer in the last `<answer>...</answer>`, boxed or not.
    pool: processes for symbolic comparison; None for the shared `pool.default_pool()`.
  """

  which_box: answers.WhichBox = "last"
  no_box_score: float = 0.0
  answer_tags: bool = False
  pool: pools.WorkerPool | None = None

  def __post_init__(self):
    answers.check_which_box(self.which_box)
    answers.check_no_box_score(self.no_box_score)

  def __call__(
      self, prompts: list[Any], completions: list[str], *, answer: list[Any],
      **unused_columns: list[Any],
  ) -> list[float | None]:
    """Scores completions against the column `answer` (str, or a number; a box in it is unwrapped).

    Returns:
      1.0, 0.0 or `no_box_score` for each row; None where the comparison hung, crashed, recursed too
      deeply or ran out of memory (counted in the pool's `counts`).
    """
    golds = [gold_text(gold) for gold in answer]
    found = [
        answers.extract_answer(text, which_box=self.which_box, answer_tags=self.answer_tags)
        for text in completions
    ]
    is_equal = compare(golds, [text or "" for text in found], self.pool)
    return [
        float(self.no_box_score) if text is None else None if equal is None else float(equal)
        for text, equal in zip(found, is_equal, strict=True)
    ]


def verify(
    completions: Sequence[str], answer: Sequence[Any], **options: Any
) -> list[float | None]:
  """Scores completions against gold answers; options are the fields of `MathVerifier`."""
  return MathVerifier(**options)([""] * len(completions), list(completions), answer=list(answer))


# The names by which a task chooses its verifier.
VERIFIERS = {"math": MathVerifier, "countdown": countdown.CountdownVerifier}


def find(name: str) -> type:
  """The verifier called `name`.

  Raises:
    ValueError: there is none.
  """
  if name not in VERIFIERS:
    raise ValueError(f"verifier must be one of {sorted(VERIFIERS)} or a function. Got: {name!r}")
  return VERIFIERS[name]


def columns(name: str) -> set[str]:
  """The columns that the rows of a task with the verifier `name` must have."""
  parameters = inspect.signature(find(name).__call__).parameters.values()
  return {parameter.name for parameter in parameters
          if parameter.kind == parameter.KEYWORD_ONLY and parameter.default is parameter.empty}


def compare(
    golds: Sequence[str], found: Sequence[str], pool: pools.WorkerPool | None = None
) -> list[bool | None]:
  """Whether each answer equals its gold answer; None where that could not be found out.

  The same pair is judged once, however many rows hold it.
  """
  pairs = list(zip(golds, found, strict=True))
  verdicts = {pair: match_text(*pair) for pair in dict.fromkeys(pairs)}
  open_pairs = [pair for pair, verdict in verdicts.items() if verdict is None]
  if open_pairs:
    requests = [
        dict(gold=answers.normalize(gold), answer=answers.normalize(text))
        for gold, text in open_pairs
    ]
    replies = (pool or pools.default_pool()).map(pools.SYMBOLIC, requests)
    verdicts.update((pair, reply.value) for pair, reply in zip(open_pairs, replies))
  return [verdicts[pair] for pair in pairs]


def match_text(gold: str, answer: str) -> bool | None:
  """Decides by text and exact numbers; None where mathematics is needed."""
  if len(answer) > answers.MAX_ANSWER_CHARACTERS:
    return False
  gold, answer = answers.normalize(gold), answers.normalize(answer)
  if not answer or gold == answer:
    return bool(answer)
  gold_value, value = _exact_value(gold), _exact_value(answer)
  if gold_value is not None:
    return gold_value == value
  if _WORD.fullmatch(gold):
    return gold.casefold() == answer.casefold()
  if "%" in gold or "%" in answer:
    return False  # not numbers, and not the same text
  return None


def _exact_value(normalized: str) -> Fraction | None:
  """The value of a plain number or percentage."""
  if normalized.endswith("%"):
    value = answers.exact_number(normalized[:-1])
    return None if value is None else value / 100
  return answers.exact_number(normalized)


def gold_text(gold: Any) -> str:
  """The text of a gold answer, taken out of its box where it is in one."""
  if gold is None:
    raise ValueError("the column 'answer' must hold an answer in every row. Got: None")
  box = answers.find_box(str(gold))
  return str(gold) if box is None else box.content
