"""Answers that are not formulas: words, digits of another base; and formulas in plain text."""

from fractions import Fraction
import re
import unicodedata

from rlreason.rewards.reading.types import (
    EMPTY, INFINITY, MINUS_INFINITY, Clock, Items, Number, Words)
from rlreason.rewards.reading.typesetting import squeeze

_LEAD = re.compile(
    r"(?:\\text\{)?\s*(?:so|thus|hence|therefore|\\therefore)?,? ?"
    r"(?:(?:the|our|my) )?(?:final |correct )?(?:answer|ans|choice|option)"
    r"(?:(?: is| =|:)\s*|\s+)(?=\S)",
    re.IGNORECASE)
_ABOUT = re.compile(
    r"(?:\\approx|\\text\{ ?(?:about|approximately)\s*\}|approximately|about|=) *")

# f(x) = 2x for all x: but not "for any integer k", which states the range of a list.
_FOR_ALL = re.compile(
    r",? ?(?:\\text\{ ?,? ?for (?:all|every|any)(?: real)?(?: numbers?)? ?\}|\\forall(?![A-Za-z]))"
    r" ?[a-z](?: ?, ?[a-z])*(?: ?\\in ?\\mathbb\{R\}(?:\^\+|_\{?>0\}?)?)?$")
# f(x) = cx for some constant c
_CONSTANT = re.compile(
    r",? ?(?:\\text\{ ?,? ?)?(?:for|where|with)(?: (?:some|any|an?|the))?"
    r"(?:(?: (?:real|arbitrary))* ?(?:constants?|real numbers?) ?\}? ?[A-Za-z]"
    r"|(?: ?\})? ?[A-Za-z] ?(?:\\text\{ ?)?is an?(?: real| arbitrary)* (?:constant|real number)"
    r" ?\}?)$")


def trim(text: str) -> str:
  """Removes full stops, and words around the answer such as "the answer is"."""
  before = None
  while text != before:
    before = text
    text = text.strip().rstrip(",;:").strip()
    if text.endswith(".") and not text.endswith("\\."):
      text = text[:-1]
    text = _CONSTANT.sub("", _FOR_ALL.sub("", text))
    lead = _LEAD.match(text)
    if lead:
      text = ("\\text{" if lead[0].startswith("\\text{") else "") + text[lead.end():]
    about = _ABOUT.match(text)
    if about and about.end() < len(text):
      text = text[about.end():]
  return text


_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?_\{?(?:\\text\{)?(\d+|[a-z]{3,8})\}?\}?")
_BASES = {name: number for number, name in enumerate(
    "two three four five six seven eight nine ten eleven twelve".split(), 2)}


_CLOCK = re.compile(r"(\d{1,2})(?: ?: ?(\d{2}))? ?(?:([ap])\.? ?m\.?)?", re.IGNORECASE)


def read_clock(text: str) -> Clock | None:
  """A time of day."""
  found = _CLOCK.fullmatch(re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip())
  if not found or not (found[2] or found[3]) or int(found[1]) > 24 or int(found[2] or 0) > 59:
    return None
  return Clock(int(found[1]), int(found[2] or 0), (found[3] or "").lower())


def read_code(text: str) -> Number | Words | None:
  """Digits that are not a decimal number: with a base, hexadecimal, dates, rows of numbers."""
  based = _BASED.fullmatch(text)
  if based and based[1][0].isdigit() and (based[2].isdigit() or based[2] in _BASES):
    base = str(_BASES.get(based[2], based[2]))
    return Number(Fraction(based[1])) if base == "10" and based[1].isdecimal() else Words(
        f"{based[1].lower()} in base {base}")
  # Rows of numbers; dates, scores and ranges, which are not differences.
  if re.fullmatch(r"0[xbo][0-9a-fA-F]+|[+-]?[\d.]+(?: [+-]?[\d.]+)+|\d+(?:-\d+)+|\d+/\d+/\d+",
                  text):
    return Words(text.lower())
  return None


