r"""Exact numbers, percentages and units of answers.

Nothing is computed for a number of more than `MAX_DIGITS` digits or powers of ten, and no sum,
power or root is ever evaluated: `1+1` is not a number here. Not here: typesetting
(`typesetting.py`), lists, equations and other forms of answers (`reading.py`).
"""

from fractions import Fraction
import re

MAX_DIGITS = 100  # digits of a number that is read, and the largest power of ten

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_PLAIN = re.compile(rf"([+-]?)({_NUMBER})(?:/([+-]?)({_NUMBER}))?")
_FRACTION = re.compile(rf"([+-]?)(\d*)\\frac\{{([+-]?)({_NUMBER})\}}\{{([+-]?)({_NUMBER})\}}")
_ASSIGNMENT = re.compile(r"\\?[A-Za-z]+=")
_MIXED = re.compile(r"([+-]?)(\d+) (\d+)/(\d+)")
_SCIENTIFIC = re.compile(
    rf"([+-]?)(?:({_NUMBER})(?:(?:\\times|\\cdot|\*|x)10\^|[eE]))?(?:10\^)?"
    r"(?:\{([+-]?\d{1,3})\}|([+-]?\d{1,3}))")
_REPEATING = re.compile(
    r"([+-]?)(\d*)\.(\d*)(?:\\overline\{(\d+)\}|\((\d+)\)|\\dot\{?(\d)\}?)")
_ELLIPSIS = re.compile(r"([+-]?\d*)\.(\d*?)(\d)\3\3+\\ldots")
_THOUSANDS = re.compile(r"([+-]?)(\d{1,3}(?:([,'_ ])\d{3})(?:\3\d{3})*)(\.\d+)?")
_BRACED = re.compile(r"\{([+-]?[\d.]+)\}")


def exact_number(text: str) -> Fraction | None:
  r"""The value of a plain number, else None.

  Plain: an integer, a decimal, `a/b`, `\frac{a}{b}`, a mixed number `2\frac{1}{2}`, each with an
  optional sign and an optional `x=` before it. Sums, powers, exponents, percentages and numbers
  with more than `MAX_DIGITS` digits are not: they give None, and nothing is computed for them.

  Args:
    text: as returned by `typesetting.squeeze`.
  """
  if len(text) > 4 * MAX_DIGITS:
    return None
  assignment = _ASSIGNMENT.match(text)
  if assignment:
    text = text[assignment.end() :]
  plain = _PLAIN.fullmatch(text)
  if plain:
    sign, top, bottom_sign, bottom = plain.groups()
    return _ratio(sign, "", top, bottom_sign, bottom or "1")
  fraction = _FRACTION.fullmatch(text)
  if fraction:
    sign, whole, top_sign, top, bottom_sign, bottom = fraction.groups()
    if whole and (top_sign or bottom_sign):
      return None  # 2\frac{-1}{2} is a product, if anything
    return _ratio(sign + top_sign, whole, top, bottom_sign, bottom)
  return None


def number(text: str) -> Fraction | None:
  r"""The value of a number in any typesetting, else None.

  In addition to the forms of `exact_number`: `1,234`, `3 1/2`, `1.5\times10^{3}`, `10^{-3}`, `2e5`,
  `0.\overline{3}`, `0.(3)`, `0.333\ldots` (three equal digits or more).

  Args:
    text: as returned by `typesetting.squeeze`.
  """
  if len(text) > 4 * MAX_DIGITS or _ASSIGNMENT.match(text):
    return None
  value = exact_number(text)
  if value is not None:
    return value
  if "{" in text and "\\frac" not in text and "^" not in text and "\\overline" not in text:
    text = _BRACED.sub(r"\1", text)
    value = exact_number(text)
    if value is not None:
      return value
  thousands = _THOUSANDS.fullmatch(text)
  if thousands:
    sign, digits, mark, decimals = thousands.groups()
    return exact_number(sign + digits.replace(mark, "") + (decimals or ""))
  mixed = _MIXED.fullmatch(text)
  if mixed:
    sign, whole, top, bottom = mixed.groups()
    return _ratio(sign, whole, top, "", bottom)
  return _scientific(text) if text[-1:] in "}0123456789" else _repeating(text) or None


