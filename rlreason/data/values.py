r"""Values of columns as text: numbers, lists, worked solutions that end with `#### 72`.

Not here: whether an answer can be verified (`rewards/`).
"""

from collections.abc import Mapping
from decimal import Decimal
import json
import math
import re
from typing import Any

import numpy as np

from rlreason import boxes
from rlreason.data import messages

_MAX_DEPTH = 100  # of values in values
_MAX_BARE = 100  # characters of an answer that is not a worked solution
_MIN_WORDS = 4  # of a solution that is more than its answer
_FINAL_MARK = "####"
_PRINTED_TEXTS = re.compile(r"\s*\[\s*['\"].*['\"]\s*\]\s*\Z", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")


def is_filled(value: Any) -> bool:
  """Whether a column has a value that is not None, NaN or empty."""
  if value is None or isinstance(value, (float, np.floating)) and math.isnan(value):
    return False
  if isinstance(value, (str, bytes)):
    return bool(value.strip())
  return not isinstance(value, (list, Mapping, np.ndarray)) or np.ndim(value) == 0 or len(value) > 0


def may_be_chat(value: Any) -> bool:
  """Whether a value may be chat messages: a list, an object, or the printed form of one."""
  return not isinstance(value, str) or messages.is_printed(value)


def plain(value: Any, depth: int = 0) -> Any:
  """A JSON value: arrays as lists, bytes and dates as text, non-finite numbers as None.

  Raises:
    ValueError: it is nested too deeply, or holds text that is not valid Unicode.
  """
  if depth > _MAX_DEPTH:
    raise ValueError(f"nested more than {_MAX_DEPTH} deep")
  if value is None or isinstance(value, (bool, int)):
    return value
  if isinstance(value, str):
    return check_unicode(str(value))
  if isinstance(value, np.ndarray) and not value.ndim:
    value = value[()]
  if isinstance(value, np.generic):
    value = float(str(value)) if isinstance(value, np.floating) else value.item()
    return plain(value, depth + 1)
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, Mapping):
    return {check_unicode(str(name)): plain(part, depth + 1) for name, part in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [plain(part, depth + 1) for part in value]
  if isinstance(value, bytes):
    return value.decode("utf-8") if _is_utf8(value) else None  # such as an image
  return str(value)


def text(value: Any, name: str) -> str:
  """Text unchanged; a finite number as text, 72.0 as 72.

  Raises:
    ValueError: it is neither, or it is empty; the message describes the value of `name`.
  """
  if isinstance(value, np.ndarray) and not value.ndim:
    value = value[()]
  if isinstance(value, bytes) and _is_utf8(value):
    value = value.decode("utf-8")
  number = _number(value)
  if number is not None and number.is_finite():
    return _written(number)
  if not isinstance(value, str):
    shown = type(value).__name__
    if isinstance(value, Mapping) and value:
      shown = f"an object ({name}.{next(iter(value))} in `fields` is a place in it)"
    if value is None or isinstance(value, (bool, float, np.bool_)):
      shown = json.dumps(value) if isinstance(value, float) else value
    raise ValueError(f"{name}: got {shown}, allowed: text or a finite number")
  if not value.strip():
    raise ValueError(f"{name}: got an empty text, allowed: any other")
  return check_unicode(value, f"{name}: ")


def check_unicode(value: str, start: str = "") -> str:
  """The text.

  Raises:
    ValueError: it holds a lone surrogate, which no file can hold.
  """
  if not value.isascii():
    try:
      value.encode("utf-8")
    except UnicodeEncodeError as error:
      raise ValueError(f"{start}not valid Unicode: {error}") from error
  return value


def answer_text(value: Any) -> str:
  """An answer as text; for a list, or its printed form, the entries separated by commas.

  Raises:
    ValueError: as `text`.
  """
  if isinstance(value, str) and _PRINTED_TEXTS.match(value):
    parsed = messages.parse(value)
    if isinstance(parsed, list) and all(isinstance(entry, str) for entry in parsed):
      value = parsed
  if isinstance(value, np.ndarray) and value.ndim:
    value = list(value)
  if isinstance(value, list) and value:
    return ", ".join(text(entry, "an entry of answer") for entry in value)
  return text(value, "answer")


def final_line(working: str) -> str | None:
  """The text after GSM8K's `####` on the last line; None if there is no such line."""
  line = working.rstrip().rpartition("\n")[2].strip()
  found = line.removeprefix(_FINAL_MARK).strip()
  return found if line.startswith(_FINAL_MARK) and found and found[0] != "#" else None


def is_working(answer: str) -> bool:
  """Whether a text is more than an answer: several lines, or long."""
  return "\n" in answer.strip() or len(answer) > _MAX_BARE


def has_answer(value: Any) -> bool:
  """Whether a value is an answer, or a worked solution that marks one."""
  try:
    text = answer_text(value)
  except ValueError:
    return False
  return not is_working(text) or bool(marked_answer(text))


def marked_answer(working: str) -> str | None:
  """The text after `####`, in the last box, or after "the answer is"; None: there is none."""
  return final_line(working) or boxes.boxed(working) or boxes.stated(working)


def is_worked(text: str, source: str) -> bool:
  """Whether a text is a worked solution: a long one, or a solution that is not a bare number."""
  if source == "solution":
    return (len(text.split()) >= _MIN_WORDS or _BOX.search(text) is not None
            or not re.search(r"\d", text))
  return is_working(text)


def boxed_answer(solution: str) -> str:
  r"""The text in the last non-empty `\boxed{}` of a solution, or after "the answer is".

  A bare answer is unchanged.

  Raises:
    ValueError: the last box is not closed, or a worked solution has none.
  """
  found = boxes.boxed(solution)
  if found:
    return found
  if found is None and _BOX.search(solution):
    raise ValueError(r"solution: got a last box that is not closed, allowed: \boxed{answer}")
  if stated := boxes.stated(solution):
    return stated
  if is_working(solution):
    raise ValueError(r"solution: got a working without a box, allowed: with \boxed{answer}")
  return solution


def _number(value: Any) -> Decimal | None:
  """The number of a value, with the fewest digits; None if it is not a number."""
  if isinstance(value, (bool, np.bool_)):
    return None
  if isinstance(value, Decimal):
    return value
  if isinstance(value, (int, np.integer)):
    return Decimal(int(value))
  if isinstance(value, (float, np.floating)):
    return Decimal(str(value))
  return None


def _written(number: Decimal) -> str:
  digits = f"{number:f}"
  if "." in digits:
    digits = digits.rstrip("0").rstrip(".")
  return "0" if digits == "-0" else digits


def _is_utf8(value: bytes) -> bool:
  try:
    value.decode("utf-8")
  except UnicodeDecodeError:
    return False
  return True
