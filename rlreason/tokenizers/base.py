"""What every tokenizer offers. Chat messages are rendered and masked in `chat.py`."""

from collections.abc import Sequence
import os
from typing import Protocol


class Tokenizer(Protocol):
  """Text to token ids and back.

  Attributes:
    vocab_size: one more than the largest id.
    eos_ids: ids that end a completion; the first is the one to append to a text of one's own.
    pad_id: id that fills unused places. It may equal an end token: masks come from lengths.
    bos_id: id of the begin token, or None.
    chat_template: Jinja source that turns chat messages into text, or None.
  """

  vocab_size: int
  eos_ids: tuple[int, ...]
  pad_id: int
  bos_id: int | None
  chat_template: str | None

  def get_vocab(self) -> dict[str, int]:
    """Token to id, as the vocabulary writes it; special ones included."""

  def encode(self, text: str, *, add_special: bool = False) -> list[int]:
    """Ids of `text`; special tokens written in the text become their one id.

    Args:
      text: any string.
      add_special: also add what the tokenizer puts around a text (a begin token, in most models).
    """

  def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
    """Text of `ids`, without special tokens when `skip_special`."""

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the tokenizer files of a Hugging Face folder."""
