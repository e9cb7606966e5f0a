"""Decodes token ids to text incrementally, as a model writes them."""

from collections.abc import Sequence
import re

from rlreason.tokenizers.hf import HFTokenizer

_REPLACEMENT = "\ufffd"  # a decoder's output for bytes that are not (yet) a character
# A character has at most four bytes and a token at least one, so that the last four tokens hold
# every unfinished character, after one token whose start a decoder may change (Llama 2's drops its
# space).
_CONTEXT = 4
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class IncrementalDecoder:
  """The text of growing ids, in final pieces that never split a character.

  The pieces and the result of `flush` together are `tokenizer.decode(all ids)`. Text that later ids
  may still change is held back: bytes of an unfinished character, and a run of sentencepiece's byte
  tokens (`<0x0A>`), which decodes to replacement characters as a whole if one of them does not fit.
  The work per id does not grow with the text.

      decoder = IncrementalDecoder(tokenizer)
      for i in ids:
        print(decoder.feed([i]), end="")
      print(decoder.flush())
  """

  def __init__(self, tokenizer: HFTokenizer, *, skip_special: bool = True):
    self._tokenizer = tokenizer
    self._skip_special = skip_special
    self._window: list[int] = []  # the latest ids; earlier ones do not affect later text
    self._given = 0  # characters of the window's text that were given

  def feed(self, ids: Sequence[int]) -> str:
    """Takes the next ids and returns the text that is now final; it may be empty."""
    self._window += [int(i) for i in ids if not self._is_silent(i)]
    end = len(self._window)
    while end and self._is_byte(self._window[end - 1]):
      end -= 1
    if not end:
      return ""
    text = self._decode(self._window[:end])
    # Of several at the end only the last can be an unfinished character.
    held = int(text.endswith(_REPLACEMENT))
    piece = text[self._given:len(text) - held]
    start = max(0, end - _CONTEXT)
    self._given = len(self._decode(self._window[start:end])) - held
    self._window = self._window[start:]
    return piece

  def flush(self) -> str:
    """The text held back; the next id starts another text."""
    piece = self._decode(self._window)[self._given:]
    self._window, self._given = [], 0
    return piece

  def _decode(self, ids: Sequence[int]) -> str:
    return self._tokenizer.decode(ids, skip_special=self._skip_special)

  def _is_silent(self, i: int) -> bool:
    """Whether the id adds no text, as a special token that is skipped; a lone space may be dropped
    at the beginning, hence two."""
    return not self._decode([i, i])

  def _is_byte(self, i: int) -> bool:
    return bool(_BYTE_TOKEN.fullmatch(self._tokenizer.backend.id_to_token(i)))
