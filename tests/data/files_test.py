"""Kinds of files and folders, and bad rows in each."""

import csv
import datetime
from decimal import Decimal
import gzip
import json

import pyarrow
from pyarrow import parquet
import pytest

from rlreason.data import sources


def write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(row) + "\n" for row in rows)
  path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
  return path


def read(path):
  return list(sources.FileRows(path))


ROWS = [{"question": f"{i} + 1?", "answer": i + 1} for i in range(3)]
WANTED = [{"prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)]


@pytest.mark.parametrize("name, text", [
    ("a.json", json.dumps(ROWS)), ("a.json", json.dumps(ROWS, indent=2)),
    ("a.json", json.dumps({"version": "1.0", "data": ROWS, "tags": ["x"]})),
    ("a.json", "".join(json.dumps(row) + "\n" for row in ROWS)),
    ("a.json", "\ufeff" + json.dumps(ROWS)), ("A.JSON", json.dumps(ROWS)),
    ("a.ndjson", "".join(json.dumps(row) + "\n" for row in ROWS)),
    ("a.csv", "question,answer\r\n0 + 1?,1\r\n1 + 1?,2\r\n\r\n\"2 + 1?\",3"),
    ("a.csv", "\ufeffquestion,answer\n0 + 1?,1\n1 + 1?,2\n2 + 1?,3\n"),
    ("a.tsv", "question\tanswer\n0 + 1?\t1\n1 + 1?\t2\n2 + 1?\t3\n")])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_kinds_of_text_files(tmp_path, name, text, is_compressed):
  file = tmp_path / (name + ".gz" * is_compressed)
  file.write_bytes(gzip.compress(text.encode()) if is_compressed else text.encode())
  assert read(file) == WANTED


def test_one_json_object_is_one_row(tmp_path):
  """As each problem of MATH has a file; a chat is a row, and no list of rows."""
  (tmp_path / "1.json").write_text(json.dumps(ROWS[0], indent=2))
  assert read(tmp_path / "1.json") == WANTED[:1]
  chat = [{"role": "user", "content": "q"}]
  (tmp_path / "2.json").write_text(json.dumps({"messages": chat, "answer": "4"}))
  assert read(tmp_path / "2.json") == [{"prompt": chat, "answer": "4"}]


def save_to_disk(folder, tables):
  """As `Dataset.save_to_disk` leaves a data set: streams of Arrow, and two descriptions."""
  folder.mkdir(parents=True)
  names = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
  for name, table in zip(names, tables):
    with pyarrow.ipc.new_stream(folder / name, table.schema) as stream:
      stream.write_table(table)
  (folder / "dataset_info.json").write_text(json.dumps({"features": {}, "splits": {}}))
  (folder / "state.json").write_text(json.dumps({
      "_data_files": [{"filename": name} for name in names], "_fingerprint": "0123",
      "_format_columns": None, "_format_kwargs": {}, "_format_type": None,
      "_output_all_columns": False, "_split": "train"}))
  return folder


def test_arrow_files_and_what_datasets_saves(tmp_path):
  tables = [pyarrow.Table.from_pylist(ROWS[:2]), pyarrow.Table.from_pylist(ROWS[2:])]
  saved = save_to_disk(tmp_path / "saved" / "train", tables)
  with pyarrow.ipc.new_stream(saved / "cache-1.arrow", tables[0].schema) as stream:
    stream.write_table(tables[0])  # of a `map`, and no part of the data set
  rows = sources.FileRows(saved)
  assert list(rows) == WANTED
  assert rows.origin(2) == f"{saved / 'data-00001-of-00002.arrow'}:1"
  assert read(saved / "data-00000-of-00002.arrow") == WANTED[:2]
  with pyarrow.ipc.new_file(tmp_path / "b.arrow", tables[0].schema) as file:
    file.write_table(tables[0])
  assert read(tmp_path / "b.arrow") == WANTED[:2]
  save_to_disk(tmp_path / "saved" / "test", tables[1:])
  (tmp_path / "saved" / "dataset_dict.json").write_text("{\"splits\": [\"train\", \"test\"]}")
  with pytest.raises(ValueError, match="saved: holds the splits test, train, allowed: the folder"):
    read(tmp_path / "saved")
  (saved / "data-00001-of-00002.arrow").unlink()
  with pytest.raises(FileNotFoundError, match="state.json: no such data files: ..data-00001-of"):
    read(saved)


def test_folders_and_patterns_of_shards(tmp_path):
  for i, row in enumerate(ROWS):
    parquet.write_table(pyarrow.Table.from_pylist([row]),
                        tmp_path / f"train-{i:05d}-of-00003.parquet")
  assert read(tmp_path) == read(f"{tmp_path}/train-*.parquet") == WANTED
  write(tmp_path / "test-00000-of-00001.jsonl", ROWS[:1])
  with pytest.raises(ValueError, match="holds the splits test, train"):
    read(tmp_path)
  write(tmp_path / "train.jsonl", ROWS).rename(tmp_path / "train.json")
  (tmp_path / "test-00000-of-00001.jsonl").unlink()
  with pytest.raises(ValueError, match=r"files of several kinds \(.json, .parquet\), allowed: one"):
    read(tmp_path)
  with pytest.raises(FileNotFoundError, match="valid-.: no such file"):
    read(tmp_path / "valid-*")
  with pytest.raises(FileNotFoundError, match="none: no file in it ends in .jsonl"):
    (tmp_path / "none").mkdir()
    read(tmp_path / "none")


def test_math_as_it_was_released(tmp_path):
  for place, answer in (("train/algebra/1", 1), ("train/geometry/1", 2), ("test/algebra/7", 3)):
    file = tmp_path / "MATH" / f"{place}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"problem": "q", "level": "Level 1", "type": "Algebra",
                                "solution": f"so $\\boxed{{{answer}}}$"}))
  rows = sources.FileRows(tmp_path / "MATH" / "train")
  assert [row["answer"] for row in rows] == ["1", "2"]
  assert rows.origin(1).endswith("MATH/train/geometry/1.json:1")
  with pytest.raises(ValueError, match="holds the splits test, train"):
    read(tmp_path / "MATH")


