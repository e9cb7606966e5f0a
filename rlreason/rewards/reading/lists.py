r"""Lists, sets, tuples, intervals, matrices, and other things of several parts."""

import re

from rlreason.rewards.reading import amounts, brackets, language
from rlreason.rewards.reading.types import (
    EMPTY, INFINITY, MINUS_INFINITY, Equation, Items, Number, Reader, Reading, Words,
    is_label)
from rlreason.rewards.reading.typesetting import squeeze

MAX_ITEMS = 200  # of a list; a longer one is not parsed
_ROW_SETS = {"matrix": "matrix", "pmatrix": "matrix", "bmatrix": "matrix", "Bmatrix": "matrix",
             "smallmatrix": "matrix", "array": "matrix", "vmatrix": "vmatrix", "Vmatrix": "Vmatrix",
             "cases": "cases", "dcases": "cases", "rcases": "cases", "aligned": "list",
             "align": "list",
             "align*": "list", "gathered": "list", "gather": "list", "gather*": "list",
             "equation": "list", "equation*": "list", "split": "list"}
_BEGIN = re.compile(r"\\begin\{([A-Za-z*]+)\}\s*(?:\{[lcr|@ ]*\}|\[[lcr]\])?")
_CONDITION = re.compile(r"^(?:\\text\{ ?(?:if|for|when),? ?\}|if |for |when )\s*|\s*,\s*$")


def read_rows(text: str, read: Reader) -> Reading | None:
  r"""Matrices, `cases`, and lines of equations: rows between `\cr`, cells between `&`."""
  begin = _BEGIN.match(text)
  if not begin or begin[1] not in _ROW_SETS or brackets.closing(text) != len(text):
    if "\\cr" in text and not begin:
      lines = brackets.split(text, lambda kind, *_: kind == "\\cr")
      if lines and len(lines) > 1:
        found = _listed(lines, read)
        is_grid = isinstance(found, Items) and all(
            isinstance(item, (Number, Words)) for item in found.items)
        return found._replace(kind="rows") if is_grid else found
    return None
  kind = _ROW_SETS[begin[1]]
  inside = text[begin.end():text.rindex("\\end{")]
  rows = brackets.split(inside, lambda kind, *_: kind == "\\cr")
  if rows is None or len(rows) > MAX_ITEMS:
    return None
  rows = [re.sub(r"& *=", "=", row) for row in rows if row.strip()]
  if kind == "list":
    return _listed([row.replace("&", "") for row in rows], read)
  cells = [brackets.split(row, lambda kind, *_: kind == "&") for row in rows]
  if any(row is None for row in cells):
    return None
  if kind == "cases":
    bare = lambda cell: _CONDITION.sub("", _CONDITION.sub("", cell.strip()))
    cells = [[bare(cell) for cell in row] for row in cells]
    if all(len(row) == 1 for row in cells):  # a system; a solution may be written like this
      return _listed([row[0] for row in cells], read)
  return Items(kind, tuple(
      Items("row", tuple(read(cell) for cell in row)) for row in cells))


def _listed(parts: list[str], read: Reader) -> Reading | None:
  """A list of the non-empty parts; inner lists (of a plus-minus sign) are flattened."""
  readings = []
  for part in parts:
    part = language.trim(part)
    if not part:
      continue
    item = read(part)
    readings.extend(item.items if isinstance(item, Items) and item.kind == "list" else [item])
  if len(readings) == 1:
    return readings[0]
  return _united(readings) or Items("list", tuple(readings)) if readings else None


def _united(readings: list[Reading]) -> Items | None:
  """Alternative inequalities of one variable, as a union."""
  is_range = [isinstance(item, Items) and item.kind in ("()", "(]", "[)", "[]", "union")
              and item.name != "" for item in readings]
  others = [item for item, found in zip(readings, is_range) if not found]
  if not any(is_range) or len({item.name if isinstance(item, (Items, Equation)) else None
                               for item in readings}) != 1:
    return None
  if not all(isinstance(item, Equation) for item in others):
    return None
  points = [_missing_point(item) for item in readings]
  if None not in points:
    return without_points(points, readings[0].name)
  parts = []
  for item in readings:
    if isinstance(item, Equation):
      parts.append(Items("{}", (item.value,)))
    else:
      parts.extend(part._replace(name="") for part in (
          item.items if item.kind == "union" else (item,)))
  return Items("union", tuple(parts), readings[0].name)


