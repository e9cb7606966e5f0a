"""Tests of rlreason.rewards.restart."""

import pytest

from rlreason.rewards import restart

ROWS = [("wrong", True), ("wrong", False), ("right", True), ("right", False), ("", True),
        ("", False)]


def pay(rows, **options):
  start, is_right = zip(*rows)
  return restart.restart_reward(
      [""] * len(rows), [""] * len(rows), start=list(start), is_right=list(is_right), **options)


def test_the_paper_s_numbers():
  """Beside the sigmoid of the reward model, which another part adds."""
  assert pay(ROWS) == [0.5, -1.0, 0.0, -1.5, 0.0, -1.0]
  assert pay(ROWS, bonus=0) == [0.0, -1.0, 0.0, -1.0, 0.0, -1.0]


def test_an_unknown_verdict_and_no_starts():
  assert pay([("wrong", None), ("", True)]) == [None, 0.0]
  assert restart.restart_reward([""], [""], is_right=[False]) == [-1.0]


def test_a_right_end_always_beats_a_wrong_one():
  """By 1 or more of the sigmoid's range, whatever the start."""
  rewards = dict(zip(ROWS, pay(ROWS)))
  for start in restart.STARTS:
    assert rewards[start, True] - rewards[start, False] >= 1.0


def test_bad_settings():
  with pytest.raises(ValueError, match="bonus: got .*, allowed: 0 or more"):
    pay(ROWS, bonus=-1)
  with pytest.raises(ValueError, match="start: got .*, allowed: '', 'right', 'wrong'"):
    pay([("D+", True)])
  with pytest.raises(ValueError, match="is_right: got None"):
    restart.restart_reward([""], [""])