# Bad rows, in every format.

DEEP = "[" * 3000 + "]" * 3000
BAD = {  # what is wrong -> JSON of a row that has it
    "nested": f'{{"question": "q", "answer": "4", "extra": {DEEP}}}',
    "nested more than 100 deep": '{"question": "q", "answer": "4", "extra": %s}' % (
        "[" * 200 + "]" * 200),
    "not valid Unicode": '{"question": "q", "answer": "4", "source": "\\ud800"}',
    "answer: not valid Unicode": '{"question": "q", "answer": "\\udfff"}',
    "digits": f'{{"question": "q", "answer": {"9" * 5000}}}',
    "answer: got NaN, allowed: text or a finite number": '{"question": "q", "answer": NaN}',
    "answer: got an empty text": '{"question": "q", "answer": ""}',
    "answer: got None": '{"question": "q", "answer": null}',
    "an entry of answer: got list, allowed: text or a fin": '{"question": "q", "answer": [[1]]}',
    "there is no column 'answer'": '{"question": "q"}',
    "got a list, allowed: an object": "[1]",
}
GOOD = '{"question": "q", "answer": "4", "extra": {"deep": [[NaN, 1e999]], "text": "\\u00e9"}}'


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json"])
def test_bad_rows_of_json(tmp_path, name, caplog):
  texts = [GOOD, *BAD.values(), GOOD]
  text = f"[{', '.join(texts)}]" if name == "a.json" else "\n".join(texts)
  (tmp_path / name).write_text(text)
  rows = sources.FileRows(tmp_path / name)
  assert list(rows) == [{"prompt": "q", "answer": "4", "extra": {
      "deep": [[None, None]], "text": "é"}}] * 2
  assert [line for line, _ in rows.bad_rows] == list(range(2, 2 + len(BAD)))
  for reason, (_, found) in zip(BAD, rows.bad_rows):
    assert reason in found
  last = caplog.records[-1].getMessage()
  assert last.startswith(f"{tmp_path / name}: 11 of 13 rows left out: 1 x ")
  assert last.endswith("; 8 for other reasons")


