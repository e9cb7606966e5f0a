"""Advantages of completions relative to their group: P prompts with G completions each.

All tokens of a completion have the same advantage. Every function takes `scores` f32[P, G], one per
completion, and `is_kept` bool[P, G], False where a completion could not be scored: its advantage is
0 and it is ignored. Every function returns f32[P, G], gradients stopped.

A group whose kept scores are equal gets exactly 0, and so does a group of one, where released
implementations disagree: verl gives it its raw score (`group_of_one="raw"`). The exceptions are
`no_baseline` and `remax`, which do not use the rest of the group, and `gdpo`, which reads the parts
of a score and subtracts the mean of the batch.
"""

from collections.abc import Mapping
from typing import Any, Callable, Literal

import chex
import jax
import jax.numpy as jnp

from rlreason import masks

GroupOfOne = Literal["zero", "raw"]


def group_normalized(
    scores: jax.Array, is_kept: jax.Array, *, ddof: int = 1, epsilon: float = 1e-6,
    group_of_one: GroupOfOne = "zero",
) -> jax.Array:
  """A = (r - mean) / (std + ε) within the group: GRPO, https://arxiv.org/abs/2402.03300.

  The paper does not specify which std. verl, TRL and OpenRLHF use the sample std (ddof 1), with an
  ε of 1e-6, 1e-4 and 1e-9. For r = [1, 0, 0, 0], ddof 1 gives 1.5 and -.5, ddof 0 1.732 and -.577.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    ddof: subtracted from the number of scores in the variance; 0 or 1.
    epsilon: added to the std.
    group_of_one: advantage of the only score of a group: 0, or the score itself as in verl.

  Returns:
    f32[P, G].

  Raises:
    ValueError: `group_of_one` is unknown.
  """
  advantages = masks.safe_divide(
      _centred(scores, is_kept), _std(scores, is_kept, ddof) + epsilon)
  return jax.lax.stop_gradient(_with_lone_scores(advantages, scores, is_kept, group_of_one))


def group_centered(scores: jax.Array, is_kept: jax.Array) -> jax.Array:
  """A = r - mean of the group: Dr. GRPO, https://arxiv.org/abs/2503.20783.

  With advantages whitened over the tokens of the batch it is REINFORCE++-baseline,
  https://arxiv.org/abs/2501.03262.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].

  Returns:
    f32[P, G].
  """
  return jax.lax.stop_gradient(_centred(scores, is_kept))


def batch_normalized(
    scores: jax.Array, is_kept: jax.Array, *, ddof: int = 1, epsilon: float = 1e-4
) -> jax.Array:
  """A = (r - mean of the group) / (std of all scores of the batch + ε): TRL's scaling by batch.

  The advantages of a nearly all right or all wrong group are not inflated, as by its own std
  (https://arxiv.org/abs/2508.08221). Each group has its own mean, the batch has one std.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    ddof: subtracted from the number of scores in the variance; 0 or 1.
    epsilon: added to the std.

  Returns:
    f32[P, G].
  """
  std = _std(scores.reshape(-1), is_kept.reshape(-1), ddof)
  return jax.lax.stop_gradient(
      masks.safe_divide(_centred(scores, is_kept), std[None] + epsilon))


def leave_one_out(
    scores: jax.Array, is_kept: jax.Array, *, group_of_one: GroupOfOne = "zero"
) -> jax.Array:
  """A = r - mean of the others: RLOO, https://arxiv.org/abs/2402.14740.

  The baseline does not depend on the completion, so the gradient is unbiased. It equals
  `group_centered` times G / (G - 1). r = [1, 0, 0, 1] gives [2/3, -2/3, -2/3, 2/3].

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    group_of_one: as for `group_normalized`.

  Returns:
    f32[P, G].
  """
  count = jnp.sum(is_kept, axis=-1, keepdims=True, dtype=jnp.float32)
  advantages = _centred(scores, is_kept) * masks.safe_divide(count, count - 1.0)
  return jax.lax.stop_gradient(_with_lone_scores(advantages, scores, is_kept, group_of_one))


