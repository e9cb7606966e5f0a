"""Turns a scored rollout into the batch of an update: rewards of tokens, advantages, masks."""

import functools

import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.algorithms.policy_gradient.scoring import Spec
from rlreason.losses.kl import kl_estimate
from rlreason.losses.logprobs import mean_probability
from rlreason.losses.returns import (
    gae, length_adaptive_lambda, returns_to_go, rewards_of_actions, terminal_rewards)
from rlreason.losses.value import explained_variance
from rlreason.types import Metrics, Outcome, Rollout, RolloutBatch


def make_batch(
    spec: Spec, inputs: tuple[Rollout, dict, Outcome], coefs: dict[str, jax.Array]
) -> tuple[RolloutBatch, Metrics]:
  """(rollout, scores of `scoring.score`, outcome) -> the batch of an update, and its metrics.

  Beside prompts i32[B, S] and completions i32[B, T] it has f32[B, T] and bool[B, T] of the tokens
  of these. The `coefs` are f32 scalars.
  """
  config, (rollout, scores, outcome), kl_coef = spec.config, inputs, coefs["kl"]
  mask = rollout.action_mask & outcome.is_scored[:, None]
  answer_mask = None
  if spec.has_answers:
    answer_mask = _answers(rollout) & outcome.is_scored[:, None]
    mask = mask | answer_mask  # until the answers have been scored
  tokens_of = {name: x for name, x in scores.items() if x.ndim == 2}
  scores = scores | jax.tree.map(lambda x: masks.zero_masked(x, mask), tokens_of)
  old_log_probs = scores["old_log_probs"]
  sampler_log_probs = masks.zero_masked(rollout.log_probs, mask)
  kl = jnp.zeros_like(old_log_probs)
  if config.has_reference:
    # With the KL in the loss, this one is a metric, and moves an adaptive coefficient.
    estimator = "k1" if config.kl_placement == "loss" else config.kl_estimator
    kl = kl_estimate(
        old_log_probs, scores["ref_log_probs"], estimator, **config.kl_clamps)
  if answer_mask is not None:  # its likelihood is the score of the tokens before it
    mask = mask & ~answer_mask
    of_answers = (
        mean_probability(old_log_probs, answer_mask) if config.answer_score == "mean_prob"
        else masks.masked_sum(old_log_probs, answer_mask, axis=1))
    outcome = outcome.replace(scores=outcome.scores + of_answers)
    kl = masks.zero_masked(kl, mask)
  token_rewards = _token_rewards(spec, mask, outcome, lambda outcome: _advantages_of_rows(
      spec, mask, outcome, kl_coef, masks.masked_sum(kl, mask, axis=1), rollout.truncated))
  if config.kl_placement == "reward":
    token_rewards = token_rewards - kl_coef * kl
  if config.whiten_rewards:
    token_rewards = masks.whiten(token_rewards, mask, shift_mean=False)
  advantages, returns = _advantages_of_tokens(config, token_rewards, scores, mask)
  if config.whiten_advantages:
    advantages = masks.whiten(advantages, mask, ddof=config.whiten_ddof)
  counted_mask, loss_mask = _masks(config, mask, rollout.truncated, advantages)
  batch = RolloutBatch(
      prompt_tokens=rollout.prompt_tokens, prompt_mask=rollout.prompt_mask,
      completion_tokens=rollout.completion_tokens, loss_mask=loss_mask,
      counted_mask=counted_mask, advantages=advantages, old_log_probs=old_log_probs,
      old_values=scores.get("values"), old_entropies=scores.get("old_entropies"),
      returns=returns, ref_log_probs=scores.get("ref_log_probs"))
  if config.uses_sampler_log_probs:
    batch = batch.replace(sampler_log_probs=sampler_log_probs)
  if config.nll_coef:
    is_right = answer_mask if answer_mask is not None else loss_mask & outcome.is_right[:, None]
    batch = batch.replace(nll_mask=is_right)
  metrics = _batch_metrics(spec, batch, mask, kl, kl_coef, sampler_log_probs)
  if answer_mask is not None:
    metrics["reward/answer_log_prob"] = (
        masks.masked_sum(old_log_probs, answer_mask), jnp.sum(jnp.any(answer_mask, axis=1)))
    if config.answer_score == "mean_prob":
      metrics["reward/answer_prob"] = (
          masks.masked_sum(of_answers, outcome.is_scored), jnp.sum(outcome.is_scored))
  return batch, metrics


def _answers(rollout: Rollout) -> jax.Array:
  """bool[B, T]: tokens given after the last action of each row."""
  return rollout.token_mask & ~masks.before_end(rollout.action_mask)


def _token_rewards(spec: Spec, mask, outcome: Outcome, advantages_of_rows) -> jax.Array:
  """Rewards of tokens, f32[B, T]: those at the end of a completion and those within it."""
  if outcome.token_rewards is None:
    return terminal_rewards(advantages_of_rows(outcome), mask)
  paid = rewards_of_actions(outcome.token_rewards, mask)
  # A group compares the total rewards of its completions.
  sums = jnp.sum(paid, axis=1)
  of_rows = advantages_of_rows(outcome.replace(scores=outcome.scores + sums))
  if not spec.config.places_rewards:
    return terminal_rewards(of_rows, mask)
  return terminal_rewards(of_rows - sums, mask) + paid  # of a token: the rewards still to come


