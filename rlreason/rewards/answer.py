"""Finding the final answer in a text and bringing it into one normal form.

One place for answer extraction: verifiers, the format and the exploration reward use it. All of it
is plain text work: nothing is evaluated, no number above `MAX_DIGITS` digits is built.
Not here: the decision whether two answers are equal (`verifier.py`).
"""

from fractions import Fraction
import math
import re
import typing
from typing import Literal, NamedTuple

MAX_ANSWER_CHARACTERS = 2_000  # a longer answer is never right; callers check this first
MAX_DIGITS = 100  # digits of a number read by exact_number
_WRITTEN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", re.ASCII)

WhichBox = Literal["first", "last"]


class Box(NamedTuple):
  r"""One `\boxed{content}` of a text; `text[start:end]` is the whole of it."""

  content: str
  start: int
  end: int


# An escaped character (\{, \}, \\) is one token of its own, so that it never counts as a brace.
_BOX_TOKENS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def find_boxes(text: str) -> list[Box]:
  r"""All `\boxed{...}` of `text` whose braces balance, ordered by their start.

  A box that is never closed, as in a truncated text, is no box. Braces may nest to any depth
  (`\boxed{\frac{\sqrt{2}}{3}}`); one pass over the text, whatever it holds.
  """
  boxes = []
  open_braces = []  # (is it a box?, start, start of the content)
  for token in _BOX_TOKENS.finditer(text):
    kind = token.group()
    if kind == "}":
      if not open_braces:
        continue
      is_box, start, content_start = open_braces.pop()
      if is_box:
        boxes.append(Box(text[content_start : token.start()], start, token.end()))
    elif kind == "{" or kind.endswith("{") and len(kind) > 2:
      open_braces.append((kind != "{", token.start(), token.end()))
  return sorted(boxes, key=lambda box: box.start)


def check_which_box(which_box: str) -> None:
  """Raises ValueError unless it is one of `WhichBox`."""
  if which_box not in typing.get_args(WhichBox):
    raise ValueError(f"which_box must be 'first' or 'last'. Got: {which_box!r}")


def check_no_box_score(score: float) -> None:
  """Raises ValueError unless no answer is at best as good as a wrong one, which scores 0."""
  if not -math.inf < score <= 0:
    raise ValueError(f"no_box_score must be at most 0, the score of a wrong answer. Got: {score!r}")


def find_box(text: str, which_box: WhichBox = "last") -> Box | None:
  """The first (RLSP's choice) or last balanced box of `text`, or None."""
  check_which_box(which_box)
  boxes = find_boxes(text)
  if not boxes:
    return None
  return boxes[0] if which_box == "first" else boxes[-1]


def text_before_box(text: str) -> str:
  """The reasoning: everything before the first box, or all of `text` when it has none."""
  box = find_box(text, "first")
  return text if box is None else text[: box.start]


def extract_answer(
    text: str, *, which_box: WhichBox = "last", answer_tags: bool = False
) -> str | None:
  r"""The final answer as written, or None where there is none.

  Args:
    text: a completion.
    which_box: which `\boxed{}` counts.
    answer_tags: look only inside the last `<answer>...</answer>`; a box in it is unwrapped,
      otherwise its text is the answer.
  """
  if answer_tags:
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    if start < 0 or end < 0:
      return None
    text = text[start + len("<answer>") : end]
  box = find_box(text, which_box)
  if box is not None:
    return box.content.strip()
  return text.strip() if answer_tags else None


_CHARACTERS = str.maketrans({
    "\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-", "\u2010": "-", "\u2011": "-",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": " ",
    "\u00d7": "\\times ", "\u00f7": "\\div ", "\u22c5": "\\cdot ", "\u00b7": "\\cdot ",
    "\u03c0": "\\pi ", "\u221e": "\\infty ",
})  # fmt: skip

_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\{,\}", ","),
        (r"\\\(|\\\)|\\\[|\\\]|\\?\$", ""),
        (r"\\[!,;: ]|~|\\(?:quad|qquad)(?![A-Za-z])", " "),
        (r"\\(?:left|right)(?![A-Za-z])\.?", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\%", "%"),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\u00b0", ""),
        # A unit after a number (5\text{ cm}) is dropped; any other \text{...} is unwrapped.
        (rf"(?<=[\d}}%])\s*{_TEXT}\{{[A-Za-z. ]+\}}(?:\^\{{?\d\}}?)?\s*\.?\s*$", ""),
        (rf"{_TEXT}\{{([^{{}}]*)\}}", r" \1 "),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        # The spaces that mean something: after a command, and between numbers (1 2 is not 12).
        (r"(?<=\d)\s+(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)\s+(?=\d)", "\0"),
        (r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", "\\1\0"),
        (r"\s+", ""),
        ("\0", " "),
        (r"[.,;:]+$", ""),
    )
)
_THOUSANDS = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+)(\.\d+)?(%?)")


def last_number(text: str) -> str | None:
  """The last number written in digits, as it stands; None without one."""
  found = _WRITTEN_NUMBER.findall(text)
  return found[-1].rstrip(",") if found else None


def normalize(answer: str) -> str:
  r"""One spelling for answers that are the same text up to typesetting.

  Unicode minus and signs, `$`, spaces, `\left`/`\right`, `\dfrac`, degrees, a trailing full stop,
  commas in thousands (only when the whole answer is such a number) and `\text{}` go; `\%` becomes
  `%` and stays, because 50% is not 50. Whether `x+1` equals `1+x` is not asked here.
  """
  answer = answer.translate(_CHARACTERS)
  for pattern, replacement in _REWRITES:
    answer = pattern.sub(replacement, answer)
  thousands = _THOUSANDS.fullmatch(answer)
  if thousands:
    sign, digits, decimals, percent = thousands.groups()
    answer = sign + digits.replace(",", "") + (decimals or "") + percent
  return answer


_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_PLAIN = re.compile(rf"([+-]?)({_NUMBER})(?:/([+-]?)({_NUMBER}))?")
_FRACTION = re.compile(rf"([+-]?)(\d*)\\frac\{{([+-]?)({_NUMBER})\}}\{{([+-]?)({_NUMBER})\}}")
_ASSIGNMENT = re.compile(r"\\?[A-Za-z]+=")


def exact_number(answer: str) -> Fraction | None:
  r"""The value of a plain number, else None.

  Plain: an integer, a decimal, `a/b`, `\frac{a}{b}`, a mixed number `2\frac{1}{2}`, each with an
  optional sign and an optional `x=` before it. Sums, powers, exponents, percentages and numbers
  with more than `MAX_DIGITS` digits are not: they give None, and nothing is computed for them.

  Args:
    answer: text as returned by `normalize`.
  """
  if len(answer) > 4 * MAX_DIGITS:
    return None
  assignment = _ASSIGNMENT.match(answer)
  if assignment:
    answer = answer[assignment.end() :]
  plain = _PLAIN.fullmatch(answer)
  if plain:
    sign, top, bottom_sign, bottom = plain.groups()
    return _ratio(sign, "", top, bottom_sign, bottom or "1")
  fraction = _FRACTION.fullmatch(answer)
  if fraction:
    sign, whole, top_sign, top, bottom_sign, bottom = fraction.groups()
    if whole and (top_sign or bottom_sign):
      return None  # 2\frac{-1}{2} is a product, if anything
    return _ratio(sign + top_sign, whole, top, bottom_sign, bottom)
  return None


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
