"""Selections of completions to train on."""

import random

import pytest

from rlreason.data.selections.completions import (
    clean_completions, labelled_completions, right_completions)
from tests.data.rows import completion

ROWS = [
    completion(0, [5, 6, 7, 1], True),
    completion(0, [5, 9, 1], False),
    completion(1, [5, 1], True, step=3, stage="later"),
    completion(0, [5, 6, 7, 1], True, step=1),  # the same again
    completion(0, [5, 6, 7], True, truncated=True),
    completion(0, [6, 1], True),
    completion(1, [5, 5, 1], None),
    completion(0, [7, 7, 1], True),
    completion(2, [8, 1], False),
]


def test_right_ones_once_in_their_order():
  chosen = right_completions(ROWS)
  assert chosen == [ROWS[0], ROWS[2], ROWS[5], ROWS[7]]  # with all columns, where from among them
  assert right_completions(ROWS, dedupe="nothing") == [ROWS[i] for i in (0, 2, 3, 5, 7)]
  # One text in other tokens.
  rows = [completion(0, [5, 6], True, completion="a"), completion(0, [7], True, completion="a"),
          completion(1, [7], True, completion="a")]
  assert right_completions(rows) == rows
  assert right_completions(rows, dedupe="text") == [rows[0], rows[2]]


def test_a_limit_for_each_question():
  assert right_completions(ROWS, max_per_question=2) == [ROWS[i] for i in (0, 2, 5)]
  assert right_completions(ROWS, max_per_question=2, keep="shortest") == [
      ROWS[i] for i in (2, 5, 7)]
  shortest = right_completions(ROWS, max_per_question=1, keep="shortest")
  assert shortest == [ROWS[2], ROWS[5]]
  assert right_completions(ROWS, max_per_question=9, keep="random", seed=0) == right_completions(
      ROWS)


def test_a_random_choice_is_of_its_seed_alone():
  rows = [completion(q, [i, 1], True) for q in range(3) for i in range(20)]
  choose = lambda rows, seed: right_completions(
      rows, max_per_question=5, keep="random", seed=seed)
  assert choose(rows, 1) == choose(rows, 1) != choose(rows, 2)
  assert [row for row in choose(rows, 1) if row["prompt"] != "q2"] == choose(rows[:40], 1)
  places = [[row["completion_ids"][0] for row in choose(rows, 1) if row["prompt"] == f"q{q}"]
            for q in range(3)]
  assert [len(set(x)) for x in places] == [5, 5, 5] and len(set(map(tuple, places))) == 3
  # Each is as likely as any other.
  counts = [0] * 20
  for seed in range(400):
    for row in choose(rows[:20], seed):
      counts[row["completion_ids"][0]] += 1
  assert 65 < min(counts) and max(counts) < 140  # 100 each, of a deviation of 9


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
@pytest.mark.parametrize("dedupe", ["ids", "text", "nothing"])
def test_a_later_round_holds_all_of_an_earlier_one(limit, dedupe):
  random_ = random.Random(limit)
  rounds = [[completion(random_.randrange(4), [random_.randrange(3)] * random_.randint(1, 2),
                        random_.random() < 0.6, step=number) for _ in range(30)]
            for number in range(3)]
  before = []
  for number in range(3):
    now = right_completions(
        [row for part in rounds[:number + 1] for row in part], max_per_question=limit,
        dedupe=dedupe)
    assert all(row in now for row in before)
    assert now == [*before, *now[len(before):]]
    before = now
  if not limit:
    assert len(before) > 5


@pytest.mark.parametrize("options, message", [
    (dict(max_per_question=-1), "max_per_question: got -1, allowed: 0 or more"),
    (dict(keep="random"), "seed: got None with keep='random', allowed: one with"),
    (dict(seed=3), "seed: got 3 with keep='first', allowed: one with keep='random'"),
    (dict(keep="random", seed=-3), "seed: got -3, allowed: 0 or more")])
def test_options_of_right_completions(options, message):
  with pytest.raises(ValueError, match=message):
    right_completions([], **options)


def test_rows_of_another_kind_are_refused():
  assert right_completions([]) == clean_completions([]) == labelled_completions([]) == []
  accuracy = dict(prompt="q", right=1, count=2, step=0)
  for select in (right_completions, clean_completions, labelled_completions):
    with pytest.raises(ValueError, match="rows: got row 1 without .'completion'.*, allowed: rows"):
      select([ROWS[0], accuracy])


def test_clean_ones():
  rows = [
      completion(0, [1] * 3, True, completion="a b\n\nc", rewards={"language": 1.0}),
      completion(0, [1] * 4, False, completion="aaaa\nbbb", rewards={"language": 0.5}),
      completion(0, [1] * 5, None, completion="a ```b```", rewards={"language": None}),
  ]
  assert clean_completions(rows) == rows
  assert clean_completions(rows, max_tokens=4) == rows[:2]
  assert clean_completions(rows, max_paragraph=3) == rows[:1]
  assert clean_completions(rows, max_paragraph=8) == rows[:2]
  assert clean_completions(rows, allow_code=False) == rows[:2]
  assert clean_completions(rows, min_rewards={"language": 0.5}) == rows[:2]
  assert clean_completions(rows, min_rewards={"language": 0.6}) == rows[:1]
  assert clean_completions(rows, min_rewards={"language": -9.0}) == rows[:2]
  with pytest.raises(ValueError, match="min_rewards: got 'style', allowed: .*that samples .l"):
    clean_completions(rows, min_rewards={"style": 0.5})
  with pytest.raises(ValueError, match="max_tokens: got -1, allowed: 0 or more"):
    clean_completions([], max_tokens=-1)


def test_labels_after_the_prompt():
  rows = labelled_completions(ROWS)
  assert [row["prompt"] for row in rows] == [
      "q0 GOOD", "q0 BAD", "q1 GOOD", "q0 GOOD", "q0 GOOD", "q0 GOOD", "q2 BAD"]
  assert all("prompt_ids" not in row for row in rows)
  kept = {name: value for name, value in ROWS[2].items() if name not in ("prompt", "prompt_ids")}
  assert rows[2] == kept | {"prompt": "q1 GOOD"}
  assert len(labelled_completions(ROWS, allow_truncated=True)) == 8
  chat = completion(0, [1], False, prompt=[{"role": "user", "content": "u"}])
  assert labelled_completions([chat], bad=" (badly)")[0]["prompt"] == [
      {"role": "user", "content": "u (badly)"}]
  mixed = labelled_completions(ROWS, unlabelled_every=3)
  assert [row["prompt"] for row in mixed] == [
      "q0 GOOD", "q0 BAD", "q1", "q0 GOOD", "q0 GOOD", "q0", "q2 BAD"]
  assert mixed[2] == ROWS[2]
  with pytest.raises(ValueError, match="unlabelled_every: got -1, allowed: 0 or more"):
    labelled_completions([], unlabelled_every=-1)
  for options in (dict(good=" "), dict(good="x", bad="x")):
    with pytest.raises(ValueError, match="good, bad: got .*allowed: two different texts"):
      labelled_completions([], **options)


def test_inputs_stay_as_they_are():
  before = [dict(row) for row in ROWS]
  right_completions(ROWS), labelled_completions(ROWS), clean_completions(ROWS, max_tokens=2)
  assert ROWS == before
