import json
import math

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest
import tensorflow_datasets as tfds

from rlreason.data import sources


def _write(path, *lines, start=b"", end=b"\n"):
  path.write_bytes(start + end.join(
      line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
  return path


def test_good_rows_are_read_with_bom_crlf_blank_lines_and_no_final_newline(tmp_path):
  path = _write(
      tmp_path / "a.jsonl",
      {"prompt": "1 + 1", "answer": "2"}, b"", b"  ",
      {"prompt": "2 + 2 ✓", "answer": 4, "level": 3},
      start=b"\xef\xbb\xbf", end=b"\r\n")
  rows = sources.FileRows(path)
  assert [rows[index] for index in range(len(rows))] == [
      {"prompt": "1 + 1", "answer": "2", "level": None},
      {"prompt": "2 + 2 ✓", "answer": "4", "level": 3}]
  assert rows.bad_rows == []


def test_bad_rows_are_reported_by_line_and_counted(tmp_path):
  good = {"prompt": "p", "answer": "a"}
  path = _write(
      tmp_path / "a.jsonl",
      good,
      b"{not json",  # 2
      b'{"prompt": "\xff", "answer": "1"}',  # 3: not UTF-8
      b'{"prompt": "p", "answer": NaN}',  # 4
      b'["p", "a"]',  # 5
      {"prompt": "p"},  # 6: no answer
      {"prompt": "", "answer": "1"},  # 7
      {"prompt": "p", "answer": None},  # 8
      {"prompt": "p", "answer": True},  # 9
      b'{"prompt": "p", "answer": 1e999}',  # 10: infinite
      b'{"prompt": "\\ud800", "answer": "1"}',  # 11: half a character
      b"[" * 100_000,  # 12
      b'{"prompt": "p", "answer": ' + b"9" * 5000 + b"}",  # 13: more digits than Python takes
      {"prompt": [], "answer": "1"},  # 14
      {"prompt": [{"role": "user"}], "answer": "1"},  # 15
      {"prompt": [{"role": "user", "content": 3.5}, 7], "answer": "1"},  # 16
      good)
  rows = sources.FileRows(path)
  assert len(rows) == 2
  assert [line for line, _ in rows.bad_rows] == list(range(2, 17))
  reasons = dict(rows.bad_rows)
  assert "utf-8" in reasons[3] and "NaN" in reasons[4] and "answer" in reasons[6]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"nonsense\n", "{}".encode("utf-16")])
def test_a_file_without_a_good_row_is_an_error(tmp_path, content):
  path = tmp_path / "a.jsonl"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="no usable row"):
    sources.FileRows(path)


def test_a_missing_file_or_unknown_kind_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="absent.jsonl"):
    sources.FileRows(tmp_path / "absent.jsonl")
  with pytest.raises(ValueError, match="parquet"):
    sources.FileRows(tmp_path / "a.txt")


def test_fields_name_the_columns_and_prompts_are_found(tmp_path):
  path = _write(tmp_path / "a.jsonl", {"problem": "p", "solution": "s", "final": "7", "prompt2": 1})
  rows = sources.FileRows(path, fields={"answer": "final"})
  assert rows[0] == {"prompt": "p", "solution": "s", "answer": "7", "prompt2": 1}
  with pytest.raises(ValueError, match="'absent' for 'answer'"):
    sources.FileRows(path, fields={"answer": "absent"})


def test_messages_that_end_with_the_assistant_are_demonstrations(tmp_path):
  user, assistant = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
  path = _write(tmp_path / "a.jsonl", {"messages": [user, assistant]}, {"messages": [user]},
                {"messages": [user, user]}, {"prompt": "x", "completion": "y"})
  rows = sources.FileRows(path, required=("prompt", "completion"))
  assert [rows[0], rows[1]] == [
      {"prompt": [user], "completion": "a"}, {"prompt": "x", "completion": "y"}]
  assert [line for line, _ in rows.bad_rows] == [2, 3]


def test_parquet_rows(tmp_path):
  path = tmp_path / "a.parquet"
  parquet.write_table(pyarrow.table({
      "prompt": ["a", None, "c"], "answer": [1.5, 2.0, math.nan], "tag": [[1], [2], [3]]}), path)
  rows = sources.FileRows(path)
  assert len(rows) == 1 and rows[0] == {"prompt": "a", "answer": "1.5", "tag": [1]}
  assert [line for line, _ in rows.bad_rows] == [2, 3]
  broken = tmp_path / "b.parquet"
  broken.write_bytes(b"PAR1 this is not one")
  with pytest.raises(ValueError, match="b.parquet: not a readable parquet file"):
    sources.FileRows(broken)


