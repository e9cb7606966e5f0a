"""Pairs for preference tuning."""

import random

import pytest

from rlreason.data.selections.pairs import preference_pairs
from tests.data.rows import completion

ROWS = [
    completion(0, [2] * 6, False),
    completion(0, [3] * 5, True, step=4),
    completion(0, [4] * 2, True),
    completion(0, [2] * 6, False, step=9),  # the same again
    completion(0, [5] * 9, False, truncated=True),
    completion(0, [6] * 8, True),
    completion(0, [7] * 7, None),
    completion(1, [8] * 2, True),
    completion(2, [8] * 2, False),
    completion(0, [9] * 10, True, truncated=True),
]


def pairs_of(rows, **options):
  """(question, first chosen id, first rejected id) of each pair."""
  return [(row["prompt"], row["chosen_ids"][0], row["rejected_ids"][0])
          for row in preference_pairs(rows, **options)]


def test_right_against_wrong():
  assert pairs_of(ROWS) == [("q0", 3, 2)]
  assert pairs_of(ROWS, max_per_question=0) == [("q0", 3, 2), ("q0", 4, 5)]
  assert pairs_of(ROWS, max_per_question=0, allow_truncated=False) == [("q0", 3, 2)]
  assert pairs_of(ROWS, chosen="shortest_right") == [("q0", 4, 2)]


def test_what_a_pair_holds():
  assert preference_pairs(ROWS) == [{
      "prompt": "q0", "answer": "0", "prompt_ids": [100], "chosen": "3 3 3 3 3",
      "chosen_ids": [3] * 5, "rejected": "2 2 2 2 2 2", "rejected_ids": [2] * 6,
      "stage": "sample", "step": 4, "policy": "sft"}]


def test_short_against_long():
  short = dict(chosen="shortest_right", max_per_question=0)
  # Right ones of 2, 5 and 8 tokens; all of 10 (truncated), 9 (truncated), 8, 6, 5, 2.
  assert pairs_of(ROWS, rejected="longest", **short) == [("q0", 4, 9), ("q0", 3, 5)]
  assert pairs_of(ROWS, rejected="longest", allow_truncated=False, **short) == [
      ("q0", 4, 6), ("q0", 3, 2)]
  assert pairs_of(ROWS, rejected="longest_right", allow_truncated=False, **short) == [("q0", 4, 6)]
  assert pairs_of(ROWS, rejected="longest", min_token_gap=5, **short) == [("q0", 4, 9)]
  assert pairs_of(ROWS, rejected="longest", min_token_gap=9, **short) == []


def test_gaps():
  rows = [completion(0, [1] * 3, True, reward=1.0), completion(0, [2], False, reward=0.5),
          completion(0, [3] * 3, True, reward=1.0), completion(0, [4] * 9, False, reward=0.0),
          completion(0, [5] * 3, True, reward=1.0), completion(0, [6] * 4, False, reward=None)]
  of = lambda **options: [pair[1:] for pair in pairs_of(rows, max_per_question=0, **options)]
  assert of() == [(1, 2), (3, 4), (5, 6)]
  assert of(min_reward_gap=0.5) == [(1, 2), (3, 4)]
  assert of(min_reward_gap=0.6) == [(3, 4)]
  assert of(min_token_gap=1) == [(3, 4), (5, 6)]
  assert pairs_of(rows, min_reward_gap=0.6) == [("q0", 3, 4)]  # the limit counts pairs with gaps


def test_no_completion_is_in_two_pairs():
  random_ = random.Random(0)
  for case in range(60):
    rows = [completion(0, [i] * random_.randint(1, 5), random_.random() < 0.6) for i in range(9)]
    for rejected in ("wrong", "longest", "longest_right"):
      for chosen in ("right", "shortest_right"):
        if chosen == "right" and rejected != "wrong":
          continue
        pairs = pairs_of(rows, chosen=chosen, rejected=rejected, max_per_question=0)
        used = [i for _, *pair in pairs for i in pair]
        assert len(set(used)) == len(used), (case, rejected, chosen, pairs)
        if rejected == "wrong":
          right = sum(row["is_right"] for row in rows)
          assert len(pairs) == min(right, 9 - right)


def test_edges():
  assert preference_pairs([]) == preference_pairs(ROWS[7:9]) == []
  for name in ("max_per_question", "min_token_gap", "min_reward_gap"):
    with pytest.raises(ValueError, match=f"{name}: got -1, allowed: 0 or more"):
      preference_pairs([], **{name: -1})
  with pytest.raises(ValueError, match="rows: got row 0 without .'prompt_ids', 'completion'"):
    preference_pairs([{"prompt": "q", "right": 1, "count": 2}])
