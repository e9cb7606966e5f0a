"""Searches for labels, on hosts that know the truth: no model, exact numbers."""

import math

import numpy as np
import pytest

from rlreason import rollout
from rlreason.rollout import step_labels

STEPS = 16


def solution(wrong_step=None, steps=STEPS):
  """Steps of two tokens, the number of the step and 0; the wrong one is 99."""
  numbers = [99 if i == wrong_step else i + 1 for i in range(steps)]
  ids = tuple(token for number in numbers for token in (number, 0))
  return rollout.Solution(ids, wrong_step is None, ends_of)


def ends_of(ids):
  return [i + 1 for i, token in enumerate(ids) if token == 0]


class Policy:
  """Reaches the answer with a known probability where there is no wrong step, and else never."""

  def __init__(self, share=1.0, count=8, seed=0):
    self.asked, self._share, self._count = [], share, count
    self._random = np.random.default_rng(seed)

  def __call__(self, prefixes):
    self.asked.append(dict(prefixes))
    return {i: self._complete(prefix) for i, prefix in prefixes.items()}

  def _complete(self, prefix):
    begun = prefix.ids[:prefix.length]
    found = []
    for number in range(self._count):
      is_right = 99 not in begun and self._random.random() < self._share
      rest = [t for step in range(len(begun) // 2, STEPS) for t in (
          step + 1 if is_right else 99 if step == len(begun) // 2 + number % 3 else 50 + number, 0)]
      found.append(rollout.Completion((*begun, *rest), is_right))
    return found


def labels_of(search, policy):
  (found,) = rollout.label([search], policy)
  return [row.labels for row in found]


def test_every_step_is_completed_once_and_the_last_is_the_verdict():
  policy = Policy()
  assert labels_of(rollout.every_step(solution(5, 8)), policy) == [[1.0] * 5 + [0.0] * 3]
  assert [asked[0].length for asked in policy.asked] == list(range(2, 16, 2))
  assert labels_of(rollout.every_step(solution(None, 1)), policy) == [[1.0]]


def test_soft_labels_are_shares_and_hard_ones_any():
  """Means over many steps: p, and 1 - (1 - p)^N."""
  found = {kind: np.array([labels_of(rollout.every_step(solution(), labels=kind), Policy(
      0.3, 4, seed))[0][:-1] for seed in range(200)]) for kind in ("soft", "hard")}
  error = math.sqrt(0.3 * 0.7 / 4)
  assert np.mean(found["soft"]) == pytest.approx(0.3, abs=0.01)
  assert np.std(found["soft"]) == pytest.approx(error, abs=0.01)
  assert np.mean(found["hard"]) == pytest.approx(1 - 0.7**4, abs=0.03)
  with pytest.raises(ValueError, match="labels: got 'both', allowed: soft, hard"):
    next(rollout.every_step(solution(), labels="both"))


@pytest.mark.parametrize("wrong", range(STEPS))
def test_a_planted_error_among_16_steps_takes_5_evaluations(wrong):
  policy = Policy()
  expected = [1.0] * wrong + [0.0] + [None] * (STEPS - wrong - 1)
  assert labels_of(rollout.first_error(solution(wrong)), policy) == [expected]
  assert len(policy.asked) <= 5
  assert policy.asked[0][0].length == 0


def test_of_what_is_always_or_never_solved_nothing_is_searched():
  policy = Policy()
  assert labels_of(rollout.first_error(solution()), policy) == [[1.0] * STEPS]
  assert not policy.asked
  assert labels_of(rollout.first_error(solution(3)), Policy(0.0)) == []
  empty = rollout.Solution((), False, ends_of)
  for search in (rollout.first_error(empty), rollout.every_step(empty)):
    assert labels_of(search, policy) == []


def test_searches_of_several_prompts_share_their_rounds():
  policy = Policy()
  wrong = [3, None, 15, 8]
  found = rollout.label([rollout.first_error(solution(step)) for step in wrong], policy)
  alone = [rollout.label([rollout.first_error(solution(step))], Policy())[0] for step in wrong]
  assert found == alone
  assert len(policy.asked) == 5 and set(policy.asked[0]) == {0, 2, 3}


def test_the_tree_finds_the_error_of_each_completion_that_it_searches():
  """The policy is wrong in one step of three places; before it shares are above 0, from it on 0."""
  (rows,) = rollout.label([rollout.omega_tree(solution(6), max_searches=9)], Policy(0.5, 6))
  assert rows and all(len(row.labels) == STEPS and not row.is_right for row in rows)
  for row in rows:
    wrong = row.ids.index(99) // 2
    known = {i: label for i, label in enumerate(row.labels) if label is not None}
    assert known[STEPS - 1] == 0
    assert all(label > 0 for i, label in known.items() if i < wrong)
    assert all(label == 0 for i, label in known.items() if i >= wrong)
    assert known.get(wrong) == 0 and (wrong == 0 or known.get(wrong - 1, 0) > 0)


def test_the_tree_asks_for_no_prefix_twice_and_stops_at_its_budget():
  policy = Policy(0.5, 6)
  rollout.label([rollout.omega_tree(solution(6), max_searches=30, max_completions=60)], policy)
  asked = [prefix.ids[:prefix.length] for round_ in policy.asked for prefix in round_.values()]
  assert len(asked) == len(set(asked))
  assert 6 * len(asked) < 60 + 6 * 5  # a search that has begun goes on to its end
  one = Policy(0.5, 6)
  rollout.label([rollout.omega_tree(solution(6), max_searches=1)], one)
  assert len(one.asked) <= 1 + 4


def test_the_value_of_a_candidate_hand_worked():
  """0.5^(1 - 0.75) 0.9^(250 / 500) = 0.797757; 0.125 sqrt(4) / (1 + 1) = 0.125."""
  node = step_labels._Node(0.75, [], visits=1)
  assert step_labels._value(node, 250, 4, 0.5, 0.9, 500.0, 0.125) == pytest.approx(
      0.8408964 * 0.9486833 + 0.125)


def test_prompts_that_are_always_or_never_solved_have_no_tree():
  for share in (0.0, 1.0):
    right = rollout.Solution(solution().ids, share == 1.0, ends_of)
    assert labels_of(rollout.omega_tree(right), Policy(share)) == []


@pytest.mark.parametrize("options, message", [
    (dict(alpha=0.0), "alpha: got 0.0, allowed: above 0 to 1"),
    (dict(beta=1.5), "beta: got 1.5, allowed: above 0 to 1"),
    (dict(length_scale=0.0), "length_scale: got 0.0, allowed: above 0"),
    (dict(exploration=-1.0), "exploration: got -1.0, allowed: 0 or more"),
    (dict(max_searches=0), "max_searches: got 0, allowed: 1 or more"),
    (dict(max_completions=0), "max_completions: got 0, allowed: 1 or more")])
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    next(rollout.omega_tree(solution(), **options))
