"""Losses of reward models: from the scores of completions to one loss for each, f32[B].

The mean over a batch is taken later. Not here: how a model computes a score (models/heads.py).
"""

import chex
import jax
import jax.numpy as jnp

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


def ranking(ranked_scores: jax.Array, ranked_mask: jax.Array) -> jax.Array:
  """The likelihood of all pairs of a ranking: the mean over its K (K - 1) / 2 pairs.

  -1 / (K choose 2) Σ_{i<j} log σ(r_i - r_j).  Eq. (1), Ouyang et al. 2022,
  https://arxiv.org/abs/2203.02155. With K = 2 it is `bradley_terry`. All pairs of a prompt count as
  one comparison, so that a long ranking weighs as much as a pair.

  Args:
    ranked_scores: f32[B, K] from the best completion to the worst.
    ranked_mask: bool[B, K] False: there is no such completion.

  Returns:
    f32[B]; 0 for a ranking of less than two completions.
  """
  chex.assert_equal_shape([ranked_scores, ranked_mask])
  scores = masks.zero_masked(ranked_scores, ranked_mask)
  count = scores.shape[-1]
  is_ordered = jnp.triu(jnp.ones((1, count, count), bool), 1)
  is_pair = ranked_mask[:, :, None] & ranked_mask[:, None] & is_ordered
  gaps = scores[:, :, None] - scores[:, None]
  return masks.masked_mean(-jax.nn.log_sigmoid(gaps), is_pair, axis=(1, 2))


def outcome_cross_entropy(scores: jax.Array, is_right: jax.Array) -> jax.Array:
  """The likelihood of the verdict on a completion: an outcome reward model without pairs.

  -log σ(r) where right, -log σ(-r) where wrong.  Cobbe et al. 2021,
  https://arxiv.org/abs/2110.14168, at the last token, or at each of them.

  Args:
    scores: f32[...], [B] or [B, T]; σ of one is the probability that the completion is right.
    is_right: bool[...].

  Returns:
    f32[...].
  """
  chex.assert_equal_shape([scores, is_right])
  return -jax.nn.log_sigmoid(jnp.where(is_right, scores, -scores))


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
  gain = jax.lax.rsqrt(jnp.where(variance > 0, variance, 1.0))
  return {"kernel": gain * head["kernel"], "bias": gain * (head["bias"] - mean)}
