"""Local copies of published data sets."""

import json
import re

import pyarrow as pa
from pyarrow import parquet
import pytest

from rlreason.data import prepare
from rlreason.rewards import verifier
from rlreason.rewards.answer import gold_text


def rows_of(file):
  return [json.loads(line) for line in file.read_text().splitlines()]


GSM8K = [{"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(3)]


def test_a_copy_is_the_same_whatever_the_files_are(tmp_path):
  hub, lines = tmp_path / "hub", tmp_path / "lines"
  for folder in (hub / "main", hub / "socratic", lines):
    folder.mkdir(parents=True)
  for name, rows in (("train", GSM8K), ("test", GSM8K[:1])):
    parquet.write_table(pa.Table.from_pylist(rows), hub / "main" / f"{name}-00000-of-00001.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), hub / "socratic" / f"{name}-0.parquet")
    (lines / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  copies = prepare.prepare("gsm8k", str(hub), str(tmp_path / "a"))
  others = prepare.prepare("gsm8k", str(lines), str(tmp_path / "b"))
  assert [(copy.split, copy.rows, copy.published) for copy in copies] == [
      ("train", 3, 7473), ("test", 1, 1319)]
  assert [copy.digest for copy in copies] == [copy.digest for copy in others]
  assert rows_of(tmp_path / "a" / "train.jsonl") == GSM8K


def test_folders_of_single_problems_and_files_without_a_split(tmp_path):
  for split, subject in (("train", "algebra"), ("train", "geometry"), ("test", "algebra")):
    folder = tmp_path / "MATH" / split / subject
    folder.mkdir(parents=True)
    (folder / "1.json").write_text(json.dumps({
        "problem": "1 + 1?", "level": "Level 1", "type": subject, "solution": "\\boxed{2}"}))
  math = prepare.prepare("math", str(tmp_path / "MATH"), str(tmp_path / "math"))
  assert [(copy.split, copy.rows) for copy in math] == [("train", 2), ("test", 1)]
  (tmp_path / "aime.csv").write_text("Problem,Answer\nWhat is 2?,033\n")
  (copy,) = prepare.prepare("aime24", str(tmp_path / "aime.csv"), str(tmp_path / "aime"))
  assert (copy.split, rows_of(copy.file)) == ("test", [{"Problem": "What is 2?", "Answer": "033"}])


def test_generated_word_problems_have_the_layout_of_gsm8k(tmp_path):
  pytest.importorskip("reasoning_gym")
  train, test = prepare.prepare("gsm8k", "generated", str(tmp_path))
  assert (train.rows, test.rows, train.published) == (2000, 200, None)
  rows, held_out = rows_of(train.file), rows_of(test.file)
  assert {tuple(row) for row in rows + held_out} == {("question", "answer")}
  assert not {row["question"] for row in rows} & {row["question"] for row in held_out}
  for row in held_out:
    working, _, gold = row["answer"].rpartition("#### ")
    assert working.endswith("\n") and gold_text(row["answer"]) == gold and gold[-1].isdigit()
    assert "final answer" not in row["question"]
    assert not re.search(r"[%/]|5[1-9]|[6-9]\d|\d\d\d", row["question"] + row["answer"])


def test_countdown_gets_words_and_a_test_of_its_own(tmp_path):
  raw = [{"target": 10, "nums": [1, 2, 7]}, {"target": 98, "nums": [44, 19, 35]},
         {"target": 98, "nums": [35, 44, 19]}, {"target": 1.5, "nums": [1, 2]}]
  (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*raw, raw[1]]))
  train, test = prepare.prepare("countdown", str(tmp_path / "train.jsonl"), str(tmp_path / "to"))
  assert (train.split, train.published, test.split, test.published) == (
      "train", 490_364, "test", None)
  (row,) = rows_of(test.file)  # the last; the same in another order is not trained on either
  assert row == {
      "question": "Using the numbers 44, 19, 35, write an expression that equals 98. Use only + - "
                  "* / and parentheses, and each number exactly once.",
      "numbers": [44, 19, 35], "target": 98, "answer": "98"}
  assert [row["target"] for row in rows_of(train.file)] == [10]
  assert verifier.find("countdown")()([""], ["\\boxed{44 + 19 + 35}"], **{
      name: [row[name]] for name in ("numbers", "target")}) == [1.0]
  train, test = prepare.prepare("countdown", "generated", str(tmp_path / "made"))
  assert (train.rows, test.rows) == (2000, 200)
  assert len(rows_of(test.file)[0]["numbers"]) >= 3


@pytest.mark.parametrize("name, source, message", [
    ("gsm9k", "x", "data set: got 'gsm9k', allowed: gsm8k, math"),
    ("gsm8k", "nowhere", "nowhere: no such file"),
    ("math", "generated", "--from: got 'generated' for math, allowed: a file or a folder"),
    ("gsm8k", "half", "no file of the split 'test' of gsm8k .* published at https://"),
])
def test_what_cannot_be_copied_is_refused(monkeypatch, tmp_path, name, source, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "half").mkdir()
  (tmp_path / "half" / "train.jsonl").write_text(json.dumps(GSM8K[0]) + "\n")
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    prepare.prepare(name, source, "to")
  assert not (tmp_path / "to").exists()


def test_no_copy_is_overwritten(tmp_path):
  (tmp_path / "from.jsonl").write_text(json.dumps(GSM8K[0]) + "\n")
  (tmp_path / "test.jsonl").write_text("mine")
  with pytest.raises(ValueError, match="test.jsonl' is there already, allowed: another folder"):
    prepare.prepare("math500", str(tmp_path / "from.jsonl"), str(tmp_path))
  assert (tmp_path / "test.jsonl").read_text() == "mine"
