r"""Functions that run in the killable processes of `workers/`: rewards and mathematics.

This file is self-contained (standard library and math-verify only): a process loads it without the
package. Each target below makes a function of one request.
"""

from collections.abc import Mapping, Set
import decimal
import importlib
import logging
import numbers
import operator
import re

SYMBOLIC = (__file__, "make_symbolic_equal")  # its function compares two texts: gold, answer


def row_target(function):
  """The target that calls "package.module:function", a reward function, with one row."""
  return (__file__, "make_row_function", function)


def make_symbolic_equal():
  """Loads math-verify and returns its comparison; raises nothing by itself."""
  import sympy
  from latex2sympy2_extended import NormalizationConfig, latex2sympy
  from math_verify import verify
  from math_verify.grader import should_treat_as_complex
  from sympy.parsing import sympy_parser

  # SymPy reads any *string* by evaluating it as Python, and the LaTeX parser passes it strings: the
  # digits of numbers, and perhaps more. From here on only numbers and names are read.
  sympy_parser.parse_expr = read_atom
  sympy_parser.eval_expr = None
  logging.disable(logging.CRITICAL)
  normalization = NormalizationConfig(
      basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
  )

  def parse(text, is_complex):
    value = latex2sympy(
        text,
        is_real=not is_complex,
        convert_degrees=False,
        normalization_config=normalization,
    )
    units = [symbol for symbol in getattr(value, "free_symbols", ()) if symbol.name == "i"]
    return value.subs({symbol: sympy.I for symbol in units}) if units else value

  def symbolic_equal(gold, answer):
    """Whether two LaTeX texts are equal; without an answer, whether the gold one can be read."""
    try:
      is_complex = any(map(should_treat_as_complex, (gold, answer or "")))
      gold = parse(gold, is_complex)
      if answer is None:
        return True
      answer = parse(answer, is_complex)
      if all(isinstance(value, sympy.Expr) for value in (gold, answer)):
        verdict = equal_expressions(gold, answer)
        if verdict is not None:
          return verdict
      # No time limit inside: it would use SIGALRM, and cannot stop one long operation of C code.
      return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))
    except (RecursionError, MemoryError):
      raise
    except Exception:  # not mathematics, or not comparable with the gold answer
      return False

  symbolic_equal("x^2-1", "(x-1)(x+1)")  # SymPy has many imports at first use: outside requests
  return symbolic_equal


# Values of variables, used in turn: of both signs, and without a relation between them.
_POINTS = ("0.7310585786", "1.618033988", "2.302585093", "0.5772156649", "3.274712305")
_DIGITS = 60
_TOLERANCE = "1e-45"  # relative: far above the rounding of 60 digits, far below written precision


