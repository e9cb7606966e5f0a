"""Tokenizers of Hugging Face folders: special tokens and templates from whichever file has them."""

import dataclasses
import json

import pytest

from rlreason.tokenizers import WordTokenizer, load_hf, load_tokenizer

WORDS = ["<s>", "<end>", "a", "b"]  # ids 2, 3, 4, 5 after <pad> and <eos>


@pytest.fixture(name="folder")
def _folder(tmp_path):
  """tokenizer.json alone."""
  WordTokenizer.from_words(WORDS).backend.save(str(tmp_path / "tokenizer.json"))
  return tmp_path


def _write(folder, **files):
  for name, value in files.items():
    (folder / f"{name}.json").write_text(json.dumps(value))


def test_end_tokens_of_all_files_in_order(folder):
  _write(folder, tokenizer_config={"eos_token": {"content": "<end>"}, "bos_token": "<s>"},
         generation_config={"eos_token_id": [1, 3]}, config={"eos_token_id": 4})
  tokenizer = load_hf(folder)
  assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id) == ((3, 1, 4), 3, 2)
  assert load_hf(folder, end_tokens=["b"]).eos_ids == (5, 3, 1, 4)
  with pytest.raises(ValueError, match=r"end_tokens: got \['zzz'\]"):
    load_hf(folder, end_tokens=["zzz"])


def test_special_tokens_map_is_read_where_the_config_says_nothing(folder):
  _write(folder, special_tokens_map={"eos_token": "<eos>", "pad_token": "<pad>"},
         tokenizer_config={"pad_token": "a"})
  tokenizer = load_hf(folder)
  assert (tokenizer.eos_ids, tokenizer.pad_id) == ((1,), 4)


def test_no_end_token_is_an_error(folder):
  with pytest.raises(ValueError, match="end_tokens: got none, allowed: .*eos_token in"):
    load_hf(folder)


def test_special_tokens_must_be_in_the_vocabulary(folder):
  _write(folder, tokenizer_config={"eos_token": "</s>"})
  with pytest.raises(ValueError, match="'</s>'"):
    load_hf(folder)
  _write(folder, tokenizer_config={"eos_token": "<eos>"}, config={"eos_token_id": 77})
  with pytest.raises(ValueError, match=r"eos_ids: got \[77\], allowed: ids below 6"):
    load_hf(folder)


def test_chat_templates(folder):
  _write(folder, tokenizer_config={"eos_token": "<eos>", "chat_template": "one"})
  assert load_hf(folder).chat_template == "one"
  several = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
  _write(folder, tokenizer_config={"eos_token": "<eos>", "chat_template": several})
  assert load_hf(folder).chat_template == "three"
  (folder / "chat_template.jinja").write_text("four")
  assert load_hf(folder).chat_template == "four"


def test_save_keeps_everything(folder, tmp_path):
  _write(folder, tokenizer_config={"eos_token": "<end>", "pad_token": "<pad>", "bos_token": "<s>",
                                   "chat_template": "é {{ x }}"},
         generation_config={"eos_token_id": [3, 1]})
  tokenizer = load_hf(folder)
  tokenizer.save(tmp_path / "new" / "folder")
  (tmp_path / "new" / "folder" / "chat_template.jinja").write_text("of another model")
  tokenizer.save(tmp_path / "new" / "folder")
  again = load_tokenizer(tmp_path / "new" / "folder")
  for field in dataclasses.fields(tokenizer):
    if field.name != "backend":
      assert getattr(again, field.name) == getattr(tokenizer, field.name)


def test_saved_truncation_and_padding_are_switched_off(folder):
  tokenizer = load_hf(folder, end_tokens=["<eos>"])
  tokenizer.backend.enable_truncation(2)
  tokenizer.backend.enable_padding(length=9)
  tokenizer.backend.save(str(folder / "tokenizer.json"))
  assert load_hf(folder, end_tokens=["<eos>"]).encode("a b a b a") == [4, 5, 4, 5, 4]


def test_missing_and_damaged_files(tmp_path):
  with pytest.raises(FileNotFoundError, match="tokenizer.json"):
    load_hf(tmp_path)
  with pytest.raises(FileNotFoundError, match="tokenizer.json, tokenizer.model"):
    load_tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{")
  with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer.json"):
    load_hf(tmp_path)
  WordTokenizer.from_words(WORDS).save(tmp_path)
  (tmp_path / "generation_config.json").write_text("[1]")
  with pytest.raises(ValueError, match="generation_config.json: got a list, allowed: an object"):
    load_hf(tmp_path)


@pytest.mark.parametrize("where", ["tokenizer_config", "chat_template.jinja"])
def test_the_token_that_closes_a_turn_ends_a_completion(folder, where):
  template = "{% for m in messages %}{{ m.content }} <end> {% endfor %}"
  backend = WordTokenizer.from_words(WORDS).backend
  backend.add_special_tokens(["<end>"])
  backend.save(str(folder / "tokenizer.json"))
  config = {"eos_token": "<eos>"}
  if where == "tokenizer_config":
    config["chat_template"] = template
  else:
    (folder / where).write_text(template)
  _write(folder, tokenizer_config=config)
  tokenizer = load_tokenizer(folder)
  assert (tokenizer.eos_ids, tokenizer.turn_end_id, tokenizer.pad_id) == ((1, 3), 3, 1)
  assert load_hf(folder, end_tokens=["a"]).eos_ids == (4, 1, 3)
