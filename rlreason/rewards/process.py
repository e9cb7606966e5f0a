"""The scores of steps by a process reward model as a reward; the model runs on the device."""

from collections.abc import Sequence
import math
from typing import Any, Literal

# Of a rollout: for each completion the (character, score) of its steps, by the stage's process
# reward model, each at the last character of the step.
STEPS_COLUMN = "step_scores"
_FORMS = ("differences", "min", "last")


def process_reward(
    prompts: Sequence[Any], completions: Sequence[str], *,
    step_scores: Sequence[Sequence[tuple[int, float]]],
    form: Literal["differences", "min", "last"] = "differences", sigmoid: bool = True,
    no_steps_score: float = 0.0, **columns: Sequence[Any],
) -> list[list[tuple[int, float]] | float]:
  """Pays a completion for its steps, so that more steps do not pay more.

  The sum of the scores of steps is not offered: where they are above 0 each further step pays, and
  a policy learns to pad. With the scores v_1 ... v_K:

  - differences: v_k - v_{k-1} at step k, with v_0 = 0. They add up to v_K, as the differences of a
    potential do (Ng, Harada and Russell 1999).
  - min: the least score, at the first step that has it. The score of a solution in Wang et al. 2023
    (Math-Shepherd), https://arxiv.org/abs/2312.08935; placed at its step as in Cheng et al. 2025
    (PURE), https://arxiv.org/abs/2504.15275, at temperature 0.
  - last: v_K at the last step, as by an outcome reward model.

  Args:
    prompts, completions: [B] texts.
    step_scores: [B] lists of (character, score), the scores in log-odds.
    form: of the payment.
    sigmoid: whether scores are mapped to probabilities, from 0 to 1.
    no_steps_score: of a completion without any step.
    **columns: not used.

  Returns:
    [B] lists of (character, reward), or a number for a completion without steps.

  Raises:
    ValueError: the column has another length, or there is no such form.
  """
  del prompts, columns
  if len(step_scores) != len(completions):
    raise ValueError(f"{STEPS_COLUMN}: got {len(step_scores)}, allowed: {len(completions)}")
  if form not in _FORMS:
    raise ValueError(f"form: got {form!r}, allowed: {', '.join(_FORMS)}")
  return [_pay(row, form, sigmoid) if row else no_steps_score for row in step_scores]


def _pay(
    row: Sequence[tuple[int, float]], form: str, sigmoid: bool
) -> list[tuple[int, float]]:
  places = [place for place, _ in row]
  values = [0.5 + 0.5 * math.tanh(0.5 * score) if sigmoid else score for _, score in row]
  if form == "last":
    return [(places[-1], values[-1])]
  if form == "min":
    worst = min(range(len(values)), key=values.__getitem__)
    return [(places[worst], values[worst])]
  return [(place, value - before) for place, value, before in zip(
      places, values, [0.0, *values], strict=False)]
