"""Tokenizers rebuilt from GGUF metadata: the real SmolLM2, and small hand-made vocabularies."""

import json
import pathlib

import pytest

from rlreason import tokenizers
from rlreason.tokenizers import gguf as ours
from rlreason.weights import find_smollm2
from tests.tokenizers import nasty

# Ids that llama.cpp gives for the same file.
LLAMA_CPP = {
    "": [], " ": [216], "  ": [256], "\n\n\n": [16506],
    "What is 12345+678?": [1780, 314, 216, 33, 34, 35, 36, 37, 27, 38, 39, 40, 47],
    "3.14159 x 10^-7": [35, 30, 33, 36, 33, 37, 41, 1792, 216, 33, 32, 78, 29, 39],
    "naïve café": [3546, 46494, 37366],
    "日本語のテキスト": [
        23274, 115, 40993, 179, 120, 248, 26453, 11100, 224, 10391, 251, 10391, 134, 11100, 226],
    "🙂👩\u200d👧": [10813, 38887, 10813, 235, 119, 321, 231, 10813, 235, 117],
    "don't I'LL we'Ve": [12420, 982, 339, 23, 16421, 392, 23, 25917],
    "tabs\t\tand  spaces   end  ": [100, 7366, 197, 197, 397, 216, 5600, 256, 1112, 256],
    "<|im_start|>user\nhi<|im_end|>": [1, 4093, 198, 6004, 2],
    "<|im_end": [44, 108, 306, 79, 486],
    "x²+½=Ⅷ ٣": [104, 19133, 27, 16738, 45, 173, 223, 117, 216, 164, 113],
    "\r\nwin\r\n": [201, 198, 5544, 2738],
    "a\u0301 e\u0301": [81, 151, 219, 297, 151, 219],
    "\u00a0nbsp\u3000wide": [15442, 94, 32093, 12109, 218, 3641],
    "def f(x):\n    return x**2\n": [1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 198],
    "\\boxed{\\frac{1}{2}}": [76, 4810, 277, 26754, 18169, 107, 33, 15009, 34, 17859],
    "ẞßſ": [31604, 248, 34878, 144, 140], "\x00\x07": [190, 195],
    "0x1F 1,000,000": [32, 104, 33, 54, 216, 33, 28, 32, 32, 32, 28, 32, 32, 32],
}


@pytest.fixture(scope="module")
def smollm2():
  return tokenizers.load_tokenizer(find_smollm2())


def test_smollm2_gives_the_ids_of_llama_cpp(smollm2):
  for text, ids in LLAMA_CPP.items():
    assert smollm2.encode(text) == ids, text
    assert smollm2.decode(ids, skip_special=False) == text


def test_smollm2_gives_the_ids_of_llama_cpp_on_nasty_texts(smollm2):
  ids = json.loads(pathlib.Path(__file__).with_name("nasty_ids.json").read_text())["smollm2"]
  assert len(nasty.TEXTS) >= 200
  for text, wanted in zip(nasty.TEXTS, ids, strict=True):
    assert smollm2.encode(text) == wanted, text
    assert smollm2.decode(wanted, skip_special=False) == text


def test_smollm2_special_ids(smollm2):
  assert smollm2.vocab_size == 49152
  assert (smollm2.eos_ids, smollm2.pad_id, smollm2.bos_id) == ((2,), 2, 1)
  assert smollm2.encode("a", add_special=True) == smollm2.encode("a")  # add_bos_token is false
  assert smollm2.decode([1, 4093, 198, 6004, 2]) == "user\nhi"


def test_smollm2_saved_folder_gives_the_same_ids(smollm2, tmp_path):
  smollm2.save(tmp_path)
  again = tokenizers.load_tokenizer(tmp_path)
  assert [again.encode(text) for text in LLAMA_CPP] == list(LLAMA_CPP.values())
  assert (again.eos_ids, again.pad_id, again.bos_id, again.chat_template) == (
      smollm2.eos_ids, smollm2.pad_id, smollm2.bos_id, smollm2.chat_template)


def _byte_level(pre, **changes):
  tokens = ["<end>", "<think>", *"ab12", "Ġ", "Ã", "©", "1" "2", "ab", "Ġab"]
  return {
      "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": [3, 4] + [1] * (len(tokens) - 2),
      "tokenizer.ggml.merges": ["1 2", "a b", "Ġ ab"], "tokenizer.ggml.eos_token_id": 0} | changes


# The tokens of "12 ab 12" -> names that llama.cpp splits so.
SPLITS = {
    ("12", "Ġab", "Ġ", "12"): [
        "gpt-2", "phi-2", "olmo", "exaone4", "llama-bpe", "llama3", "llama-v3", "falcon3",
        "pixtral", "lfm2", "smaug-bpe", "dbrx"],
    ("1", "2", "Ġab", "Ġ", "1", "2"): [
        "smollm", "starcoder", "command-r", "qwen2", "deepseek-r1-qwen", "megrez", "stablelm2",
        "hunyuan"],
}


