"""Tests of rlreason.rewards.answer."""

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
        (r"\boxed{5} and so \boxed{}", "5", "5"),
        (r"\boxed{} \boxed{4} \boxed{ }", "4", "4"),
        (r"\boxed{5", None, None),
        (r"\boxed{5} so \boxed{6", "5", None),
        (r"\boxed{5}, so \boxed{\frac{1}{2}", "5", None),
        (r"\boxed 5", "5", "5"),
        (r"$\boxed 25$.", "25", "25"),
        (r"\boxed \frac{1}{2}.", r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\fbox{2}", "2", "2"),
        (r"\\boxed{7}", "7", "7"),
        (r"\boxedtext{7}", None, None),
        (r"$x = \boxed{1}$ and $x = \boxed{2}$", "1", "1, 2"),
        (r"\boxed{1}, \boxed{2}, \text{ and } \boxed{3}.", "1", "1, 2, 3"),
        (r"\boxed{1}, which is wrong, so \boxed{2}", "1", "2"),
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
  assert answers.text_before_answer(text) == "think "
  assert answers.text_before_answer("no box") == "no box"


def test_an_unknown_box_is_an_error():
  with pytest.raises(ValueError, match="which_box: got 'middle', allowed: 'first' or 'last'"):
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
    "text, expected",
    [
        ("2 + 3 = 5\n#### 5", "5"),
        ("#### 5\n\n#### $1,000 \nThat is all.", "$1,000"),
        (r"#### \boxed{7}.", "7"),
        ("####\n 8", "8"),
        (r"so \boxed{5}", None),
        ("####", None),
    ],
)
def test_answers_after_a_mark(text, expected):
  assert answers.extract_answer(text, answer_after="####") == expected


@given(st.text(alphabet=st.sampled_from(list("\\{}boxedfractx=$%.,- 0129/^()\u2212")), max_size=60))
def test_any_text_is_handled(text):
  for box in answers.find_boxes(text):
    assert text[box.start : box.end].endswith(box.content + "}")
    assert text[box.start] == "\\"
  assert answers.extract_answer(rf"{text.replace(chr(92), '').replace('{', '')}\boxed{{7}}") == "7"


@pytest.mark.parametrize("piece", [r"\boxed{", "{", "}", "\\", r"\boxed{}", " "])
def test_finding_boxes_takes_linear_time(piece):
  start = time.thread_time()
  answers.find_boxes(piece * 50_000)
  assert time.thread_time() - start < 5


@pytest.mark.parametrize("text, number", [
    ("", None), ("none at all", None), ("7", "7"), ("3 + 4 = 7.", "7"), ("from 5 to -2!", "-2"),
    ("1,234 apples, then", "1,234"), ("half, 1/2, of it", "1/2"), ("0.5, 2,", "2"),
    ("\u0663", None)])
def test_the_last_number(text, number):
  assert answers.last_number(text) == number


@pytest.mark.parametrize("gold, expected", [
    ("72", "72"), (72, "72"), (0.5, "0.5"), (" St. Louis ", "St. Louis"),
    ("In May 24 clips, 24+48 = <<24+48=72>>72 altogether.\n#### 72", "72"),
    ("She pays 10 dollars.\n#### $1,234", "$1,234"),
    (r"We have $x=\boxed{3}$, so the answer is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
    (r"the roots are \boxed{1} and \boxed{2}.", "1, 2"),
    (r"so it is \\boxed{7}", "7"),
    ("<think>8?</think><answer>9</answer>", "9"),
    ("There are 24 + 48 = 72 of them. The answer is 72.", "72"),
    ("Therefore, the final answer is: 3.5. I hope it is correct.", "3.5"),
    ("Answer: $x+1$", "$x+1$"), ("**Answer**: 4", "4"), ("**Answer:** 4", "4"),
    ("The answers are 3 and 4.", "3 and 4"), ("One is a knight. Two is a knave.",) * 2,
    ("answer sheet", "answer sheet"), ("answering machine", "answering machine"),
])  # fmt: skip
def test_gold_answers_are_found_in_workings(gold, expected):
  assert answers.gold_text(gold) == expected


@pytest.mark.parametrize("gold, message", [
    (None, "answer: got None, allowed: an answer in every row"),
    (" ", "answer: got ' ', allowed: an answer in every row"),
    ("proof", "answer: got 'proof', allowed: a text with a gold answer in it"),
    ("Not found.", "allowed: a text with a gold"),
    (r"it is \boxed{7", "allowed: a text with a gold"),
    ("72 clips\n####", "allowed: a text with a gold"),
    ("First we count the apples of each of the three boxes, then we add them up, and then we see "
     "that there are more of them than we had at the start, so the claim of the farmer holds.",
     "answer: got a whole text, 'First we count the apples of each of the...e farmer "
     "holds.', allowed: an answer, or a working that marks it by ####"),
    ("To find it we add two and two. So there are now four balls in the box.",
     "answer: got a whole text"),
])  # fmt: skip
def test_golds_without_an_answer_are_refused(gold, message):
  with pytest.raises(ValueError) as error:
    answers.gold_text(gold)
  assert message in str(error.value)


def test_a_list_of_gold_answers_is_one_answer_in_parts():
  assert answers.gold_text(["1", r"\sqrt{2}"]) == r"1, \sqrt{2}"
