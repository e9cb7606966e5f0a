"""Tokenizers of a few hundred pieces, made in milliseconds."""

import sentencepiece as spm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rlreason.tokenizers import HFTokenizer

_CORPUS = ["the cat sat on the mat", "12 + 34 = 46", "a b c d e f g", "once upon a time there was",
           "numbers 1 2 3 4 5 6 7 8 9 0", "The Cat. The Mat, the end!", "naïve café, 日本 🙂",
           "x = (1 + 2) * 3 - 4 / 5", "word words wordy [INST] <|im_start|>"] * 20
_LLAMA = dict(
    model_type="bpe", byte_fallback=True, split_digits=True, normalization_rule_name="identity",
    remove_extra_whitespaces=False)
_UNIGRAM = dict(model_type="unigram", user_defined_symbols=["<think>", "<b>"])
KINDS = {
    "llama": _LLAMA,
    "llama_symbols": _LLAMA | dict(
        user_defined_symbols=["<think>", "<b>", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581"]),
    "no_bytes": _LLAMA | dict(byte_fallback=False, user_defined_symbols=["<think>"]),
    "gemma": _LLAMA | dict(
        add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>",
        eos_piece="<eos>", bos_piece="<bos>", user_defined_symbols=[
            "<mask>", "<think>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\u2581\u2581",
            "\u2581\u2581\u2581\u2581", "<b>", "</b>"]),
    "unigram": _UNIGRAM | dict(normalization_rule_name="identity"),
    "unigram_bytes": _UNIGRAM | dict(
        normalization_rule_name="identity", byte_fallback=True, remove_extra_whitespaces=False),
    "unigram_nfkc": _UNIGRAM | dict(byte_fallback=True),
}


def train(kind, folder, **changes):
  """The file of a model of one of `KINDS`."""
  options = KINDS[kind] | changes
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(_CORPUS), model_prefix=str(folder / kind),
      vocab_size=420 if options.get("byte_fallback") else 90, hard_vocab_limit=False, minloglevel=2,
      **options)
  return folder / f"{kind}.model"


def byte_level(special=("<end>",), *, begin=None, end="<end>", chat_template=None):
  """A token per byte, three of two bytes, of which one ends within a character, and `special`."""
  pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = [("h", "e"), ("Ġ", "a"), ("ð", "Ł")]
  backend = Tokenizer(models.BPE(
      vocab={piece: i for i, piece in enumerate([*pieces, *map("".join, merges)])}, merges=merges))
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(list(special))
  eos_id = backend.token_to_id(end)
  return HFTokenizer(
      backend=backend, eos_ids=(eos_id,), pad_id=eos_id,
      bos_id=None if begin is None else backend.token_to_id(begin), chat_template=chat_template)