def without_points(points: list[Number], name: str) -> Items:
  """The real line without some numbers."""
  ends = [MINUS_INFINITY, *sorted(set(points)), INFINITY]
  return Items("union", tuple(Items("()", pair) for pair in zip(ends, ends[1:])), name)


def _missing_point(reading: Reading) -> Number | None:
  r"""The number of `x \ne 3`."""
  if isinstance(reading, Items) and reading.kind == "union" and len(reading.items) == 2:
    ends = [end for part in reading.items for end in getattr(part, "items", ())]
    if len(ends) == 4 and ends[0] == MINUS_INFINITY and ends[1] == ends[2] and ends[3] == INFINITY:
      return ends[1] if isinstance(ends[1], Number) else None
  return None


def _overlap(readings: list[Reading]) -> Items | None:
  r"""`x > 1` and `x \le 3` is (1, 3]."""
  rays = {reading.items.index(end): reading for reading in readings for end in (
      MINUS_INFINITY, INFINITY) if isinstance(reading, Items) and reading.kind in (
          "()", "(]", "[)") and end in reading.items}
  if len(readings) != 2 or sorted(rays) != [0, 1] or not rays[0].name == rays[1].name != "":
    return None
  upper, lower = rays[0], rays[1]
  return Items(lower.kind[0] + upper.kind[1], (lower.items[0], upper.items[1]), lower.name)


def _points(text: str, read: Reader) -> Items | None:
  """`x = 1, y = 2; x = 3, y = 4`: points, each by the same names in the same order."""
  parts = brackets.split(text, lambda kind, *_: kind in (";", "\\lor"))
  if parts is None or not 1 < len(parts) <= MAX_ITEMS or "=" not in text:
    return None
  points = []
  for part in parts:
    pieces = brackets.split(part, lambda kind, *_: kind in (",", "\\land")) or []
    pairs = [tuple(side.strip() for side in piece.split("=")) for piece in pieces if piece.strip()]
    if len(pairs) < 2 or not all(len(pair) == 2 and all(pair) for pair in pairs):
      return None
    names, values = zip(*pairs)
    points.append((names, Items("()", tuple(read(value) for value in values))))
  if len({names for names, _ in points}) != 1 or not all(
      re.fullmatch(r"\\?[A-Za-z]+(?:_\{?\w\}?)?", name) for name in points[0][0]):
    return None
  name = f"({','.join(points[0][0])})"
  return Items("list", tuple(Equation(name, value, squeeze(part))
                             for (_, value), part in zip(points, parts)))


_JOINS = ("\\lor", "\\land")
_INTEGER_NOTE = re.compile(
    r"(?:\\text\{ ?(?:where|for|with)[^{}]*\}|where|for (?:any|all|some)?)?\s*"
    r"(?:(?:integers?|any integer)\s+[a-z]"
    r"|[a-z] *\\in *(?:\\mathbb\{[ZN]\}|\\text\{Z\}|Z)(?:\^\+|_\{?>?0\}?)?"
    r"|\\text\{[^{}]*integers?[^{}]*\}(?:\s*[a-z](?![a-z]))?)(?:\s*\\text\{[^{}]*\})?"
    r"|[a-z] (?:is )?an? (?:any )?integer"
    r"|(?:\\text\{ ?(?:where|for|with) ?\} ?)?[a-z] ?\\text\{ ?is (?:an?|any) (?:\w+ )?integer ?\}")

# x = k\pi (k \in \mathbb{Z}), and with "where" or "for" instead of a comma.
_NOTED = re.compile(r"(.*\S) *(\([^()]*\)|\\text\{ ?(?:where|for|with)(?![a-z]).*)")


def _read_given(text: str, pieces: list[str], read: Reader) -> Items | None:
  """A formula followed by the range of its letter."""
  noted = _NOTED.fullmatch(text)
  splits = [(", ".join(pieces[:-1]), pieces[-1])] if len(pieces) > 1 else []
  for formula, note in [*splits, *([noted.groups()] if noted else [])]:
    note = note.strip()
    note = note[1:-1].strip() if note.startswith("(") and note.endswith(")") else note
    if _INTEGER_NOTE.fullmatch(note):
      return _given(formula, note, read)
  return None


def _given(formula: str, note: str, read: Reader) -> Items:
  domain = "natural" if re.search(r"\\mathbb\{N\}|positive|natural", note) else "integer"
  letters = re.findall(r"(?<![A-Za-z])[b-z](?![A-Za-z])", re.sub(r"\\[A-Za-z]+", " ", note))
  return Items("given", (read(language.trim(formula)), Words(domain)), "".join(letters[:1]))


