"""Tasks of the user's own: what may be given, what is read of it, and what is said of mistakes."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

import rlreason as rr
from rlreason import config as config_lib, records
from rlreason.data.tasks import load, own
from rlreason.training import inputs as inputs_lib
from rlreason.training.settings import recipe as recipe_lib
from tests import tiny_experiment

PROBLEMS = [{"question": f"What is {i} + 1?", "answer": i + 1, "size": i} for i in range(20)]
SPLITS = {"train": PROBLEMS[4:], "test": PROBLEMS[:4]}


class Sums:
  """An object of a user's, of no class of ours."""

  name = "sums"
  vocabulary = ["1", "+"]

  def __init__(self, rows=PROBLEMS):
    self.rows = rows

  def verifier(self, prompts, completions, size, **unused_columns):
    return [float(text == str(i + 1)) for text, i in zip(completions, size)]


def make_problems(first=0):
  return {"train": Sums(PROBLEMS[first + 4:]), "test": Sums(PROBLEMS[:4])}


def read(tasks, **fields):
  return load.load_tasks(
      own.OwnTask(kind="own", function=own.given(tasks), is_chat=False, **fields))


def prompts(task):
  return [task.rows[i]["prompt"] for i in range(len(task.rows))]


@pytest.mark.parametrize("tasks, name, verifier", [
    (SPLITS, "own", "math"),
    ({split: tuple(rows) for split, rows in SPLITS.items()}, "own", "math"),
    ({"train": np.array(PROBLEMS[4:]), "test": PROBLEMS[:4]}, "own", "math"),
    ({split: rr.Task("toy", rows) for split, rows in SPLITS.items()}, "toy", "math"),
    ({"train": rr.Task("toy", PROBLEMS[4:], "package:score"), "test": PROBLEMS[:4]}, "toy",
     "package:score"),
    (make_problems, "sums", Sums.verifier),
    (f"{__name__}:make_problems", "sums", Sums.verifier)])
def test_what_can_be_given(tasks, name, verifier):
  found = read(tasks)
  assert set(found) == {"train", "test", "validation"}
  assert prompts(found["train"]) == [row["question"] for row in PROBLEMS[4:]]
  assert prompts(found["test"]) == prompts(found["validation"]) == [
      row["question"] for row in PROBLEMS[:4]]
  for task in found.values():
    assert task.name == name
    assert getattr(task.verifier, "__func__", task.verifier) == verifier
  assert found["train"].rows[2] == {"prompt": "What is 6 + 1?", "answer": "7", "size": 6}


@pytest.mark.parametrize("tasks", [PROBLEMS, rr.Task("own", PROBLEMS), Sums(), Sums])
def test_of_one_object_a_tenth_of_the_prompts_is_the_test(tasks):
  found = read(tasks)
  test = prompts(found["test"])
  # The one whose checksum begins with less than a tenth of 256.
  assert test == [row["question"] for row in PROBLEMS if hashlib.sha256(
      json.dumps(row["question"]).encode()).digest()[0] <= 24] == ["What is 2 + 1?"]
  assert len(found["train"].rows) == 19 and not set(test) & set(prompts(found["train"]))


def test_the_same_prompts_are_held_out_in_any_order_and_a_prompt_is_in_one_split():
  found, turned = read(PROBLEMS * 2), read(PROBLEMS[::-1])
  assert set(prompts(found["test"])) == set(prompts(turned["test"]))
  assert len(found["test"].rows) == 2
  assert not set(prompts(found["test"])) & set(prompts(found["train"]))


def test_rows_get_every_column_and_are_put_as_the_config_says():
  rows = [{"prompt": "2", "answer": "2", "level": np.int64(3)}, {"prompt": "3", "answer": "3"}]
  found = read({"train": rows, "test": rows}, template="Q: {question}")["train"]
  assert found.rows[0] == {"prompt": "Q: 2", "answer": "2", "level": 3}
  assert found.rows[1] == {"prompt": "Q: 3", "answer": "3", "level": None}
  assert rows[0] == {"prompt": "2", "answer": "2", "level": 3}  # the user's own are left alone


