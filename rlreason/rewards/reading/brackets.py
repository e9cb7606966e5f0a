"""Brackets of LaTeX: which closes which, and what stands outside them."""

from collections.abc import Callable
import functools
import re

_TOKEN = re.compile(
    r"\"[^\"]*\"|\\begin\{[a-zA-Z*]+\}|\\end\{[a-zA-Z*]+\}|\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|.",
    re.DOTALL)
# What a bracket may be closed by: (1,2] is an interval.
_KINDS = {**dict.fromkeys(("(", "[", "\\{", "\\langle", "\\lfloor", "\\lceil"), "bracket"),
          "{": "brace"}
_CLOSED = {**dict.fromkeys((")", "]", "\\}", "\\rangle", "\\rfloor", "\\rceil"), "bracket"),
           "}": "brace"}


@functools.lru_cache(maxsize=16)  # several questions in turn are about one text
def _levels(text: str) -> list[tuple[re.Match, int]]:
  """(token, how many brackets are open behind it), up to where brackets do not match."""
  levels, stack = [], []
  for token in _TOKEN.finditer(text):
    mark = token.group()
    opened = "rows" if mark.startswith("\\begin{") else _KINDS.get(mark)
    closed = "rows" if mark.startswith("\\end{") else _CLOSED.get(mark)
    if opened:
      stack.append(opened)
    elif closed and (not stack or stack.pop() != closed):
      break
    levels.append((token, len(stack)))
  return levels


def split(
    text: str, is_separator: Callable[[str, re.Match, str], bool]
) -> list[str] | None:
  """The parts between separators outside all brackets; None where brackets do not match."""
  parts, start, end, level = [], 0, 0, 0
  for token, level in _levels(text):
    end = token.end()
    if level == 0 and is_separator(token.group(), token, text):
      parts.append(text[start:token.start()])
      start = end
  return None if level or end != len(text) else [*parts, text[start:]]


def closing(text: str) -> int | None:
  """Where the bracket at the start of the text is closed: the index behind it."""
  for token, level in _levels(text):
    if level == 0:
      return token.end() if token.start() else None
  return None