def leave_one_out_normalized(
    scores: jax.Array, is_kept: jax.Array, *, ddof: int = 1, epsilon: float = 1e-6
) -> jax.Array:
  """A = (r - mean of the others) / (std of the others + ε), as in NeMo RL's released code.

  Where the others have no variance the difference is not scaled, as in that code: the only right
  completion of [1, 0, 0, 0] gets 1, the wrong ones -.577. The sum over a group need not be 0.
  https://github.com/NVIDIA-NeMo/RL.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    ddof: subtracted from the number of others in the variance; 0 or 1.
    epsilon: added to the std.

  Returns:
    f32[P, G].
  """
  # All pairs: subtracting one score from the group's variance would leave a rounding residue where
  # the others are equal, and dividing by it would give a large number.
  size = scores.shape[-1]
  others = is_kept[:, None, :] & ~jnp.eye(size, dtype=bool)[None]
  std = _std(jnp.broadcast_to(scores[:, None, :], others.shape), others, ddof)[..., 0]
  return jax.lax.stop_gradient(
      leave_one_out(scores, is_kept) / jnp.where(std > 0, std + epsilon, 1.0))


def no_baseline(scores: jax.Array, is_kept: jax.Array) -> jax.Array:
  """A = r: REINFORCE.

  With advantages whitened over the tokens of the batch it is REINFORCE++,
  https://arxiv.org/abs/2501.03262.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].

  Returns:
    f32[P, G].
  """
  return jax.lax.stop_gradient(masks.zero_masked(scores.astype(jnp.float32), is_kept))


def remax(scores: jax.Array, is_kept: jax.Array, greedy_scores: jax.Array) -> jax.Array:
  """A = r - score of the greedy completion of the prompt: ReMax, https://arxiv.org/abs/2310.10505.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    greedy_scores: f32[P]; NaN where it could not be scored: that group gets 0.

  Returns:
    f32[P, G].
  """
  chex.assert_rank(greedy_scores, 1)
  greedy = greedy_scores.astype(jnp.float32)[:, None]
  is_kept = is_kept & ~jnp.isnan(greedy)
  return jax.lax.stop_gradient(masks.zero_masked(scores.astype(jnp.float32) - greedy, is_kept))


def opo(
    scores: jax.Array, is_kept: jax.Array, lengths: jax.Array, *,
    group_of_one: GroupOfOne = "zero",
) -> jax.Array:
  """A = r - sum(l r) / sum(l) over the group: OPO, https://arxiv.org/abs/2505.23585.

  The minimum-variance baseline weights a score by the squared norm of its gradient, which the paper
  assumes to be proportional to the number of tokens.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    lengths: f32[P, G] tokens.
    group_of_one: as for `group_normalized`.

  Returns:
    f32[P, G]; 0 in a group without tokens.
  """
  chex.assert_equal_shape([scores, is_kept, lengths])
  shifted = masks.shifted(scores, is_kept, axis=-1)
  lengths = masks.zero_masked(lengths.astype(jnp.float32), is_kept)
  total = jnp.sum(lengths, axis=-1, keepdims=True)
  baseline = masks.safe_divide(jnp.sum(lengths * shifted, axis=-1, keepdims=True), total)
  advantages = masks.zero_masked(shifted - baseline, is_kept & (total > 0))
  return jax.lax.stop_gradient(_with_lone_scores(advantages, scores, is_kept, group_of_one))


