"""Prompts in the middle of earlier attempts."""

import collections

import pytest

from rlreason.data.selections.restarts import restart_prompts
from rlreason.rewards.restart import STARTS
from rlreason.tokenizers import WordTokenizer
from tests.data.rows import completion

TOKENIZER = WordTokenizer.from_words([";", "reflect", "then", *"abcdef"])
END, MARK = TOKENIZER.encode("; reflect")


def ids(text):
  return TOKENIZER.encode(text)


ROWS = [
    completion(0, ids("a ; b ; c <eos>"), True, task_name="easy", step=3),
    completion(1, ids("a ; b <eos>"), True),  # never wrong
    completion(0, ids("d ; e ; f ; a"), False, truncated=True),
    completion(2, ids("a b c <eos>"), False),  # one step
    completion(2, ids("a ; b <eos>"), True),
    completion(0, ids("b ; b ; b"), None),
]


def restart(rows=ROWS, **options):
  return restart_prompts(rows, TOKENIZER.encode, **dict(seed=0, max_back=9) | options)


def test_a_part_of_one_right_and_of_one_wrong_attempt():
  rows = restart(max_back=1)
  assert [(row["prompt"], row["start"]) for row in rows] == [
      ("q0", ""), ("q0", "right"), ("q0", "wrong"), ("q1", ""), ("q2", "")]
  assert rows[0] == {"prompt": "q0", "answer": "0", "prompt_ids": [100], "task_name": "easy",
                     "start": ""}
  assert rows[1] == {
      "prompt": "q0", "answer": "0", "task_name": "easy", "start": "right",
      "prompt_ids": [100, *ids("a ; b ; reflect")], "stage": "sample", "step": 3, "policy": "sft"}
  assert rows[2]["prompt_ids"] == [100, *ids("d ; e ; f ; reflect")]
  assert {row["start"] for row in rows} == set(STARTS)


def test_any_number_of_last_steps_goes():
  left = {kind: collections.Counter(
      TOKENIZER.decode(row["prompt_ids"][1:]) for seed in range(300)
      for row in restart(seed=seed) if row["start"] == kind) for kind in ("right", "wrong")}
  assert set(left["right"]) == {"a ; reflect", "a ; b ; reflect"}
  assert set(left["wrong"]) == {"d ; reflect", "d ; e ; reflect", "d ; e ; f ; reflect"}
  for counts, each in ((left["right"], 150), (left["wrong"], 100)):
    assert all(abs(count - each) < 35 for count in counts.values())  # four deviations
  two = {TOKENIZER.decode(row["prompt_ids"][1:]) for seed in range(50)
         for row in restart(seed=seed, max_back=2) if row["start"] == "wrong"}
  assert two == {"d ; e ; reflect", "d ; e ; f ; reflect"}


def test_every_attempt_is_drawn():
  rows = [completion(0, ids(f"{word} ; {word}"), word in "ab") for word in "abcdef"]
  found = {(row["start"], TOKENIZER.decode(row["prompt_ids"][1:2])) for seed in range(99)
           for row in restart(rows, seed=seed) if row["start"]}
  assert found == {("right", "a"), ("right", "b"), *(("wrong", word) for word in "cdef")}


def test_marks_and_ends_of_other_words():
  rows = restart(marker="then reflect", max_back=1)
  assert rows[1]["prompt_ids"][-2:] == ids("then reflect")
  assert restart(marker="", max_back=1)[1]["prompt_ids"] == [100, *ids("a ; b ;")]
  # Steps that end with b or ; : the last one of the right attempt is `c <eos>`.
  assert restart(step_ends=("b", ";"), max_back=1)[1]["prompt_ids"][1:] == ids("a ; b ; reflect")
  assert restart(step_ends=("b",), max_back=1)[1:2] == [restart()[3]]  # the wrong one has no b
  # A step that ends with the completion is not followed by an empty one.
  ended = [completion(0, ids("a ; b ;"), True), completion(0, ids("c ; d ;"), False)]
  assert [row["prompt_ids"][1:] for row in restart(ended, marker="")[1:]] == [
      ids("a ;"), ids("c ;")]


def test_it_is_of_its_seed_and_of_the_questions_before():
  assert restart() == restart()
  assert any(restart(seed=seed) != restart() for seed in range(1, 9))
  for seed in range(9):
    more = restart([*ROWS, completion(3, ids("a ; b"), True), completion(3, ids("c ; b"), False)],
                   seed=seed)
    assert more[:5] == restart(seed=seed) and len(more) == 8


@pytest.mark.parametrize("options, message", [
    (dict(seed=-1), "seed: got -1, allowed: 0 or more"),
    (dict(max_back=0), "max_back: got 0, allowed: 1 or more"),
    (dict(step_ends=()), "step_ends: got .., allowed: texts of one token, one or more"),
    (dict(step_ends=(";", "a b")), "step_ends: got .'a b'., allowed: texts of one token"),
    (dict(marker="nowhere"), "got the words .'nowhere'.")])
def test_options(options, message):
  assert restart([]) == []
  with pytest.raises(ValueError, match=message):
    restart([], **options)


def test_rows_of_another_kind_are_refused():
  with pytest.raises(ValueError, match="rows: got row 0 without .'prompt_ids', 'completion_ids'"):
    restart([{"prompt": "q", "right": 1, "count": 2}])