def read_builder(text: str, read: Reader) -> Reading | None:
  r"""`\{x : x > 2\}` is read like `x > 2`; `\{k\pi : k \in \mathbb{Z}\}` a formula of integers."""
  if not text.startswith("\\{") or brackets.closing(text) != len(text):
    return None
  marks = []
  parts = brackets.split(text[2:-2], lambda kind, *_: (
      kind in ":|" and not marks and not marks.append(kind)))
  if parts is None or len(parts) != 2:
    return None
  element, condition = (part.strip() for part in parts)
  if _INTEGER_NOTE.fullmatch(condition):
    return _given(element, condition, read)
  variable = re.fullmatch(r"(\\?[a-z]+) *(?:\\in *\\mathbb\{R\})?", element)
  inner = read(condition) if variable else None
  return inner if isinstance(inner, Items) and inner.name == variable[1] else None


def read_list(text: str, read: Reader) -> Reading | None:
  """Parts between commas, semicolons, "and", "or"; a sum with a plus-minus sign is two parts."""
  text = re.sub(r"(?<=[\s}\d)])(?:\\text\{\s*(or|and)\s*\}|\b(or|and)\b)(?=[\s{\\\d(-])",
                lambda m: " \\lor " if (m[1] or m[2]) == "or" else " \\land ", text)
  points = _points(text, read)
  if points is not None:
    return points
  unions = brackets.split(text, lambda kind, *_: kind == "\\cup")
  parts = brackets.split(text, lambda kind, *_: kind in _JOINS)
  if parts is None:
    return None
  if len(parts) == 2 and "\\land" in text and _is_ranges(parts):
    both = _overlap([read(part) for part in parts])
    if both is not None:
      return both
  if len(parts) > 1 and not re.search(r"[<>]|\\[lg]e(?![A-Za-z])", text) or _is_ranges(parts):
    found = _listed([piece for part in parts for piece in _commas(part)], read)
    is_either = "\\lor" in text and isinstance(found, Items) and found.kind == "list" and any(
        isinstance(item, Words) or is_label(item[0]) for item in found.items)
    return found._replace(kind="either") if is_either else found
  if unions is not None and len(unions) > 1 and "," in text:
    name = ""
    membership = re.match(r"(\\?[a-zA-Z]) *\\in(?![A-Za-z])", unions[0])
    if membership:
      name, unions[0] = membership[1], unions[0][membership.end():]
    return Items("union", tuple(read(part) for part in unions), name)
  pieces = _commas(text)
  given = _read_given(text, pieces, read)
  if given is not None:
    return given
  if 1 < len(pieces) <= MAX_ITEMS:
    return _listed(pieces, read)
  return _plus_minus(text, read)


def _is_ranges(parts: list[str]) -> bool:
  return len(parts) > 1 and all(re.search(r"[<>=]|\\[lg]e(?![A-Za-z])|\\ne(?![A-Za-z])", part)
                                for part in parts)


def _commas(text: str) -> list[str]:
  """The parts between commas, except commas that can separate thousands."""
  wide = brackets.split(text, lambda kind, token, whole: kind == ";" or kind == "," and (
      whole[token.end():token.end() + 1] in (" ", "") or not whole[token.end()].isdigit()
      or not whole[token.start() - 1:token.start()].isdigit()))
  if wide is None:
    return [text]
  is_comma = lambda kind, *_: kind in ",;"
  return [piece for part in wide for piece in (
      [part] if amounts.read_number(part.strip()) else brackets.split(part, is_comma) or [part])]


def _plus_minus(text: str, read: Reader) -> Reading | None:
  marks = re.findall(r"\\(?:pm|mp)(?![A-Za-z])", text)
  if not marks or "\\pm" not in marks or len(marks) > 2:
    return None
  if "," in text and len(brackets.split(text, lambda kind, *_: kind in ("\\pm", "\\mp")) or ()) < 2:
    return None  # of one of several things in brackets
  both = [re.sub(r"\\(pm|mp)(?![A-Za-z]) ?", lambda m, flip=flip: "+-"[(m[1] == "mp") ^ flip], text)
          for flip in (False, True)]
  both = [read(re.sub(r"(^|[=(,{]) ?\+", r"\1", one)) for one in both]
  return _united(both) or Items("list", tuple(both))


