"""Positions of rewards within a completion: a character of its text, a step or a turn.

A step is the non-blank text between separators, a turn the policy's text up to the next inserted
text. All are counted from 0.
"""

from typing import Any

# As a reward function gives it: a character, ("step", i) or ("turn", i). The reward of character c
# is on the token that ends it; the text's length is the end of the completion.
Where = int | tuple[str, int]
# A character, or ("turn", i): steps are converted to characters.
Place = int | tuple[str, int]
Placed = tuple[Place, float]  # and the reward there


def split_steps(text: str, separator: str = "\n") -> list[str]:
  """The steps of a text, without the separators: pieces that are not blank."""
  return [piece for piece in text.split(separator) if piece.strip()]


def locate(where: Any, text: str, *, num_turns: int, separator: str) -> Place:
  """The position of a reward in a completion.

  Args:
    where: a `Where`; a pair may be a list.
    text: that of the completion.
    num_turns: number of the policy's turns in it.
    separator: that of its steps.

  Returns:
    A character, the last one of a step that is not blank, or ("turn", i).

  Raises:
    LookupError: there is no such character, step or turn.
  """
  if isinstance(where, int):
    if not 0 <= where <= len(text):
      raise LookupError(f"got character {where}, allowed: 0 to {len(text)}, the end of the text")
    return where
  unit, index = where
  if unit == "turn":
    _check(unit, index, num_turns)
    return unit, index
  ends, start = [], 0
  for piece in text.split(separator):
    if piece.strip():
      ends.append(start + len(piece.rstrip()) - 1)
    start += len(piece) + len(separator)
  _check(unit, index, len(ends))
  return ends[index]


def _check(unit: str, index: int, count: int):
  if not 0 <= index < count:
    raise LookupError(f"got {unit} {index}, allowed: below {count}, counted from 0")
