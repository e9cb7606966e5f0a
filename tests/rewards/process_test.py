"""What a process reward pays for, on hand-worked scores: never for more steps."""

import math

import pytest

from rlreason import rewards
from rlreason.rewards import RewardSpec, combine_rewards

# Log-odds of the probabilities 0.9, 0.2 and 0.8, at the characters 3, 7 and 11.
ROW = [(place, math.log(p / (1 - p))) for place, p in ((3, 0.9), (7, 0.2), (11, 0.8))]
TEXT = "one\ntwo\nthree"


def pay(row, **options):
  (paid,) = rewards.process_reward([None], [TEXT], step_scores=[row], **options)
  return paid


def test_the_forms_hand_worked():
  differences = pay(ROW)
  assert [place for place, _ in differences] == [3, 7, 11]
  assert [number for _, number in differences] == pytest.approx([0.9, -0.7, 0.6])
  assert pay(ROW, form="min") == [(7, pytest.approx(0.2))]
  assert pay(ROW, form="last") == [(11, pytest.approx(0.8))]
  assert pay([(3, 2.0), (7, -1.0)], form="min", sigmoid=False) == [(7, -1.0)]
  assert pay([(3, 2.0), (7, -1.0)], sigmoid=False) == [(3, 2.0), (7, -3.0)]


def test_the_sums_are_the_score_of_the_solution():
  for form, total in (("differences", 0.8), ("min", 0.2), ("last", 0.8)):
    assert sum(number for _, number in pay(ROW, form=form)) == pytest.approx(total)


def test_the_least_score_is_paid_at_the_first_step_that_has_it():
  assert pay([(1, 0.0), (2, -1.0), (3, -1.0)], form="min", sigmoid=False) == [(2, -1.0)]


def test_without_steps_there_is_a_number():
  assert pay([]) == 0.0 and pay([], no_steps_score=-1.0) == -1.0
  assert rewards.process_reward([], [], step_scores=[]) == []


def expected_steps_and_returns(go_on, pay_for, most=60):
  """A policy that appends another good step with this probability, and else ends."""
  steps = returns = 0.0
  for count in range(1, most + 1):
    share = go_on ** (count - 1) * ((1 - go_on) if count < most else 1.0)
    steps += share * count
    returns += share * pay_for([(4 * i, math.log(9)) for i in range(count)])
  return steps, returns


def test_the_sum_of_scores_pays_for_padding_and_no_form_does():
  """Every further step is as good, 0.9: by the sum the best policy never ends."""
  raw = lambda row: sum(1 / (1 + math.exp(-score)) for _, score in row)
  for low, high in ((0.1, 0.5), (0.5, 0.9)):
    (short, less), (long, more) = (expected_steps_and_returns(p, raw) for p in (low, high))
    assert more / less == pytest.approx(long / short) and long > short
    for form in ("differences", "min", "last"):
      found = [expected_steps_and_returns(
          p, lambda row, form=form: sum(number for _, number in pay(row, form=form)))[1]
               for p in (low, high)]
      assert found == pytest.approx([0.9, 0.9])


def test_it_is_a_part_of_the_total_at_its_places():
  reward = combine_rewards([RewardSpec(name="process", weight=0.5)], pool=rewards.default_pool())
  result = reward(["q"], [TEXT], step_scores=[ROW])
  assert result.total == [pytest.approx(0.4)] and result.parts["process"] == [pytest.approx(0.8)]
  assert result.placed == [[(3, pytest.approx(0.45)), (7, pytest.approx(-0.35)),
                            (11, pytest.approx(0.3))]]


@pytest.mark.parametrize("options, message", [
    (dict(form="sum"), "form: got 'sum' .*, allowed: 'differences', 'min', 'last'"),
    (dict(no_steps_score=math.inf), "no_steps_score: got inf .*, allowed: a finite number")])
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    RewardSpec(name="process", options=options)
  with pytest.raises(ValueError, match="form: got 'sum', allowed: differences, min, last"):
    pay(ROW, form="sum")
  with pytest.raises(ValueError, match="step_scores: got 2, allowed: 1"):
    rewards.process_reward([None], [TEXT], step_scores=[ROW, ROW])
