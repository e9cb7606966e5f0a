import collections
import re

import pytest

from rlreason import config as config_lib, records
from rlreason.data.tasks import arithmetic

pytest.importorskip("reasoning_gym")  # an extra: one of its own dependencies wants a C compiler

_EASY = {"chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
         "gcd": {"max_value": 60}}


def _config(**fields):
  return arithmetic.ArithmeticConfig(
      **{"tasks": _EASY, "num_train": 400, "num_validation": 30, "num_test": 41, **fields})


def _questions(task):
  return [row["question"] for row in task.rows]


def test_splits_are_disjoint_by_content_and_held_out_questions_differ():
  tasks = arithmetic.make_tasks(_config())
  questions = {split: _questions(task) for split, task in tasks.items()}
  assert {split: len(rows) for split, rows in questions.items()} == {
      "train": 400, "validation": 30, "test": 41}
  for split in ("validation", "test"):
    assert len(set(questions[split])) == len(questions[split])
  assert not set(questions["test"]) & set(questions["validation"])
  assert not set(questions["train"]) & set(questions["test"] + questions["validation"])


def test_a_product_and_its_twin_are_in_one_split():
  """Of the 55 products of two digits that differ by more than order, 20 are held out each time."""
  config = arithmetic.ArithmeticConfig(
      tasks={"products": dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1)},
      num_train=100, num_validation=20, num_test=20)
  factors = {split: [tuple(sorted(re.findall(r"\d", text))) for text in _questions(task)]
             for split, task in arithmetic.make_tasks(config).items()}
  assert len(set(factors["test"])) == len(set(factors["validation"])) == 20
  assert not set(factors["test"]) & set(factors["validation"])
  assert not set(factors["train"]) & {*factors["test"], *factors["validation"]}


def test_rows_are_chat_messages_with_numeric_answers():
  task = arithmetic.make_tasks(_config(system="Be brief."))["test"]
  for row in task.rows:
    system, user = row["prompt"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["role"] == "user"
    assert row["question"] in user["content"] and "\\boxed{}" in user["content"]
    if row["task_name"] == "chain_sum":
      expression = row["question"].split(": ")[1].removesuffix(" =").split(" ")
      value = int(expression[0])
      for sign, term in zip(expression[1::2], expression[2::2]):
        value += int(sign + term)
      assert row["answer"] == str(value)


def test_a_plain_template():
  config = _config(template="Q: {question} A:", is_chat=False)
  row = arithmetic.make_tasks(config)["validation"].rows[0]
  assert row["prompt"] == f"Q: {row['question']} A:"


def test_weights_set_the_shares_of_tasks():
  tasks = arithmetic.make_tasks(_config(weights={"chain_sum": 3.0, "gcd": 1.0}))
  for task in tasks.values():
    counts = collections.Counter(row["task_name"] for row in task.rows)
    assert counts["chain_sum"] == pytest.approx(0.75 * len(task.rows), abs=1)


def test_the_same_seed_gives_the_same_rows():
  first, again, other = (
      _questions(arithmetic.make_tasks(_config(seed=seed))["train"]) for seed in (0, 0, 1))
  assert first == again
  assert len(set(first) & set(other)) < 0.9 * len(set(first))


@pytest.mark.parametrize("fields, message", [
    (dict(tasks={"no_such_task": {}}), "no_such_task"),
    (dict(tasks={"chain_sum": {"bad_option": 1}}), "bad_option"),
    (dict(tasks={"chain_sum": {"min_terms": 5, "max_terms": 2}}), "chain_sum"),
    (dict(tasks={"letter_counting": {}, "caesar_cipher": {}}),
     "tasks: got .* allowed: tasks whose answers are numbers"),
    (dict(tasks={"products": {"min_digits": 1, "max_digits": 1}}, num_test=300), "too few"),
])
def test_impossible_tasks_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    arithmetic.make_tasks(_config(**fields))


@pytest.mark.parametrize("fields", [
    dict(tasks={}), dict(weights={"gcd": 1.0}), dict(num_test=1), dict(template="no place"),
    dict(seed=-1), dict(system="x", is_chat=False), dict(weights={"gcd": 1.0, "chain_sum": 0.0})])
def test_config_refuses(fields):
  with pytest.raises(ValueError, match=list(fields)[0]):
    _config(**fields)


def test_word_problems_have_numeric_answers():
  tasks = arithmetic.make_tasks(_config(tasks={"gsm_symbolic": {}}, num_train=50))
  assert len(set(_questions(tasks["train"]))) > 25


def test_options_left_at_their_defaults_are_recorded():
  config = arithmetic.ArithmeticConfig(tasks={"gcd": {"max_value": 30}})
  record = records.with_defaults(config_lib.to_dict(config), config)
  assert record["tasks"] == {"gcd": {
      "min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 30}}
