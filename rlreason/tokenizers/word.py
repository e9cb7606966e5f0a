"""A closed vocabulary of whitespace-separated words, for models trained from scratch."""

from collections.abc import Iterable

import tokenizers
from tokenizers import models, pre_tokenizers

from rlreason.tokenizers.hf import HFTokenizer

PAD, EOS = "<pad>", "<eos>"


class WordTokenizer(HFTokenizer):
  """One id per word; a word outside the vocabulary is an error, not an unknown token.

  `decode(encode(text))` is `text` with single spaces as whitespace. `save` writes a folder
  that transformers loads; there an unknown word is an error as well.
  """

  @classmethod
  def from_words(cls, words: Iterable[str], *, chat_template: str | None = None) -> "WordTokenizer":
    """Makes the vocabulary `<pad>`, `<eos>`, then `words` in their order.

    Args:
      words: distinct and without whitespace.
      chat_template: Jinja source that turns chat messages into text.

    Raises:
      ValueError: a word is empty, has whitespace, or comes twice.
    """
    vocabulary = [PAD, EOS, *words]
    bad = [word for word in vocabulary if word.split() != [word] or vocabulary.count(word) > 1]
    if bad:
      raise ValueError(
          f"words: got {bad}, allowed: distinct, not empty, without whitespace, not {PAD} or {EOS}")
    backend = tokenizers.Tokenizer(
        models.WordLevel(vocab={word: i for i, word in enumerate(vocabulary)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([PAD, EOS])
    return cls(backend=backend, pad_id=0, eos_ids=(1,), chat_template=chat_template)

  def encode(self, text: str, *, add_special: bool = False) -> list[int]:
    """Ids of the words of `text`.

    Raises:
      ValueError: a word is not in the vocabulary; names it.
    """
    try:
      return super().encode(text, add_special=add_special)
    except ValueError as error:
      spaced = text.replace(EOS, f" {EOS} ").replace(PAD, f" {PAD} ")
      unknown = sorted({w for w in spaced.split() if self.backend.token_to_id(w) is None})
      if not unknown:
        raise
      raise ValueError(
          f"text: got the words {unknown}, allowed: the {self.vocab_size} words of the vocabulary"
      ) from error
