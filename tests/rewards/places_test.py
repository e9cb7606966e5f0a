"""Tests of rlreason.rewards.places."""

import pytest

from rlreason.rewards import places

TEXT = "one two\n\n three \n4"


def locate(where, **options):
  return places.locate(where, TEXT, **{"num_turns": 2, "separator": "\n", **options})


def test_steps_are_lines_that_are_not_blank():
  assert places.split_steps(TEXT) == ["one two", " three ", "4"]
  assert places.split_steps("a; b;;", "; ") == ["a", "b;;"]
  assert places.split_steps("") == places.split_steps(" \n\t") == []


@pytest.mark.parametrize("where, place", [
    (0, 0), (len(TEXT), len(TEXT)), (("turn", 0), ("turn", 0)), (("turn", 1), ("turn", 1)),
    (("step", 0), 6), (["step", 1], TEXT.index("three") + 4), (("step", 2), len(TEXT) - 1)])
def test_where(where, place):
  assert locate(where) == place


def test_steps_of_another_separator():
  assert locate(("step", 1), separator="t") == 6  # of "wo", before the blanks
  assert [locate(("step", i), separator=" ") for i in range(3)] == [2, 6, 14]


@pytest.mark.parametrize("where, message", [
    (-1, "got character -1, allowed: 0 to 18"), (len(TEXT) + 1, "got character 19, allowed: 0"),
    (("step", 3), "got step 3, allowed: below 3, counted from 0"), (("step", -1), "got step -1"),
    (("turn", 2), "got turn 2, allowed: below 2, counted from 0")])
def test_what_is_not_there(where, message):
  with pytest.raises(LookupError, match=message):
    locate(where)