def test_a_json_list_that_does_not_end_loses_its_last_row_only(tmp_path):
  (tmp_path / "a.json").write_text(json.dumps(ROWS)[:-4])
  rows = sources.FileRows(tmp_path / "a.json")
  assert list(rows) == WANTED[:2] and [line for line, _ in rows.bad_rows] == [3]


def test_bad_rows_of_csv(tmp_path):
  lines = [b"question,answer,extra", b"q,4,x", b"q,4", b"q,\xff,x", b"q,4,\xff", b"q,,x",
           b"\"two\nlines\",5,x", b"q,4,x,y", b"q,\"a\"b,x", b"q," + b"4" * 200_000 + b",x",
           b"q,\"4"]
  (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
  limit = csv.field_size_limit()
  rows = sources.FileRows(tmp_path / "a.csv")
  assert [row["prompt"] for row in rows] == ["q", "two\nlines", "q"]
  assert [line for line, _ in rows.bad_rows] == [3, 4, 5, 6, 9, 10, 12]
  assert rows.origin(1) == f"{tmp_path / 'a.csv'}:7" and csv.field_size_limit() == limit
  reasons = [reason for _, reason in rows.bad_rows]
  assert reasons[0] == "got 2 cells, allowed: 3, as in the first line"
  assert "answer: not valid Unicode" in reasons[1] and "extra: not valid Unicode" in reasons[2]
  assert reasons[3] == "answer: got an empty text, allowed: any other"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_bad_rows_of_arrow(tmp_path, kind):
  text = pyarrow.Array.from_buffers(
      pyarrow.string(), 4, pyarrow.array([b"q", b"\xff", b"q", b"q"]).buffers())  # not UTF-8
  table = pyarrow.table({
      "question": text, "answer": ["1", "2", None, "4"],
      "extra": [None, None, None, datetime.datetime(2024, 1, 2)], "image": [b"\xff"] * 4,
      "cost": pyarrow.array([Decimal("1.5")] * 4)})
  file = tmp_path / f"a.{kind}"
  if kind == "parquet":
    parquet.write_table(table, file)
  else:
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
      stream.write_table(table)
  rows = sources.FileRows(file)
  assert [line for line, _ in rows.bad_rows] == [2, 3] and "UTF8" in rows.bad_rows[0][1]
  assert list(rows) == [
      {"prompt": "q", "answer": answer, "extra": extra, "image": None, "cost": "1.5"}
      for answer, extra in (("1", None), ("4", "2024-01-02 00:00:00.000000"))]
  json.dumps(list(rows), allow_nan=False)  # as stages write them, and workers get them


@pytest.mark.parametrize("name, content", [
    ("a.arrow", b"nonsense"), ("a.arrow", b""), ("a.arrow", b"ARROW1\0\0nonsense"),
    ("a.parquet", b""), ("a.jsonl.gz", b"nonsense"),
    ("a.jsonl.gz", gzip.compress(b'{"prompt": "p", "answer": "1"}\n' * 1000)[:-20])])
def test_a_damaged_file_is_named(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f"{name}: (cannot be read|not a readable)"):
    read(tmp_path / name)


def test_bad_rows_of_shards_have_the_name_of_their_file(tmp_path, caplog):
  write(tmp_path / "d" / "a.jsonl", ROWS)
  write(tmp_path / "d" / "b.jsonl.gz", [{"question": "q"}, *ROWS])
  rows = sources.FileRows(tmp_path / "d")
  assert len(rows) == 6 and rows.bad_rows == [("b.jsonl.gz:1", "there is no column 'answer'")]
  assert (f"{tmp_path / 'd'}: 1 of 7 rows left out: 1 x there is no column 'answer' "
          "(b.jsonl.gz:1)") in caplog.text
