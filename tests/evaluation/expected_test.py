"""Tests of rlreason.evaluation.expected."""

import pytest

from rlreason.evaluation import expected as expected_lib
from rlreason.evaluation.expected import Expected

CURVE = Expected(
    points={"start": (0.0, 0.01), "sft": (0.054, 0.136), "rl:40": (0.2, 0.3), "rl": (0.356, 0.53)},
    source="3 seeds")
STAGES = ("sft", "rl")


def place(value, stage, step=None, config=CURVE, differences=()):
  return expected_lib.place(
      config, STAGES, stage, step, {"toy": {"greedy": {"value": value}}, "part": {}}, differences)


@pytest.mark.parametrize("value, stage, step, verdict, low, high, of", [
    (0.35, "rl", None, "below", 0.356, 0.53, ["rl"]),
    (0.356, "rl", None, "inside", 0.356, 0.53, ["rl"]),
    (0.54, "rl", None, "above", 0.356, 0.53, ["rl"]),
    (0.25, "rl", 40, "inside", 0.2, 0.3, ["rl:40"]),
    # Between two points the range is that of both together.
    (0.05, "rl", 20, "below", 0.054, 0.3, ["sft", "rl:40"]),
    (0.4, "rl", 60, "inside", 0.2, 0.53, ["rl:40", "rl"]),
    (0.13, "sft", 1, "inside", 0.0, 0.136, ["start", "sft"])])
def test_where_a_value_lies(value, stage, step, verdict, low, high, of):
  found = place(value, stage, step)
  assert (found["verdict"], found["low"], found["high"], found["of"]) == (verdict, low, high, of)


def test_nothing_is_expected_where_there_is_no_point_or_no_value():
  assert place(0.5, "other") is None and place(None, "rl") is None
  assert expected_lib.place(CURVE, STAGES, "rl", None, {}, ()) is None
  assert place(0.5, "rl", 3, Expected(points={"rl": (0, 1)}, source="s")) is None  # from where?


def test_what_is_said():
  say = lambda value, *where, **fields: expected_lib.sentence(place(value, *where, **fields), value)
  assert say(0.4, "rl") == "greedy 40.0%: inside the expected 36 to 53% (3 seeds)"
  assert say(0.9, "rl", 50) == (
      "greedy 90.0%: above the expected 20 to 53%, between rl:40 and rl (3 seeds)")
  paper = Expected(points={"rl": (0.5, 0.6)}, source="a paper", is_published=True)
  assert say(0.4, "rl", config=paper) == "greedy 40.0%: below the published 50 to 60% (a paper)"
  # With other settings no verdict is given, whatever the value is.
  others = ["config.rl.steps: 100 -> 3", "config.model.path: 'a' -> 'b'"]
  assert say(0.4, "rl", differences=others) == (
      "greedy 40.0%: not compared with the expected 36 to 53%, which is of other settings: "
      "config.rl.steps: 100 -> 3 and 1 more")
  length = Expected(metric="length", points={"rl": (12.25, 80)}, source="s")
  found = expected_lib.place(length, STAGES, "rl", None, {"toy": {"length": {"value": 7.5}}}, ())
  assert expected_lib.sentence(found, 7.5) == "length 7.5: below the expected 12.2 to 80 (s)"


@pytest.mark.parametrize("fields, message", [
    ({"points": {"rl": (0.5, 0.4)}}, r"points.rl: got \(0.5, 0.4\), allowed: .* low <= high"),
    ({"points": {"rl": (35.6, 53.0)}}, r"both in \[0, 1\]"),
    ({"num_problems": -1}, "num_problems: got -1, allowed: 0 or more"),
    ({"problems_sha256": "xyz"}, "problems_sha256: got 'xyz', allowed: hexadecimal")])
def test_what_cannot_be_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Expected(**{"points": {}, "source": "s"} | fields)
