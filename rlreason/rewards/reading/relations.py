r"""Equations and inequalities."""

from fractions import Fraction
import re

from rlreason.rewards.reading import amounts, brackets, language
from rlreason.rewards.reading.types import (
    INFINITY, MINUS_INFINITY, Equation, Expression, Items, Number, Reader, Reading)
from rlreason.rewards.reading.typesetting import squeeze

_VARIABLE = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?|[a-zA-Z]\([a-z]\)|\\text\{[^{}]*\}")
_MAX_CHAIN = 30  # parts of an inequality
_RELATIONS = {"<": ("<", True), ">": (">", True), "\\le": ("<", False), "\\ge": (">", False)}


def read_inequality(text: str, read: Reader) -> Reading | None:
  r"""`x > 3` is the interval (3, \infty) of x; `3 < x \le 5` is (3, 5]; `x \ne 3` a union."""
  signs = []
  parts = brackets.split(text, lambda kind, *_: (
      kind in _RELATIONS or kind == "\\ne") and not signs.append(kind))
  if parts is None or not 2 <= len(parts) <= _MAX_CHAIN:
    return None
  parts = [part.strip() for part in parts]
  if len(parts) == 2 and "|" in text and signs[0] in _RELATIONS:
    return _read_distance(parts, signs[0])
  is_chain = len(parts) > 2 and not (len(parts) == 3 and _VARIABLE.fullmatch(parts[1]))
  if is_chain or len(parts) == 2 and all(map(_VARIABLE.fullmatch, parts)):
    return _read_chain(parts, signs, read)
  negative = re.fullmatch(r"- ?(\\?[a-z])", parts[0])
  number = amounts.read_number(parts[1]) if negative else None
  if number is not None and len(parts) == 2 and signs[0] in _RELATIONS:  # -x > -1
    found = read_inequality(f"0 {signs[0]} {negative[1]}", read)
    end = number._replace(value=-number.value)
    return found._replace(
        items=tuple(end if isinstance(item, Number) else item for item in found.items))
  if signs == ["\\ne"]:
    if not _VARIABLE.fullmatch(parts[0]):
      return None
    value = read(parts[1])
    return Items("union", (Items("()", (MINUS_INFINITY, value)),
                           Items("()", (value, INFINITY))), squeeze(parts[0]))
  if "\\ne" in signs:
    return None
  directions = [_RELATIONS[sign] for sign in signs]
  if len(parts) == 2:
    left, right = parts
    (direction, is_open), = directions
    if _VARIABLE.fullmatch(right) and not _VARIABLE.fullmatch(left) and left:
      left, right, direction = right, left, "<>"[direction == "<"]
    if left and not _VARIABLE.fullmatch(left) or not right:
      return None
    if direction == ">":
      return Items("(" + ")" if is_open else "[)", (read(right), INFINITY), squeeze(left))
    return Items("()" if is_open else "(]", (MINUS_INFINITY, read(right)), squeeze(left))
  if directions[0][0] != directions[1][0]:
    return None
  if directions[0][0] == ">":
    parts, directions = parts[::-1], directions[::-1]
  kind = "(["[not directions[0][1]] + ")]"[not directions[1][1]]
  return Items(kind, (read(parts[0]), read(parts[2])), squeeze(parts[1]))


# |x - 1| < 2; z and w are complex numbers, of which this is a disc.
_DISTANCE = re.compile(r"\| ?([a-vxy]) ?(?:([+-]) ?([^|]+))?\|")


