"""Whether two readings of answers agree: True, False, or None where mathematics must decide.

docs/verifier.md gives the rules for ambiguous answers, each with its reason.
"""

from collections.abc import Callable, Iterable
import re
from typing import Literal

from rlreason.rewards.reading import amounts, quantities
from rlreason.rewards.reading.language import fold
from rlreason.rewards.reading.relations import is_combination, is_name
from rlreason.rewards.reading.types import (
    EMPTY, Choice, Clock, Equation, Expression, Items, Number, Reading, Words, is_label, rename)

# (gold, answer), LaTeX of both -> whether they are equal; None: not known yet, or undecidable.
Judge = Callable[[str, str], bool | None]
Percent = Literal["either", "exact"]  # whether 50 agrees with 50%, as well as 0.5
MAX_OPEN_PAIRS = 200  # of a list in any order; more are not compared

# "1 2" is neither a product nor a mixed number; SymPy takes gcd(m, n) of letters for 1.
_UNSOUND = re.compile(r"\d \d|\\(?:gcd|lcm)[^,]*[a-z]")
_LONG_NAME = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{4,}")  # not a product, whose order is free
_FUNCTION = re.compile(r"([A-Za-z])\(([a-z])\)")
_ANY_ORDER = ("list", "{}", "union", "cases")


def match(gold: Reading, answer: Reading, judge: Judge, percent: Percent = "either") -> bool | None:
  """Whether an answer agrees with the gold answer.

  Args:
    gold: reading of the gold answer.
    answer: reading of the answer.
    judge: decides pieces that only mathematics can compare.
    percent: "either": `50` and `50%` agree, and `50%` with `0.5`; "exact": only the latter do.
  """
  recurse = lambda left, right: match(left, right, judge, percent)
  if gold == answer:
    return True
  if isinstance(gold, Choice) or isinstance(answer, Choice):
    return _match_choices(gold, answer, recurse)
  if isinstance(gold, Equation) or isinstance(answer, Equation):
    return _match_equations(gold, answer, judge, recurse)
  if isinstance(gold, Items) or isinstance(answer, Items):
    verdict = _match_items(gold, answer, recurse)
    tex = [matrix_latex(one) for one in (gold, answer)]
    # Mathematics must decide a matrix that still has to be multiplied or added up.
    is_open = verdict is False and isinstance(gold, Items) != isinstance(answer, Items) and all(tex)
    return judge(*tex) if is_open and "\\begin" in tex[0] and "\\begin" in tex[1] else verdict
  if isinstance(gold, Clock) or isinstance(answer, Clock):
    return _match_clocks(gold, answer)
  if isinstance(gold, Words) or isinstance(answer, Words):
    return _text(gold) is not None and _text(gold) == _text(answer)
  if isinstance(gold, Number):
    return isinstance(answer, Number) and _match_numbers(gold, answer, percent)
  if not quantities.agree(gold.unit, answer.unit):
    return False
  left = gold.latex
  right = answer.latex if isinstance(answer, Expression) else str(answer.value)
  if is_label(left) and left.isupper():
    return left == right.upper()
  if left == right:
    return True
  if isinstance(answer, Number) and answer.is_percent:
    return False
  differs = any((sign in left) != (sign in right) for sign in ("=", "\\in"))
  names = [set(_LONG_NAME.findall(latex)) for latex in (left, right)]
  if not (left and right) or differs or names[0] != names[1] or _UNSOUND.search(left + "," + right):
    return False
  return judge(left, right)


def _match_numbers(gold: Number, answer: Number, percent: Percent) -> bool:
  if not quantities.agree(gold.unit, answer.unit):
    return False
  if gold.is_percent == answer.is_percent:
    return gold.value == answer.value
  if gold.unit or answer.unit:
    return False  # 18% is not $18
  share, bare = (gold, answer) if gold.is_percent else (answer, gold)
  return bare.value == share.value / 100 or percent == "either" and bare.value == share.value


def _text(reading: Reading) -> str | None:
  return {Words: lambda: reading.text, Expression: lambda: fold(reading.latex)}.get(
      type(reading), lambda: None)()


def _match_clocks(gold: Reading, answer: Reading) -> bool:
  """Whether two times are the same; 3:30 may be short for 3:30 p.m., and so is 3 for 3 p.m."""
  clock, other = (gold, answer) if isinstance(gold, Clock) else (answer, gold)
  if isinstance(other, Number):
    return bool(clock.half) and not clock.minute and not other.unit and other.value == clock.hour
  if isinstance(gold, Expression) and not answer.half and answer.minute > 9:  # 8:14 for 4:7
    ratio = re.fullmatch(r"(\d{1,4}):(\d{1,4})", gold.latex)
    return bool(ratio) and int(ratio[1]) * answer.minute == int(ratio[2]) * answer.hour
  if not isinstance(other, Clock) or clock.minute != other.minute:
    return False
  if bool(clock.half) == bool(other.half):
    return clock == other
  said, bare = (clock, other) if clock.half else (other, clock)
  return bare.hour in (said.hour, said.hour % 12 + 12 * (said.half == "p"))


