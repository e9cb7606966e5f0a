"""The score of a reward model as a reward; the model itself runs on the device."""

from collections.abc import Sequence
import math
from typing import Any

SCORE_COLUMN = "model_score"  # of a rollout: what the stage's reward model says of a completion


def learned_reward(
    prompts: Sequence[Any], completions: Sequence[str], *, model_score: Sequence[float],
    sigmoid: bool = False, **columns: Sequence[Any],
) -> list[float]:
  """Returns the reward model's score of each completion.

  Args:
    prompts, completions: [B] texts.
    model_score: [B] scores; of a Bradley-Terry model differences of log-odds.
    sigmoid: whether to squeeze them into (0, 1), as Satori adds them to verdicts
      (https://arxiv.org/abs/2502.02508).
    **columns: not used.
  """
  del prompts, columns
  scores = [float(score) for score in model_score]
  if len(scores) != len(completions):
    raise ValueError(f"{SCORE_COLUMN}: got {len(scores)}, allowed: {len(completions)}")
  # tanh does not overflow.
  return [0.5 + 0.5 * math.tanh(0.5 * score) for score in scores] if sigmoid else scores
