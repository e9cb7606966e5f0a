"""Worked solutions, against those worked by hand."""

import re

import pytest

from rlreason.data.tasks import arithmetic, workings
from rlreason.rewards import verify
from rlreason.rewards.countdown import evaluate_expression


def row(task_name, question, answer):
  return dict(task_name=task_name, question=question, answer=answer)


@pytest.mark.parametrize("task_name, question, answer, lines", [
    ("chain_sum", "... problem: 3 - 5 + 4 =", "2", ["3 - 5 = -2", "-2 + 4 = 2"]),
    ("chain_sum", "... problem: 12 + 9 =", "21", ["12 + 9 = 21"]),
    ("chain_sum", "... problem: -3 + 5 =", "2", ["-3 + 5 = 2"]),
    ("chain_sum", "... problem: 7 - 2 - -5 =", "10", ["7 - 2 = 5", "5 - -5 = 10"]),
    ("chain_sum", "... problem: -4 =", "-4", []),
    ("products", "... multiplication: 2 * 3 * 4. Give only", "24", ["2 * 3 = 6", "6 * 4 = 24"]),
    ("gcd", "... numbers: 21, 28. Give", "7", ["28 = 1 * 21 + 7", "21 = 3 * 7 + 0"]),
    ("gcd", "... numbers: 5, 5. Give", "5", ["5 = 1 * 5 + 0"]),
    ("gcd", "... numbers: 12, 8, 2. Give", "2",
     ["12 = 1 * 8 + 4", "8 = 2 * 4 + 0", "4 = 2 * 2 + 0"]),
])
def test_by_hand(task_name, question, answer, lines):
  assert workings.demonstration(row(task_name, question, answer)) == "\n".join(
      [*lines, f"\\boxed{{{answer}}}"])


def test_the_last_line_of_every_working_is_the_answer_of_the_generator():
  options = dict(
      chain_sum=dict(min_terms=1, max_terms=4, max_digits=2, allow_negation=True),
      products=dict(max_terms=3, max_digits=2),
      gcd=dict(max_numbers=3, max_value=200))
  pytest.importorskip("reasoning_gym")
  train = arithmetic.make_tasks(
      arithmetic.ArithmeticConfig(tasks=options, num_train=300))["train"].rows
  rows = [train[i] for i in range(300)]
  texts = [workings.demonstration(row) for row in rows]
  assert verify(texts, [row["answer"] for row in rows]) == [1.0] * 300
  # The expressions of Countdown have no negative numbers.
  value = lambda text: evaluate_expression(re.sub(r"(^| )-(\d+)", r"\1(0-\2)", text)).value
  for text, of in zip(texts, rows, strict=True):
    equations = [line.split(" = ") for line in text.split("\n")[:-1]]
    for left, right in equations:
      assert value(left) == value(right), text
    if not equations:  # a sum of one term
      continue
    last = equations[-1][1]  # of Euclid's algorithm: quotient * answer + 0
    assert last.removesuffix(" + 0").split(" * ")[-1] == of["answer"], text


@pytest.mark.parametrize("question, answer", [
    ("3 + 4 =", "8"), ("(3 + 4) * 2 =", "14"), ("?", "1")])
def test_a_working_that_does_not_lead_to_the_answer_is_refused(question, answer):
  with pytest.raises(ValueError, match=rf"answer: got {answer} of .*, allowed: \S+, to which"):
    workings.demonstration(row("chain_sum", question, answer))


def test_a_task_without_a_working():
  with pytest.raises(ValueError, match="got the tasks count_bits, allowed: chain_sum, pro"):
    workings.check_tasks(["gcd", "count_bits"])