@pytest.mark.parametrize(
    "pre, expected", [(pre, list(tokens)) for tokens, names in SPLITS.items() for pre in names])
def test_pre_tokenizers_differ_in_digits(pre, expected):
  tokenizer = ours.tokenizer_from_gguf(_byte_level(pre))
  assert tokenizer.backend.encode("12 ab 12").tokens == expected
  assert tokenizer.decode(tokenizer.encode("é12 ab<think>"), skip_special=True) == "é12 ab<think>"
  assert tokenizer.decode(tokenizer.encode("ab<end>")) == "ab"


@pytest.mark.parametrize("pre, ids, begins", [
    ("llama-bpe", [9], True), ("llama3", [9], True), ("llama-v3", [9], True),
    ("falcon3", [9], True), ("pixtral", [9], True), ("smaug-bpe", [2, 3, 2], False),
    ("dbrx", [2, 3, 2], False), ("gpt-2", [2, 3, 2], False),
    ("deepseek-r1-qwen", [2, 3, 2], False)])
def test_whole_words_and_begin_tokens_are_of_llama3_alone(pre, ids, begins):
  tokens = ["<end>", "<think>", "a", "b", "1", "2", "Ġ", "Ã", "©", "aba"]  # no merge makes "aba"
  tokenizer = ours.tokenizer_from_gguf(_byte_level(pre, **{
      "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [3, 4] + [1] * 8,
      "tokenizer.ggml.merges": [], "tokenizer.ggml.bos_token_id": 1}))
  assert tokenizer.encode("aba") == ids
  assert tokenizer.encode("aba", add_special=True) == [1] * begins + ids


def test_rows_that_fill_an_embedding_are_no_tokens():
  padded = _byte_level("qwen2")
  count = len(padded["tokenizer.ggml.tokens"])
  padded["tokenizer.ggml.tokens"] += [f"[PAD{count}]", f"[PAD{count + 1}]"]
  padded["tokenizer.ggml.token_type"] += [5, 5]
  assert ours.tokenizer_from_gguf(padded).vocab_size == count
  padded["tokenizer.ggml.token_type"][-1] = 3  # a token after all
  assert ours.tokenizer_from_gguf(padded).vocab_size == count + 2


def test_qwen2_composes_characters():
  assert ours.tokenizer_from_gguf(_byte_level("qwen2")).encode("e\u0301") == [7, 8]


def test_several_end_tokens_and_a_begin_token():
  fields = {f"tokenizer.ggml.{k}": v for k, v in {
      "eot_token_id": 1, "bos_token_id": 2, "add_bos_token": True}.items()}
  tokenizer = ours.tokenizer_from_gguf(_byte_level("gpt-2", **fields), end_tokens=["b"])
  assert tokenizer.eos_ids == (3, 0, 1) and tokenizer.pad_id == 3
  assert tokenizer.encode("ab", add_special=True) == [2, 10]


def test_sentencepiece_vocabulary():
  tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab"]
  metadata = {f"tokenizer.ggml.{k}": v for k, v in {
      "model": "llama", "tokens": tokens, "token_type": [2, 3, 3, 6, 1, 1, 1, 1, 1],
      "scores": [0, 0, 0, 0, -9, -9, -9, -1, -2], "unknown_token_id": 0, "bos_token_id": 1,
      "eos_token_id": 2}.items()}
  tokenizer = ours.tokenizer_from_gguf(metadata)
  assert tokenizer.encode("ab ab\nab") == [8, 8, 3, 7]
  assert tokenizer.encode("ab</s>", add_special=True) == [1, 8, 2]
  assert tokenizer.decode([1, 8, 8, 3, 7, 2]) == "ab ab\nab"


@pytest.mark.parametrize("changes, message", [
    ({"tokenizer.ggml.pre": "viking"}, r"pre: got 'viking', allowed: gpt-2, smollm"),
    ({"tokenizer.ggml.model": "bert"}, r"model: got 'bert', allowed: gpt2, llama"),
    ({"tokenizer.ggml.eos_token_id": 99}, r"eos_ids: got \[99\]"),
])
def test_refuses_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    ours.tokenizer_from_gguf(_byte_level("gpt-2", **changes))


def test_missing_field_is_named():
  metadata = _byte_level("gpt-2")
  del metadata["tokenizer.ggml.merges"]
  with pytest.raises(ValueError, match="tokenizer.ggml.merges: missing"):
    ours.tokenizer_from_gguf(metadata)


def test_the_token_that_closes_a_turn_ends_a_completion():
  tokens = ["<end>", "<|im_end|>", *"abcdefghijklmnopqrstuvwxyz0123456789?"]
  metadata = _byte_level("qwen2", **{
      "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [],
      "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
      "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"})
  tokenizer = ours.tokenizer_from_gguf(metadata)
  assert (tokenizer.eos_ids, tokenizer.turn_end_id) == ((0, 1), 1)
