r"""The outcome verifier of Countdown: an expression over given numbers that reaches a target.

A custom parser reads the expression (numbers, + - * /, parentheses; shunting-yard, so no recursion)
with exact fractions and limits on all sizes. Nothing is ever evaluated as code. Not here: the
problems (`data/tasks/countdown.py`).
"""

import collections
import dataclasses
from fractions import Fraction
import re
from typing import Any, NamedTuple

from rlreason.rewards import answer as answers

MAX_CHARACTERS = 400
MAX_NUMBERS = 32  # operands in one expression
MAX_DIGITS = 12  # of one number
MAX_DEPTH = 32  # of open parentheses

_OPERATORS = {
  "+": "+", "-": "-", "*": "*", "/": "/", "\\times": "*", "\\cdot": "*", "\\div": "/",
  "\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-",
}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(
    r"\s*(?:([0-9]+)|(\\(?:times|cdot|div)|[-+*/()\u00d7\u00b7\u22c5\u00f7\u2212]))")
_DECORATION = re.compile(r"\$|\\left|\\right|\\[,;!: ]")


class Evaluated(NamedTuple):
  """Value of an expression and the numbers it uses, in order of appearance."""

  value: Fraction
  numbers: list[int]


def evaluate_expression(text: str) -> Evaluated | None:
  r"""The exact value of `text`, or None if it is not an expression.

  Accepted: non-negative integers, binary + - * / (also `×`, `÷`, `−`, `\times`, `\cdot`, `\div`)
  and parentheses. Not accepted: signs (`-3`), implicit products (`2(3+4)`), powers, decimals, a
  division by zero, anything beyond the limits of this module.
  """
  if len(text) > MAX_CHARACTERS:
    return None
  tokens = _tokenize(_DECORATION.sub(" ", text))
  if tokens is None:
    return None
  numbers = [token for token in tokens if isinstance(token, int)]
  if not 0 < len(numbers) <= MAX_NUMBERS:
    return None
  value = _evaluate(tokens)
  return None if value is None else Evaluated(value, numbers)


def _tokenize(text: str) -> list[int | str] | None:
  """Integers and operators of `text`; None if it contains anything else."""
  tokens = []
  position = 0
  text = text.strip()
  while position < len(text):
    match = _TOKEN.match(text, position)
    if match is None:
      return None
    digits, symbol = match.groups()
    if digits and len(digits) > MAX_DIGITS:
      return None
    tokens.append(int(digits) if digits else _OPERATORS.get(symbol, symbol))
    position = match.end()
  return tokens


def _evaluate(tokens: list[int | str]) -> Fraction | None:
  """The value, by shunting-yard; None for a syntax error or a division by zero."""
  values, operators = [], []
  expects_operand = True
  for token in [*tokens, ")"]:  # the end acts as a last closing parenthesis
    if (isinstance(token, int) or token == "(") != expects_operand:
      return None
    if isinstance(token, int):
      values.append(Fraction(token))
      expects_operand = False
    elif token == "(":
      operators.append(token)
      if operators.count("(") > MAX_DEPTH:
        return None
    else:
      precedence = _PRECEDENCE.get(token, 0)
      while operators and _PRECEDENCE.get(operators[-1], -1) >= precedence:
        if not _apply(operators.pop(), values):
          return None
      expects_operand = token != ")"
      if expects_operand:
        operators.append(token)
      elif operators:
        operators.pop()
      else:
        operators.append("end")
  return values[0] if operators == ["end"] and len(values) == 1 else None


def _apply(operator: str, values: list[Fraction]) -> bool:
  """Replaces the last two values by their result; False for a division by zero."""
  right, left = values.pop(), values.pop()
  if operator == "/" and not right:
    return False
  results = {"+": lambda: left + right, "-": lambda: left - right,
             "*": lambda: left * right, "/": lambda: left / right}
  values.append(results[operator]())
  return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountdownVerifier:
  r"""Scores 1 for a boxed expression that uses each number exactly once and equals the target.

  Attributes:
    which_box: "last" or "first" `\boxed{}` of the completion.
    no_box_score: score, at most 0, of a completion without a box; RLSP: -0.5, and the first box.
  """

  which_box: answers.WhichBox = "last"
  no_box_score: float = 0.0

  def __post_init__(self):
    answers.check_which_box(self.which_box)
    answers.check_no_box_score(self.no_box_score)

  def __call__(
      self, prompts: list[Any], completions: list[str], *, numbers: list[list[int]],
      target: list[int], **unused_columns: list[Any],
  ) -> list[float]:
    """Scores completions; columns `numbers` and `target` are the problem of each row.

    One `= value` may follow the expression in the box, as in `\boxed{(1+2)*8 = 24}`; it must be the
    target. A wrong, unreadable or over-long expression scores 0.
    """
    return [self._score(*row) for row in zip(completions, numbers, target, strict=True)]

  def _score(self, completion: str, numbers: list[int], target: int) -> float:
    box = answers.find_box(completion, self.which_box)
    if box is None:
      return float(self.no_box_score)
    return float(is_solution(box.content, numbers, target))


def is_solution(text: str, numbers: list[int], target: int) -> bool:
  """Whether `text`, an expression or `expression = target`, solves the problem."""
  expression, equals, claimed = text.partition("=")
  if equals and _DECORATION.sub("", claimed).strip() != str(int(target)):
    return False
  result = evaluate_expression(expression)
  if result is None or result.value != int(target):
    return False
  return collections.Counter(result.numbers) == collections.Counter(map(int, numbers))
