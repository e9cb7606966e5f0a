"""The seeded inputs of formulas.py, and wrappers that make our functions return a peer's output."""

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import losses, masks

GROUPS, SIZE, LENGTH, VOCABULARY = 6, 8, 9, 7


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    peer: the project.
    theirs: its function, and how it is called.
    call: name and options of a function of peer_functions/, which calls the peer's function.
    ours: our function and options, in words.
    run: inputs -> our numbers, in the order of theirs.
    inputs: a case of `make_inputs`.
    is_same: whether the two should agree.
  """

  peer: str
  theirs: str
  call: tuple[str, dict[str, Any]]
  ours: str
  run: Callable[[dict], np.ndarray]
  inputs: str = "plain"
  is_same: bool = True


def make_inputs(case="plain", seed=0):
  """Arrays [P, G] of completions, [B, T] of tokens, B = P G, and of pairs; float64 holds f32.

  Raises:
    ValueError: the case is unknown.
  """
  if case not in CASES:
    raise ValueError(f"case: got {case!r}, allowed: {', '.join(CASES)}")
  random = np.random.default_rng(seed)
  rows = GROUPS * SIZE
  normal = lambda *shape: random.normal(size=shape)
  scores = normal(GROUPS, SIZE)
  scores[1] *= 10
  scores[2:5] = [[1, 0, 0, 1, 0, 0, 0, 1], [1] * SIZE, [1] + [0] * (SIZE - 1)]
  lengths = random.integers(1, LENGTH + 1, size=rows)
  old = -np.abs(normal(rows, LENGTH)) - 0.1
  far = random.random((rows, LENGTH)) < 0.1
  log_probs = old + np.where(far, 3.0, 0.3) * normal(rows, LENGTH)
  x = {
      "scores": scores, "mask": np.arange(LENGTH) < lengths[:, None], "old_log_probs": old,
      "log_probs": log_probs, "sampler_log_probs": old + 0.7 * normal(rows, LENGTH),
      "ref_log_probs": log_probs + 0.5 * normal(rows, LENGTH), "advantages": normal(rows, LENGTH),
      "weights": random.uniform(0.5, 2.0, (rows, LENGTH)), "rewards": normal(rows, LENGTH),
      "values": normal(rows, LENGTH), "returns": 6 * normal(rows, LENGTH),
      "old_values": normal(rows, LENGTH), "greedy_scores": normal(GROUPS),
      "pairs": -20 * random.random((2, rows)), "ref_pairs": -20 * random.random((2, rows)),
      "mean_pairs": -0.01 - 2 * random.random((2, rows)),
      "is_desirable": random.random(rows) < 0.6, "mismatched": normal(rows) - 19,
      "ref_mismatched": normal(rows) - 20, "student_logits": 3 * normal(rows, LENGTH, VOCABULARY),
      "teacher_logits": 3 * normal(rows, LENGTH, VOCABULARY),
      "measured_kl": np.array([0.1, 5.5, 6.5, 12.0, 30.0]),
      "entropies": np.array([0.05, 0.19, 0.3, 2.0])}
  more = np.random.default_rng(seed + 1)  # later additions do not change the earlier inputs
  x["token_entropies"] = more.exponential(size=(rows, LENGTH))
  x["parts"] = np.stack([
      more.integers(0, 2, (GROUPS, SIZE)).astype(np.float64), more.random((GROUPS, SIZE))], axis=-1)
  CASES[case](x, random)
  return {name: value.astype(np.float32).astype(np.float64) if value.dtype == np.float64 else value
          for name, value in x.items()}


def _one_advantage(x, random):
  x["advantages"] = np.repeat(x["advantages"][:, :1], LENGTH, axis=1)


def _on_policy(x, random):
  _one_advantage(x, random)
  x["log_probs"] = x["old_log_probs"]


def _groups_of_one(x, random):
  x["scores"] = x["scores"][:, :1]
  for name in ("mask", "rewards", "values", "old_log_probs", "sampler_log_probs"):
    x[name] = x[name][:GROUPS]
  x["mask"][0] = True  # TRL pads to the longest row


def _right_or_wrong(x, random):
  x["scores"] = (x["scores"] > 0).astype(np.float64)
  x["scores"][4] = 0.0


def _right_or_wrong_alone(x, random):
  _right_or_wrong(x, random)
  _groups_of_one(x, random)


def _flat_scores(x, random):
  x["scores"] = np.full((GROUPS, SIZE), 0.3)


def _not_scored(x, random):
  x["scores"][0, 1] = x["scores"][1, 0] = np.nan


def _empty_row(x, random):
  x["mask"][3] = False


def _gaps(x, random):
  x["mask"] &= random.random(x["mask"].shape) > 0.3
  x["mask"][:, 0] = True


def _no_padding(x, random):
  x["mask"][:] = True


def _far_ratios(x, random):
  x["log_probs"][:, 0] = x["old_log_probs"][:, 0] + 25.0


def _far_reference(x, random):
  x["ref_log_probs"][:, 0] = x["log_probs"][:, 0] + 30.0 * np.sign(x["values"][:, 0])


CASES = {
    "plain": lambda x, random: None,
    "one advantage a row": _one_advantage,
    "on-policy": _on_policy,
    "groups of one": _groups_of_one,
    "scores of 0 and 1": _right_or_wrong,
    "groups of one, 0 or 1": _right_or_wrong_alone,
    "all scores 0.3": _flat_scores,
    "two not scored": _not_scored,
    "a row without tokens": _empty_row,
    "gaps": _gaps,
    "no padding": _no_padding,
    "ratios of e^25": _far_ratios,
    "differences of 30": _far_reference,
}


def arrays(x):
  return {name: jnp.asarray(value, jnp.float32 if value.dtype == np.float64 else None)
          for name, value in x.items()}


def flat(*results):
  return np.concatenate([np.asarray(result, np.float64).reshape(-1) for result in results])


def of_group(function, tokens=True, **options):
  """Advantages of groups: per token f32[B, T], 0 where masked, or f32[B]."""
  def run(x):
    x = arrays(x)
    is_kept = ~jnp.isnan(x["scores"])
    named = {"greedy_scores": x["greedy_scores"]} if function is losses.remax else {}
    if function is losses.opo:
      lengths = jnp.sum(x["mask"], axis=1, dtype=jnp.float32)
      named = {"lengths": lengths.reshape(is_kept.shape)}
    advantages = function(x["scores"], is_kept, **named, **options).reshape(-1)
    if not tokens:
      return flat(advantages)
    return flat(jnp.where(x["mask"], advantages[:, None], 0.0))
  return run


def whitened(run_tokens, **options):
  """`run_tokens`, whose result is per token, whitened over the tokens."""
  def run(x):
    mask = arrays(x)["mask"]
    values = jnp.asarray(run_tokens(x), jnp.float32).reshape(mask.shape)
    return flat(masks.whiten(values, mask, **options))
  return run


def of_tokens(per_token, aggregation="token-mean", argument="log_probs", **options):
  """Value and gradient of an aggregated loss: `per_token(argument, x) -> f32[B, T]`."""
  def run(x):
    x = arrays(x)
    weights = masks.token_weights(x["mask"], aggregation, **options)
    loss = lambda value: jnp.sum(weights * masks.zero_masked(per_token(value, x), x["mask"]))
    return flat(*jax.value_and_grad(loss)(x[argument]))
  return run


def of_pairs(per_pair, argument):
  """Value and gradient of the sum of a loss of pairs: `per_pair(chosen, rejected, x) -> f32[B]`."""
  def run(x):
    x = arrays(x)
    return flat(*jax.value_and_grad(lambda both: jnp.sum(per_pair(*both, x)))(x[argument]))
  return run


def of_row_log_probs(per_row):
  """Value and gradient of the mean of a loss: `per_row(log_probs, ref_log_probs, lengths, x)`.

  The log-probs are f32[B], sums over tokens; the gradient is with respect to those of tokens.
  """
  def run(x):
    x = arrays(x)
    lengths = jnp.sum(x["mask"], axis=1)
    summed = lambda log_probs: masks.masked_sum(log_probs, x["mask"], axis=1)
    loss = lambda log_probs: jnp.mean(
        per_row(summed(log_probs), summed(x["ref_log_probs"]), lengths, x))
    return flat(*jax.value_and_grad(loss)(x["log_probs"]))
  return run


def difference(ours, theirs):
  """The largest |ours - theirs| over all numbers; inf for a NaN.

  It is relative to their number, or to the median of their nonzero numbers if that is larger: the
  gradients of a mean over tokens are small.
  """
  theirs = np.asarray(theirs, np.float64)
  if ours.shape != theirs.shape:
    raise ValueError(f"results: got {ours.shape} of ours and {theirs.shape} of theirs")
  sizes = np.abs(theirs)
  typical = np.median(sizes[sizes > 0]) if np.any(sizes > 0) else 1.0
  distance = np.abs(ours - theirs) / np.maximum(sizes, typical)
  return float(np.max(np.where(np.isnan(distance), np.inf, distance)))
