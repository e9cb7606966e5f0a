"""The forward passes that a policy-gradient update needs of its rollout, before and in the update.

Of each quantity only the passes that nobody has made yet: old log-probs and the values of a shared
critic may come from the sampler, and a method without a critic or a reference pays for neither.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlreason.algorithms.policy_gradient_config import PolicyGradientConfig
from rlreason.algorithms.rows import (
    completion_features, features_with_last, in_chunks, reference_of)
from rlreason.models import ModelConfig, apply_value_head, lora, token_log_probs
from rlreason.types import Params, Rollout


class Spec(NamedTuple):
  """What every part of the algorithm is made for."""

  config: PolicyGradientConfig
  model: ModelConfig
  critic: ModelConfig  # that of the policy, but for a separate critic from another checkpoint
  temperature: float  # rollouts were sampled at
  group_size: int  # completions per prompt, next to each other


def log_probs_and_entropy(
    spec: Spec, params: Params, hidden: jax.Array, rows
) -> tuple[jax.Array, jax.Array]:
  """Log-probs of the completion tokens at the sampling temperature, and entropies: f32[B, T]."""
  return token_log_probs(
      spec.model, params, hidden, rows.completion_tokens, temperature=spec.temperature)


def values_of_rows(spec: Spec, params: Params, policy_hidden: jax.Array, rows) -> jax.Array:
  """f32[B, T]; `policy_hidden` is read by a shared critic only."""
  if spec.config.critic == "shared":
    return apply_value_head(params["value_head"], policy_hidden)
  critic = params["critic"]
  hidden, _ = completion_features(spec.critic, _critic_trunk(params), rows)
  return apply_value_head(critic["value_head"], hidden)


def _critic_trunk(params: Params) -> Params:
  trunk = params["critic"]["trunk"]
  if "embed" not in trunk:  # adapters on the policy's base
    trunk = lora.join(lora.base(params["policy"]), trunk)
  return trunk


def _values_with_last(spec: Spec, params: Params, policy_hidden, rows: Rollout):
  """Values f32[B, T], and f32[B] of the state after each row's last token."""
  if spec.config.critic == "shared":
    hidden, head = policy_hidden, params["value_head"]
  else:
    hidden, _ = features_with_last(spec.critic, _critic_trunk(params), rows)
    head = params["critic"]["value_head"]
  values = apply_value_head(head, hidden)
  lengths = jnp.sum(rows.completion_mask, axis=1, dtype=jnp.int32)
  return values[:, :-1], jnp.take_along_axis(values, lengths[:, None], axis=1)[:, 0]


def score(spec: Spec, models, rollout: Rollout, key):
  """Old and reference log-probs and values, as many rows at a time as in a gradient pass.

  Args:
    spec: of the algorithm.
    models: {"params": of the state, "reference": policy parameters, or None without a reference}.
      Of a policy with adapters the reference is its frozen base, with the adapters given here, or
      with none.
    rollout: rows.
    key: not used; scoring is not random.

  Returns:
    f32[B, T] each: "old_log_probs"; with a reference "ref_log_probs"; with a critic "values", and
    with `bootstrap_truncated` "last_values" f32[B].
  """
  del key
  size = spec.config.micro_batch_size or spec.config.minibatch_size
  return in_chunks(functools.partial(_score_rows, spec, models), rollout, size)


def _score_rows(spec: Spec, models, rollout: Rollout):
  config, policy = spec.config, models["params"]["policy"]
  scores = {"old_log_probs": rollout.log_probs}
  needs_values = config.critic == "shared" and (
      rollout.values is None or config.bootstrap_truncated)
  hidden = None
  if config.recompute_log_probs or needs_values:
    hidden, _ = features_with_last(spec.model, policy, rollout)
  if config.recompute_log_probs:
    scores["old_log_probs"] = log_probs_and_entropy(spec, policy, hidden[:, :-1], rollout)[0]
  if config.bootstrap_truncated:
    scores["values"], last = _values_with_last(spec, models["params"], hidden, rollout)
    scores["last_values"] = jnp.where(rollout.truncated, last, 0.0)
  elif config.critic == "separate" or needs_values:
    features = None if hidden is None else hidden[:, :-1]
    scores["values"] = values_of_rows(spec, models["params"], features, rollout)
  elif config.has_critic:
    scores["values"] = rollout.values
  if config.kl_coef > 0:
    reference = reference_of(models)
    hidden, _ = completion_features(spec.model, reference, rollout)
    scores["ref_log_probs"] = log_probs_and_entropy(spec, reference, hidden, rollout)[0]
  return scores
