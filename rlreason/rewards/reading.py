r"""What an answer says: a number, words, a list, an interval, an equation or an expression.

`read` looks at the text alone and takes it apart as far as its form goes; what is left is decided by
mathematics (`worker.py`), piece by piece. Not here: whether two readings agree (`matching.py`).
"""

from fractions import Fraction
import functools
import re
from typing import NamedTuple
import unicodedata

from rlreason.rewards import quantities
from rlreason.rewards.quantities import Unit
from rlreason.rewards.typesetting import clean, squeeze

MAX_DEPTH = 12  # of brackets and braces that are taken apart
MAX_ITEMS = 200  # of a list; a longer one is not taken apart


class Number(NamedTuple):
  """A plain number, exactly; `value` is that of the digits (50 of 50%)."""

  value: Fraction
  unit: Unit = ()
  is_percent: bool = False


class Words(NamedTuple):
  """What is compared as text, in lower case and without full stops."""

  text: str


class Expression(NamedTuple):
  """What is compared by mathematics: LaTeX without its unit."""

  latex: str
  unit: Unit = ()


class Equation(NamedTuple):
  """`name = value`, or a chain of equations with its last value; `latex` is all of it."""

  name: str
  value: "Reading"
  latex: str


class Choice(NamedTuple):
  """`(C) 12`: the label of a choice, and what it says."""

  label: str
  value: "Reading"


class Items(NamedTuple):
  """Several readings.

  Attributes:
    kind: "list" (no brackets, any order), "{}" (any order), "union" (any order), "()", "[]", "(]",
      "[)" (tuples and intervals), "matrix", "vmatrix", "row", "cases", "mod" (a residue and its
      modulus), "given" (a formula, and what its letters range over), "chain" with its signs.
    items: the parts; of a matrix its rows.
    name: the variable of an inequality or of `x \\in ...`; empty without one.
  """

  kind: str
  items: tuple["Reading", ...]
  name: str = ""


Reading = Number | Words | Expression | Equation | Choice | Items


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Reading:
  """The reading of an answer as it was written, boxes and markup of a completion taken off."""
  plain = quantities.exact_number(text) if text.isascii() and "=" not in text else None
  if plain is not None:
    return Number(plain)
  return _read(_trim(clean(text)), 0)


_LEAD = re.compile(
    r"(?:\\text\{)?\s*(?:so|thus|hence|therefore|\\therefore)?,? ?"
    r"(?:(?:the|our|my) )?(?:final |correct )?(?:answer|ans|choice|option)(?:(?: is| =|:)\s*|\s+)(?=\S)",
    re.IGNORECASE)
_ABOUT = re.compile(r"(?:\\approx|\\text\{ ?(?:about|approximately)\s*\}|approximately|about|=) *")
_CHOICE = re.compile(
    r"(?:\\text\{ ?\(([A-Z])\)[.:]? ?\}|\\text\{ ?([A-Z])[).:] ?\}|\(([A-Z])\)[.:]?"
    r"|\(\\text\{([A-Z])\}\)|([A-Z])[).:](?=\s)) *(?=\S)(?![=,;]|(?:or|and)\b|\\l(?:or|and))")
_OUTER = {"(": ")", "[": "]", "\\{": "\\}", "{": "}", "\\langle": "\\rangle", "]": "["}
_TOKEN = re.compile(
    r"\\begin\{[a-zA-Z*]+\}|\\end\{[a-zA-Z*]+\}|\\text\{[^{}]*\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPEN = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
_CLOSE = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}


def _trim(text: str) -> str:
  """Without full stops, quotation marks and words around the answer."""
  before = None
  while text != before:
    before = text
    text = text.strip().strip("\"").rstrip(",;:").strip()
    if text.startswith("'") and text.endswith("'"):
      text = text.strip("'")
    if text.endswith(".") and not text.endswith("\\."):
      text = text[:-1]
    text = _LEAD.sub(lambda m: "\\text{" if m[0].startswith("\\text{") else "", text, count=1) \
        if _LEAD.match(text) else text
    about = _ABOUT.match(text)
    if about and about.end() < len(text):
      text = text[about.end():]
  return text