class _Sums(tfds.core.GeneratorBasedBuilder):
  """Two sums, and a row without a question."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = tfds.features.FeaturesDict(
        {"question": tfds.features.Text(), "result": np.int64})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for number in range(2):
      yield number, {"question": f"{number} + 1 é", "result": number + 1}
    yield 2, {"question": "", "result": 0}


def test_tfds_rows_without_tensorflow(tmp_path):
  builder = _Sums(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare()
  rows = sources.TfdsRows(str(builder.data_path), "train", fields={"answer": "result"})
  good = []
  for place in range(len(rows)):
    try:
      good.append((rows[place]["prompt"], rows[place]["answer"]))
    except ValueError as error:
      assert "prompt: got an empty text" in str(error)
  assert sorted(good) == [("0 + 1 é", "1"), ("1 + 1 é", "2")]
  with pytest.raises(ValueError, match="'absent'"):
    sources.TfdsRows(str(builder.data_path), "train", fields={"answer": "absent"})
  with pytest.raises(ValueError, match="nowhere"):
    sources.TfdsRows(str(builder.data_path), "nowhere", fields={"answer": "result"})


def test_absent_tfds_data_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match="cannot give 'mnist' split 'train'.*prepare it first"):
    sources.TfdsRows("mnist", "train", data_dir=str(tmp_path))


def test_a_digest_is_of_contents_and_of_names_in_a_folder(tmp_path):
  first, second = tmp_path / "a", tmp_path / "b"
  for folder in (first, second):
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "x.jsonl").write_bytes(b"abc")
    (folder / "y").write_bytes(b"")
  (second / ".hidden").write_bytes(b"what editors leave")
  assert sources.digest(str(first / "deep" / "x.jsonl")) == (
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")  # FIPS 180-2, B.1
  assert sources.digest(first) == sources.digest(second)
  assert sources.digest(f"{first}/deep/*.jsonl") == sources.digest(second / "deep")
  (second / "y").unlink()
  (second / "y").symlink_to(first / "y")
  assert sources.digest(first) == sources.digest(second)
  seen = {sources.digest(first)}
  for change in (lambda: (first / "y").write_bytes(b"1"), lambda: (first / "y").rename(first / "z"),
                 lambda: (first / "z").unlink()):
    change()
    seen.add(sources.digest(first))
  assert len(seen) == 4
  with pytest.raises(FileNotFoundError, match="z: no such file or folder"):
    sources.digest(first / "z")
  with pytest.raises(FileNotFoundError, match="no such file or folder"):
    sources.digest(first / "*.none")


def test_function_rows():
  rows = sources.FunctionRows(lambda index: {"prompt": str(index), "answer": "1"}, 3)
  assert [row["prompt"] for row in rows] == ["0", "1", "2"]
  with pytest.raises(ValueError, match="size"):
    sources.FunctionRows(dict, 0)


def _numbered(size):
  return sources.FunctionRows(lambda index: {"prompt": index}, size)


def test_a_mixture_keeps_its_shares_at_every_length():
  mixture = sources.MixedRows(
      {"a": _numbered(5), "b": _numbered(100)}, {"a": 1, "b": 3}, size=40)
  names = [row["task_name"] for row in mixture]
  for end in range(1, 41):
    assert abs(names[:end].count("a") - end / 4) <= 1
  # The short source starts again, each source is read in order.
  assert [row["prompt"] for row in mixture if row["task_name"] == "a"] == [*range(5), *range(5)]
  assert [row["prompt"] for row in mixture if row["task_name"] == "b"] == list(range(30))


@pytest.mark.parametrize("lengths", [(1,), (3, 7), (1, 50, 2, 9, 1, 1, 1, 1)])
def test_a_mixture_without_weights_holds_every_row_once(lengths):
  mixture = sources.MixedRows({str(place): _numbered(size) for place, size in enumerate(lengths)})
  seen = sorted((row["task_name"], row["prompt"]) for row in mixture)
  assert seen == sorted((str(place), row) for place, size in enumerate(lengths)
                        for row in range(size))


def test_a_weighted_mixture_ends_before_a_source_repeats():
  mixture = sources.MixedRows({"a": _numbered(10), "b": _numbered(1000)}, {"a": 0.5, "b": 0.5})
  assert len(mixture) == 20
  with pytest.raises(ValueError, match="weights: got .*, allowed: finite numbers above 0"):
    sources.MixedRows({"a": _numbered(1)}, {"a": 0.0})
  with pytest.raises(ValueError, match="weights: got those of .'b'., allowed: of .'a'."):
    sources.MixedRows({"a": _numbered(1)}, {"b": 1.0})
