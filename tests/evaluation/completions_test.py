"""Rows of completions, and what they say of each problem."""

import pytest

from rlreason.evaluation import completions as completions_lib
from tests.evaluation import evaluator_test
from tests.evaluation.evaluator_test import canned_generator_fixture  # noqa: F401


def row(problem, sample, score, vote=None, prompt=None):
  return dict(problem=problem, sample=sample, score=score, vote=vote, gold="1",
              prompt=prompt or f"p{problem}")


# Problem 0: greedy right, samples right, right, wrong and not scored; problem 1 the other way.
ROWS = [
    row(0, None, 1.0, 0), row(0, 0, 1.0, 0), row(0, 1, 1.0, 0), row(0, 2, -0.5, 1),
    row(0, 3, None, 2), row(1, None, None), row(1, 0, 0.0, 0), row(1, 1, 1.0, 1),
    row(1, 2, 0.0, 0), row(1, 3, 0.0)]


def test_figures_of_each_problem_by_hand():
  found = lambda metric: completions_lib.per_problem(ROWS, metric)
  assert found("greedy") == {0: 1.0}
  assert found("avg@4") == {0: pytest.approx(2 / 3), 1: 0.25}
  assert found("pass@1") == {0: pytest.approx(2 / 3), 1: 0.25}
  assert found("pass@2") == {0: 1.0, 1: 0.5}
  assert found("pass@4") == {1: 1.0}  # of problem 0 only three were scored
  assert found("maj@2") == {0: 0.5, 1: 0.25}  # right, then wrong; a tie, then wrong
  assert found("maj@4") == {0: 1.0, 1: 0.0}


def test_there_is_no_majority_where_right_completions_cast_no_vote():
  silent = [one | {"vote": None} for one in ROWS]
  assert completions_lib.per_problem(silent, "maj@2") == {}
  assert completions_lib.per_problem(silent, "pass@2") == {0: 1.0, 1: 0.5}


@pytest.mark.parametrize("metric, message", [
    ("length", "metric: got 'length', allowed: greedy, avg@n, pass@k and maj@k"),
    ("pass@", "got 'pass@', allowed: greedy"), ("maj@x", "got 'maj@x'"), ("pass@0", "got 'pass@0'"),
    ("pass@8", "got 'pass@8', allowed: at most the number of samples")])
def test_a_metric_that_is_not_in_the_rows_is_named(metric, message):
  with pytest.raises(ValueError, match=message):
    completions_lib.per_problem(ROWS, metric)


def test_the_digest_is_of_the_problems():
  digest = completions_lib.digest(ROWS)
  assert digest == completions_lib.digest([one | {"score": 0.0} for one in ROWS])
  assert digest != completions_lib.digest([one | {"prompt": "q"} for one in ROWS])
  assert digest != completions_lib.digest(ROWS[:5])
  assert len(digest) == 64


def test_an_evaluation_writes_every_completion():
  """The canned ones of evaluator_test: a greedy one and three samples of each of five problems."""
  evaluated = evaluator_test.run()
  rows = evaluated.completions
  assert [(one["problem"], one["sample"]) for one in rows] == [
      (problem, sample) for problem in range(5) for sample in (None, 0, 1, 2)]
  assert rows[0] == {
      "problem": 0, "prompt": "p0", "gold": "1", "sample": None,
      "completion": "back \\boxed{ 1 }", "extracted": "1", "vote": 0, "score": 1.0, "length": 5,
      "truncated": False}
  assert [(one["extracted"], one["vote"], one["score"], one["truncated"]) for one in rows[4:8]] == [
      ("1", 0, 1.0, False), ("2", 1, 0.0, False), ("2", 1, 0.0, False),
      ("1", 0, 1.0, False)]
  assert [(one["extracted"], one["vote"], one["truncated"]) for one in rows[12:16]] == [
      (None, None, True), ("1", 0, False), (None, None, True), (None, None, True)]
  # They hold all that the estimates are made of.
  for metric in ("greedy", "avg@3", "pass@1", "pass@2", "pass@3", "maj@1", "maj@2", "maj@3"):
    values = completions_lib.per_problem(rows, metric)
    estimate = evaluated.estimates["toy"][metric]
    assert estimate["n"] == len(values)
    assert estimate["value"] == pytest.approx(sum(values.values()) / len(values)), metric


def test_rows_name_their_sub_task():
  rows = [one | {"task_name": "easy" if i < 2 else "hard"}
          for i, one in enumerate(evaluator_test.ROWS)]
  found = evaluator_test.run(rows=rows).completions
  assert [one["task_name"] for one in found] == ["easy"] * 8 + ["hard"] * 12
