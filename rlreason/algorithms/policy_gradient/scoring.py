"""The forward passes over a rollout that a policy-gradient update needs, before and within it.

Only missing quantities are computed: old log-probs and the values of a shared critic may come from
the sampler, and a method without a critic or a reference computes neither.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.algorithms.rows import (
    completion_features, features_with_last, in_chunks, reference_of)
from rlreason.models import lora
from rlreason.models.config import ModelConfig
from rlreason.models.groups import pack, packed_features, unpack
from rlreason.models.heads import apply_value_head
from rlreason.models.transformer import token_log_probs
from rlreason.types import GroupPacking, GroupPlan, Params, Rollout, RowPacking, RowPlan


class Spec(NamedTuple):
  """The settings that all parts of the algorithm share."""

  config: PolicyGradientConfig
  model: ModelConfig
  critic: ModelConfig  # that of the policy, unless a separate critic has another checkpoint
  temperature: float  # rollouts were sampled at
  group_size: int  # completions per prompt, next to each other
  reference: ModelConfig | None = None  # of a separate reference; None: that of the policy
  has_answers: bool = False  # the tokens given after the last action are the answer


class Pass(NamedTuple):
  """The outputs of a policy for the completions of some rows."""

  log_probs: jax.Array  # f32[B, T] of their tokens, at the sampling temperature, nats
  entropy: jax.Array  # f32[B, T] of the distributions they were sampled from, nats
  features: jax.Array  # [B, T, D] hidden states they were sampled from; packed if rows are
  balance: jax.Array  # f32 scalar, load-balancing loss of experts


def policy_pass(
    spec: Spec, params: Params, rows, mask: jax.Array | None,
    packing: GroupPacking | RowPacking | None = None,
) -> Pass:
  """One forward pass of a policy.

  Args:
    spec: of the algorithm.
    params: of a policy of its model.
    rows: anything with prompt_tokens, prompt_mask and completion_tokens.
    mask: bool[B, T] tokens that count in the load of experts; None: it is not used.
    packing: of the rows, to compute a group's prompt once, or no padding; None: row by row. The
      results are the same, but 0 for tokens that the packing omits.
  """
  log_probs = functools.partial(token_log_probs, spec.model, params, temperature=spec.temperature)
  if packing is None:
    features, balance = completion_features(spec.model, params, rows, mask)
    return Pass(*log_probs(features, rows.completion_tokens), features, balance)
  features, balance = packed_features(spec.model, params, rows, packing)
  packed = log_probs(features, pack(packing, rows.completion_tokens))
  columns = rows.completion_tokens.shape[1]
  return Pass(*(unpack(packing, x, columns) for x in packed), features, balance)


def values_of_rows(
    spec: Spec, params: Params, policy_features: jax.Array, rows,
    packing: GroupPacking | RowPacking | None = None,
) -> jax.Array:
  """f32[B, T]; `policy_features` of a `Pass` are read by a shared critic only."""
  if spec.config.critic == "shared":
    features, head = policy_features, params["value_head"]
  else:
    features, head = _critic_features(spec, params, rows, packing), params["critic"]["value_head"]
  values = apply_value_head(head, features)
  return values if packing is None else unpack(packing, values, rows.completion_tokens.shape[1])


def _critic_features(spec: Spec, params: Params, rows, packing):
  if packing is None:
    return completion_features(spec.critic, _critic_backbone(params), rows)[0]
  return packed_features(spec.critic, _critic_backbone(params), rows, packing)[0]


def _critic_backbone(params: Params) -> Params:
  backbone = params["critic"]["trunk"]
  if "embed" not in backbone:  # adapters on the policy's base
    backbone = lora.join(lora.base(params["policy"]), backbone)
  return backbone


def _values_with_last(spec: Spec, params: Params, rows: Rollout):
  """Values f32[B, T], and f32[B] of the state after each row's last token."""
  if spec.config.critic == "shared":
    model, backbone, head = spec.model, params["policy"], params["value_head"]
  else:
    model, backbone, head = spec.critic, _critic_backbone(params), params["critic"]["value_head"]
  values = apply_value_head(head, features_with_last(model, backbone, rows)[0])
  lengths = masks.lengths(rows.token_mask)
  return values[:, :-1], jnp.take_along_axis(values, lengths[:, None], axis=1)[:, 0]