def test_an_answer_is_needed_by_a_built_in_verifier_alone():
  rows = [{"question": "Say a word.", "size": 1}] * 2
  parts = {"train": Sums(rows), "test": Sums(rows)}
  assert read(parts)["train"].rows[0] == {"prompt": "Say a word.", "size": 1, "answer": None}
  assert read(parts, verifier="package:score")["test"].verifier == "package:score"
  with pytest.raises(ValueError, match="train: row 0: there is no column 'answer'"):
    read({"train": rows, "test": rows})


@pytest.mark.parametrize("tasks, message", [
    (object(), "tasks: got a object, allowed: a list of rows"),
    ({"train": PROBLEMS}, r"got the splits \['train'\], allowed: 'train' and 'test'"),
    (SPLITS | {"dev": PROBLEMS}, r"got the splits \['dev', 'test', 'train'\]"),
    (SPLITS | {"test": {"question": "1"}}, "test: got a dict, allowed: a list of rows"),
    (SPLITS | {"test": "rows.jsonl"}, "test: got a str, allowed: a list of rows"),
    (SPLITS | {"test": iter(PROBLEMS)}, "test: got a list_iterator, allowed: a list of rows"),
    (SPLITS | {"test": []}, "test: got 0 rows, allowed: 1 to 1,048,576"),
    (SPLITS | {"test": Sums(range)}, "test: got `rows` of class range, allowed: a list of rows"),
    (SPLITS | {"test": Sums}, "test: got a class Sums, allowed: a list of rows"),
    (SPLITS | {"train": Sums(PROBLEMS), "test": rr.Task("a", PROBLEMS)},
     "test: got the verifier 'math', allowed: 'tests.data.tasks.own_test:Sums.verifier'"),
    (SPLITS | {"train": [PROBLEMS[0], "1 + 1"]}, "train: row 1: got a str, allowed: an object"),
    (SPLITS | {"train": [PROBLEMS[0], {"question": "1 + 1"}]},
     "train: row 1: there is no column 'answer'"),
    (SPLITS | {"train": [{"question": " ", "answer": 1}]}, "train: row 0: prompt: got an empty"),
    (SPLITS | {"train": [PROBLEMS[0] | {"seen": {1, 2}}]},
     "train: row 0: seen: got a set, allowed: text, numbers, lists and dicts"),
    (SPLITS | {"train": [PROBLEMS[0] | {"of": [Sums()]}]}, "train: row 0: of: got a Sums, allowed"),
    (SPLITS | {"train": {1: PROBLEMS[0]}.values()}, "train: got a dict_values, allowed"),
    (SPLITS | {"train": rr.Task("", PROBLEMS)}, "train: got the name '', allowed: text"),
    (SPLITS | {"train": rr.Task("a", PROBLEMS, None)}, "train: got the verifier None, allowed"),
    ([PROBLEMS[0]] * 3, "tasks: got one problem alone, allowed: two or more different ones"),
    (lambda: None, "tasks: got a NoneType, allowed"),
    ("no_such_module:f", "'no_such_module:f' cannot be imported")])
def test_a_mistake_is_one_line_before_the_run(tasks, message, tmp_path):
  with pytest.raises(ValueError, match=r"^config\.task[.:]") as error:
    rr.train(tiny_experiment.get_config(), tmp_path / "run", tasks=tasks)
  assert re.search(message, str(error.value))
  assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_the_place_of_a_row_that_cannot_be_read_is_named():
  class Table:
    """Its columns are its items, as of a data frame."""

    def __len__(self):
      return 2

    def __getitem__(self, name):
      return {"question": ["1"]}[name]

  with pytest.raises(ValueError, match="test: row 0: KeyError: 0"):
    read(SPLITS | {"test": Table()})


