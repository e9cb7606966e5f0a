r"""Worked solutions of arithmetic problems: demonstrations with a step on each line.

    State the final answer to the following arithmetic problem: 3 - 5 + 4 =

    3 - 5 = -2
    -2 + 4 = 2
    \boxed{2}

The problems are those of reasoning-gym (`arithmetic.py`), read from their questions.
"""

from collections.abc import Sequence
import operator
import re

from rlreason.data.tasks import base

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_EXPRESSION = re.compile(r"-?\d+(?: [+*-] -?\d+)*")


def demonstration(row: base.Row) -> str:
  """The worked solution of a row of the arithmetic task, with its answer in a box at the end.

  Raises:
    ValueError: the row's task has no worked solution, or the solution does not give its answer.
  """
  check_tasks([row["task_name"]])
  lines, result = _WORKINGS[row["task_name"]](row["question"])
  if str(result) != row["answer"]:
    raise ValueError(
        f"answer: got {row['answer']} of {row['question']!r}, allowed: {result}, to which its "
        "working leads")
  return "\n".join([*lines, f"\\boxed{{{row['answer']}}}"])


def check_tasks(names: Sequence[str]):
  """Raises ValueError if one of these tasks of reasoning-gym has no worked solution here."""
  missing = sorted(set(names) - set(_WORKINGS))
  if missing:
    raise ValueError(
        f"demonstrations: got the tasks {', '.join(missing)}, allowed: {', '.join(_WORKINGS)}; for "
        "others give `examples`, a file of {prompt, completion}, or `answer_template`")


def _from_left_to_right(question: str) -> tuple[list[str], int | None]:
  """`3 - 5 + 4 =`: an operation on each line; and the result."""
  found = _EXPRESSION.search(question)
  if found is None:
    return [], None
  first, *rest = found.group().split()
  total, lines = int(first), []
  for sign, term in zip(rest[::2], rest[1::2], strict=True):
    result = _OPERATORS[sign](total, int(term))
    lines.append(f"{total} {sign} {term} = {result}")
    total = result
  return lines, total


def _euclid(question: str) -> tuple[list[str], int]:
  """`21, 28`: divisions with remainder, until none is left; and the divisor."""
  first, *rest = map(int, re.findall(r"\d+", question))
  lines = []
  for second in rest:
    large, small = max(first, second), min(first, second)
    while small:
      quotient, remainder = divmod(large, small)
      lines.append(f"{large} = {quotient} * {small} + {remainder}")
      large, small = small, remainder
    first = large
  return lines, first


_WORKINGS = {
    "chain_sum": _from_left_to_right, "products": _from_left_to_right, "gcd": _euclid}