def matrix_latex(reading: Reading) -> str:
  """LaTeX of an expression, or of a matrix of expressions; empty for anything else."""
  if isinstance(reading, Number):
    return str(reading.value)
  if isinstance(reading, Expression):
    return reading.latex
  if not (isinstance(reading, Items) and reading.kind == "matrix"):
    return ""
  rows = [[matrix_latex(cell) for cell in row.items] for row in reading.items]
  if not all(all(row) for row in rows):
    return ""
  return r"\begin{pmatrix}" + r" \\ ".join(" & ".join(row) for row in rows) + r"\end{pmatrix}"


def _match_choices(gold: Reading, answer: Reading, recurse) -> bool | None:
  if isinstance(gold, Choice) and isinstance(answer, Choice):
    return _all([gold.label == answer.label, recurse(gold.value, answer.value)])
  choice, other = (gold, answer) if isinstance(gold, Choice) else (answer, gold)
  if isinstance(other, Expression) and is_label(other.latex):
    return other.latex.upper() == choice.label
  return recurse(gold.value, answer) if choice is gold else recurse(gold, answer.value)


def _match_equations(gold: Reading, answer: Reading, judge: Judge, recurse) -> bool | None:
  if isinstance(gold, Equation) and isinstance(answer, Equation):
    if _same_name(gold.name, answer.name):
      verdict = recurse(gold.value, answer.value)
      is_open = verdict is False and not is_name(gold.name)  # x^2+y^2 = 5^2
      return judge(gold.latex, answer.latex) if is_open else verdict
    names = [_FUNCTION.fullmatch(one.name) for one in (gold, answer)]
    if all(names) and names[0][1] == names[1][1]:  # f(x) and f(t)
      renamed = rename(answer.value, names[1][2], names[0][2])
      return renamed != answer.value and recurse(gold.value, renamed)
    if gold.latex == answer.latex:
      return True
    # Assignments of different variables differ; x+y=1 and y=1-x may be equal.
    is_assignment = [is_name(one.name) and isinstance(one.value, Number) for one in (gold, answer)]
    return False if all(is_assignment) else judge(gold.latex, answer.latex)
  equation, other = (gold, answer) if isinstance(gold, Equation) else (answer, gold)
  if isinstance(other, Items) and other.kind == "list":
    named = _by_names(equation, other)
    pairs = zip(*(named if equation is gold else named[::-1])) if named else ()
    return _all(recurse(*pair) for pair in pairs) if named else False
  if isinstance(other, Expression) and len(other.latex) == 1 and other.latex.isupper():
    return False  # a = b is not the choice B
  if not (is_name(equation.name) or _is_statement(equation)):
    # m+n = 540 gives the requested value; x^2+y^2 = 4 is a circle.
    is_asked = is_combination(equation.name) or equation is answer and isinstance(
        gold, Number) and quantities.number(equation.name.rstrip("%")) is not None
    if not (is_asked and isinstance(equation.value, Number)):
      return False
  if equation is gold:
    return recurse(gold.value, answer)
  # 7+9 = 15 does not say 15.
  is_true = [_says(side, gold, judge, recurse) for side in equation.sides
             if isinstance(gold, (Number, Expression))]
  return _all([recurse(gold, equation.value), *is_true])


def _says(side: str, gold: Number | Expression, judge: Judge, recurse) -> bool | None:
  """Whether a side of an equation, LaTeX without letters, has the value of the gold answer."""
  number = amounts.read_number(side)
  if number is not None and isinstance(gold, Number):
    return recurse(gold, number)
  value = gold.latex if isinstance(gold, Expression) else str(gold.value)
  return side == value or judge(side, value)


def _by_names(point: Equation, values: Items) -> tuple[list, list] | None:
  """The parts of (x, y) = (1, 2) and of x = 1, y = 2, by the order of the point; None: differ."""
  names = point.name.strip("()").split(",")
  known = {one.name: one.value for one in values.items if isinstance(one, Equation)}
  if not isinstance(point.value, Items) or point.value.kind != "()" or set(known) != set(names):
    return None
  if not len(names) == len(known) == len(values.items) == len(point.value.items):
    return None
  return list(point.value.items), [known[name] for name in names]


def _same_name(left: str, right: str) -> bool:
  if left == right:
    return True
  plain = lambda name: re.sub(r"[\s{}]|_\{?\w+\}?|\\text|\\mathrm", "", name)
  functions = lambda name: re.fullmatch(r"[fgh]\([a-z]\)|y", name)
  if re.sub(r"\([a-z]\)$", "", left) == right or re.sub(r"\([a-z]\)$", "", right) == left:
    return True  # y(x) and y
  return bool(plain(left) == plain(right) and not ("_" in left and "_" in right)
              or functions(left) and functions(right) and "y" in (left, right))