def _advantages_of_rows(
    spec: Spec, mask, outcome: Outcome, kl_coef: jax.Array, kl: jax.Array, truncated: jax.Array
) -> jax.Array:
  """The advantage of each completion, f32[B]: the advantage slot applied to its group's scores.

  `kl` f32[B] is the KL of whole completions.
  """
  config, is_scored = spec.config, outcome.is_scored
  scores = masks.zero_masked(outcome.scores, is_scored)
  if config.kl_placement == "score":
    kl = masks.whiten(kl, is_scored) if config.whiten_kl else kl
    scores = scores - kl_coef * kl
  if config.truncated_score is not None:
    cut = config.truncated_score * masks.masked_mean(scores, is_scored)
    scores = jnp.where(truncated & is_scored, cut, scores)
  grouped = lambda x: None if x is None else x.reshape(-1, spec.group_size)
  greedy_scores = grouped(outcome.greedy_scores)
  parts, weights = outcome.parts, outcome.part_weights
  if parts is None and "parts" in config.advantage.arrays:
    raise ValueError(
        f"outcome.parts: got None with advantage={config.advantage.name}, allowed: f32[B, N]")
  if parts is not None:
    parts = masks.zero_masked(parts, is_scored[:, None])
    parts, weights = parts.reshape(-1, spec.group_size, parts.shape[1]), weights[0]
  advantages = config.advantage(
      scores=grouped(scores), is_kept=grouped(outcome.is_scored),
      lengths=grouped(jnp.sum(mask, axis=1, dtype=jnp.float32)),
      greedy_scores=None if greedy_scores is None else greedy_scores[:, 0],
      parts=parts, part_weights=weights)
  return advantages.reshape(-1)


def _advantages_of_tokens(config: PolicyGradientConfig, token_rewards, scores, mask):
  """Advantages f32[B, T] and, with a critic, its targets; else None."""
  if not config.has_critic:
    return returns_to_go(token_rewards, mask, discount=config.discount), None
  estimate = functools.partial(
      gae, token_rewards, scores["values"], mask, discount=config.discount,
      last_values=scores.get("last_values"))
  policy_lambda = config.gae_lambda
  if config.length_adaptive_alpha is not None:
    lengths = jnp.sum(mask, axis=1, dtype=jnp.float32)
    policy_lambda = length_adaptive_lambda(lengths, alpha=config.length_adaptive_alpha)
  advantages, returns = estimate(gae_lambda=policy_lambda)
  critic_lambda = config.gae_lambda if config.critic_lambda is None else config.critic_lambda
  if critic_lambda is not policy_lambda:
    _, returns = estimate(gae_lambda=critic_lambda)
  return advantages, returns


def _masks(config: PolicyGradientConfig, mask, truncated, advantages):
  """Tokens that count in means over a minibatch (None: the same), and those trained on."""
  if config.mask_truncated:
    mask = mask & ~truncated[:, None]
  if config.advantage_threshold is None:
    return None, mask
  is_far = jnp.abs(masks.zero_masked(advantages, mask)) > config.advantage_threshold
  kept = mask & jnp.any(is_far, axis=1, keepdims=True)
  return mask if config.advantage_threshold_normalizer == "all" else None, kept


def _batch_metrics(spec: Spec, batch: RolloutBatch, mask, kl, kl_coef, sampler_log_probs):
  config, one = spec.config, jnp.float32(1.0)
  tokens = jnp.sum(mask.astype(jnp.float32))
  count_rows = lambda mask: jnp.sum(jnp.any(mask, axis=1).astype(jnp.float32))
  rows = count_rows(mask)
  metrics = {"policy/advantage_abs": (masks.masked_sum(jnp.abs(batch.advantages), mask), tokens),
             "rollout/trained_fraction": (count_rows(batch.loss_mask), rows)}
  if config.has_critic:
    metrics |= {
        "value/explained_variance": (
            explained_variance(batch.old_values, batch.returns, mask), one),
        "value/mean": (masks.masked_sum(batch.old_values, mask), tokens),
        "value/returns/mean": (masks.masked_sum(batch.returns, mask), tokens)}
  if config.recompute_log_probs:
    gap = masks.zero_masked(sampler_log_probs - batch.old_log_probs, mask)
    metrics |= {"policy/sampler_kl": (jnp.sum(gap), tokens),
                "policy/sampler_error": (jnp.sum(jnp.abs(gap)), tokens)}
  if config.has_reference:
    k3 = kl_estimate(batch.old_log_probs, batch.ref_log_probs, "k3", **config.kl_clamps)
    metrics |= {
        "policy/kl": (masks.masked_sum(kl, mask), tokens),
        "policy/kl_k3": (masks.masked_sum(k3, mask), tokens),
        "policy/kl_per_sequence": (masks.masked_sum(kl, mask), rows),
        "policy/kl_coef": (kl_coef, one)}
  return metrics