def _split(text: str, is_separator) -> list[str] | None:
  """The parts between separators outside all brackets; None where brackets do not match."""
  parts, depth, start = [], 0, 0
  for token in _TOKEN.finditer(text):
    kind = token.group()
    if kind in _OPEN or kind.startswith("\\begin{"):
      depth += 1
    elif kind in _CLOSE or kind.startswith("\\end{"):
      depth -= 1
      if depth < 0:
        return None
    elif depth == 0 and is_separator(kind, token, text):
      parts.append(text[start:token.start()])
      start = token.end()
  if depth:
    return None
  return [*parts, text[start:]]


def _read(text: str, depth: int) -> Reading:
  """Reads cleaned text."""
  text = text.strip()
  if depth > MAX_DEPTH:
    return Expression(squeeze(text))
  number = _read_number(text)
  if number is not None:
    return number
  inner = _unwrapped(text)
  if inner is not None:
    return _read(inner, depth + 1)
  choice = _CHOICE.match(text)
  if choice and choice.end() < len(text):
    return Choice(next(filter(None, choice.groups())), _read(text[choice.end():], depth + 1))
  for reader in (_read_code, _read_rows, _read_list, _read_brackets, _read_membership, _read_residue,
                 _read_inequality, _read_equation):
    found = reader(text, depth + 1)
    if found is not None:
      return found
  head, unit = _without_unit(text)
  words = None if head != text and not _read_words(head) else _read_words(text)
  return words or Expression(formula(head), unit)


def _unwrapped(text: str) -> str | None:
  r"""What is inside `{...}`, `\text{...}` or round brackets around a single thing."""
  upright = re.fullmatch(r"\\text\{([^{}]*)\}", text)
  if upright:
    return _trim(upright[1])
  if _closing(text) == len(text) and text[0] in "{(":
    inside = text[1:-1].strip()
    parts = _split(inside, lambda kind, *_: kind in ",;")
    if inside and (text[0] == "{" or parts is not None and len(parts) == 1):
      return inside
  return None


def _closing(text: str) -> int | None:
  """Where the bracket at the start of the text is closed: the index behind it."""
  depth = 0
  for token in _TOKEN.finditer(text):
    kind = token.group()
    if kind in _OPEN or kind.startswith("\\begin{"):
      depth += 1
    elif kind in _CLOSE or kind.startswith("\\end{"):
      depth -= 1
    if depth <= 0:
      return token.end() if kind in _CLOSE or kind.startswith("\\end{") else None
  return None


_MONEY = re.compile(r"([+-]?) ?\\(dollar|euro|pounds|yen)(?![A-Za-z]) ?")
_HEAD = re.compile(r"[+-]?(?:[\d.,/ ]|\\frac\{[\d.+-]*\}\{[\d.+-]*\}|\\times|\\cdot|[xeE*](?=[\d ])|\^\{?[+-]?\d+"
                   r"\}?|\\overline\{\d+\}|\\ldots|\{[\d.,]+\}|\(\d+\))*")


def _read_number(text: str) -> Number | None:
  """A number with what stands around it: money, a unit, a sign of per cent."""
  sign, unit = "", ()
  money = _MONEY.match(text)
  if money:
    sign, unit = money[1], quantities.read_unit("\\" + money[2])[0]
    text = text[money.end():]
  value = _value(sign + text)
  if value is not None:
    return Number(value, unit)
  for head, tail in _tails(text):
    value = _value(sign + head)
    read = None if value is None else quantities.read_unit(tail)
    if read is None or not _is_unit_there(head, tail, read[0]):
      continue
    parts, tens = read
    if money and parts:
      parts = unit if parts == unit or parts[0][0] == "%" else ()
    is_percent = parts == (("%", 1),)
    return Number(value * Fraction(10) ** tens, unit or (() if is_percent else parts), is_percent)
  return None


def _value(text: str) -> Fraction | None:
  text = text.strip()
  # A comma before a space is never one of thousands.
  return None if ", " in text else quantities.number(squeeze(text).strip("{}") if re.fullmatch(
      r"\{[^{}]*\}", text) else squeeze(text))


def _tails(text: str):
  """Yields (number, what follows it) where a unit may begin: the longest number first."""
  head = _HEAD.match(text)[0]
  if head.strip():
    yield head.rstrip(), text[len(head.rstrip()):]
    shorter = head.rstrip().rstrip("/^*x. ")
    if shorter and shorter != head.rstrip():
      yield shorter, text[len(shorter):]