def score(spec: Spec, models, rollout: Rollout, plan: GroupPlan | RowPlan | None = None):
  """Old and reference log-probs and values, with as many rows at a time as in a gradient pass.

  Args:
    spec: of the algorithm.
    models: {"params": of the state, "reference": policy parameters, or None without a reference}.
      For a policy with adapters the reference is its frozen base, with the adapters given here, or
      with none; a separate reference (`Spec.reference`) is given with all its parameters.
    rollout: rows.
    plan: of all rows, in one minibatch; None: row by row.

  Returns:
    f32[B, T] each: "old_log_probs"; if the selection reads them "old_entropies"; with a reference
    "ref_log_probs"; with a critic "values", and with `bootstrap_truncated` "last_values" f32[B].
  """
  return _given_scores(spec.config, rollout) | _computed_scores(spec, models, rollout, plan)


def _given_scores(config: PolicyGradientConfig, rollout: Rollout) -> dict[str, jax.Array]:
  """The quantities that come from the sampler."""
  scores = {} if config.recompute_log_probs else {"old_log_probs": rollout.log_probs}
  if config.has_critic and not _needs_values(config, rollout):
    scores["values"] = rollout.values
  return scores


def _needs_values(config: PolicyGradientConfig, rollout: Rollout) -> bool:
  return config.has_critic and (
      config.bootstrap_truncated or rollout.values is None or config.critic == "separate")


def _computed_scores(spec: Spec, models, rollout: Rollout, plan: GroupPlan | RowPlan | None):
  if plan is None:
    size = spec.config.micro_batch_size or spec.config.minibatch_size
    return in_chunks(lambda rows: _score_rows(spec, models, rows, None), rollout, size)
  if isinstance(plan, RowPlan):
    return _score_packed(spec, models, rollout, plan)
  indices, packing = jax.tree.map(lambda x: x[0], (plan.indices, plan.packing))
  take = lambda indices: jax.tree.map(lambda x: x[indices], rollout)
  scores = jax.lax.map(
      lambda step: _score_rows(spec, models, take(step[0]), step[1]), (indices, packing))
  order = indices.reshape(-1)
  put_back = lambda x: jnp.zeros_like(x).at[order].set(x)
  return jax.tree.map(lambda x: put_back(x.reshape(-1, *x.shape[2:])), scores)


def _score_packed(spec: Spec, models, rollout: Rollout, plan: RowPlan):
  """The scores, pass by pass; a pass gives 0 for sequences that it does not hold."""
  packings, is_needed = jax.tree.map(lambda x: x[0], (plan.packing, plan.is_needed))
  score_pass = lambda packing: _score_rows(spec, models, rollout, packing)
  zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(score_pass, jax.tree.map(lambda x: x[0], packings)))

  def add(total, step):
    packing, needed = step
    return jax.lax.cond(
        needed, lambda: jax.tree.map(jnp.add, total, score_pass(packing)), lambda: total), None

  return jax.lax.scan(add, zeros, (packings, is_needed))[0]


def _score_rows(spec: Spec, models, rollout: Rollout, packing):
  config, params = spec.config, models["params"]
  passed, scores, needs_values = None, {}, _needs_values(config, rollout)
  if config.recompute_log_probs or config.uses_old_entropies or (
      needs_values and config.critic == "shared" and not config.bootstrap_truncated):
    passed = policy_pass(spec, params["policy"], rollout, None, packing)
  if config.recompute_log_probs:
    scores["old_log_probs"] = passed.log_probs
  if config.uses_old_entropies:
    scores["old_entropies"] = passed.entropy
  if config.bootstrap_truncated:
    scores["values"], last = _values_with_last(spec, params, rollout)
    scores["last_values"] = jnp.where(rollout.truncated, last, 0.0)
  elif needs_values:
    features = None if passed is None else passed.features
    scores["values"] = values_of_rows(spec, params, features, rollout, packing)
  if config.has_reference:
    if spec.reference is None:
      reference, params = spec, reference_of(models)
    else:
      reference, params = spec._replace(model=spec.reference), models["reference"]
    scores["ref_log_probs"] = policy_pass(reference, params, rollout, None, packing).log_probs
  return scores
