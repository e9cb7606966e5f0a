"""Tests of rlreason.rewards.format."""

import pytest

from rlreason.rewards import format as formats


@pytest.mark.parametrize(
    "text, score",
    [
        (r"a \boxed{5} b", 1.0), (r"\boxed{1}\boxed{1}", 0.0), ("5", 0.0), (r"\boxed{5", 0.0),
        (r"\boxed{ }", 0.0), ("", 0.0),
    ],
)  # fmt: skip
def test_one_box(text, score):
  assert formats.format_reward(["p"], [text], answer=["5"]) == [score]


@pytest.mark.parametrize(
    "text, score",
    [
        ("<think>a</think> <answer>5</answer>", 1.0),
        (" <think>a</think>\n\n<answer>5</answer>\n", 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("<think>a</think> so <answer>5</answer>", 0.0),
        ("<think>a</think><answer>5</answer> done", 0.0),
        ("well <think>a</think><answer>5</answer>", 0.0),
        ("<think>a</think><think>a</think><answer>5</answer>", 0.0),
        ("<think><answer>5</think></answer>", 0.0),
        ("<answer>5</answer><think>a</think>", 0.0),
        (r"\boxed{5}", 0.0),
    ],
)
def test_tags(text, score):
  assert formats.format_reward(["p"], [text], style="tags") == [score]


@pytest.mark.parametrize("opened, text, score", [
    ("<think>\n", "a</think> <answer>5</answer>", 1.0),
    ("<think>", "a</think><answer>5</answer>", 1.0),
    ("<think>\n", "<think>a</think><answer>5</answer>", 0.0),  # a second one
    ("<think>\n", "a <answer>5</answer>", 0.0), ("", "a</think> <answer>5</answer>", 0.0),
    ("<think>\n\n</think>\n\n", "<answer>5</answer>", 1.0)])
def test_tags_that_the_prompt_opened(opened, text, score):
  assert formats.format_reward(["p"], [text], style="tags", opened=[opened]) == [score]
  assert formats.format_reward(["p"], [r"\boxed{5}"], opened=[opened]) == [1.0]


def test_a_completion_that_was_cut_off_is_not_finished():
  assert formats.finished_reward(["p", "p"], ["a", "b"], truncated=[True, False]) == [0.0, 1.0]
  with pytest.raises(ValueError, match="truncated: got None"):
    formats.finished_reward(["p"], ["a"])


def test_what_is_cut_off_or_too_long_is_punished():
  texts, columns = [""] * 3, dict(truncated=[True, False, False], tokens=[8, 5, 6])
  assert formats.unfinished_reward(texts, texts, **columns) == [-1.0, 0.0, 0.0]
  assert formats.unfinished_reward(texts, texts, max_length=5, **columns) == [-1.0, 0.0, -1.0]
  with pytest.raises(ValueError, match="max_length: got .*, allowed: 1 or more"):
    formats.unfinished_reward(texts, texts, max_length=0, **columns)
  with pytest.raises(ValueError, match="truncated, tokens: got None"):
    formats.unfinished_reward(texts, texts, truncated=[False] * 3)


def test_unknown_style():
  with pytest.raises(ValueError, match="style: got .*, allowed: 'box', 'tags'"):
    formats.format_reward([], [], style="xml")


@pytest.mark.parametrize("text, score", [
    ("3 + 4 = 7\n#### 7", 1), ("#### 7\n#### 8", 0), ("#### ", 0), ("\\boxed{7}", 0)])
def test_one_mark_with_an_answer_behind_it(text, score):
  assert formats.format_reward([""], [text], answer_after="####") == [score]
