"""Tests of rlreason.rewards.answer."""

from fractions import Fraction
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from rlreason.rewards import answer as answers


@pytest.mark.parametrize(
    "text, first, last",
    [
        (r"so \boxed{5}", "5", "5"),
        (r"\boxed{1} no, \boxed{2}", "1", "2"),
        (r"\boxed{\frac{\sqrt{2}}{3}}.", r"\frac{\sqrt{2}}{3}", r"\frac{\sqrt{2}}{3}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", r"\{1, 2\}"),
        (r"\boxed {7}", "7", "7"),
        (r"} { \boxed{3}", "3", "3"),
        (r"\boxed{cut off \boxed{4}", "4", "4"),
        (r"\boxed{\boxed{4}}", r"\boxed{4}", "4"),
        (r"\boxed{}", "", ""),
        (r"\boxed{5", None, None),
        (r"\boxed 5", None, None),
        ("5", None, None),
        ("", None, None),
    ],
)
def test_boxes_are_found_by_balanced_braces(text, first, last):
  assert answers.extract_answer(text, which_box="first") == first
  assert answers.extract_answer(text, which_box="last") == last


def test_a_box_knows_its_place():
  text = r"think \boxed{a{b}} more \boxed{c}"
  first, last = answers.find_boxes(text)
  assert text[first.start : first.end] == r"\boxed{a{b}}"
  assert last == answers.Box("c", text.index(r"\boxed{c}"), len(text))
  assert answers.text_before_box(text) == "think "
  assert answers.text_before_box("no box") == "no box"


def test_an_unknown_box_is_an_error():
  with pytest.raises(ValueError, match="which_box must be 'first' or 'last'. Got: 'middle'"):
    answers.find_box("x", "middle")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<think>1</think><answer> 12 </answer>", "12"),
        (r"\boxed{1} <answer>it is \boxed{12}</answer>", "12"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1", None),
        (r"\boxed{1}", None),
    ],
)
def test_answer_tags(text, expected):
  assert answers.extract_answer(text, answer_tags=True) == expected


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("\u22127", "-7"),
        ("$1,234.5$", "1234.5"),
        (r"\$ 5", "5"),
        ("1{,}234{,}567", "1234567"),
        (r"10\,000", "10000"),
        ("10 000", "10000"),
        ("1 2", "1 2"),
        ("(1,234)", "(1,234)"),
        ("1,2", "1,2"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right]", "(1,2]"),
        (r"\leftarrow", r"\leftarrow"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"5\text{ cm}^2", "5"),
        (r"90^\circ", "90"),
        (r"50\%", "50%"),
        ("12.", "12"),
        (r"\pi r", r"\pi r"),
        (r"\( x + 1 \)", "x+1"),
        ("", ""),
    ],
)
def test_normalize(answer, expected):
  assert answers.normalize(answer) == expected


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("12", 12), ("-12", -12), ("+3", 3), ("007", 7), ("0.25", Fraction(1, 4)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)), ("-3/4", Fraction(-3, 4)), ("3/-4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)), (r"-\frac{-3}{4}", Fraction(3, 4)),
        (r"2\frac{1}{2}", Fraction(5, 2)), (r"-2\frac{1}{2}", Fraction(-5, 2)), ("x=5", 5),
        ("9" * 100, int("9" * 100)),
        ("9" * 101, None), ("9" * 100_000, None), ("1/0", None), ("", None),
        (r"\frac{1}{0.0}", None),
        ("1+1", None), ("9^9", None), ("1e5", None), ("50%", None), ("1,2", None), ("-", None),
        (r"2\frac{-1}{2}", None), ("3/4/5", None), ("five", None), ("x=", None), ("nan", None),
    ],
)  # fmt: skip
def test_exact_number(answer, expected):
  assert answers.exact_number(answer) == expected


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**30))
def test_exact_number_reads_what_python_writes(numerator, denominator):
  value = Fraction(numerator, denominator)
  assert answers.exact_number(str(value)) == value
  sign = "-" if value < 0 else ""
  latex = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
  assert answers.exact_number(answers.normalize(f"$ {latex} $.")) == value
  assert answers.exact_number(answers.normalize(f"{numerator:,}")) == numerator


@given(st.text(alphabet=st.sampled_from(list("\\{}boxedfractx=$%.,- 0129/^()\u2212")), max_size=60))
def test_any_text_is_handled(text):
  for box in answers.find_boxes(text):
    assert text[box.start : box.end].endswith(box.content + "}")
    assert text[box.start] == "\\"
  answers.exact_number(answers.normalize(text))
  assert answers.extract_answer(rf"{text.replace(chr(92), '').replace('{', '')}\boxed{{7}}") == "7"


@pytest.mark.parametrize("piece", [r"\boxed{", "{", "}", "\\", r"\boxed{}", " "])
def test_finding_boxes_takes_linear_time(piece):
  start = time.thread_time()
  answers.find_boxes(piece * 50_000)
  assert time.thread_time() - start < 5


@pytest.mark.parametrize("piece", ["1,", " ", "1 ", r"\text{", r"\frac", "1,234", r"\text{ a", "}"])
def test_normalizing_the_longest_answer_is_fast(piece):
  answer = (piece * answers.MAX_ANSWER_CHARACTERS)[: answers.MAX_ANSWER_CHARACTERS]
  start = time.thread_time()
  answers.exact_number(answers.normalize(answer))
  assert time.thread_time() - start < 1


@pytest.mark.parametrize("text, number", [
    ("", None), ("none at all", None), ("7", "7"), ("3 + 4 = 7.", "7"), ("from 5 to -2!", "-2"),
    ("1,234 apples, then", "1,234"), ("half, 1/2, of it", "1/2"), ("0.5, 2,", "2"),
    ("\u0663", None)])
def test_the_last_number(text, number):
  assert answers.last_number(text) == number
