import ast
import collections
import dataclasses
import fractions
import operator
import re

import numpy as np
import pytest

from rlreason.data.tasks import countdown
from rlreason.rewards import verifier
from rlreason.tokenizers import word

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
              ast.Div: operator.truediv}


def _evaluate(node):
  """Value and numbers of a parsed expression, by Python's own precedence: an independent check."""
  if isinstance(node, ast.Constant):
    return fractions.Fraction(node.value), [node.value]
  left, left_numbers = _evaluate(node.left)
  right, right_numbers = _evaluate(node.right)
  return _OPERATORS[type(node.op)](left, right), left_numbers + right_numbers


def _value_and_numbers(text):
  value, numbers = _evaluate(ast.parse(text, mode="eval").body)
  return value, sorted(numbers)


def _boxed(completion):
  return re.search(r"\\boxed\{ (.*) \}", completion).group(1)


def test_problems_of_a_small_config_by_hand():
  # 1 = 1 * 1 * 1, 2 = 1 + 1 * 1, 3 = 1 + 1 + 1, and 4 is out of reach.
  config = countdown.CountdownConfig(
      max_number=1, max_target=4, max_intermediate=4, num_validation=1, num_test=1)
  found = [(problem.numbers, problem.target) for problem in countdown.enumerate_problems(config)]
  assert found == [((1, 1, 1), 1), ((1, 1, 1), 2), ((1, 1, 1), 3)]
  large = countdown.enumerate_problems(dataclasses.replace(config, min_target=2))
  assert [(problem.numbers, problem.target) for problem in large] == found[1:]


@pytest.mark.parametrize("num_numbers", [3, 4])
def test_every_solution_uses_each_number_once_and_makes_the_target(num_numbers):
  config = countdown.CountdownConfig(num_numbers=num_numbers)
  problems = countdown.enumerate_problems(config)
  assert len({problem[:2] for problem in problems}) == len(problems)
  for problem in problems[::7]:
    value, numbers = _value_and_numbers(countdown.expression_text(problem.solution))
    assert value == problem.target
    assert numbers == list(problem.numbers)
    assert problem.target <= config.max_target


def test_splits_are_disjoint_and_complete():
  config = countdown.CountdownConfig(num_validation=101, num_test=57)
  parts = countdown.split_problems(config)
  assert [len(parts[name]) for name in ("validation", "test")] == [101, 57]
  keys = [problem[:2] for part in parts.values() for problem in part]
  everything = countdown.enumerate_problems(config)
  assert len(keys) == len(set(keys)) == len(everything)
  other = countdown.CountdownConfig(num_validation=101, num_test=57, seed=1)
  assert countdown.split_problems(other)["test"] != parts["test"]


def test_rows_are_fixed_and_say_what_the_problem_is():
  rows = countdown.CountdownRows(countdown.CountdownConfig(), "test")
  assert len(rows) == 500
  orders = set()
  for index in range(0, 500, 9):
    row = rows[index]
    assert row == rows[np.int64(index)]
    assert row["prompt"].split() == [*map(str, row["numbers"]), "target", str(row["target"]), ":"]
    value, numbers = _value_and_numbers(row["answer"])
    assert value == row["target"] and numbers == sorted(row["numbers"])
    orders.add(tuple(np.argsort(row["numbers"], kind="stable")))
  assert len(orders) == 6  # every order of three numbers occurs
  with pytest.raises(IndexError):
    rows[500]


@pytest.mark.parametrize("num_numbers", [3, 4])
def test_demonstrations_are_words_of_the_vocabulary_within_the_budget(num_numbers):
  config = countdown.CountdownConfig(num_numbers=num_numbers, give_up=0.1)
  tokenizer = word.WordTokenizer.from_words(countdown.vocabulary(config))
  held_out = {problem[:2] for name in ("validation", "test")
              for problem in countdown.split_problems(config)[name]}
  longest = 0
  demonstrations = countdown.CountdownDemonstrations(config, 200)
  for index in range(200):
    example = demonstrations[index]
    prompt, completion = example["prompt"].split(), example["completion"].split()
    for text in example.values():
      assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text
    assert tokenizer.encode(example["completion"])[-1] in tokenizer.eos_ids
    assert len(completion) <= config.max_words
    assert completion[-1] == countdown.EOS_WORD
    longest = max(longest, len(completion))
    numbers = tuple(sorted(map(int, prompt[:num_numbers])))
    assert (numbers, int(prompt[-2])) not in held_out
  assert longest > 80