def pass_at_k(
    scores: jax.Array, is_kept: jax.Array, *, k: int, threshold: float = 0.5,
    epsilon: float = 1e-6,
) -> jax.Array:
  """The advantage when k completions share one reward, 1 if any of them is right.

  Of the C(n, k) ways to draw k of n completions, w of them wrong, a share f = C(w, k) / C(n, k)
  fails, so that the mean of their rewards is 1 - f and the std is σ = sqrt(f (1 - f)). Draws that
  contain a right completion succeed; of those that contain a given wrong one, a share f_wrong = C(w
  - 1, k - 1) / C(n - 1, k - 1) fails. The mean over the draws that a completion is in, of (reward -
  (1 - f)) / (σ + ε), is

      A_right = f / (σ + ε),  A_wrong = (f - f_wrong) / (σ + ε).

  Pass@k Training, https://arxiv.org/abs/2508.10751; ε as in its released code. For k = 1 it is
  `group_normalized` with ddof 0. If k is n or more there is at most one draw: all 0.

  Args:
    scores: f32[P, G].
    is_kept: bool[P, G].
    k: number of completions that share a reward, 1 or more.
    threshold: a completion is right if its score is above this; .5 suits both 0 / 1 and -1 / 1.
    epsilon: added to the std.

  Returns:
    f32[P, G].

  Raises:
    ValueError: `k` is below 1.
  """
  if k < 1:
    raise ValueError(f"k: got {k}, allowed: 1 or more")
  is_right = is_kept & (scores > threshold)
  count = jnp.sum(is_kept, axis=-1, keepdims=True, dtype=jnp.float32)
  wrong = jnp.sum(is_kept & ~is_right, axis=-1, keepdims=True, dtype=jnp.float32)
  # C(w - 1, k - 1) / C(n - 1, k - 1), as one product of ratios: the factors themselves overflow.
  drawn = jnp.arange(1, k, dtype=jnp.float32)[None]
  fails_with_wrong = jnp.prod(
      masks.safe_divide(jnp.maximum(wrong - drawn, 0.0), count - drawn), axis=-1, keepdims=True)
  fails = masks.safe_divide(wrong, count) * fails_with_wrong
  advantages = fails - jnp.where(is_right, 0.0, fails_with_wrong)
  advantages = masks.safe_divide(advantages, jnp.sqrt(fails * (1.0 - fails)) + epsilon)
  return jax.lax.stop_gradient(masks.zero_masked(advantages, is_kept))


def max_rl(
    scores: jax.Array, is_kept: jax.Array, *, order: Literal["G-1", "G"] = "G-1",
    epsilon: float = 0.0, group_of_one: GroupOfOne = "zero",
) -> jax.Array:
  """A = (r - mean) / mean of the group: MaxRL, https://arxiv.org/abs/2602.02710.

  For rewards of 0 and 1 with success rate p, the expectation is the gradient of log p, expanded in
  1 - p and truncated: with respect to the success logit it is (1 - p) - (1 - p)^n. A group without
  a right completion has a mean of 0. If it gets 0, as in released implementations, n is G - 1; if
  each of its completions gets -1, n is G. Rewards must not be negative: a group with a mean of 0 or
  less is treated as failed.

  [1, 0, 0, 0] gives [3, -1, -1, -1], and [1, 1, 1, 0] gives [1/3, 1/3, 1/3, -1].

  Args:
    scores: f32[P, G], 0 or more.
    is_kept: bool[P, G].
    order: n. With "G" a failed group lowers the probability of its completions, and is an exception
      to the zeros of groups of equal scores.
    epsilon: added to the mean; SkyRL has 1e-6.
    group_of_one: as for `group_normalized`; SkyRL has "raw".

  Returns:
    f32[P, G].

  Raises:
    ValueError: an option is unknown.
  """
  if order not in ("G-1", "G"):
    raise ValueError(f"order: got {order!r}, allowed: G-1, G")
  scores = scores.astype(jnp.float32)
  count = jnp.sum(is_kept, axis=-1, keepdims=True, dtype=jnp.float32)
  mean = masks.safe_divide(masks.masked_sum(scores, is_kept, axis=-1)[..., None], count)
  failed = masks.zero_masked(jnp.full(scores.shape, -1.0 if order == "G" else 0.0), is_kept)
  advantages = jnp.where(
      mean > 0, masks.safe_divide(_centred(scores, is_kept), mean + epsilon), failed)
  return jax.lax.stop_gradient(_with_lone_scores(advantages, scores, is_kept, group_of_one))


