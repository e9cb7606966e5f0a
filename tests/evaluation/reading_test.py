"""Tests of rlreason.evaluation.reading."""

from rlreason.data.tasks.load import CountdownTask, FileTask
from rlreason.evaluation.reading import AnswerReader, make_reader
from tests.training.setup_test import chain_recipe


def test_chains_are_read_by_their_words():
  reader = make_reader(chain_recipe().task)
  counted = reader.count_behaviours("3 + 4 = 8 ; back 3 + 4 = 7 ; check 3 + 4 = 7 ; \\boxed{ 7 }")
  assert (counted.going_back, counted.checking) == (1, 1)
  assert reader.vote("\\boxed{ 7 }", "last") == 7 and reader.vote("answer 7", "last") is None


def test_votes_of_countdown_are_cast_by_value():
  reader = make_reader(CountdownTask(kind="countdown"))
  vote = lambda expression: reader.vote(f"try answer \\boxed{{ {expression} }}", "first")
  assert vote("3 * 4 + 2") == vote("2 + 12") == 14
  assert vote("3 * 4 +") is None and reader.vote("no box", "first") is None
  counted = reader.count_behaviours(
      "try 3 + 4 = 7 lower back 3 * 4 = 12 higher answer \\boxed{ 3 * 4 } back")
  assert (counted.going_back, counted.checking) == (1, 2)


def test_other_tasks_are_read_as_text():
  task = FileTask(kind="file", name="sums", train="a.jsonl", test="b.jsonl")
  reader = make_reader(task)
  assert reader == AnswerReader()
  assert reader.vote("so \\boxed{ x y }", "last") == "xy"


def test_votes_are_cast_by_normalised_answer():
  assert AnswerReader().vote("so \\boxed{ 0.5 }") == AnswerReader().vote("\\boxed{0.5}")
  assert AnswerReader().vote("\\boxed{1/2}") == AnswerReader().vote("\\boxed{0.5}")
  assert AnswerReader().vote("\\boxed{b}") == AnswerReader().vote("\\boxed{(B)}") == "B"
  assert AnswerReader().vote("\\boxed{x}") != AnswerReader().vote("\\boxed{X}")
  assert AnswerReader().vote("\\boxed{" + "." * 60_000 + "x}") is None  # too long to be right
  assert AnswerReader().vote("no box") is None
  assert AnswerReader().vote("\\boxed{1} then \\boxed{2}", "first") == 1
  assert AnswerReader().vote("\\boxed{1} then \\boxed{2}") == AnswerReader().vote("\\boxed{2}")