def test_a_run_goes_on_with_the_same_rows_alone(tmp_path):
  config = tiny_experiment.get_config()
  inputs = lambda tasks: inputs_lib.read_inputs(recipe_lib.with_tasks(config, tasks))
  before = inputs(SPLITS)
  # By hand: the rows as they are read, a line of JSON each.
  rows = [{"answer": str(i + 1), "prompt": f"What is {i} + 1?", "size": i} for i in range(4)]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  assert before["config.task"]["rows of test"] == hashlib.sha256(lines.encode()).hexdigest()
  assert inputs(lambda: SPLITS) == before != inputs(SPLITS | {"train": PROBLEMS[5:]})
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  (tmp_path / "inputs.json").write_text(json.dumps(before))
  inputs_lib.check_inputs(tmp_path, inputs(SPLITS), False)
  changed = inputs(SPLITS | {"test": PROBLEMS[1:4] + PROBLEMS[:1]})
  with pytest.raises(ValueError, match=r"other files or rows \(config.task: rows of test, rows of "
                     r"validation\).*--allow_changed_inputs"):
    inputs_lib.check_inputs(tmp_path, changed, False)
  inputs_lib.check_inputs(tmp_path, changed, True)


@pytest.mark.parametrize("task, kept", [
    ({"kind": "file", "name": "a", "train": "a", "test": "b", "template": "Q {question}",
      "system": "S", "verifier": "math"}, dict(template="Q {question}", system="S")),
    ({"kind": "countdown", "verifier": "math"}, {}),
    ({"kind": "arithmetic", "problems": {"tasks": {"a": {}}, "is_chat": False}}, dict(
        template="{question}\nReason step by step and put the final number in \\boxed{}.",
        is_chat=False)),
    ({"template": "R {question}", "name": "mine"}, dict(template="R {question}", name="mine")),
    (None, {})])
def test_how_a_prompt_is_put_stays_as_the_config_has_it(task, kept):
  config = config_lib.to_dict(tiny_experiment.get_config())
  config.pop("task")
  recipe = rr.training.settings.recipe.with_tasks(config | ({"task": task} if task else {}), SPLITS)
  assert recipe.task == own.OwnTask(kind="own", function=recipe.task.function, **kept, **(
      {"verifier": "math"} if task and "verifier" in task else {}))
  again = recipe_lib.with_tasks(recipe, SPLITS).task
  assert again == dataclasses.replace(recipe.task, function=again.function)


@pytest.mark.parametrize("verifier", [Sums().verifier, f"{__name__}:score"])
def test_the_record_of_a_run_says_the_same_when_it_is_read_again(verifier):
  config = tiny_experiment.get_config()
  config.rl.rewards.verifier.options = {}
  task = {split: rr.Task("a", rows, verifier) for split, rows in SPLITS.items()}
  recipe = recipe_lib.with_tasks(config, task)
  record = records.with_defaults(config_lib.to_dict(recipe), recipe)
  assert records.with_defaults(record, recipe) == record
  assert record["task"]["verifier"] == config_lib.to_dict(verifier)
  assert record["task"]["function"] == "rlreason.data.tasks.own:given"
  assert record["evaluation"]["which_box"] == "last"
  assert record["evaluation"]["verifier_options"] == {}


def score(prompts, completions, **unused_columns):  # pylint: disable=redefined-outer-name
  return [1.0 for _ in completions]


def test_demonstrations_are_the_rows_with_a_worked_solution():
  rows = [{"question": "1 + 1", "answer": "1 + 1 = 2\n#### 2"}, PROBLEMS[0]]
  task = own.OwnTask(kind="own", function=lambda: {"train": rows, "test": rows}, is_chat=False,
                     template="Q {question}")
  train = load.load_tasks(task)["train"].rows
  found = load.demonstrations(task, train, 9)
  assert len(found) == 1
  assert (found[0]["prompt"], found[0]["completion"]) == ("Q 1 + 1", "1 + 1 = 2\n#### 2")
  none = own.OwnTask(kind="own", function=lambda: SPLITS)
  with pytest.raises(ValueError, match="this task has no demonstrations of its own"):
    load.demonstrations(none, train, 9)