def _read_distance(parts: list[str], sign: str) -> Items | None:
  """The numbers within a distance of a number, or beyond it."""
  if parts[1].startswith("|"):
    parts, sign = parts[::-1], {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[sign]
  found = _DISTANCE.fullmatch(parts[0])
  radius = amounts.read_number(parts[1]) if found else None
  shift = Number(Fraction(0))
  if found and found[2]:
    shift = amounts.read_number(found[2] + found[3])
  if not isinstance(radius, Number) or shift is None or radius.value <= 0:
    return None
  low, high = Number(-shift.value - radius.value), Number(radius.value - shift.value)
  direction, is_open = _RELATIONS[sign]
  if direction == "<":
    return Items("()" if is_open else "[]", (low, high), found[1])
  return Items("union", (Items("()" if is_open else "(]", (MINUS_INFINITY, low)),
                         Items("()" if is_open else "[)", (high, INFINITY))), found[1])


def _read_chain(parts: list[str], signs: list[str], read: Reader) -> Items | None:
  """`a < b \\le c`, from the smallest to the largest."""
  if not all(sign in _RELATIONS for sign in signs) or len({_RELATIONS[s][0] for s in signs}) != 1:
    return None
  kinds = ["<" if _RELATIONS[sign][1] else "<=" for sign in signs]
  if _RELATIONS[signs[0]][0] == ">":
    parts, kinds = parts[::-1], kinds[::-1]
  return Items(" ".join(["chain", *kinds]), tuple(read(part) for part in parts))


_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'*|\\text\{[^{}]*\}|(?:\\angle|\\triangle) ?[A-Z]+|\|[A-Za-z]+\||\[[A-Z]+\]"
    r"|m ?\\angle ?[A-Z]+|\\overline\{[A-Z]+\}|[A-Za-z]+(?: [A-Za-z]+)+|\\frac\{d[a-z]?\}\{d[a-z]\}"
    r"|\\sqrt\{[A-Za-z]\}|\\frac\{[A-Za-z]+\}\{[A-Za-z]+\}|\(\\?[A-Za-z]+(?:, ?\\?[A-Za-z]+)+\)"
    r"|[A-Za-z]+(?:_\{?\w+\}?)?(?: ?: ?[A-Za-z]+(?:_\{?\w+\}?)?)+)"
    r"(?: ?_ ?(?:\{[^{}]*\}|\w|\\[a-z]+))?'*(?: ?\^ ?(?:\{-1\}|\{\([^()]*\)\}|\*|'))?"
    r"(?: ?(?:\([^()]*\)|\[[^\[\]]*\]))?"
    r"|\\(?:lim|sum|prod|int|max|min)(?![A-Za-z]).+|\\lfloor[^\\]+\\rfloor|\\\|[^|]+\\\|"
    r"|\\(?:sin|cos|tan|cot|sec|csc|det|ln|dim|arg) ?\\?[A-Za-z]+")
_ACCENT = re.compile(
    r"\\(?:vec|hat|bar|tilde|dot|widehat|widetilde|overrightarrow|mathbb)(?![A-Za-z]) ?"
    r"|\{(?=[A-Za-z]+\})|(?<=[A-Za-z])\}")


def is_name(text: str) -> bool:
  """Whether a text left of "=" can be the name of the right side."""
  text = text.strip()
  return bool(_NAME.fullmatch(text) or _NAME.fullmatch(_ACCENT.sub("", text)))


def is_combination(text: str) -> bool:
  """Whether a text is a sum, product or quotient of two names or more, such as m+n."""
  parts = re.split(r"[+/-]|\\cdot(?![A-Za-z])", text)
  return (bool(re.fullmatch(r"[a-zA-Z](?:[+-]?[a-zA-Z])+", text))
          or len(parts) > 1 and all(map(_TERM.fullmatch, (_ACCENT.sub("", one) for one in parts))))


_TERM = re.compile(r" ?(?:[A-Za-z]|[A-Za-z]'?\([\w+-]*\)) ?")


def read_equation(text: str, read: Reader) -> Reading | None:
  """`name = value`; the value of a chain is its last."""
  signs = []
  parts = brackets.split(text, lambda kind, *_: kind in ("=", "\\equiv", "\\approx")
                 and not signs.append(kind))
  if parts is None or len(parts) < 2 or not parts[-1].strip():
    return None
  if "\\approx" in signs:  # what is written before it is exact
    exact = parts[:signs.index("\\approx") + 1]
    parts = parts if len(exact) == 1 and is_name(exact[0]) else exact
    if len(parts) == 1:
      return read(parts[0])
  if "\\equiv" in signs or not parts[0].strip():
    return None
  if len(parts) > 2 and all(len(part.strip()) == 1 for part in parts):
    return Expression(squeeze(text))  # a = b = c
  value = read(language.trim(parts[-1]))
  first = parts[0].strip()
  latex = squeeze(text if len(parts) == 2 else f"{first}={parts[-1]}")
  if isinstance(value, Items) and value.kind == "list" and len(parts) == 2:
    return Items("list", tuple(Equation(squeeze(first), item, latex) for item in value.items))
  sides = [language.formula(part) for part in parts[:-1] if re.search(r"\d", part)]
  sides = tuple(side for side in sides if not re.search(r"(?<!\\)\b[A-Za-z]|_", side))
  return Equation(squeeze(first), value, latex, sides)
