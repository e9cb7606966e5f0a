"""The closed vocabulary of words."""

import json

import pytest

from rlreason.tokenizers import WordTokenizer, load_tokenizer

WORDS = ["1", "2", "12", "+", "=", "(", "<try>"]


def test_ids_follow_the_order_of_the_words():
  tokenizer = WordTokenizer.from_words(WORDS)
  assert tokenizer.encode("12 +  1\n= 2 <try>") == [4, 5, 2, 6, 3, 8]
  assert tokenizer.encode("1<eos>") == [2, 1] and tokenizer.encode("") == []
  assert tokenizer.decode([4, 5, 2, 1, 0, 0]) == "12 + 1"
  assert tokenizer.decode([2, 1, 0], skip_special=False) == "1 <eos> <pad>"
  assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_ids, tokenizer.bos_id) == (
      9, 0, (1,), None)


def test_unknown_words_are_named():
  tokenizer = WordTokenizer.from_words(WORDS)
  with pytest.raises(ValueError, match=r"got the words \['1\+1', 'x'\], allowed: the 9 words"):
    tokenizer.encode("1 + 1+1 x<eos>")


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], ["<eos>"]])
def test_words_that_cannot_be(words):
  with pytest.raises(ValueError, match="words: got"):
    WordTokenizer.from_words(words)


def test_saved_folder(tmp_path):
  tokenizer = WordTokenizer.from_words(WORDS, chat_template="{{ messages[0]['content'] }}")
  tokenizer.save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert again.encode("12 + 1<eos>") == tokenizer.encode("12 + 1<eos>")
  assert (again.eos_ids, again.pad_id, again.chat_template) == (
      (1,), 0, tokenizer.chat_template)
  with pytest.raises(ValueError, match="'1 x'"):
    again.encode("1 x")
  config = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert (config["tokenizer_class"], config["eos_token"], config["pad_token"]) == (
      "PreTrainedTokenizerFast", "<eos>", "<pad>")
