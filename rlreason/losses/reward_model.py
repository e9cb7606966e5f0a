"""Losses of reward models: from the scores of whole completions, f32[B], to one loss for each.

The mean over a batch is taken later. Not here: how a model computes a score (models/heads.py).
"""

import chex
import jax

from rlreason import masks


def bradley_terry(
    chosen_scores: jax.Array, rejected_scores: jax.Array, *, margin: float = 0.0
) -> jax.Array:
  """The likelihood that the chosen completion of a pair wins.

  -log σ(r_w - r_l - m).  Eq. (1), Ouyang et al. 2022, https://arxiv.org/abs/2203.02155; the margin
  as in Touvron et al. 2023, https://arxiv.org/abs/2307.09288, but the same for all pairs.

  At equal scores and without a margin it is log 2, and its gradient -1/2 on r_w - r_l.

  Args:
    chosen_scores, rejected_scores: f32[B] scores of the two completions.
    margin: m, by which the chosen score has to exceed the other, 0 or more.

  Returns:
    f32[B].

  Raises:
    ValueError: the margin is negative.
  """
  chex.assert_equal_shape([chosen_scores, rejected_scores])
  if margin < 0:
    raise ValueError(f"margin: got {margin}, allowed: 0 or more")
  return -jax.nn.log_sigmoid(chosen_scores - rejected_scores - margin)


def outcome_cross_entropy(scores: jax.Array, is_right: jax.Array) -> jax.Array:
  """The likelihood of the verdict on a completion: an outcome reward model without pairs.

  -log σ(r) where right, -log σ(-r) where wrong.  Cobbe et al. 2021,
  https://arxiv.org/abs/2110.14168, at the last token alone.

  Args:
    scores: f32[B]; σ of one is the probability that the completion is right.
    is_right: bool[B].

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([scores, is_right])
  return -jax.nn.log_sigmoid(jax.numpy.where(is_right, scores, -scores))


def standardized(
    head: dict[str, jax.Array], scores: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
  """A linear head whose scores have mean 0 and variance 1 on a sample of completions.

  The weights of a reward, and of a KL relative to it, then mean the same for every reward model
  (https://arxiv.org/abs/2403.17031, as OpenAI's 2019 code does after training).

  Args:
    head: {"kernel" f32[D], "bias" f32 scalar} that gave the scores.
    scores: f32[B] of the sample; if all are equal only the mean is subtracted.
    mask: bool[B] of those that count.

  Returns:
    A head of the same form.
  """
  scores = masks.zero_masked(scores, mask)
  mean = masks.masked_mean(scores, mask)
  variance = masks.masked_mean((scores - mean) ** 2, mask)
  gain = jax.lax.rsqrt(jax.numpy.where(variance > 0, variance, 1.0))
  return {"kernel": gain * head["kernel"], "bias": gain * (head["bias"] - mean)}
