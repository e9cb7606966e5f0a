"""The loss of a micro-batch: the policy's terms, the KL, the entropy and the critic's."""

import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.algorithms.policy_gradient import scoring
from rlreason.algorithms.policy_gradient.scoring import Spec
from rlreason.losses.kl import kl_estimate, unbiased_kl
from rlreason.losses.value import clipped_value_loss
from rlreason.types import Params, RolloutBatch


def _policy_terms(spec: Spec, batch: RolloutBatch, log_probs: jax.Array):
  """The policy slot's loss per token, f32[B, T], and metrics of tokens without gradient."""
  config, mask = spec.config, batch.loss_mask
  arrays = dict(
      old_log_probs=batch.old_log_probs, sampler_log_probs=batch.sampler_log_probs,
      advantages=batch.advantages, mask=mask, is_selected=batch.is_selected)
  policy_loss = lambda log_probs: config.policy_loss(log_probs=log_probs, **arrays)
  per_token = policy_loss(log_probs)
  # For any slot, a token counts as clipped if its advantage has no gradient.
  frozen = jax.lax.stop_gradient(log_probs)
  slopes = jax.grad(lambda x: masks.masked_sum(policy_loss(x), mask))(frozen)
  is_clipped = (slopes == 0) & (batch.advantages != 0)
  averaged = {"policy/clip_fraction_low": is_clipped & (frozen < batch.old_log_probs),
              "policy/clip_fraction_high": is_clipped & (frozen > batch.old_log_probs)}
  if config.correction is not None:
    weights = config.correction(log_probs=frozen, **arrays)
    per_token = weights * per_token
    averaged["policy/correction"] = weights
  return per_token, averaged


def micro_batch_loss(spec: Spec, params: Params, micro_batch, coefs: dict[str, jax.Array]):
  """The contribution of a micro-batch to its minibatch's loss, and its metrics.

  Args:
    spec: of the algorithm.
    params: of the state; differentiated.
    micro_batch: (rows, f32[b, T] token weights that sum to 1 over the minibatch, those of the
      log-likelihood of right completions or None, packing of the rows or None).
    coefs: scalars: "kl" and "entropy" weights, and "policy" 1, or 0 while only the critic learns.
  """
  config, (batch, weights, nll_weights, packing) = spec.config, micro_batch
  mask = batch.loss_mask
  raw_log_probs, entropy, hidden, balance = scoring.policy_pass(
      spec, params["policy"], batch, masks.before_end(batch.learned_mask), packing)
  log_probs = jnp.where(mask, raw_log_probs, batch.old_log_probs)
  per_token = {}
  per_token["policy"], averaged = _policy_terms(spec, batch, log_probs)
  if not config.entropy_coef and config.entropy_target is None:
    entropy = jax.lax.stop_gradient(entropy)
  policy_loss = per_token["policy"] - coefs["entropy"] * entropy
  if config.kl_placement == "loss" and config.has_reference:
    per_token["kl"] = kl_estimate(
        log_probs, batch.ref_log_probs, config.kl_estimator, **config.kl_clamps)
    if config.unbiased_kl:
      per_token["kl"] = unbiased_kl(log_probs, batch.old_log_probs, per_token["kl"])
    policy_loss = policy_loss + coefs["kl"] * per_token["kl"]
  total = coefs["policy"] * policy_loss
  if config.has_critic:
    # While only the critic learns, a shared one sends no gradient into the backbone.
    value_input = jnp.where(coefs["policy"] > 0, hidden, jax.lax.stop_gradient(hidden))
    per_token["value"] = clipped_value_loss(
        scoring.values_of_rows(spec, params, value_input, batch, packing), batch.old_values,
        batch.returns, clip=config.value_clip, huber_delta=config.huber_delta)
    total = total + config.value_coef * per_token["value"]
  loss = masks.masked_sum(total * weights, mask)

  averaged |= {
      "policy/entropy": entropy,
      # k2 of the policy before and now: how far this step has moved it so far.
      "policy/kl_from_old": kl_estimate(log_probs, batch.old_log_probs, "k2"),
      "policy/ratio_error": jnp.abs(jnp.expm1(log_probs - batch.old_log_probs))}
  tokens = jnp.sum(mask.astype(jnp.float32))
  metrics = {name: (masks.masked_sum(x, mask), tokens) for name, x in averaged.items()}
  parts = {name: masks.masked_sum(x * weights, mask) for name, x in per_token.items()}
  if nll_weights is not None:
    parts["nll"] = -masks.masked_sum(raw_log_probs * nll_weights, batch.nll_mask)
    loss = loss + coefs["policy"] * config.nll_coef * parts["nll"]
  if spec.model.num_experts:
    parts["balance"] = balance * mask.shape[0] / config.minibatch_size
    loss = loss + coefs["policy"] * spec.model.balance_coef * parts["balance"]
  return loss, (parts | {"total": loss}, metrics)
