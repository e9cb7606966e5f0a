"""Tests of rlreason.rewards.countdown."""

from fractions import Fraction
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from rlreason.rewards import countdown


@pytest.mark.parametrize(
    "text, value",
    [
        ("7", 7), ("1+2*3", 7), ("(1+2)*3", 9), ("8-3-2", 3), ("8/4/2", 1), ("8-(3-2)", 7),
        ("2*3+4*5", 26), ("1/3", Fraction(1, 3)), ("1/3*3", 1), (" ( 3 + 7 ) * 12 ", 120),
        ("((((5))))", 5), (r"3\times4\div2", 6), (r"3\cdot 4", 12), ("3\u00d74\u00f72\u22121", 5),
        (r"\left(1+2\right)\cdot 3", 9), ("$1+2$", 3), ("03+1", 4),
    ],
)  # fmt: skip
def test_values(text, value):
  assert countdown.evaluate_expression(text).value == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "()", "(", ")", ")(", "(1", "1)", "1+", "+1", "-1", "1--1", "1 2", "2(3)",
        "(1)(2)", "(1)2", "2**3", "2^3", "1.5", "x", "1/0", "1/(2-2)", "1,000", "1+2=3",
        "1_000", "1e3", "0x1",
        "__import__('os')", "\u0663", "1+(2", "9" * 13, "(" * 33 + "1" + ")" * 33,
        "+".join(["1"] * 33), "1+" * 300 + "1",
    ],
)  # fmt: skip
def test_no_expressions(text):
  assert countdown.evaluate_expression(text) is None


def test_caps_are_reached():
  assert countdown.evaluate_expression("(" * 32 + "1" + ")" * 32).value == 1
  assert countdown.evaluate_expression("+".join(["1"] * 32)).value == 32
  assert countdown.evaluate_expression("9" * 12).value == 999_999_999_999


EXPRESSIONS = st.recursive(
    st.integers(0, 20).map(lambda number: (str(number), Fraction(number))),
    lambda parts: st.tuples(st.sampled_from("+-*/"), parts, parts).map(
        lambda node: (
            f"({node[1][0]} {node[0]} {node[2][0]})",
            _apply(node[0], node[1][1], node[2][1]),
        )
    ),
    max_leaves=8,
)


def _apply(operator, left, right):
  if left is None or right is None or (operator == "/" and right == 0):
    return None
  return {"+": left + right, "-": left - right, "*": left * right}.get(
      operator, left / right if operator == "/" else None
  )


@given(EXPRESSIONS)
def test_values_equal_those_of_the_tree(expression):
  text, value = expression
  result = countdown.evaluate_expression(text)
  assert (result and result.value) == value if value is not None else result is None


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=10))
def test_products_come_before_sums(terms):
  text = "50" + "".join(f"{operator}{number}" for operator, number in terms)
  summands = [50]  # products first, then the sum
  for operator, number in terms:
    if operator == "*":
      summands[-1] *= number
    else:
      summands.append(number if operator == "+" else -number)
  assert countdown.evaluate_expression(text).value == sum(summands)
  assert countdown.evaluate_expression(text).numbers == [50, *(number for _, number in terms)]


@pytest.mark.parametrize(
    "expression, score",
    [
        ("(1+2)*8", 1.0),
        ("(1+2)*8=24", 1.0),
        (r"(1+2)*8 = 24", 1.0),
        ("8*(2+1)", 1.0),
        ("(1+2)*8=25", 0.0),
        ("(1+2)*8=", 0.0),
        ("(1+2)*8=24=24", 0.0),
        ("24=(1+2)*8", 0.0),
        ("8*3", 0.0),  # 3 is not given
        ("24", 0.0),
        ("8+8+8", 0.0),
        ("(1+2)*8*1", 0.0),  # 1 twice
        ("(2+1)*8+0", 0.0),
        ("1+2+8", 0.0),
    ],
)
def test_the_verifier_wants_each_number_once_and_the_target(expression, score):
  verifier = countdown.CountdownVerifier()
  columns = dict(numbers=[[8, 1, 2]], target=[24], answer=["24"])
  assert verifier(["p"], [rf"so \boxed{{{expression}}}"], **columns) == [score]


def test_repeated_numbers_count():
  assert countdown.is_solution("5*5-1", [5, 1, 5], 24)
  assert not countdown.is_solution("5*5-1", [5, 1], 24)
  assert countdown.is_solution("8/(3-8/3)", [3, 3, 8, 8], 24)  # needs exact fractions


def test_boxes():
  completions = [r"\boxed{1+1} \boxed{1+2}", "1+2"]
  columns = dict(numbers=[[1, 2]] * 2, target=[3] * 2)
  last = countdown.CountdownVerifier()
  rlsp = countdown.CountdownVerifier(which_box="first", no_box_score=-0.5)
  assert last(["", ""], completions, **columns) == [1.0, 0.0]
  assert rlsp(["", ""], completions, **columns) == [0.0, -0.5]
  with pytest.raises(ValueError, match="which_box"):
    countdown.CountdownVerifier(which_box="second")


@pytest.mark.parametrize("text", ["(" * 10**6, "9" * 10**6, "9*" * 10**6 + "9", "9^" * 10**6])
def test_long_texts_cost_nothing(text):
  start = time.thread_time()
  assert not countdown.is_solution(text, [9], 9)
  assert time.thread_time() - start < 1
