"""The interface of tokenizers. Chat messages are rendered and masked in `chat.py`."""

from collections.abc import Mapping, Sequence
import os
from typing import Any, Protocol


class Tokenizer(Protocol):
  """Text to token ids and back.

  Attributes:
    vocab_size: one more than the largest id.
    eos_ids: ids that end a completion; the first is the one to append to own texts.
    pad_id: id in unused slots. It may equal an end token: masks come from lengths.
    bos_id: id of the begin token, or None.
    chat_template: Jinja source that turns chat messages into text, or None.
    chat_options: further variables of the template, such as {"enable_thinking": False}.
    turn_end_id: id with which the template closes an assistant's turn; None: the first end id.
    num_rows: rows of the model's embedding, if it has fewer than there are tokens; or None.
  """

  vocab_size: int
  eos_ids: tuple[int, ...]
  pad_id: int
  bos_id: int | None
  chat_template: str | None
  chat_options: Mapping[str, Any]
  turn_end_id: int | None
  num_rows: int | None

  def get_vocab(self) -> dict[str, int]:
    """Token to id, as written in the vocabulary, including special ones."""

  def encode(self, text: str, *, add_special: bool = False) -> list[int]:
    """Ids of `text`; special tokens written in the text become their one id.

    Args:
      text: any string.
      add_special: also add the tokenizer's special tokens around a text (mostly a begin token).

    Raises:
      ValueError: the text has no ids, or one that the model has no embedding for.
    """

  def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
    """Text of `ids`; with `skip_special` without special tokens except tags like <think>."""

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the tokenizer files of a Hugging Face folder."""
