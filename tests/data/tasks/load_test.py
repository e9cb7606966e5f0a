"""Problems of the training files that are held out where no test file is named."""

import json

import pytest

from rlreason.data.tasks import load


def task(tmp_path, rows, **fields):
  path = tmp_path / "problems.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return load.FileTask(kind="file", name="own", train=str(path), **fields)


def sums(*numbers):
  return [{"question": f"What is {i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"}
          for i in numbers]


def prompts(rows):
  return [rows[i]["prompt"][0]["content"] for i in range(len(rows))]


def test_a_problem_is_held_out_for_what_it_says(tmp_path):
  """So its copies are with it, and others that are added move nothing."""
  tasks = load.load_tasks(task(tmp_path, sums(*range(300), *range(300))))
  train, test = prompts(tasks["train"].rows), prompts(tasks["test"].rows)
  assert not set(train) & set(test) and set(train) | set(test) == set(
      prompts(load.load_tasks(task(tmp_path, sums(*range(300)), test=str(
          tmp_path / "problems.jsonl")))["train"].rows))
  assert (len(train), len(test)) == (2 * len(set(train)), 2 * len(set(test)))
  assert 15 <= len(set(test)) <= 45  # 30 of 300, give or take three standard deviations
  assert prompts(tasks["validation"].rows) == test
  more = load.load_tasks(task(tmp_path, sums(*range(299, -1, -1), *range(300, 400))))
  assert set(test) == set(prompts(more["test"].rows)) & set(train + test)
  assert tasks["test"].rows.origin(0).startswith(str(tmp_path / "problems.jsonl:"))


def test_demonstrations_are_of_what_is_not_held_out(tmp_path):
  config = task(tmp_path, sums(*range(300)), held_out=0.5)
  tasks = load.load_tasks(config)
  shown = load.demonstrations(config, tasks["train"].rows, 1000)
  assert prompts(shown) == prompts(tasks["train"].rows)
  assert shown[0]["completion"].startswith("It is ")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_which_are_held_out_does_not_depend_on_which_are_solved(tmp_path, share):
  unsolved = [{"question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(5)]
  config = task(tmp_path, sums(1, 3, 4) + unsolved, held_out=share)
  tasks = load.load_tasks(config)
  train, solved = prompts(tasks["train"].rows), [f"What is {i} + 1?" for i in (1, 3, 4)]
  shown = prompts(load.demonstrations(config, tasks["train"].rows, 10))
  assert shown == [prompt for prompt in solved if prompt in train]


def test_solutions_of_held_out_problems_alone_are_refused(tmp_path):
  config = task(tmp_path, sums(2) + [{"question": "What is 5 + 2?", "answer": "7"}])
  tasks = load.load_tasks(config)
  assert prompts(tasks["test"].rows) == ["What is 2 + 1?"]
  with pytest.raises(ValueError, match="no demonstrations of its own.*of held-out problems alone"):
    load.demonstrations(config, tasks["train"].rows, 10)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_small_file_has_both(tmp_path, share):
  tasks = load.load_tasks(task(tmp_path, sums(1, 2, 2), held_out=share))
  assert {*prompts(tasks["train"].rows), *prompts(tasks["test"].rows)} == {
      "What is 1 + 1?", "What is 2 + 1?"}


def test_what_cannot_be_divided_is_refused(tmp_path):
  with pytest.raises(ValueError, match="held_out: got 1.0, allowed: between 0 and 1"):
    task(tmp_path, sums(1), held_out=1.0)
  with pytest.raises(ValueError, match=(
      "config.task.train: got one problem alone, allowed: two or more different ones, of which "
      "some are the test, or a file as config.task.test")):
    load.load_tasks(task(tmp_path, sums(1, 1)))
