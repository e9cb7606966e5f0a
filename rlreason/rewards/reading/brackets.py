"""Brackets of LaTeX: matches them, and splits the text outside them."""

from collections.abc import Callable
import functools
import re

_TOKEN = re.compile(
    r"\"[^\"]*\"|\\begin\{[a-zA-Z*]+\}|\\end\{[a-zA-Z*]+\}|\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|.",
    re.DOTALL)
# The brackets that may close another: (1,2] is an interval.
_KINDS = {**dict.fromkeys(("(", "[", "\\{", "\\langle", "\\lfloor", "\\lceil"), "bracket"),
          "{": "brace"}
_CLOSED = {**dict.fromkeys((")", "]", "\\}", "\\rangle", "\\rfloor", "\\rceil"), "bracket"),
           "}": "brace"}


@functools.lru_cache(maxsize=16)  # several calls in a row concern one text
def _levels(text: str) -> list[tuple[re.Match, int]]:
  """(token, number of open brackets after it), up to where brackets do not match."""
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
  """The parts between separators outside all brackets; None if brackets do not match."""
  parts, start, end, level = [], 0, 0, 0
  for token, level in _levels(text):
    end = token.end()
    if level == 0 and is_separator(token.group(), token, text):
      parts.append(text[start:token.start()])
      start = end
  return None if level or end != len(text) else [*parts, text[start:]]


def closing(text: str) -> int | None:
  """The index after the bracket that closes the one at the start of the text."""
  for token, level in _levels(text):
    if level == 0:
      return token.end() if token.start() else None
  return None