def _is_unit_there(head: str, tail: str, unit: Unit) -> bool:
  r"""Whether what follows a number is meant as a unit: `5 m`, `5\text{m}` and `5 clips`, but not
  `5m` or `5x`, which may be products."""
  if "\\text{" in tail or "^\\circ" in tail or tail.strip() in ("%", "\\euro", "\\dollar"):
    return True
  word = re.match(r"(\s*)/?\s*([A-Za-z\"\\%\u00b5\u00a2\u2103]+)", tail)
  if word is None:
    return not tail.strip()
  letters = word[2]
  if quantities.is_measure(unit) and unit:
    return len(letters) > 1 or bool(word[1]) or "/" in tail or letters in "%\""
  return bool(word[1]) and len(letters) > 2 and letters.isalpha()


_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?_\{?(?:\\text\{)?(\d+|[a-z]{3,8})\}?\}?")
_BASES = {name: number for number, name in enumerate(
    "two three four five six seven eight nine ten eleven twelve".split(), 2)}


def _read_code(text: str, depth: int) -> Words | None:
  """Digits that are no decimal number: with their base, hexadecimal, or rows of numbers."""
  del depth
  based = _BASED.fullmatch(text)
  if based and based[1][0].isdigit() and (based[2].isdigit() or based[2] in _BASES):
    return Words(f"{based[1].lower()} in base {_BASES.get(based[2], based[2])}")
  if re.fullmatch(r"0[xbo][0-9a-fA-F]+|[+-]?[\d.]+(?: [+-]?[\d.]+)+", text):
    return Words(text.lower())
  return None


_ROW_SETS = {"matrix": "matrix", "pmatrix": "matrix", "bmatrix": "matrix", "Bmatrix": "matrix",
             "smallmatrix": "matrix", "array": "matrix", "vmatrix": "vmatrix", "Vmatrix": "Vmatrix",
             "cases": "cases", "dcases": "cases", "rcases": "cases", "aligned": "list", "align": "list",
             "align*": "list", "gathered": "list", "gather": "list", "gather*": "list",
             "equation": "list", "equation*": "list", "split": "list"}
_BEGIN = re.compile(r"\\begin\{([A-Za-z*]+)\}\s*(?:\{[lcr|@ ]*\}|\[[lcr]\])?")
_CONDITION = re.compile(r"^(?:\\text\{ ?(?:if|for|when),? ?\}|if |for |when )\s*|\s*,\s*$")


def _read_rows(text: str, depth: int) -> Reading | None:
  r"""Matrices, `cases`, and lines of equations: rows between `\cr`, cells between `&`."""
  begin = _BEGIN.match(text)
  if not begin or begin[1] not in _ROW_SETS or _closing(text) != len(text):
    if "\\cr" in text and not begin:
      lines = _split(text, lambda kind, *_: kind == "\\cr")
      if lines and len(lines) > 1:
        return _listed(lines, depth)
    return None
  kind = _ROW_SETS[begin[1]]
  inside = text[begin.end():text.rindex("\\end{")]
  rows = _split(inside, lambda kind, *_: kind == "\\cr")
  if rows is None or len(rows) > MAX_ITEMS:
    return None
  rows = [row for row in rows if row.strip()]
  if kind == "list":
    return _listed([row.replace("&", "") for row in rows], depth)
  cells = [_split(row, lambda kind, *_: kind == "&") for row in rows]
  if any(row is None for row in cells):
    return None
  if kind == "cases":
    cells = [[_CONDITION.sub("", _CONDITION.sub("", cell.strip())) for cell in row] for row in cells]
  return Items(kind, tuple(
      Items("row", tuple(_read(cell, depth) for cell in row)) for row in cells))


def _listed(parts: list[str], depth: int) -> Reading | None:
  """A list of what is not empty, inner lists (of a plus-minus sign) taken into it."""
  readings = []
  for part in parts:
    part = _trim(part)
    if not part:
      continue
    item = _read(part, depth)
    readings.extend(item.items if isinstance(item, Items) and item.kind == "list" else [item])
  if len(readings) == 1:
    return readings[0]
  return _united(readings) or Items("list", tuple(readings)) if readings else None