def gdpo(
    parts: jax.Array, part_weights: jax.Array, is_kept: jax.Array, *, ddof: int = 1,
    epsilon: float = 1e-4, whiten: Literal["rows", "none"] = "rows",
) -> jax.Array:
  """Normalises each reward separately within its group, then adds them up: GDPO.

  A = Σ_n w_n (r_n - mean) / (std + ε), then (A - mean) / (std + ε) over all completions of the
  batch; https://arxiv.org/abs/2601.05242, with ε as in TRL. Normalising the sum of rewards instead
  does not distinguish (0, 0) against (1, 0) from (0, 0) against (1, 1): both get ±0.707. Here it is
  ±0.707 and ±1.414 before the scaling by batch.

  Weights act after the scaling, so that a dense reward of weight 0.1 counts a tenth as much as one
  of weight 1, however small its values; a reward that is equal within a group adds nothing there.
  Changes of scores (a KL in the score, the score of truncated completions, a clip of the sum) have
  no effect.

  Args:
    parts: f32[P, G, N], each reward, before its weight.
    part_weights: f32[N].
    is_kept: bool[P, G].
    ddof: subtracted from the number of values in the variances; 0 or 1.
    epsilon: added to each std.
    whiten: "none" if advantages are whitened over tokens later, as in verl (`whiten_advantages`).

  Returns:
    f32[P, G].

  Raises:
    ValueError: `whiten` is unknown.
  """
  if whiten not in ("rows", "none"):
    raise ValueError(f"whiten: got {whiten!r}, allowed: rows, none")
  scale = lambda x, is_kept: masks.safe_divide(
      _centred(x, is_kept), _std(x, is_kept, ddof) + epsilon)
  each = jax.vmap(lambda part: scale(part, is_kept), in_axes=-1, out_axes=-1)(parts)
  advantages = masks.zero_masked(jnp.sum(each * part_weights[None, None], axis=-1), is_kept)
  if whiten == "rows":
    advantages = scale(advantages.reshape(-1), is_kept.reshape(-1)).reshape(is_kept.shape)
  return jax.lax.stop_gradient(advantages)


_GROUP_RELATIVE = (
    group_normalized, group_centered, batch_normalized, leave_one_out, leave_one_out_normalized,
    opo, pass_at_k, max_rl, gdpo)


# Their advantages are rewards minus a baseline, in the unit of rewards.
_IN_UNITS_OF_REWARDS = (group_centered, leave_one_out, no_baseline, opo, remax)


def has_units_of_rewards(function: Callable[..., Any]) -> bool:
  """Whether rewards already given to earlier tokens can be subtracted from the advantage."""
  return function in _IN_UNITS_OF_REWARDS


def is_always_zero(
    function: Callable[..., jax.Array], options: Mapping[str, Any], group_size: int) -> bool:
  """Whether one of these advantages is 0 for groups of this size, whatever their scores.

  Args:
    function: of this module, gives f32[P, G]; False for any other function, of which nothing is
      known.
    options: of it.
    group_size: G.
  """
  if function is pass_at_k:
    return group_size <= options["k"]
  if function is max_rl and options.get("order") == "G":
    return False
  return (group_size == 1 and function in _GROUP_RELATIVE
          and options.get("group_of_one", "zero") == "zero")


def _with_lone_scores(advantages, scores, is_kept, group_of_one: GroupOfOne):
  """Advantages in which that of the only score of a group is set by `group_of_one`."""
  if group_of_one not in ("zero", "raw"):
    raise ValueError(f"group_of_one: got {group_of_one!r}, allowed: zero, raw")
  if group_of_one == "zero":
    return advantages
  is_alone = jnp.sum(is_kept, axis=-1, keepdims=True) == 1
  scores = masks.zero_masked(scores.astype(jnp.float32), is_kept)
  return jnp.where(is_alone, scores, advantages)


def _centred(scores, is_kept):
  """Scores minus the mean of their row, 0 where not kept."""
  chex.assert_equal_shape([scores, is_kept])
  return masks.centred(scores, is_kept, axis=-1)


def _std(scores, is_kept, ddof):
  """Std of each row, last axis 1; 0 for a row of one score or of none. `ddof` is 0 or 1."""
  freedom = jnp.sum(is_kept, axis=-1, keepdims=True, dtype=jnp.float32) - ddof
  squares = jnp.sum(jnp.square(_centred(scores, is_kept)), axis=-1, keepdims=True)
  return jnp.sqrt(masks.safe_divide(squares, freedom))
