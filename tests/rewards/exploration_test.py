"""Tests of rlreason.rewards.exploration."""

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from rlreason.rewards import exploration


def explore(*completions, **options):
  return exploration.exploration_reward([""] * len(completions), list(completions), **options)


def test_the_paper_s_numbers():
  assert explore("x" * 8000 + r"\boxed{1}", c=1000) == [-0.5]  # 2000 tokens
  assert explore("x" * 4000, c=1000) == [-1.0]  # no box: the whole text


def test_padding_after_the_box_never_pays():
  text = "x" * 400 + r"\boxed{1}"
  assert explore(text, c=10) == explore(text + "y" * 4000, c=10)
  assert explore(text, c=10) == explore(text + "y" * 4000 + r"\boxed{2}", c=10)
  assert explore("x" + text, c=10) > explore(text, c=10)


def test_lengths_are_at_least_one_token():
  assert explore(r"\boxed{1}", "", "abc", c=3) == [-3.0] * 3
  assert explore("", c=3, unit="tokens", reasoning_tokens=[0]) == [-3.0]


def test_a_shortest_length_may_be_set():
  """With it a right answer in no time beats the longest wrong one: -4/11 + 1 > -4/96."""
  short, long = explore("", "", c=4, unit="tokens", min_length=11, reasoning_tokens=[0, 96])
  assert short == pytest.approx(-4 / 11) and short + 1 > long == pytest.approx(-4 / 96)
  with pytest.raises(ValueError, match="min_length"):
    explore("", c=4, min_length=0)


def test_tokens_come_from_the_column():
  rewards = explore("a", "b", c=1000, unit="tokens", reasoning_tokens=[2000, 400])
  assert rewards == [-0.5, -2.5]
  with pytest.raises(ValueError, match="reasoning_tokens"):
    explore("a", c=1, unit="tokens")


def test_no_strength_is_no_reward():
  assert explore("a", "", c=0) == [0.0, 0.0]


@pytest.mark.parametrize("options", [dict(c=-1), dict(c=math.nan), dict(c=1, unit="words")])
def test_options_are_checked(options):
  with pytest.raises(ValueError, match="(c|unit): got (-1|nan|'words'), allowed: "):
    explore("a", **options)


def test_correctness_beats_length_by_hand():
  # 400 to 4096 tokens: 1/400 - 1/4096 = 0.00225586, so c must be below 443.29.
  assert exploration.correctness_beats_length(443, 400, 4096)
  assert not exploration.correctness_beats_length(444, 400, 4096)
  assert exploration.correctness_beats_length(1000, 400, 4096, verifier_gap=2.3)
  exploration.check_correctness_beats_length(443, 400, 4096)
  with pytest.raises(ValueError, match=r"c: got 1000, .* 400 to 4096 tokens below 443\.29"):
    exploration.check_correctness_beats_length(1000, 400, 4096)
  with pytest.raises(ValueError, match="min_length: got 0 with max_length=10"):
    exploration.correctness_beats_length(1, 0, 10)


@given(st.floats(0, 1e4), st.integers(1, 500), st.integers(0, 500))
def test_the_check_agrees_with_the_rewards(c, shortest, longer):
  longest = shortest + longer
  short, long = explore("", "", c=c, unit="tokens", reasoning_tokens=[shortest, longest])
  margin = (1 + short) - (0 + long)  # a short right answer against a long wrong one
  if abs(margin) > 1e-6:
    assert exploration.correctness_beats_length(c, shortest, longest) == (margin > 0)


def test_judge_scores_out_of_range_count_half():
  scores = [0, 1, 0.75, -0.1, 1.1, math.nan, None, "bad", math.inf]
  assert exploration.clean_judge_scores(scores, 9) == [0, 1, 0.75] + [0.5] * 6
  assert exploration.clean_judge_scores([1.0], 2) == [0.5, 0.5]
