"""The types of answers."""

from collections.abc import Callable, Hashable
from fractions import Fraction
import re
from typing import NamedTuple

from rlreason.rewards.reading.quantities import Unit


class Number(NamedTuple):
  """An exact plain number; `value` is that of the digits (50 for 50%)."""

  value: Fraction
  unit: Unit = ()
  is_percent: bool = False


class Words(NamedTuple):
  """An answer compared as text, in lower case and without full stops."""

  text: str


class Expression(NamedTuple):
  """An answer compared by mathematics: LaTeX without its unit."""

  latex: str
  unit: Unit = ()


class Equation(NamedTuple):
  """`name = value`, or a chain `name = side = value`; `latex` is all of it.

  `sides` are the intermediate sides of a chain that are arithmetic: 4+1 of x = 4+1 = 5.
  """

  name: str
  value: "Reading"
  latex: str
  sides: tuple[str, ...] = ()


class Clock(NamedTuple):
  """A time of day; `half` is "a" or "p", empty if it is not given."""

  hour: int
  minute: int
  half: str = ""


class Choice(NamedTuple):
  """`(C) 12`: the label of a choice, and its content."""

  label: str
  value: "Reading"


class Items(NamedTuple):
  """Several readings.

  Attributes:
    kind: "list" (no brackets, any order), "{}" (any order), "union" (any order), "()", "[]", "(]",
      "[)" (tuples and intervals), "matrix", "vmatrix", "row", "rows" (of a grid), "cases",
      "mod" (a residue and its modulus), "ratio" (of three or more),
      "either" (words or choices joined by "or"), "given" (a formula, and what its letters range
      over), "chain" with its signs.
    items: the parts; for a matrix its rows.
    name: the variable of an inequality, of `x \\in ...` or of a "given"; empty without one.
  """

  kind: str
  items: tuple["Reading", ...]
  name: str = ""


Reading = Number | Words | Expression | Equation | Clock | Choice | Items
Reader = Callable[[str], Reading]  # of a part of a text

INFINITY = Expression("\\infty")
MINUS_INFINITY = Expression("-\\infty")
EMPTY = Expression("\\emptyset")


def is_label(latex) -> bool:
  """Whether a text is a letter that may name a choice, which is the same in lower case."""
  return isinstance(latex, str) and len(latex) == 1 and latex.upper() in "ABCDEFGH"


def expressions(reading: Reading) -> list[str] | None:
  """The formulas in a reading, LaTeX; None if it holds words."""
  if isinstance(reading, Words):
    return None
  if isinstance(reading, Expression):
    return [] if len(reading.latex) == 1 or reading.latex.endswith("\\infty") else [reading.latex]
  if isinstance(reading, Equation):
    return [reading.latex] if expressions(reading.value) != [] else []
  if isinstance(reading, Choice):
    return expressions(reading.value)
  parts = [expressions(item) for item in reading.items] if isinstance(reading, Items) else []
  if reading[0] == "given":
    parts = parts[:1]
  return None if None in parts else [latex for some in parts for latex in some]


def rename(reading: Reading, old: str, new: str) -> Reading:
  """The reading with a bound letter renamed; unchanged if the new letter is in use."""
  letter = lambda name: rf"(?<![A-Za-z\\]){name}(?![A-Za-z])"
  swap = lambda latex: latex if re.search(letter(new), latex) else re.sub(letter(old), new, latex)
  if isinstance(reading, (Expression, Equation)):
    reading = reading._replace(latex=swap(reading.latex))
  if isinstance(reading, (Equation, Choice)):
    return reading._replace(value=rename(reading.value, old, new))
  if isinstance(reading, Items):
    return reading._replace(items=tuple(rename(item, old, new) for item in reading.items))
  return reading


def vote(reading: Reading) -> Hashable:
  """A key shared by equivalent readings: 0.5, 1/2 and x = 0.50 cm are one answer."""
  if isinstance(reading, Number):
    return reading.value / 100 if reading.is_percent else reading.value
  if isinstance(reading, (Equation, Choice)):
    return vote(reading.value)
  if isinstance(reading, Clock):
    return reading
  if isinstance(reading, Items):
    items = tuple(vote(item) for item in reading.items)
    kind = "list" if reading.kind == "{}" else reading.kind
    return (kind, frozenset(items) if reading.kind in ("list", "{}", "union") else items)
  if isinstance(reading, Expression):
    return reading.latex.upper() if is_label(reading.latex) else reading.latex
  return reading.text