def _scientific(text: str) -> Fraction | None:
  found = _SCIENTIFIC.fullmatch(text)
  if not found or not ("10^" in text or found[2]):
    return _repeating(text)
  sign, digits, braced, bare = found.groups()
  power = int(braced or bare)
  if abs(power) > MAX_DIGITS or "e10^" in text.lower():
    return None
  value = exact_number(sign + (digits or "1"))
  return None if value is None else value * Fraction(10) ** power


def _repeating(text: str) -> Fraction | None:
  ellipsis = _ELLIPSIS.fullmatch(text)
  if ellipsis:
    text = rf"{ellipsis[1]}.{ellipsis[2]}\overline{{{ellipsis[3]}}}"
  found = _REPEATING.fullmatch(text)
  if not found:
    return None
  sign, whole, start, *periods = found.groups()
  period = next(filter(None, periods))
  value = Fraction(int(whole + start or 0)) + Fraction(int(period), 10 ** len(period) - 1)
  value /= 10 ** len(start)
  return -value if sign == "-" else value


def _ratio(signs: str, whole: str, top: str, bottom_sign: str | None, bottom: str):
  """The signed fraction `whole + top / bottom`, or None if it is too long or divides by zero."""
  if max(len(whole), len(top), len(bottom)) > MAX_DIGITS:
    return None
  denominator = Fraction(bottom)
  if not denominator:
    return None
  value = Fraction(whole or 0) + Fraction(top) / denominator
  is_negative = (signs + (bottom_sign or "")).count("-") % 2
  return -value if is_negative else value


# A unit: ((its parts, exponent), ...), sorted; () for none. Nouns that are not units of measurement
# (72 clips) are parts as well, in the singular.
Unit = tuple[tuple[str, int], ...]

_ALIASES = {
    "m": "meter metre meters metres", "cm": "centimeter centimetre", "mm": "millimeter millimetre",
    "km": "kilometer kilometre", "dm": "decimeter decimetre", "inch": "inches in \"", "nm":
    "nanometer", "\u00b5m": "micrometer micron", "ft": "foot feet", "yd": "yard",
    "mi": "mile", "g": "gram gm gramme", "kg": "kilogram kilo", "mg": "milligram", "lb":
    "lbs", "pound": "pounds", "oz": "ounce", "t": "ton tonne", "s": "second sec secs", "min":
    "minute mins", "h": "hour hr hrs", "ms": "millisecond", "day": "days", "week": "wk", "month":
    "months", "year": "yr yrs", "L": "liter litre l", "mL": "milliliter millilitre ml", "gal":
    "gallon", "K": "kelvin", "N": "newton", "J": "joule", "kJ": "kilojoule", "W": "watt", "kW":
    "kilowatt", "V": "volt", "A": "ampere amp", "Pa": "pascal", "kPa": "kilopascal", "Hz": "hertz",
    "C": "coulomb", "mol": "mole", "eV": "electronvolt", "rad": "radian", "ohm": "\\Omega",
    "degree": "^\\circ deg", "celsius": "^\\circC \u2103 degrees_celsius", "fahrenheit":
    "^\\circF degrees_fahrenheit", "$": "\\dollar dollar usd buck", "euro": "\\euro euros eur",
    "pound_sterling": "\\pounds gbp quid", "yen": "\\yen jpy", "cent": "\u00a2 cents",
    "rupee": "\\rupee rs inr", "%": "percent pct percentage", "person":
    "people persons", "man": "men", "woman": "women", "child": "children", "hectare": "ha",
    "acre": "acres", "au": "AU", "ly": "lightyear", "T": "tesla", "cal": "calorie", "kcal":
    "kilocalorie", "dB": "decibel", "kHz": "kilohertz", "MHz": "megahertz", "GB": "gigabyte",
    "MB": "megabyte",
}  # fmt: skip
_KNOWN = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases.split())}
_RATES = {"mph": (("mi", 1), ("h", -1)), "kmh": (("km", 1), ("h", -1)),
          "kph": (("km", 1), ("h", -1)), "kmph": (("km", 1), ("h", -1))}
PREFIXES = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3}
_SUFFIXES = {"squared": 2, "cubed": 3}
_TIMES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words that are more than a counted noun: with one of them a text is not a number with a unit.
_SAYING = frozenset(
    "or and if when for not no more less than at least most mod where to from over plus minus "
    "times but except either both with without is are otherwise only between each all none".split())
