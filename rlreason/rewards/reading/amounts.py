r"""Numbers and formulas with their surroundings: money, units, per cent."""

from fractions import Fraction
import re

from rlreason.rewards.reading import quantities
from rlreason.rewards.reading.quantities import Unit
from rlreason.rewards.reading.types import Number
from rlreason.rewards.reading.typesetting import squeeze

_SIGNED = re.compile(r"^([+-]) ?[({] ?([^(){}+-]*(?:\{[^{}]*\}[^(){}+-]*)*) ?[)}]$")  # -(5/6)
_MONEY = re.compile(r"([+-]?) ?\\(dollar|euro|pounds|yen|rupee)(?![A-Za-z]) ?")
_HEAD = re.compile(
    r"[+-]?(?:[\d.,/ ]|\\frac\{[\d.+-]*\}\{[\d.+-]*\}|\\times|\\cdot|[xeE*](?=[\d ])"
    r"|\^\{?[+-]?\d+\}?|\\overline\{\d+\}|\\ldots|\{[\d.,]+\}|\(\d+\))*")


def read_number(text: str) -> Number | None:
  """A number with its surroundings: money, a unit, a per cent sign."""
  sign, unit = "", ()
  text = _SIGNED.sub(r"\1\2", text)
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
    is_percent = ("%", 1) in parts  # a percentage of what does not matter
    return Number(value * Fraction(10) ** tens, unit or (() if is_percent else parts), is_percent)
  return None


def _value(text: str) -> Fraction | None:
  text = text.strip()
  # A comma before a space never separates thousands.
  return None if ", " in text else quantities.number(squeeze(text).strip("{}") if re.fullmatch(
      r"\{[^{}]*\}", text) else squeeze(text))


def _tails(text: str):
  """Yields (number, the text after it) where a unit may begin: the longest number first."""
  head = _HEAD.match(text)[0]
  if head.strip():
    yield head.rstrip(), text[len(head.rstrip()):]
    shorter = head.rstrip().rstrip("/^*x. ")
    if shorter and shorter != head.rstrip():
      yield shorter, text[len(shorter):]


def _is_unit_there(head: str, tail: str, unit: Unit) -> bool:
  r"""Whether the text after a number is meant as a unit: `5 m`, `5\text{m}` and `5 clips`, but not
  `5m` or `5x`, which may be products."""
  if re.match(r"[A-Za-z](?![A-Za-z])\s*\\text|\s*[xyz]\s*\\text", tail):
    return False  # 8x cm
  if "\\text{" in tail or "^\\circ" in tail or tail.strip() in ("%", "\\euro", "\\dollar"):
    return True
  word = re.match(r"(\s*)/?\s*([A-Za-z\"\\%\u00b5\u00a2\u2103]+)", tail)
  if word is None:
    return not tail.strip()
  letters = word[2]
  if letters in quantities.PREFIXES:
    return True
  if quantities.is_measure(unit) and unit:
    return len(letters) > 1 or bool(word[1]) or "/" in tail or letters in "%\"\u00a2"
  return bool(word[1]) and len(letters) > 2 and letters.isalpha()


_MAX_UNIT = 150  # characters of a unit
_TAIL = re.compile(
    r"(?:(?: ?(?:(?:/|\\cdot|\\,) ?)?(?:\\text\{[^{}]*\}|(?<![A-Za-z\\])[A-Za-z]{2,})"
    r"(?:\^(?:\{-?\d\}|-?\d))?)+|\^\\circ"
    r"(?: ?[CF])?)$")


_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")


def without_unit(text: str) -> tuple[str, Unit]:
  """A formula and its unit; all of the text if there is no unit."""
  money = _MONEY.match(text)
  if money:
    return money[1] + text[money.end():], quantities.read_unit("\\" + money[2])[0]
  if text.endswith("%") and len(text) > 1:
    return text[:-1].rstrip(), (("%", 1),)
  tail = _TAIL.search(text, max(0, len(text) - _MAX_UNIT))
  if not tail or not tail.start() or _TRIGONOMETRY.search(text) and text.endswith("\\circ"):
    return text, ()
  head, unit = text[:tail.start()].rstrip(), quantities.read_unit(tail[0])
  if head[-1:] in "+-*/=(^":  # x+\text{C}
    return text, ()
  is_upright = "\\text{" in tail[0] and _is_constant(head)
  if unit is None or unit[1] or not (quantities.is_measure(unit[0]) or is_upright):
    return text, ()
  return head, unit[0]


def _is_constant(text: str) -> bool:
  return not re.search(r"(?<!\\)\b[A-Za-z]", re.sub(r"\\[A-Za-z]+|\\text\{[^{}]*\}", " ", text))
