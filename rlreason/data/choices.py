"""Multiple-choice rows: writes the choices under the question, and the answer as a label.

Choices may be a list of texts, with or without labels, an object of labels, separate columns (`A`,
`B`; `option1`, `option2`), or the right answer next to wrong ones. Not here: other columns
(`data/columns.py`).
"""

from collections.abc import Mapping
import hashlib
import re
from typing import Any, NamedTuple

import numpy as np

from rlreason.data import messages, values

COLUMNS = ("choices", "options")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = re.compile(r"\s*\(?([A-Za-z]|\d{1,2})\s?[).:]\s*(?=\S)")  # of "A) 21" and "(a) 21"
_IN_TEXT = re.compile(r"(?:^|[\s,;])\(?([A-Za-z])\s?[).:]\s")  # of "a ) 38 , b ) 27"
_OWN_COLUMN = re.compile(r"([A-J])|(?:option|choice|op)[_ ]?([a-jA-J]|\d)")
_WRONG_COLUMN = re.compile(r"(?:incorrect[_ ]answer|distractor)[_ ]?\d+", re.IGNORECASE)


class Choices(NamedTuple):
  """The choices, in the order in which they are shown."""

  labels: tuple[str, ...]
  texts: tuple[str, ...]  # empty if `shown` is given as one text
  shown: str  # one per line


def find(row: Mapping[str, Any], right: Any = None) -> Choices | None:
  """The choices of a row; None if it has none.

  Args:
    row: of columns.
    right: the right answer of a problem, for choices in separate columns; None: only lists are
      searched.
  """
  for name in COLUMNS:
    if values.is_filled(row.get(name)):
      return _read(row[name])
  if right is None:
    return None
  own = {(found[1] or found[2]): row[name] for name in row
         if (found := _OWN_COLUMN.fullmatch(name)) and values.is_filled(row[name])}
  if len(own) > 1:
    return _own(own, right, is_sure=not {"A", "B"} & set(row))
  wrong = [row[name] for name in row if _WRONG_COLUMN.fullmatch(name)
           and values.is_filled(row[name])]
  if not wrong:
    return None
  # Shuffled, in the same order in every run: the right one must not always come first.
  texts = [values.text(value, "a choice").strip() for value in (right, *wrong)]
  return _labelled(zip(_LETTERS, sorted(
      texts, key=lambda text: hashlib.sha256(text.encode()).digest())))


def _own(columns: Mapping[str, Any], right: Any, is_sure: bool) -> Choices | None:
  """Choices in separate columns; `A` and `B` may be anything, unless the answer is one of them."""
  try:
    choices = _labelled(sorted(columns.items()))
    label_of(right, choices)
  except ValueError:
    if is_sure:
      raise
    return None
  return choices


def _read(value: Any) -> Choices | None:
  if isinstance(value, str):
    parsed = messages.parse(value)
    if parsed is None:  # such as "a ) 38 , b ) 27"
      labels = tuple(_IN_TEXT.findall(value))
      return Choices(labels, (), value.strip()) if len(labels) > 1 else None
    value = parsed
  if isinstance(value, np.ndarray) and value.ndim:
    value = list(value)
  if isinstance(value, Mapping):
    labels, texts = (value.get(name, value.get(name + "s")) for name in ("label", "text"))
    if isinstance(labels, (list, np.ndarray)) and isinstance(texts, (list, np.ndarray)):
      return _labelled(zip(labels, texts))
    filled = [(label, text) for label, text in value.items() if values.is_filled(text)]
    return _labelled(filled) if all(len(str(label)) < 3 for label, _ in filled) else None
  if not isinstance(value, list) or len(value) < 2:
    return None
  if all(isinstance(entry, Mapping) and "label" in entry and "text" in entry for entry in value):
    return _labelled((entry["label"], entry["text"]) for entry in value)
  if any(isinstance(entry, (Mapping, list)) for entry in value) or len(value) > len(_LETTERS):
    return None
  texts = [values.text(entry, "a choice").strip() for entry in value]
  own = [_LABEL.match(text) for text in texts]
  first = [found and found[1].upper() for found in own]
  if first in (list(_LETTERS[:len(texts)]), [str(i + 1) for i in range(len(texts))]):
    return _labelled((found[1], text[found.end():]) for found, text in zip(own, texts))
  return _labelled(zip(_LETTERS, texts))


def _labelled(entries: Any) -> Choices | None:
  pairs = [(str(label).strip(), values.text(text, "a choice").strip()) for label, text in entries]
  if len(pairs) < 2:
    return None
  labels, texts = zip(*pairs)
  return Choices(labels, texts, "\n".join(f"{label}. {text}" for label, text in pairs))


def under(question: str, choices: Choices) -> str:
  """The question with its choices under it, unless it already has them."""
  lines = list(zip(choices.labels, choices.texts)) or [("", choices.shown)]
  if all(re.search(re.escape(label) + r"\W{0,6}" + re.escape(text), question)
         for label, text in lines):
    return question
  return f"{question.rstrip()}\n{choices.shown}"


def label_of(answer: Any, choices: Choices) -> str:
  """The label of an answer that is given as a label, as the choice's text, or as an index from 0.

  For a worked solution it is the marked answer; one that marks none is unchanged.

  Raises:
    ValueError: it matches no choice, or several.
  """
  if isinstance(answer, (list, np.ndarray)) and np.ndim(answer) and len(answer) == 1:
    answer = answer[0]
  is_text = isinstance(answer, str)
  written = values.answer_text(answer).strip()
  if values.is_working(written):
    marked = values.marked_answer(written)
    if not marked:
      return written
    written, is_text = marked, True
  folded = [label.casefold() for label in choices.labels]
  parts = [folded.index(part) for part in re.findall(r"\w+", written.casefold())
           if part in folded]
  if len(parts) > 1 and re.fullmatch(r"\w+(?:\s*(?:,|;|and)\s*\w+)+", written):
    return ", ".join(choices.labels[i] for i in parts)
  bare = written.strip("()[]. ").casefold()
  found = {folded.index(bare)} if bare in folded else set()
  texts = [text.casefold() for text in choices.texts]
  if is_text or not found:
    whole = _LABEL.sub("", written, count=1) if not found else written
    found |= {i for i, text in enumerate(texts) if text in (written.casefold(), whole.casefold())}
  is_index = written.isdecimal() and int(written) < len(texts)
  if is_index and not any(label.isdecimal() for label in folded):
    found = found | {int(written)} if is_text else {int(written)}
  if len(found) != 1:
    shown = ", ".join(choices.labels)
    several = ", which may be one of several" if found else ""
    raise ValueError(f"answer: got {written!r}{several}, allowed: one of the choices {shown}")
  return choices.labels[found.pop()]
