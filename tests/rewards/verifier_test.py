"""Tests of rlreason.rewards.verifier."""

import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from rlreason.rewards import pool as pools
from rlreason.rewards import verifier as verifiers


class NoPool:
  """In place of a pool where nothing may need one."""

  def map(self, target, requests):
    raise AssertionError(f"sent to a worker: {requests}")


@pytest.fixture(scope="module")
def pool():
  with pools.WorkerPool(2, timeout_seconds=60) as pool:
    yield pool


@pytest.mark.parametrize(
    "gold, answer, score",
    [
        ("12", "12", 1.0),
        ("12", "12.0", 1.0),
        ("1234.5", "$1,234.50$", 1.0),
        ("-7", "\u22127", 1.0),
        ("1/2", r"\dfrac{1}{2}", 1.0),
        ("0.5", r"\frac12", 1.0),
        ("2.5", r"2\frac{1}{2}", 1.0),
        (r"\boxed{5}", r"x = 5", 1.0),
        (5, r"5\text{ cm}", 1.0),
        (0.25, "1/4", 1.0),
        ("12", "13", 0.0),
        ("12", "", 0.0),
        ("12", "1 2", 0.0),
        ("12", "twelve", 0.0),
        # Decisions of the module's docstring.
        ("2", "1+1", 0.0),
        ("2", r"\sqrt{4}", 0.0),
        ("15", "7 + 8", 0.0),
        ("387420489", "9^9", 0.0),
        ("1/3", "0.333333", 0.0),
        ("50%", r"50\%", 1.0),
        ("1/2", r"50\%", 1.0),
        (r"50\%", "0.5", 1.0),
        ("50", r"50\%", 0.0),
        (r"50\%", "50", 0.0),
        (r"x\%", r"2x\%", 0.0),
        ("Evelyn", r"\text{evelyn}", 1.0),
        ("Evelyn", "nylevE", 0.0),
        (r"\text{(B)}", "(B)", 1.0),
        (r"\sqrt{2}", r"\sqrt{2}.", 1.0),
        (r"\sqrt{2}", "1" * 3000, 0.0),
        # What would hang or be huge never leaves the text.
        ("5", "9^{9^{9^9}}", 0.0),
        ("5", "(" * 2000, 0.0),
        ("5", "9" * 10**6, 0.0),
    ],
)
def test_numbers_and_texts_need_no_worker(gold, answer, score):
  assert verifiers.verify([rf"\boxed{{{answer}}}"], [gold], pool=NoPool()) == [score]


def test_a_thousand_numbers_take_well_under_a_second():
  completions = [rf"so it is \boxed{{{i}}}" for i in range(1000)]
  golds = [str(i + i % 2) for i in range(1000)]
  start = time.thread_time()
  scores = verifiers.verify(completions, golds, pool=NoPool())
  assert time.thread_time() - start < 0.5
  assert scores == [1.0, 0.0] * 500


def test_mathematics_goes_to_the_workers_once_per_pair(pool):
  before = pool.counts
  completions = [r"\boxed{\frac{2}{\sqrt{2}}}"] * 3 + [r"\boxed{\sqrt{3}}", r"\boxed{2x+x}", "no"]
  golds = [r"\sqrt{2}"] * 4 + ["3x", "3x"]
  assert verifiers.verify(completions, golds, pool=pool) == [1.0] * 3 + [0.0, 1.0, 0.0]
  assert pool.counts.requests - before.requests == 3
  assert sum(pool.counts[1:]) == sum(before[1:])


@pytest.mark.parametrize(
    "gold, answer", [(r"3\sqrt{2}", r"\sqrt{18}"), (r"(1,2]", r"\left(1, 2\right]"), ("x+1", "1+x")]
)
def test_the_shared_pool_serves_those_without_one(gold, answer):
  assert verifiers.verify([rf"\boxed{{{answer}}}"], [gold]) == [1.0]


def test_hangs_and_recursion_are_no_score_and_counted():
  hang, deep = r"\boxed{9^{9^{9^9}}}", rf"\boxed{{{'(' * 900}x{')' * 900}}}"
  with pools.WorkerPool(2, timeout_seconds=2) as pool:
    scores = verifiers.verify([hang, deep, r"\boxed{\sqrt{2}}"], [r"\sqrt{2}"] * 3, pool=pool)
    assert scores == [None, None, 1.0]
    assert pool.counts.timeouts + pool.counts.errors == 2


def test_which_box_and_no_box():
  completions = [r"\boxed{1} \boxed{2}", "2", r"\boxed{2"]
  rlsp = verifiers.MathVerifier(which_box="first", no_box_score=-0.5, pool=NoPool())
  assert rlsp([""] * 3, completions, answer=["1", "2", "2"], other=[0, 0, 0]) == [1.0, -0.5, -0.5]
  last = verifiers.MathVerifier(pool=NoPool())
  assert last([""] * 3, completions, answer=["2", "2", "2"]) == [1.0, 0.0, 0.0]
  tags = verifiers.MathVerifier(answer_tags=True, pool=NoPool())
  assert tags([""], ["<answer>12</answer>"], answer=["12"]) == [1.0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: verifiers.MathVerifier(which_box="middle"), "which_box"),
        (lambda: verifiers.verify([r"\boxed{1}"], [None]), "answer"),
        (lambda: verifiers.verify([r"\boxed{1}"], ["1", "2"]), "shorter|longer"),
    ],
)
def test_mistakes_are_errors(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@given(st.text(max_size=40))
def test_an_answer_equals_itself(text):
  verdict = verifiers.match_text(text, text)
  assert verdict is True or not verifiers.answers.normalize(text)


@given(st.fractions(), st.fractions())
def test_fractions_are_compared_exactly(left, right):
  assert verifiers.match_text(str(left), str(right)) == (left == right)