def read_brackets(text: str, read: Reader) -> Reading | None:
  """A tuple, an interval or a set."""
  marks = ("\\langle", "\\{", "(", "[", "]")
  opening = next((mark for mark in marks if text.startswith(mark)), None)
  if opening is None:
    return None
  if opening == "]":
    closing = re.fullmatch(r"\](.*,.*)([\[\]])", text)
    if not closing:
      return None
    inside, kind = closing[1], "()" if closing[2] == "[" else "(]"
  elif brackets.closing(text) == len(text):
    closing = next((mark for mark in ("\\rangle", "\\}", ")", "]") if text.endswith(mark)), None)
    if closing is None:  # \rfloor
      return None
    inside = text[len(opening):-len(closing)]
    kind = {"\\langle": "(", "\\{": "{"}.get(opening, opening) + {
        "\\rangle": ")", "\\}": "}"}.get(closing, closing)
  elif opening == "[" and re.fullmatch(r"\[[^\[\]()]*,[^\[\]()]*\[", text):
    inside, kind = text[1:-1], "[)"
  else:
    return None
  # (1,234) is a pair; a comma separates thousands only if another one has a space after it.
  is_comma = lambda kind, *_: kind in ",;"
  parts = _commas(inside) if ", " in inside else brackets.split(inside, is_comma)
  if parts is None or len(parts) > MAX_ITEMS or kind not in ("()", "[]", "(]", "[)", "{}"):
    return None
  items = tuple(read(language.trim(part)) for part in parts if part.strip())
  if kind == "[]" and len(items) == 1 and isinstance(items[0], Items) and items[0].kind == "matrix":
    return items[0]
  if kind == "{}":
    items = tuple(part for item in items for part in (
        item.items if isinstance(item, Items) and item.kind == "list" else (item,)))
  return Items(kind, items)


def read_membership(text: str, read: Reader) -> Reading | None:
  r"""`x \in S` is read as S, with the name x."""
  found = re.match(
      r"(\\?[A-Za-z]+(?:_\{?\w\}?)?|\(\\?[A-Za-z]+(?: ?, ?\\?[A-Za-z]+)+\)) *"
      r"\\in(?![A-Za-z]) *(?=\S)", text)
  if not found:
    return None
  inner = read(text[found.end():])
  if isinstance(inner, Items):
    return inner._replace(name=squeeze(found[1]))
  return inner if inner == EMPTY else None


def read_ratio(text: str, read: Reader) -> Reading | None:
  """`1:2:3`; ratios of numbers are reduced, so that 2:4:6 is the same."""
  parts = brackets.split(text, lambda kind, *_: kind == ":")
  if parts is None or not 3 <= len(parts) <= MAX_ITEMS:
    return None
  if "=" in text or not all(part.strip() for part in parts):
    return None
  items = [read(part) for part in parts]
  if all(isinstance(item, Number) for item in items) and items[-1].value:
    items = [Number(item.value / items[-1].value) for item in items]
  return Items("ratio", tuple(items))


def read_rest(text: str, read: Reader) -> Reading | None:
  r"""The real line without points, `\mathbb{R} \setminus \{0\}`, or an interval."""
  hole = re.fullmatch(
      r"\\mathbb\{R\} ?(?:\\setminus|\\backslash|-) ?\\\{((?:(?!\\\}).)*)\\\}", text)
  if hole:
    points = read(hole[1])
    points = points.items if isinstance(points, Items) and points.kind == "list" else (points,)
    is_known = len(points) == 1 or all(isinstance(point, Number) for point in points)
    return without_points(points, "") if is_known else None
  gap = re.fullmatch(
      r"\\mathbb\{R\} ?(?:\\setminus|\\backslash|-) ?([(\[])([^()\[\]]*),([^()\[\]]*)([)\]])", text)
  if gap:
    low, high = read(gap[2]), read(gap[3])
    return Items("union", (Items("()" if gap[1] == "[" else "(]", (MINUS_INFINITY, low)),
                           Items("()" if gap[4] == "]" else "[)", (high, INFINITY))))
  return None


def read_residue(text: str, read: Reader) -> Reading | None:
  r"""`x \equiv 3 \pmod{7}`, and `3 \pmod{7}`."""
  found = re.fullmatch(r"(?:(.*?) ?\\equiv ?)?(.*?),? ?\\pmod\{(\w+)\}", text)
  if not found:
    return None
  value, modulus = read(found[2]), read(found[3])
  if isinstance(value, Number) and isinstance(modulus, Number) and modulus.value:
    value = value._replace(value=value.value % modulus.value)
  return Items("mod", (value, modulus), squeeze(found[1] or ""))