def _united(readings: list[Reading]) -> Items | None:
  """Inequalities of one variable, one or the other of which holds: a union."""
  is_range = [isinstance(item, Items) and item.kind in ("()", "(]", "[)", "[]", "union")
              and item.name for item in readings]
  if not all(is_range) or len({item.name for item in readings}) != 1:
    return None
  parts = [part._replace(name="") for item in readings
           for part in (item.items if item.kind == "union" else (item,))]
  return Items("union", tuple(parts), readings[0].name)


_JOINS = ("\\lor", "\\land")
_INTEGER_NOTE = re.compile(
    r"(?:\\text\{ ?(?:where|for|with)[^{}]*\}|where|for (?:any|all|some)?)?\s*"
    r"(?:(?:integers?|any integer)\s+[a-z]|[a-z] *\\in *(?:\\mathbb\{[ZN]\}|\\text\{Z\}|Z)(?:\^\+|_\{?>?0\}?)?"
    r"|\\text\{[^{}]*integers?[^{}]*\})(?:\s*\\text\{[^{}]*\})?|[a-z] (?:is )?an? (?:any )?integer")


def _read_list(text: str, depth: int) -> Reading | None:
  """Parts between commas, semicolons, "and", "or"; a sum with a plus-minus sign is two parts."""
  text = re.sub(r"(?<=[\s}\d)])(?:\\text\{\s*(or|and)\s*\}|\b(or|and)\b)(?=[\s{\\\d(-])",
                lambda m: " \\lor " if (m[1] or m[2]) == "or" else " \\land ", text)
  unions = _split(text, lambda kind, *_: kind == "\\cup")
  parts = _split(text, lambda kind, *_: kind in _JOINS)
  if parts is None:
    return None
  if len(parts) > 1 and not re.search(r"[<>]|\\[lg]e(?![A-Za-z])", text) or _is_ranges(parts):
    return _listed([piece for part in parts for piece in _commas(part)], depth)
  if unions is not None and len(unions) > 1 and "," in text:
    name = ""
    membership = re.match(r"(\\?[a-zA-Z]) *\\in(?![A-Za-z])", unions[0])
    if membership:
      name, unions[0] = membership[1], unions[0][membership.end():]
    return Items("union", tuple(_read(part, depth) for part in unions), name)
  pieces = _commas(text)
  if len(pieces) > 1 and _INTEGER_NOTE.fullmatch(pieces[-1].strip()):
    domain = "natural" if re.search(r"\\mathbb\{N\}|positive|natural", pieces[-1]) else "integer"
    return Items("given", (_read(_trim(", ".join(pieces[:-1])), depth), Words(domain)))
  if 1 < len(pieces) <= MAX_ITEMS:
    return _listed(pieces, depth)
  return _plus_minus(text, depth)


def _is_ranges(parts: list[str]) -> bool:
  return len(parts) > 1 and all(re.search(r"[<>=]|\\[lg]e(?![A-Za-z])|\\ne(?![A-Za-z])", part)
                                for part in parts)


def _commas(text: str) -> list[str]:
  """The parts between commas, read so that commas of thousands stay where they can be such."""
  wide = _split(text, lambda kind, token, whole: kind == ";" or kind == "," and (
      whole[token.end():token.end() + 1] in (" ", "") or not whole[token.end()].isdigit()
      or not whole[token.start() - 1:token.start()].isdigit()))
  if wide is None:
    return [text]
  return [piece for part in wide for piece in (
      [part] if _read_number(part.strip()) else _split(part, lambda kind, *_: kind in ",;") or [part])]


def _plus_minus(text: str, depth: int) -> Reading | None:
  marks = re.findall(r"\\(?:pm|mp)(?![A-Za-z])", text)
  if not marks or "\\pm" not in marks or len(marks) > 2:
    return None
  if "," in text and len(_split(text, lambda kind, *_: kind in ("\\pm", "\\mp")) or ()) < 2:
    return None  # of one of several things in brackets
  both = [re.sub(r"\\(pm|mp)(?![A-Za-z]) ?", lambda m, flip=flip: "+-"[(m[1] == "mp") ^ flip], text)
          for flip in (False, True)]
  return Items("list", tuple(_read(re.sub(r"(^|[=(,{]) ?\+", r"\1", one), depth) for one in both))