def _is_statement(equation: Equation) -> bool:
  """Whether its left side is arithmetic, such as 7 + 8 = 15, and not just another number."""
  name = re.sub(r"\\[A-Za-z]+", "", equation.name)
  return not re.search(r"[A-Za-z]", name) and quantities.number(equation.name) is None


def _is_spelled(gold: Reading, answer: Reading) -> bool:
  """Whether one lists the choices that the other writes as one word: A, B, D and ABD."""
  for items, other in ((gold, answer), (answer, gold)):
    if isinstance(items, Items) and items.kind == "list" and all(
        isinstance(item, Expression) and is_label(item.latex) for item in items.items):
      return "".join(item.latex for item in items.items).casefold() == _text(other)
  return False


def _match_items(gold: Reading, answer: Reading, recurse) -> bool | None:
  for given, other in ((gold, answer), (answer, gold)):
    if isinstance(given, Items) and given.kind == "given" and not (
        isinstance(other, Items) and other.kind == "given"):
      formula = given.items[0]
      return recurse(formula, other) if given is gold else recurse(other, formula)
  kinds = [one.kind if isinstance(one, Items) else None for one in (gold, answer)]
  if kinds == ["given", "given"] and gold.name and answer.name:
    return _all(map(recurse, gold.items, rename(answer, answer.name, gold.name).items))
  if isinstance(gold, Items) != isinstance(answer, Items):
    # {5} is 5 too; a list of one, or a matrix, is not.
    items, other = (gold, answer) if isinstance(gold, Items) else (answer, gold)
    if items.kind == "{}" and len(items.items) == 1 and not isinstance(
        other, Words) and items.items[0] != EMPTY:
      return recurse(items.items[0], answer) if items is gold else recurse(gold, items.items[0])
    return _is_spelled(gold, answer)
  if gold.name and answer.name and not _same_name(gold.name, answer.name):
    return False
  gold, answer = _as_set(gold), _as_set(answer)
  if len(gold.items) != len(answer.items):
    return _match_flat(gold, answer, recurse)
  if gold.kind == answer.kind:
    in_order = gold.kind not in _ANY_ORDER or any(isinstance(item, Words) for item in gold.items)
  elif "list" in (gold.kind, answer.kind):
    plain, other = (gold, answer) if gold.kind == "list" else (answer, gold)
    if other.kind not in ("{}", "()", "[]") or other.name and other.kind != "{}":
      return False
    # A list without brackets equals a pair only in the pair's order.
    in_order = other.kind != "{}"
  else:
    return _match_flat(gold, answer, recurse)
  if gold.kind in _ANY_ORDER and not in_order and _names_are_order(gold, answer):
    in_order = True
  if in_order:
    return _all(recurse(*pair) for pair in zip(gold.items, answer.items))
  return _match_unordered(gold.items, answer.items, recurse)


def _as_set(items: Items) -> Items:
  """Removes duplicates, except in a plain list of numbers, where 2, 2 may be meant."""
  if items.kind in ("{}", "union") or items.kind == "list" and all(
      isinstance(item, Items) for item in items.items):
    return items._replace(items=tuple(dict.fromkeys(items.items)))
  return items


def _names_are_order(gold: Items, answer: Items) -> bool:
  """x = 1, y = 2 against 1, 2: without names the order identifies the variables."""
  names = [item.name for item in gold.items if isinstance(item, Equation)]
  return (len(names) == len(gold.items) and len(set(names)) == len(names)
          and not any(isinstance(item, Equation) for item in answer.items))


def _match_flat(gold: Items, answer: Items, recurse) -> bool | None:
  """A column or row of a matrix against a tuple; other readings of different forms differ."""
  vector, other = (gold, answer) if gold.kind == "matrix" else (answer, gold)
  if vector.kind != "matrix" or other.kind != "()":
    return False
  cells = [cell for row in vector.items for cell in row.items]
  is_vector = len(vector.items) == 1 or all(len(row.items) == 1 for row in vector.items)
  if not is_vector or len(cells) != len(other.items):
    return False
  pairs = zip(cells, other.items) if vector is gold else zip(other.items, cells)
  return _all(recurse(*pair) for pair in pairs)


def _match_unordered(gold: tuple, answer: tuple, recurse) -> bool | None:
  """Whether the items can be paired off; equality is transitive, so any pairing suffices."""
  left, is_open = list(answer), 0
  waiting = []
  for item in gold:
    verdicts = []
    for candidate in left:
      verdicts.append(recurse(item, candidate))
      if verdicts[-1]:
        left.remove(candidate)
        break
    else:
      if None not in verdicts:
        return False
      is_open += verdicts.count(None)
      if is_open > MAX_OPEN_PAIRS:
        return False
      waiting.append(item)
  return None if waiting else True


def _all(verdicts: Iterable[bool | None]) -> bool | None:
  """False if one is; else None if one is; else True."""
  result = True
  for verdict in verdicts:
    if verdict is False:
      return False
    if verdict is None:
      result = None
  return result