@pytest.mark.parametrize("num_numbers", [3, 4])
@pytest.mark.parametrize("restart", [0.0, 0.5, 1.0])
def test_demonstrated_steps_and_checks_are_true(num_numbers, restart):
  config = countdown.CountdownConfig(num_numbers=num_numbers, give_up=0.2, restart=restart)
  for seed in range(100):
    rng = np.random.default_rng(seed)
    numbers, target = [3, 7, 12, 4][:num_numbers], 45
    completion = countdown.demonstration(numbers, target, rng, config)
    body, answer = completion.split(" answer ")
    for left, sign, right, value in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", body):
      assert _value_and_numbers(left + sign + right)[0] == int(value)
    tries = body.split(" back ")
    for words in map(str.split, tries):
      result = int(words[-2])
      expected = "lower" if result < target else "higher" if result > target else "equal"
      assert words[-1] == expected
      if restart == 1.0:
        assert words[0] == "try" and words.count("=") == num_numbers - 1
    assert all(not attempt.endswith("equal") for attempt in tries[:-1])
    value, used = _value_and_numbers(_boxed(answer))
    assert used == sorted(numbers)
    assert value == int(tries[-1].split()[-2])


def test_giving_up_and_insight_change_how_often_a_search_succeeds():
  def statistics(**habits):
    demonstrations = countdown.CountdownDemonstrations(countdown.CountdownConfig(**habits), 400)
    texts = [demonstrations[index]["completion"].split() for index in range(400)]
    counts = collections.Counter(word for text in texts for word in text)
    return counts["equal"] / 400, counts["back"] / 400

  weak_solved, weak_back = statistics(give_up=0.8)
  strong_solved, strong_back = statistics(give_up=0.0)
  assert statistics(give_up=1.0)[1] == 0.0
  assert 0.0 < weak_back < 0.5 < 2.0 < strong_back
  assert weak_solved < 0.25 < 0.4 < strong_solved
  assert statistics(give_up=1.0, insight=1.0)[0] == 1.0


def test_demonstrations_depend_on_the_seed_and_the_index_alone():
  config = countdown.CountdownConfig()
  few, many = (countdown.CountdownDemonstrations(config, size) for size in (3, 30))
  assert [few[index] for index in range(3)] == [many[index] for index in range(3)]
  other = countdown.CountdownDemonstrations(countdown.CountdownConfig(seed=1), 30)
  assert [other[index] for index in range(30)] != [many[index] for index in range(30)]


def test_answers_at_once_are_wrong():
  config = countdown.CountdownConfig(at_once=1.0)
  examples = [countdown.CountdownDemonstrations(config, 20)[index] for index in range(20)]
  for example in examples:
    assert example["completion"] == f"answer \\boxed{{ {example['prompt'].split()[0]} }} <eos>"
  some = countdown.CountdownDemonstrations(dataclasses.replace(config, at_once=0.5), 200)
  assert 70 < sum("try" not in some[index]["completion"] for index in range(200)) < 130


def test_parentheses_are_written_only_where_needed():
  cases = {
      ("*", ("+", 3, 7), 12): "( 3 + 7 ) * 12",
      ("+", ("*", 3, 7), 12): "3 * 7 + 12",
      ("-", 9, ("-", 3, 2)): "9 - ( 3 - 2 )",
      ("+", 9, ("-", 3, 2)): "9 + 3 - 2",
      ("/", 12, ("*", 3, 2)): "12 / ( 3 * 2 )",
      ("*", ("+", 1, 2), ("-", 4, 3)): "( 1 + 2 ) * ( 4 - 3 )",
  }
  for expression, text in cases.items():
    assert countdown.expression_text(expression) == text


@pytest.mark.parametrize("field, value", [
    ("num_numbers", 5), ("max_intermediate", 49), ("give_up", 1.5), ("restart", -0.1),
    ("seed", -1), ("max_words", 10), ("num_test", 0),
    ("min_target", 0), ("min_target", 51), ("at_once", 2.0)])
def test_config_names_the_field_out_of_range(field, value):
  with pytest.raises(ValueError, match=field):
    countdown.CountdownConfig(**{field: value})


def test_splits_must_leave_something_to_train_on():
  config = countdown.CountdownConfig(num_validation=3000, num_test=3000)
  with pytest.raises(ValueError, match="num_validation"):
    countdown.split_problems(config)
  with pytest.raises(ValueError, match="split"):
    countdown.CountdownRows(countdown.CountdownConfig(), "dev")


def test_the_verifier_agrees_with_answers_and_with_what_demonstrations_say():
  config = countdown.CountdownConfig(num_numbers=4, give_up=0.3)
  verify = verifier.VERIFIERS["countdown"]()
  rows = [countdown.CountdownRows(config, "validation")[index] for index in range(100)]
  columns = {name: [row[name] for row in rows] for name in ("numbers", "target")}
  completions = [f"\\boxed{{ {row['answer']} }}" for row in rows]
  assert verify([row["prompt"] for row in rows], completions, **columns) == [1.0] * 100

  examples = list(countdown.CountdownDemonstrations(config, 100))
  words = [example["prompt"].split() for example in examples]
  scores = verify(
      [example["prompt"] for example in examples],
      [example["completion"] for example in examples],
      numbers=[[int(number) for number in row[:4]] for row in words],
      target=[int(row[-2]) for row in words])
  assert scores == [float("equal" in example["completion"]) for example in examples]
