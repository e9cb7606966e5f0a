"""Steps and labels in each published form, and what is refused, by its line."""

import json

import pytest

from rlreason.data import sources, step_labels

COLUMNS = ("prompt", "steps", "labels")


def read(tmp_path, *rows):
  path = tmp_path / "a.jsonl"
  path.write_text("".join(
      (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
  return sources.FileRows(path, required=COLUMNS)


def row(labels, **others):
  return {"prompt": "q", "steps": ["s"] * len(labels), "labels": labels, **others}


def prm800k(*steps, finish="found_error"):
  return {"question": {"problem": "What is 2 + 2?", "ground_truth_answer": "4"},
          "label": {"steps": list(steps), "finish_reason": finish}, "labeler": "x"}


def rated(*ratings, chosen=0, human=None):
  return {"completions": [{"text": f"text {i}", "rating": rating, "flagged": False}
                          for i, rating in enumerate(ratings)],
          "chosen_completion": chosen, "human_completion": human}


def test_prompt_steps_and_labels(tmp_path):
  rows = read(tmp_path, row([1, 0.25, None], answer="7"), row([True, False]))
  assert rows[0] == {"prompt": "q", "steps": ["s"] * 3, "labels": [1.0, 0.25, None], "answer": "7"}
  assert rows[1]["labels"] == [1.0, 0.0]
  assert step_labels.kind_of_rows(rows) == "shares"


def test_completions_is_another_name_of_steps(tmp_path):
  rows = read(tmp_path, {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]})
  assert (rows[0]["steps"], rows[0]["labels"]) == (["a", "b"], [1.0, 0.0])


def test_prm800k_is_the_path_of_chosen_steps_up_to_the_first_error(tmp_path):
  rows = read(tmp_path, prm800k(
      rated(-1, 1, chosen=1), rated(0), rated(-1, chosen=None), rated(1)))
  assert rows[0]["prompt"] == "What is 2 + 2?" and rows[0]["answer"] == "4"
  assert rows[0]["steps"] == ["text 1", "text 0", "text 0"]
  assert rows[0]["labels"] == [1.0, 0.0, -1.0]
  assert step_labels.kind_of_rows(rows) == "ratings"


def test_a_step_of_prm800k_that_a_person_wrote(tmp_path):
  human = {"text": "by hand", "rating": None}
  rows = read(tmp_path, prm800k(rated(-1, chosen=None, human=human), rated(1), finish="solution"))
  assert (rows[0]["steps"], rows[0]["labels"]) == (["by hand", "text 0"], [None, 1.0])


def test_math_shepherd_is_read_by_its_tags(tmp_path):
  rows = read(tmp_path, {
      "input": "How many? Step 1: 2 + 2 = 4 ки\nStep 2: 4 + 1 = 6 ки\nStep 3: 6 ки",
      "label": "How many? Step 1: 2 + 2 = 4 +\nStep 2: 4 + 1 = 6 -\nStep 3: 6 -", "task": "GSM8K"})
  assert rows[0]["prompt"] == "How many?"
  assert rows[0]["steps"] == ["Step 1: 2 + 2 = 4", "Step 2: 4 + 1 = 6", "Step 3: 6"]
  assert rows[0]["labels"] == [1.0, 0.0, 0.0]


BAD = [
    ({"prompt": "q", "steps": [], "labels": []}, "steps: got none"),
    ({"prompt": "q", "steps": ["a", " "], "labels": [1, 1]}, "steps: got none or one that is no"),
    ({"prompt": "q", "steps": "a", "labels": [1]}, "steps: got none or one that is no"),
    ({"prompt": "q", "steps": ["a", "b"], "labels": [1]}, "labels: got 1, allowed: a list of 2"),
    ({"prompt": "q", "steps": ["a"], "labels": 1}, "labels: got int, allowed: a list of 1"),
    ({"prompt": "q", "steps": ["a"]}, "there is no column 'labels'"),
    (row([2]), "labels: got 2, allowed: true"), (row([-0.5]), "labels: got -0.5, allowed: true"),
    (row(["good"]), "labels: got 'good', allowed"), (row([None]), "labels: got none but null"),
    (row([-1, 0.5]), "labels: got -1 beside 0.5, allowed: ratings"),
    ({"input": "How? Step 1: a ки\nStep 2: b ки", "label": "How? Step 1: a +\nStep 2: b"},
     "label: got .*, allowed: the text of input"),
    ({"input": "How? Step 1: a ки", "label": "How? Step 1: b +"}, "label: got .*, allowed: the"),
    ({"input": "How? a ки", "label": "How? a +"}, "input: got .*'Step 1:'"),
    (prm800k(rated(1, chosen=3)), "chosen_completion: got 3, allowed: 0 to 0"),
    (prm800k(), "steps: got none"), ({"question": {"problem": "q"}, "label": {}}, "label.steps"),
    ("{not json", "a.jsonl"),
]


@pytest.mark.parametrize("bad, message", BAD)
def test_a_damaged_row_is_left_out_by_its_line(bad, message, tmp_path):
  rows = read(tmp_path, row([1, 0]), bad, row([0.5]))
  assert len(rows) == 2 and [line for line, _ in rows.bad_rows] == [2]
  with pytest.raises(ValueError, match=message):
    read(tmp_path, bad)


def test_files_of_two_kinds_are_refused_by_their_lines(tmp_path):
  rows = read(tmp_path, row([1, 0]), row([0.5]), row([1, -1]))
  with pytest.raises(ValueError, match=(
      r"labels: got shares in .*a.jsonl:2 and ratings in .*a.jsonl:3, allowed: one kind")):
    step_labels.kind_of_rows(rows)
  assert step_labels.kind_of_rows(read(tmp_path, row([1, 0]), row([1, -1]))) == "ratings"
  assert step_labels.kind_of_rows(read(tmp_path, row([1, 0]))) == "shares"


def test_a_neutral_rating_is_right_or_wrong_or_no_label():
  ratings = [-1.0, 0.0, 1.0, None]
  found = {neutral: step_labels.as_shares(ratings, "ratings", neutral)
           for neutral in ("right", "wrong", "none")}
  assert found == {"right": [0, 1, 1, None], "wrong": [0, 0, 1, None], "none": [0, None, 1, None]}
  shares = [0.0, 0.5, None]
  assert step_labels.as_shares(shares, "shares", "right") == shares
  assert step_labels.as_ratings(ratings, "ratings") == ratings
  assert step_labels.as_ratings([0.0, 1.0, None], "shares") == [-1, 1, None]
  with pytest.raises(ValueError, match="labels: got the share 0.5, allowed: ratings"):
    step_labels.as_ratings(shares, "shares")


def test_rankings(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps({"prompt": "q", "ranking": ["best", "good", "bad"]}) + "\n"
                  + json.dumps({"prompt": "q", "ranking": ["alone"]}) + "\n")
  rows = sources.FileRows(path, required=("prompt", "ranking"))
  assert rows[0] == {"prompt": "q", "ranking": ["best", "good", "bad"]}
  assert [line for line, _ in rows.bad_rows] == [2]