def _read_brackets(text: str, depth: int) -> Reading | None:
  """A tuple, an interval or a set."""
  opening = next((mark for mark in ("\\langle", "\\{", "(", "[", "]") if text.startswith(mark)), None)
  if opening is None:
    return None
  if opening == "]":
    closing = re.fullmatch(r"\](.*,.*)([\[\]])", text)
    if not closing:
      return None
    inside, kind = closing[1], "()" if closing[2] == "[" else "(]"
  elif _closing(text) == len(text):
    closing = next(mark for mark in ("\\rangle", "\\}", ")", "]", "}") if text.endswith(mark))
    inside = text[len(opening):-len(closing)]
    kind = {"\\langle": "(", "\\{": "{"}.get(opening, opening) + {
        "\\rangle": ")", "\\}": "}"}.get(closing, closing)
  elif opening == "[" and re.fullmatch(r"\[[^\[\]()]*,[^\[\]()]*\[", text):
    inside, kind = text[1:-1], "[)"
  else:
    return None
  # (1,234) is a pair; only beside a comma with a space can one without be of thousands.
  parts = _commas(inside) if ", " in inside else _split(inside, lambda kind, *_: kind in ",;")
  if parts is None or len(parts) > MAX_ITEMS or kind not in ("()", "[]", "(]", "[)", "{}"):
    return None
  items = tuple(_read(_trim(part), depth) for part in parts if part.strip())
  if kind == "[]" and len(items) == 1 and isinstance(items[0], Items) and items[0].kind == "matrix":
    return items[0]
  if kind == "{}":
    items = tuple(part for item in items for part in (
        item.items if isinstance(item, Items) and item.kind == "list" else (item,)))
  return Items(kind, items)


def _read_membership(text: str, depth: int) -> Reading | None:
  r"""`x \in S` is S, of x."""
  found = re.match(r"(\\?[A-Za-z]+(?:_\{?\w\}?)?) *\\in(?![A-Za-z]) *(?=\S)", text)
  if not found:
    return None
  inner = _read(text[found.end():], depth)
  return inner._replace(name=found[1]) if isinstance(inner, Items) else None


def _read_residue(text: str, depth: int) -> Reading | None:
  r"""`x \equiv 3 \pmod{7}`, and `3 \pmod{7}`; of the real line without points, what is left."""
  hole = re.fullmatch(r"\\mathbb\{R\} ?(?:\\setminus|\\backslash|-) ?\\\{(.*)\\\}", text)
  if hole:
    points = [_read(part, depth) for part in _commas(hole[1])]
    if not all(isinstance(point, Number) for point in points) and len(points) > 1:
      return None
    points = sorted(points) if len(points) > 1 else points
    ends = [_MINUS_INFINITY, *points, _INFINITY]
    return Items("union", tuple(Items("()", pair) for pair in zip(ends, ends[1:])))
  found = re.fullmatch(r"(?:(.*?) ?\\equiv ?)?(.*?),? ?\\pmod\{(\w+)\}", text)
  if not found:
    return None
  value, modulus = _read(found[2], depth), _read(found[3], depth)
  if isinstance(value, Number) and isinstance(modulus, Number) and modulus.value:
    value = value._replace(value=value.value % modulus.value)
  return Items("mod", (value, modulus), squeeze(found[1] or ""))


_VARIABLE = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?|[a-zA-Z]\([a-z]\)|\\text\{[^{}]*\}")
_RELATIONS = {"<": ("<", True), ">": (">", True), "\\le": ("<", False), "\\ge": (">", False)}
_INFINITY = Expression("\\infty")
_MINUS_INFINITY = Expression("-\\infty")