def equal_expressions(gold, answer):
  """Whether two SymPy expressions have one value: exactly, or to 45 digits at several points.

  If a root or logarithm of a variable is taken, and no absolute value, variables are positive.

  Returns:
    None if that cannot be computed: unknown functions, integrals, sums, no point of the domain.
  """
  import sympy
  from sympy.core.function import AppliedUndef

  if gold == answer:
    return True
  unknown = (AppliedUndef, sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative,
             sympy.MatrixBase, sympy.MatrixSymbol)
  if gold.has(*unknown) or answer.has(*unknown):
    return None
  has_abs = gold.has(sympy.Abs) or answer.has(sympy.Abs)  # as written: SymPy adds more of them
  gold, answer = gold.doit(), answer.doit()
  if gold.is_Rational and answer.is_Rational:
    return bool(gold == answer)
  symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
  is_partial = any(
      part.free_symbols for value in (gold, answer) for part in value.atoms(sympy.Pow, sympy.log)
      if isinstance(part, sympy.log) or not part.exp.is_integer and part.base.free_symbols)
  signs = (1,) if is_partial and not has_abs else (1, -1)
  tries = [(shift, sign) for shift in range(3) for sign in signs] if symbols else [(0, 1)]
  verdicts = []
  for shift, sign in tries:
    point = {symbol: sign ** (i + shift) * sympy.Float(
        _POINTS[(i + shift) % 5], 2 * _DIGITS)  # SymPy would search exact powers of a fraction
             * (1 + (i + shift) // 5) for i, symbol in enumerate(symbols)}
    left, right, difference = (
        sympy.N(value.subs(point), _DIGITS) for value in (gold, answer, gold - answer))
    if not all(value.is_number and value.is_finite for value in (left, right)):
      continue
    size = max(abs(left), abs(right), sympy.Float(_TOLERANCE))
    verdicts.append(bool(abs(difference) <= size * sympy.Float(_TOLERANCE, _DIGITS)))
  return all(verdicts) if verdicts else None


def read_atom(text, *unused_arguments, **unused_options):
  """A SymPy number or symbol, instead of SymPy's evaluation of text as Python code."""
  import sympy

  if re.fullmatch(r"[0-9]+", text):
    return sympy.Integer(int(text))
  if re.fullmatch(r"[0-9]*\.[0-9]+|[0-9]+\.", text):
    return sympy.Rational(text)  # exactly: a rounded root is not the root
  if re.fullmatch(r"[A-Za-z_]+", text):  # SymPy's own modules, loaded later, use such names
    return sympy.Symbol(text)
  raise ValueError("text is never evaluated as code")


def make_row_function(target):
  """Imports "package.module:function" and returns it as a function of one row."""
  module_name, _, name = target.partition(":")
  function = getattr(importlib.import_module(module_name), name)

  def score_row(prompt, completion, columns, options):
    columns = {column: [value] for column, value in columns.items()}
    scores = as_list(function([prompt], [completion], **{**columns, **options}))
    if len(scores) != 1:
      raise ValueError(f"{target}: got {len(scores)} scores, allowed: 1, of one completion")
    return None if scores[0] is None else to_reward(scores[0])

  return score_row


class NoNumber(TypeError):
  """A score is not a number: the function is wrong, independent of the completion."""

  is_refusal = True  # to `workers/process.py`

  def __init__(self, value, what=""):
    super().__init__(f"got {what}{repr(value)[:200]} ({type(value).__name__})")


def as_list(scores):
  """The scores that a function returned; raises NoNumber for a text, a table or a non-list."""
  if isinstance(scores, (str, bytes, Mapping, Set)):
    raise NoNumber(scores, "no list of numbers: ")
  try:
    scores = iter(scores)
  except TypeError:
    raise NoNumber(scores, "no list of numbers: ") from None
  return list(scores)


UNITS = ("step", "turn")  # units of positions other than characters of the text


def to_reward(value):
  """A score: a number, or a list of [where, number]; where is a character, or (unit, index).

  Raises NoNumber for everything else.
  """
  if not isinstance(value, (list, tuple)):
    return to_number(value)
  return [to_placed(pair, value) for pair in value]


def to_placed(pair, value):
  """One [where, number] of the list `value`, of plain types."""
  try:
    where, number = pair
    if isinstance(where, bool):
      raise ValueError
    if isinstance(where, (list, tuple)):
      unit, index = where
      where = [UNITS[UNITS.index(unit)], operator.index(index)]
    else:
      where = operator.index(where)
  except (TypeError, ValueError):
    raise NoNumber(value, "a list of other things than (where, number): ") from None
  return [where, to_number(number)]


def to_number(value):
  """A score of any library as a float: a truth value as 0 or 1, an array only without axes.

  Numbers too large for a float become infinite. Raises NoNumber for text, complex numbers and
  everything else.
  """
  plain = value
  if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # NumPy, JAX, PyTorch
    plain = value.item()
  if not isinstance(plain, (numbers.Real, decimal.Decimal)):
    raise NoNumber(value)
  try:
    return float(plain)
  except OverflowError:  # 10**400
    return float("inf")
  except ValueError:  # a signalling NaN of decimal
    return float("nan")