_WHOLE = re.compile(r" ?(?:\\text\{)? ?(?:times|more) ?\}? ?")
_IGNORED = frozenset(("of", "the", "total", "a", "whole"))
_UNIT_TOKEN = re.compile(
    r"\\text\{([^{}]*)\}|\\(dollar|euro|pounds|yen|rupee|Omega|mu)(?![A-Za-z])"
    r"|(\^\\circ ?[CF]?(?![A-Za-z]))"
    r"|([A-Za-z\u00b5\u00a2\u2103]+\.?|\"|%)|\^(?:\{(-?\d)\}|(-?\d))|(/)|(\\cdot|\*|-)| ")


def known_unit(word: str) -> str | None:
  """The usual symbol of a unit of measurement, in any of its spellings."""
  word = word.rstrip(".")
  for spelling in (word, word.lower(), word.lower().removesuffix("s")):
    if spelling in _KNOWN:
      return _KNOWN[spelling]
  return None


def read_unit(text: str) -> tuple[Unit, int] | None:
  r"""The unit that a text spells, and the power of ten of words such as `million`.

  Args:
    text: the text after a number: `\text{ cm}^2`, `km/h`, `meters per second`, `clips`.

  Returns:
    None if the text is not a unit: it holds digits, signs, or words such as "or".
  """
  if _WHOLE.fullmatch(text):  # 3 times, but not 3 times 4
    return ((text.strip("\\text{} "), 1),), 0
  text = text.replace("per cent", "percent")
  parts: dict[str, int] = {}
  tens, sign, power, last = 0, 1, 1, None
  for kind, value in _unit_tokens(text):
    if kind == "other":
      return None
    if kind == "power":
      if last is None:
        return None
      parts[last] += (value - 1) * (1 if parts[last] > 0 else -1)
    elif value in ("/", "per"):
      sign, last = -1, None
    elif value in PREFIXES:
      power = PREFIXES[value]
    elif value in _SUFFIXES and last is not None:
      parts[last] *= _SUFFIXES[value]
    elif value in _TIMES and not parts:
      tens += _TIMES[value]
    elif value in _SAYING:
      return None
    else:
      name = known_unit(value) or _singular(value.lower().rstrip("."))
      if name in _IGNORED:
        power = 1
        continue
      for part, exponent in _RATES.get(name, ((name, 1),)):
        parts[part] = parts.get(part, 0) + sign * power * exponent
      power, last = 1, name if name in parts else None
  return tuple(sorted((name, exponent) for name, exponent in parts.items() if exponent)), tens


def _unit_tokens(text: str):
  """Yields ("word", text), ("power", int), or ("other", text) for text outside units."""
  end = 0
  for token in _UNIT_TOKEN.finditer(text):
    if token.start() != end:
      yield "other", text[end : token.start()]
      return
    end = token.end()
    upright, command, degrees, word, braced, bare, slash, times = token.groups()
    if upright is not None:
      if any(character.isdigit() and previous not in "^-" for previous, character in zip(
          " " + upright, upright)):
        yield "other", upright
        return
      yield from _unit_tokens(upright)
    elif braced or bare:
      yield "power", int(braced or bare)
    elif slash or command or degrees or word:
      yield "word", (slash or (command and "\\" + command) or (degrees or word).replace(" ", ""))
    elif not times and token.group() != " ":
      yield "other", token.group()
  if end != len(text):
    yield "other", text[end:]


def _singular(word: str) -> str:
  if word.endswith("ies") and len(word) > 4:
    return word[:-3] + "y"
  if word.endswith(("sses", "xes", "ches", "shes")):
    return word[:-2]
  return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


def _renamed(unit: Unit, old: str, new: str) -> Unit:
  return tuple(sorted((new if name == old else name, power) for name, power in unit))


def is_measure(unit: Unit) -> bool:
  """Whether all parts are units of measurement, and none is a noun."""
  return all(name in _ALIASES for name, _ in unit)


def agree(left: Unit, right: Unit) -> bool:
  """Whether two units are compatible: one is missing, or they are the same.

  "Units" is compatible with any. Nouns agree if one is more specific: clips and paper clips.
  """
  if not left or not right or left == right:
    return True
  for name in ("lb", "pound_sterling"):  # a pound may be either
    if _renamed(left, "pound", name) == _renamed(right, "pound", name):
      return True
  for one, other in ((left, right), (right, left)):
    if one[0][0] == "unit" and len(one) == 1:  # square units may be cm^2, but no cubic units
      return is_measure(other) and sum(exponent for _, exponent in other) == one[0][1]
  if is_measure(left) or is_measure(right):
    return False
  return set(left) <= set(right) or set(right) <= set(left)