def _read_inequality(text: str, depth: int) -> Reading | None:
  r"""`x > 3` is the interval (3, \infty) of x; `3 < x \le 5` is (3, 5]; `x \ne 3` a union."""
  signs = []
  parts = _split(text, lambda kind, *_: (
      kind in _RELATIONS or kind == "\\ne") and not signs.append(kind))
  if parts is None or len(parts) < 2:
    return None
  parts = [part.strip() for part in parts]
  if len(parts) > 2 and not (len(parts) == 3 and _VARIABLE.fullmatch(parts[1])):
    return _read_chain(parts, signs, depth)
  negative = re.fullmatch(r"- ?(\\?[a-z])", parts[0])
  number = _read_number(parts[1]) if negative else None
  if number is not None and len(parts) == 2 and signs[0] in _RELATIONS:  # -x > -1
    found = _read_inequality(f"0 {signs[0]} {negative[1]}", depth)
    end = number._replace(value=-number.value)
    return found._replace(items=tuple(end if isinstance(item, Number) else item for item in found.items))
  read = lambda part: _endpoint(_read(part, depth))
  if signs == ["\\ne"]:
    if not _VARIABLE.fullmatch(parts[0]):
      return None
    value = read(parts[1])
    return Items("union", (Items("()", (_MINUS_INFINITY, value)),
                           Items("()", (value, _INFINITY))), squeeze(parts[0]))
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
      return Items("(" + ")" if is_open else "[)", (read(right), _INFINITY), squeeze(left))
    return Items("()" if is_open else "(]", (_MINUS_INFINITY, read(right)), squeeze(left))
  if directions[0][0] != directions[1][0]:
    return None
  if directions[0][0] == ">":
    parts, directions = parts[::-1], directions[::-1]
  kind = "(["[not directions[0][1]] + ")]"[not directions[1][1]]
  return Items(kind, (read(parts[0]), read(parts[2])), squeeze(parts[1]))


def _read_chain(parts: list[str], signs: list[str], depth: int) -> Items | None:
  """`a < b \\le c`, from the smallest to the largest."""
  if not all(sign in _RELATIONS for sign in signs) or len({_RELATIONS[s][0] for s in signs}) != 1:
    return None
  kinds = ["<" if _RELATIONS[sign][1] else "<=" for sign in signs]
  if _RELATIONS[signs[0]][0] == ">":
    parts, kinds = parts[::-1], kinds[::-1]
  return Items(" ".join(["chain", *kinds]), tuple(_read(part, depth) for part in parts))


def _endpoint(reading: Reading) -> Reading:
  if isinstance(reading, Expression) and reading.latex == "+\\infty":
    return _INFINITY
  return reading


_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'*|\\text\{[^{}]*\}|(?:\\angle|\\triangle) ?[A-Z]+|\|[A-Za-z]+\||\[[A-Z]+\]"
    r"|m ?\\angle ?[A-Z]+|\\overline\{[A-Z]+\}|[A-Za-z]+(?: [A-Za-z]+)+|\\frac\{d[a-z]?\}\{d[a-z]\}"
    r"|\\sqrt\{[A-Za-z]\}|\\frac\{[A-Za-z]+\}\{[A-Za-z]+\}|\([A-Za-z](?:, ?[A-Za-z])+\)"
    r"|[A-Z]+(?:_\{?\w+\}?)? ?: ?[A-Z]+(?:_\{?\w+\}?)?)"
    r"(?: ?_ ?(?:\{[^{}]*\}|\w|\\[a-z]+))?'*(?: ?\^ ?(?:\{-1\}|\{\([^()]*\)\}|\*|'))?"
    r"(?: ?\([^()=]*\))?")


def is_name(text: str) -> bool:
  """Whether a text can stand left of "=" as the name of what is right of it."""
  return bool(_NAME.fullmatch(text.strip()))


def _read_equation(text: str, depth: int) -> Reading | None:
  """`name = value`; the value of a chain is its last."""
  signs = []
  parts = _split(text, lambda kind, *_: kind in ("=", "\\equiv", "\\approx")
                 and not signs.append(kind))
  if parts is None or len(parts) < 2 or not parts[-1].strip():
    return None
  if "\\approx" in signs:  # what is written before it is exact
    exact = parts[:signs.index("\\approx") + 1]
    parts = parts if len(exact) == 1 and is_name(exact[0]) else exact
    if len(parts) == 1:
      return _read(parts[0], depth)
  if "\\equiv" in signs or not parts[0].strip():
    return None
  if len(parts) > 2 and all(len(part.strip()) == 1 for part in parts):
    return Expression(squeeze(text))  # a = b = c
  value = _read(_trim(parts[-1]), depth)
  first = parts[0].strip()
  latex = squeeze(text if len(parts) == 2 else f"{first}={parts[-1]}")
  if isinstance(value, Items) and value.kind == "list" and len(parts) == 2:
    return Items("list", tuple(Equation(squeeze(first), item, latex) for item in value.items))
  return Equation(squeeze(first), value, latex)


