r"""Parses the text of an answer into its reading.

`read` uses only the text and parses it as far as its form allows; mathematics decides the remaining
pieces. Not here: whether two readings agree (`matching.py`).
"""

import functools
import re

from rlreason.rewards.reading import amounts, brackets, language, lists, quantities, relations
from rlreason.rewards.reading.types import Choice, Expression, Number, Reading, Words
from rlreason.rewards.reading.typesetting import clean, squeeze

MAX_DEPTH = 12  # of brackets and braces that are parsed


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Reading:
  """The reading of an answer as written, without the boxes and markup of a completion."""
  plain = quantities.exact_number(text) if text.isascii() and "=" not in text else None
  if plain is not None:
    return Number(plain)
  return _read(language.trim(clean(text)), 0)


_CHOICE = re.compile(
    r"(?:\\text\{ ?\(([A-Z])\)[.:]? ?\}|\\text\{ ?([A-Z])[).:] ?\}|\(([A-Z])\)[.:]?"
    r"|\(\\text\{([A-Z])\}\)|([A-Z])[).:](?=\s)) *(?=\S)(?![=,;]|(?:or|and)\b|\\l(?:or|and))")


_READERS = (
    lists.read_rows, lists.read_builder, lists.read_rest, lists.read_list, lists.read_brackets,
    lists.read_membership, lists.read_residue, lists.read_ratio, relations.read_inequality,
    relations.read_equation)


def _read(text: str, depth: int) -> Reading:
  """Reads cleaned text."""
  text = text.strip()
  if depth > MAX_DEPTH:
    return Expression(squeeze(text))
  number = language.read_clock(text) or amounts.read_number(text)
  if number is not None:
    return number
  quoted = re.fullmatch(r"\"([^\"]*)\"|'([^']*)'", text)
  if quoted:
    return amounts.read_number(text[1:-1]) or Words(language.fold(text[1:-1]))
  read_part = functools.partial(_read, depth=depth + 1)
  inner = _unwrapped(text)
  if inner is not None:
    return read_part(inner)
  choice = _CHOICE.match(text)
  if choice and choice.end() < len(text):
    return Choice(next(filter(None, choice.groups())), read_part(text[choice.end():]))
  code = language.read_code(text)
  if code is not None:
    return code
  for reader in _READERS:
    found = reader(text, read_part)
    if found is not None:
      return found
  head, unit = amounts.without_unit(text)
  is_formula = head != text and not language.read_words(head)
  found = None if is_formula else language.read_words(text)
  found = found or Expression(language.formula(head), unit)
  return language.MEANINGS.get(found[0], found)


def _unwrapped(text: str) -> str | None:
  r"""What is inside `{...}`, `\text{...}` or round brackets around a single thing."""
  label = re.fullmatch(r"([A-Z])\)[.:]?", text)
  if label:
    return label[1]
  upright = re.fullmatch(r"\\text\{([^{}]*)\}", text)
  if upright:
    return language.trim(upright[1])
  if brackets.closing(text) == len(text) and text[0] in "{(":
    inside = text[1:-1].strip()
    parts = brackets.split(inside, lambda kind, *_: kind in ",;")
    if inside and (text[0] == "{" or parts is not None and len(parts) == 1):
      return inside
  return None
