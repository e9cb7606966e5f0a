"""Prompts as token ids, and which rows of a source can be used."""

import json

import pytest

from rlreason.data.fitting import FittingRows, encode_prompt
from rlreason.data.sources import FileRows
from tests.rollout.made import TOKENIZER


def test_a_prompt_is_text_or_a_chat():
  assert encode_prompt(TOKENIZER, {"prompt": "a b"}) == TOKENIZER.encode("a b")
  chat = [{"role": "user", "content": "a b"}]
  assert TOKENIZER.decode(encode_prompt(TOKENIZER, {"prompt": chat})) == (
      "user a b assistant")


def test_rows_that_fit():
  rows = [{"prompt": "a " * length} for length in (1, 5, 3, 4, 0)]
  fitting = FittingRows(rows, TOKENIZER, 3)
  assert len(fitting) == 2 and fitting.num_dropped == 3
  assert [fitting[0], fitting[1]] == [rows[0], rows[2]]
  with pytest.raises(ValueError, match="got 5 that are all empty or longer than 0 tokens"):
    FittingRows(rows, TOKENIZER, 0)


def test_a_row_remembers_what_it_was_measured_by():
  """The ids, for its tokenizer alone; a row that is made of it is tokenised."""
  asked = []

  class Tokenizer:
    def encode(self, text, add_special=False):
      asked.append(text)
      return [len(word) for word in text.split()]

  tokenizer = Tokenizer()
  rows = [{"prompt": "a bb"}, {"prompt": ""}, {"prompt": "ccc"},
          {"prompt": "x", "prompt_ids": [9, 8]}]
  fitting = FittingRows(rows, tokenizer, 3)
  assert asked == ["a bb", "", "ccc"]
  assert [encode_prompt(tokenizer, row) for row in fitting] == [[1, 2], [3], [9, 8]]
  assert encode_prompt(tokenizer, fitting[-1]) == [9, 8] and asked == ["a bb", "", "ccc"]
  assert encode_prompt(Tokenizer(), fitting[0]) == [1, 2] and asked[-1] == "a bb"
  assert encode_prompt(tokenizer, fitting[0] | {"prompt": "ccc ccc"}) == [3, 3]
  assert fitting[0] == {"prompt": "a bb"} and list(fitting[0]) == ["prompt"]
  with pytest.raises(IndexError):
    fitting[3]


def test_a_row_that_cannot_be_read_is_left_out(caplog):
  class Rows(list):
    def __getitem__(self, index):
      if index == 1:
        raise ValueError("answer is empty")
      return list.__getitem__(self, index)

  rows = Rows([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "nowhere"}, {"prompt": "c"}])
  with caplog.at_level("WARNING"):
    fitting = FittingRows(rows, TOKENIZER, 3)
  assert [row["prompt"] for row in fitting] == ["a", "c"] and fitting.num_dropped == 2
  line, = [record.getMessage() for record in caplog.records]
  assert line.startswith("prompts: 2 of 4 prompts left out: 1 x answer is empty (1); 1 x text: got")
  assert "nowhere" in line and line.endswith("(2)")
  with pytest.raises(ValueError, match="prompts: no usable row among 1; row 0: text: got the wo"):
    FittingRows([{"prompt": "nowhere"}], TOKENIZER, 3)


def test_a_prompt_with_a_token_that_the_model_has_no_embedding_for_is_left_out(caplog):
  rows = [{"prompt": "a"}, {"prompt": "b 2"}, {"prompt": "1 c"}]  # "2" is the last word
  tokenizer = TOKENIZER.with_rows(TOKENIZER.vocab_size - 1)
  with caplog.at_level("WARNING"):
    fitting = FittingRows(rows, tokenizer, 3)
  assert [row["prompt"] for row in fitting] == ["a", "1 c"] and fitting.num_dropped == 1
  assert "text: got 'b 2' with the token '2' (id 10)" in caplog.text


def test_a_prompt_that_ends_with_the_assistant_is_left_out_by_its_line(tmp_path, caplog):
  class Rows(FileRows):  # rows of other makers than files come as they are
    def __getitem__(self, index):
      return {"prompt": super().__getitem__(index)["prompt"] + [
          {"role": "assistant", "content": "b"}] * index}

  row = {"prompt": [{"role": "user", "content": "a"}], "answer": "1"}
  (tmp_path / "a.jsonl").write_text("\n\n".join([json.dumps(row)] * 2))
  fitting = FittingRows(Rows(tmp_path / "a.jsonl"), TOKENIZER, 9)
  assert len(fitting) == 1
  assert ("prompts: 1 of 2 prompts left out: 1 x prompt: got a chat that ends with the "
          "assistant's turn, allowed: with another's "
          f"({tmp_path / 'a.jsonl'}:3)") in caplog.text


def test_a_row_without_what_its_verifier_needs_is_left_out(caplog):
  rows = [{"prompt": "a", "target": 3}, {"prompt": "b", "target": None}, {"prompt": "c"}]
  fitting = FittingRows(rows, TOKENIZER, 3, columns={"target"})
  assert [row["prompt"] for row in fitting] == ["a"] and fitting.num_dropped == 2
  assert "2 of 3 prompts left out: 1 x columns: got [" in caplog.text
  assert "allowed: with ['target'], which the verifier reads" in caplog.text
  assert "(1); 1 x " in caplog.text and caplog.text.endswith("(2)\n")