_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt max min gcd lcm mod "
    "det dim deg arg inf sup lim pi theta alpha beta infinity frac".split())
_SHORT_WORDS = frozenset("no on in up ok am pm of to is it so we us or if at as by my".split())


def _read_words(text: str) -> Words | None:
  """Words where the text is language and no formula."""
  plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
  words = [word for word in re.findall(r"(?<![A-Za-z\\])[^\W\d_]{2,}(?![A-Za-z])", plain)]
  long = [word for word in words if len(word) > 2 and word.lower() not in _FUNCTIONS]
  has_signs = re.search(r"[+*/^_=<>\\|{]|\d(?=[A-Za-z])|(?<=[A-Za-z])\d", plain)
  is_language = (
      any(not character.isascii() and character.isalpha() for character in plain)
      or long and (not has_signs or len(long) > 1)
      or len(words) == 1 and plain.strip() == words[0]
      and (words[0].lower() in _SHORT_WORDS or not words[0].islower())
      or len(words) > 1 and not has_signs
      or re.fullmatch(r"\s*\d{1,2}:\d{2}(?::\d{2})?\s*(?:[ap]\.?m\.?)?\s*", plain, re.IGNORECASE))
  return Words(fold(plain)) if is_language else None


def fold(text: str) -> str:
  """Words in one spelling: lower case, no full stops, single spaces."""
  text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace('"', "")
  text = re.sub(r"\.(?!\d)|(?<!\d)\.(?=\d)|[!?]", "", text)
  return re.sub(r"\s*([,;:()])\s*", r"\1", " ".join(text.split()))


_TAIL = re.compile(
    r"(?:(?:(?: ?(?:/|\\cdot|\\,)? ?)(?:\\text\{[^{}]*\}|(?<![A-Za-z\\])(?:[cmk]m|ft|units?|degrees|inches"
    r"|feet|meters|miles|hours|square units|cm)(?![A-Za-z]))(?:\^(?:\{-?\d\}|-?\d))?)+|\^\\circ"
    r"(?: ?[CF])?)$")


_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")


def _without_unit(text: str) -> tuple[str, Unit]:
  """A formula and its unit; where there is none, all of the text."""
  money = _MONEY.match(text)
  if money:
    return money[1] + text[money.end():], quantities.read_unit("\\" + money[2])[0]
  if text.endswith("%") and len(text) > 1:
    return text[:-1].rstrip(), (("%", 1),)
  tail = _TAIL.search(text)
  if not tail or not tail.start() or _TRIGONOMETRY.search(text) and text.endswith("\\circ"):
    return text, ()
  head, unit = text[:tail.start()].rstrip(), quantities.read_unit(tail[0])
  if unit is None or unit[1] or not (quantities.is_measure(unit[0]) or _is_constant(head)):
    return text, ()
  return head, unit[0]


def _is_constant(text: str) -> bool:
  return not re.search(r"(?<!\\)\b[A-Za-z]", re.sub(r"\\[A-Za-z]+|\\text\{[^{}]*\}", " ", text))


_ASCII_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
    r"|pi|theta|alpha|beta|infty|min|max|gcd)(?![A-Za-z])")


def formula(text: str) -> str:
  """LaTeX as the parser of mathematics wants it."""
  text = re.sub(r"(?<![A-Za-z\\])infinity(?![A-Za-z])|(?<![A-Za-z\\])inf(?![A-Za-z])", r"\\infty ", text)
  text = _ASCII_FUNCTION.sub(r"\\\1 ", text)
  text = re.sub(r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}", text)
  text = re.sub(r"(\d+(?:\.\d+)?) ?\^\\circ", r"\\frac{\1\\pi}{180}", text)
  text = re.sub(r"(?<=[\d)}A-Za-z]) ?\*+ ?", r"\\cdot ", text)
  text = re.sub(r"\^ ?\(([^()]*)\)", r"^{\1}", text)
  return squeeze(text).replace("\\cr", r"\\ ")
