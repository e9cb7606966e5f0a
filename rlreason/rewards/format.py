r"""Format rewards: whether the answer has the required form, and whether the text is complete.

They ignore whether the answer is right.
"""

from collections.abc import Sequence
import math
from typing import Any, Literal

from rlreason.rewards import answer as answers

Style = Literal["box", "tags"]


def format_reward(
    prompts: list[Any], completions: list[str], *, style: Style = "box",
    answer_after: str = "", opened: Sequence[str] | None = None, **unused_columns: list[Any],
) -> list[float]:
  r"""1 for a completion in the required format, else 0.

  Args:
    prompts: ignored.
    completions: texts.
    style: "box" requires exactly one balanced `\boxed{}` that is not empty; "tags" requires
      `<think>...</think> <answer>...</answer>` with each tag once and nothing outside (DeepSeek-R1,
      https://arxiv.org/abs/2501.12948).
    answer_after: requires exactly one of these marks, such as `####`, and an answer after it,
      instead of a box; as for the verifier.
    opened: tags that the prompt of each row ends with, such as "<think>", and which its completion
      therefore lacks; None: there are none.
  """
  checks = {"box": _has_one_box, "tags": _has_tags}
  if style not in checks:
    raise ValueError(f"style: got {style!r}, allowed: {', '.join(map(repr, checks))}")
  if answer_after:
    if style != "box":
      raise ValueError(
          f"answer_after: got {answer_after!r} with style={style!r}, allowed: with style='box'")
    return [float(text.count(answer_after) == 1 and bool(answers.extract_answer(
        text, answer_after=answer_after))) for text in completions]
  opened = opened or [""] * len(completions)
  return [float(checks[style](opening + text))
          for opening, text in zip(opened, completions, strict=True)]


def finished_reward(
    prompts: list[Any], completions: list[str], *, truncated: Sequence[bool] | None = None,
    **unused_columns: list[Any],
) -> list[float]:
  """1 for a completion that ended by itself, 0 for one that the length limit truncated.

  With a weight, it is RLHF's penalty for a missing end token: nothing else penalises text after the
  answer.

  Args:
    prompts: ignored.
    completions: texts; only their number matters.
    truncated: whether the length limit ended each row.

  Raises:
    ValueError: the column is missing.
  """
  if truncated is None:
    raise ValueError(
        "reward 'finished': truncated: got None, allowed: whether each row was truncated")
  return [float(not is_cut) for is_cut in truncated]


def unfinished_reward(
    prompts: list[Any], completions: list[str], *, max_length: float = math.inf,
    truncated: Sequence[bool] | None = None, tokens: Sequence[int] | None = None,
    **unused_columns: list[Any],
) -> list[float]:
  """-1 for a completion that was truncated or is longer than `max_length`, else 0.

  T1's penalty, https://arxiv.org/abs/2501.11651.

  Args:
    prompts: ignored.
    completions: texts.
    max_length: tokens, at least 1.
    truncated: whether the length limit ended each row.
    tokens: generated tokens of each row.

  Raises:
    ValueError: max_length is out of range, or a column is missing.
  """
  if not max_length >= 1:
    raise ValueError(f"max_length: got {max_length!r}, allowed: 1 or more")
  if truncated is None or tokens is None:
    raise ValueError(
        "reward 'unfinished': truncated, tokens: got None, allowed: these columns of a rollout")
  return [-float(is_cut or count > max_length)
          for is_cut, count in zip(truncated, tokens, strict=True)]


def _has_one_box(text: str) -> bool:
  boxes = answers.find_boxes(text)
  return len(boxes) == 1 and bool(boxes[0].content.strip())


def _has_tags(text: str) -> bool:
  text = text.strip()
  if any(text.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")):
    return False
  _, _, rest = text.partition("</think>")
  between, _, _ = rest.partition("<answer>")
  return text.startswith("<think>") and text.endswith("</answer>") and not between.strip()