_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt max min gcd lcm "
    "mod det dim deg arg inf sup lim pi theta alpha beta infinity frac".split())
_SHORT_WORDS = frozenset("no on in up ok am pm of to is it so we us or if at as by my".split())


def read_words(text: str) -> Words | None:
  """Words, if the text is language and not a formula."""
  plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
  plain = re.sub(r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])", "", plain)
  plain = re.sub(r"\\(?:begin|end)\{[a-z]*matrix\}", "{", plain)
  words = [word for word in re.findall(r"(?<![A-Za-z\\])[^\W\d_]{2,}(?![A-Za-z])", plain)]
  long = [word for word in words if len(word) > 2 and word.lower() not in _FUNCTIONS]
  has_signs = re.search(r"[+*/^_=<>\\|{]|\d(?=[A-Za-z])|(?<=[A-Za-z])\d", plain)
  is_language = (
      any(not character.isascii() and character.isalpha() for character in plain)
      or long and (not has_signs or len(long) > 1)
      or len(words) == 1 and plain.strip() == words[0]
      and (words[0].lower() in _SHORT_WORDS or not words[0].islower())
      or len(words) > 1 and not has_signs
      or re.fullmatch(r"[A-H](?: [A-H])+", plain.strip())  # in an order, not a product
      or re.fullmatch(r"\s*\d{1,2}:\d{2}(?::\d{2})?\s*(?:[ap]\.?m\.?)?\s*", plain, re.IGNORECASE))
  return Words(fold(plain)) if is_language else None


# Synonymous words and signs, and their meaning.
_REALS = Items("()", (MINUS_INFINITY, INFINITY))
MEANINGS = {
    **dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions",
                     "there are no solutions", "there is no solution", "empty set"), EMPTY),
    **dict.fromkeys(("all real numbers", "all reals", "real numbers", "\\mathbb{R}"), _REALS),
    "dne": Words("does not exist"), "+\\infty": INFINITY,
}


def fold(text: str) -> str:
  """Words in one spelling: lower case, no full stops, single spaces."""
  text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace('"', "")
  text = re.sub(r"\.(?!\d)|(?<!\d)\.(?=\d)|[!?]", "", text)
  text = re.sub(r"^\s*(?:an?|the)\s+(?=(?!and|but|for|nor|not)[^\W\d_]{3})", "", text)  # an ellipse
  return re.sub(r"\s*([,;:()])\s*", r"\1", " ".join(text.split()))


_ARC = re.compile(r"(?<![A-Za-z\\])a(?:rc)?(sin|cos|tan)(?![A-Za-z])")
_ASCII_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(sqrt|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
    r"|pi|theta|alpha|beta|infty|min|max|gcd)(?![A-Za-z])")


# \sin x \cdot y, which the parser reads as the sine of a product.
_ARGUMENT = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc|ln|log)(?:\^\{?\d\}?)?) ?\{? ?(\d*(?:[A-Za-z]|\\[a-z]+)|\d+)"
    r" ?\}? ?(\\cdot|\\times|\*)(?![A-Za-z])")


def formula(text: str) -> str:
  """LaTeX in the form that the parser of mathematics requires."""
  text = re.sub(r"(?<![A-Za-z\\])inf(?:inity)?(?![A-Za-z])", r"\\infty ", text)
  text = _ARC.sub(r"\\arc\1 ", text)
  text = _ASCII_FUNCTION.sub(r"\\\1 ", text)
  text = re.sub(r"\\sqrt(\[\d\])? ?\(([^()]*)\)", r"\\sqrt\1{\2}", text)
  text = _ARGUMENT.sub(r"\1(\2)\3", text)
  text = re.sub(r"(?<![\d.])(\d+(?:\.\d+)?) ?\^\\circ", r"\\frac{\1\\pi}{180}", text)
  text = re.sub(r"(?<=[\d)}A-Za-z]) ?\*+ ?", r"\\cdot ", text)
  text = re.sub(r"\^ ?\(([^()]*)\)", r"^{\1}", text)
  return squeeze(text).replace("\\cr", r"\\ ")
