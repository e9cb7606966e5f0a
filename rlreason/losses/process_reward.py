"""Losses of process reward models: from the outputs at the ends of K steps to a loss of each.

Which steps have a label, and the mean over them, is decided later. Not here: where a step ends, and
pairs of steps, whose loss is that of pairs of completions (losses/reward_model.py).
"""

import chex
import jax
import jax.numpy as jnp


def step_cross_entropy(step_scores: jax.Array, labels: jax.Array) -> jax.Array:
  """The likelihood of labels of steps, hard ones or shares.

  -y log σ(s) - (1 - y) log σ(-s).  Eqs. (2) and, for shares, (4), Wang et al. 2023 (Math-Shepherd),
  https://arxiv.org/abs/2312.08935. It is least where σ(s) = y, and there is the entropy of y.

  Args:
    step_scores: f32[B, K] s; σ of one is the probability that the step is right.
    labels: f32[B, K] y in [0, 1]: 1 for a right step, 0 for a wrong one, or the share of
      completions from the step on that reach the answer.

  Returns:
    f32[B, K].
  """
  chex.assert_equal_shape([step_scores, labels])
  return -(labels * jax.nn.log_sigmoid(step_scores)
           + (1 - labels) * jax.nn.log_sigmoid(-step_scores))


def three_way_cross_entropy(step_logits: jax.Array, ratings: jax.Array) -> jax.Array:
  """The likelihood of ratings of steps: wrong, neutral or right.

  Lightman et al. 2023 (PRM800K), https://arxiv.org/abs/2305.20050.

  Args:
    step_logits: f32[B, K, 3] of wrong, neutral and right.
    ratings: f32[B, K], -1, 0 or 1.

  Returns:
    f32[B, K].
  """
  chex.assert_equal_shape([step_logits[..., 0], ratings])
  chex.assert_axis_dimension(step_logits, -1, 3)
  classes = jnp.clip(jnp.nan_to_num(ratings), -1, 1).astype(jnp.int32) + 1
  log_probs = jax.nn.log_softmax(step_logits, axis=-1)
  return -jnp.take_along_axis(log_probs, classes[..., None], axis=-1)[..., 0]


def step_log_odds(outputs: jax.Array, num_classes: int) -> jax.Array:
  """The log-odds that a step is not wrong, from the outputs of a head.

  With three classes a neutral step counts as right, which found the most solutions in
  https://arxiv.org/abs/2305.20050.

  Args:
    outputs: f32[...] for one class, the score itself; f32[..., 3] for three.
    num_classes: 1 or 3.

  Returns:
    f32[...]; σ of one is the probability that the step is not wrong.

  Raises:
    ValueError: another number of classes.
  """
  if num_classes == 1:
    return outputs
  if num_classes != 3:
    raise ValueError(f"num_classes: got {num_classes}, allowed: 1, 3")
  return jax.nn.logsumexp(outputs[..., 1:], axis=-1) - outputs[..., 0]
