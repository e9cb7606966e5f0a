"""The score of a reward model as a reward; the model itself runs on the device."""

from collections.abc import Sequence
import math
from typing import Any

SCORE_COLUMN = "model_score"  # of a rollout: the score by the stage's reward model


def learned_reward(
    prompts: Sequence[Any], completions: Sequence[str], *, model_score: Sequence[float],
    sigmoid: bool = False, unfinished_score: float | None = None,
    truncated: Sequence[bool] | None = None, **columns: Sequence[Any],
) -> list[float]:
  """Returns the reward model's score of each completion.

  Args:
    prompts, completions: [B] texts.
    model_score: [B] scores; with a Bradley-Terry model their differences are log-odds.
    sigmoid: whether to map them to (0, 1), as Satori adds them to verdicts
      (https://arxiv.org/abs/2502.02508).
    unfinished_score: score of truncated completions instead of their own, such as -1
      (https://arxiv.org/abs/2403.17031); None: their own.
    truncated: [B] whether the length limit ended each; for `unfinished_score`.
    **columns: not used.

  Raises:
    ValueError: a column is missing, or of another length.
  """
  del prompts, columns
  scores = [float(score) for score in model_score]
  if len(scores) != len(completions):
    raise ValueError(f"{SCORE_COLUMN}: got {len(scores)}, allowed: {len(completions)}")
  if sigmoid:  # tanh does not overflow
    scores = [0.5 + 0.5 * math.tanh(0.5 * score) for score in scores]
  if unfinished_score is None:
    return scores
  if truncated is None:
    raise ValueError(f"reward 'learned': truncated: got None with unfinished_score="
                     f"{unfinished_score}, allowed: whether each row was truncated")
  return [unfinished_score if is_cut else score
          for score, is_cut in zip(scores, truncated, strict=True)]
