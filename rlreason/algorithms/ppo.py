"""Proximal policy optimisation with a critic, for language models.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) with the details of RLHF: the reward of a
completion sits on its last token, a per-token KL penalty keeps the policy near a reference, and the
value head is on the policy's trunk or on a critic of its own. All epochs, minibatches and
micro-batches of a step are scans inside one compiled update.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlreason import losses, masks
from rlreason.algorithms import base
from rlreason.models import (
    ModelConfig, apply_value_head, forward_and_balance, init_value_head, lora, token_log_probs)
from rlreason.parallel import ALONE
from rlreason.types import Metrics, Params, Rollout, RolloutBatch


@dataclasses.dataclass(frozen=True)
class PPOConfig:
  """Settings of a PPO step."""

  epochs: int = 1  # passes over each rollout
  minibatch_size: int = 64  # sequences per optimiser step, over all devices
  micro_batch_size: int = 0  # sequences per gradient pass, over all devices; 0 = minibatch_size
  discount: float = 1.0  # γ per token, in [0, 1]
  gae_lambda: float = 0.95  # λ in [0, 1]
  clip_low: float = 0.2  # ratio below 1 - clip_low gets no gradient, in [0, 1]
  clip_high: float = 0.2  # ratio above 1 + clip_high gets no gradient, 0 or more
  value_clip: float | None = 0.2  # values move at most this far per step; None = free
  value_coef: float = 0.1  # weight of the value loss
  entropy_coef: float = 0.0  # weight of the entropy bonus; negative lowers entropy
  kl_coef: float = 0.05  # weight of the KL to the reference, per nat; 0 = no reference
  kl_placement: Literal["reward", "loss"] = "reward"
  kl_estimator: Literal["k1", "k2", "k3"] = "k1"  # k1 in the reward; k2 or k3 in the loss
  kl_target: float | None = None  # nats per sequence; None = the coefficient is fixed
  kl_horizon: float = 10000.0  # sequences over which an adaptive coefficient moves
  whiten_rewards: bool = False  # scale token rewards to unit variance, mean kept
  whiten_advantages: bool = True  # scale and shift advantages over the batch
  aggregation: masks.Aggregation = "sequence-mean"
  constant_length: int = 1  # tokens; only for aggregation="constant"
  critic: Literal["shared", "separate"] = "shared"  # value head on the trunk, or a model of its own
  critic_warmup_steps: int = 0  # first steps in which only the critic learns
  recompute_log_probs: bool = False  # old log-probs by the trainer instead of the sampler's own

  def __post_init__(self):
    limits = {
        "epochs": (1, None), "minibatch_size": (1, None), "micro_batch_size": (0, None),
        "discount": (0, 1), "gae_lambda": (0, 1), "clip_low": (0, 1), "clip_high": (0, None),
        "value_coef": (0, None), "kl_coef": (0, None), "kl_horizon": (1, None),
        "constant_length": (1, None), "critic_warmup_steps": (0, None)}
    for name, (low, high) in limits.items():
      value = getattr(self, name)
      if value < low or (high is not None and value > high):
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
        raise ValueError(f"{name}: got {value}, allowed: {allowed}")
    if self.value_clip is not None and self.value_clip < 0:
      raise ValueError(f"value_clip: got {self.value_clip}, allowed: 0 or more, or None")
    if self.kl_target is not None and self.kl_target <= 0:
      raise ValueError(f"kl_target: got {self.kl_target}, allowed: above 0, or None")
    if self.kl_target is not None and self.kl_coef == 0:
      raise ValueError(f"kl_target: got {self.kl_target} with kl_coef=0, allowed: None")
    if self.micro_batch_size and self.minibatch_size % self.micro_batch_size:
      raise ValueError(
          f"micro_batch_size: got {self.micro_batch_size}, allowed: a divisor of "
          f"minibatch_size={self.minibatch_size}, or 0")
    if (self.kl_placement == "reward") != (self.kl_estimator == "k1"):
      raise ValueError(
          f"kl_estimator: got {self.kl_estimator!r} with kl_placement={self.kl_placement!r}, "
          "allowed: k1 in the reward, k2 or k3 in the loss (their gradients differ)")


class _Spec(NamedTuple):
  """What every part of the algorithm is made for."""

  config: PPOConfig
  model: ModelConfig
  critic: ModelConfig  # that of the policy, but for a separate critic from another checkpoint
  temperature: float


def ppo(
    config: PPOConfig, model: ModelConfig, optimizer: optax.GradientTransformation, *,
    temperature: float, critic: ModelConfig | None = None,
) -> base.Algorithm:
  """The PPO algorithm.

  Args:
    config: settings.
    model: of the policy.
    optimizer: of all parameters.
    temperature: the rollouts were sampled at, > 0. Log-probs here use the same.
    critic: the model of a separate critic; None: as the policy.

  Returns:
    The algorithm; its parameters are {"policy", "value_head"} with a shared critic, and
    {"policy", "critic": {"trunk", "value_head"}} with a separate one (`init_ppo_params`).

  Raises:
    ValueError: the temperature is not positive.
  """
  if temperature <= 0:
    raise ValueError(f"temperature: got {temperature}, allowed: above 0 (PPO needs a distribution)")
  spec = _Spec(config, model, critic or model, temperature)
  return base.Algorithm(
      init=lambda params: base.init_state(params, optimizer, config.kl_coef),
      score=functools.partial(_score, spec),
      make_batch=functools.partial(_make_batch, config),
      update_step=functools.partial(_update_step, spec, optimizer))


def init_ppo_params(
    config: PPOConfig, model: ModelConfig, policy: Params, critic: Params | None = None
) -> Params:
  """Parameters of a PPO state.

  Args:
    config: settings.
    model: of the policy.
    policy: its parameters, taken over.
    critic: {"trunk", "value_head"} of a separate critic, taken over; None: a copy of the policy,
      with a head of zeros.
  """
  head = init_value_head(model.width)
  if config.critic == "shared":
    return {"policy": policy, "value_head": head}
  if critic is not None:
    return {"policy": policy, "critic": critic}
  # A copy, not an alias: a donated state must not hold one buffer twice. Where the policy has
  # adapters the critic has its own, on the same base.
  trunk = jax.tree.map(jnp.copy, lora.split(policy)[0])
  return {"policy": policy, "critic": {"trunk": trunk, "value_head": head}}


def response_features(model: ModelConfig, params: Params, rows) -> jax.Array:
  """Hidden states [B, T, D] from which each completion token was, or would be, sampled.

  `rows` is anything with prompt_tokens, prompt_mask and completion_tokens. Completions end on the
  right and attention is causal, so the padding after them needs no mask.
  """
  return _features_and_balance(model, params, rows, None)[0]


def _features_and_balance(model: ModelConfig, params: Params, rows, completion_mask):
  """`response_features`, and the load-balancing loss over prompts and `completion_mask`."""
  join = lambda prompt, completion: jnp.concatenate([prompt, completion], axis=1)
  everything = jnp.ones(rows.completion_tokens.shape, bool)
  hidden, balance = forward_and_balance(
      model, params, join(rows.prompt_tokens, rows.completion_tokens),
      join(rows.prompt_mask, everything), is_counted=None if completion_mask is None else join(
          rows.prompt_mask, completion_mask))
  return hidden[:, rows.prompt_tokens.shape[1] - 1:-1], balance


def _log_probs(spec: _Spec, params: Params, hidden: jax.Array, rows):
  return token_log_probs(
      spec.model, params, hidden, rows.completion_tokens, temperature=spec.temperature)


def _values(spec: _Spec, params: Params, policy_hidden: jax.Array, rows) -> jax.Array:
  """f32[B, T]; `policy_hidden` is read by a shared critic only."""
  if spec.config.critic == "shared":
    return apply_value_head(params["value_head"], policy_hidden)
  critic = params["critic"]
  trunk = critic["trunk"]
  if "embed" not in trunk:  # adapters on the policy's base
    trunk = lora.join(lora.base(params["policy"]), trunk)
  return apply_value_head(critic["value_head"], response_features(spec.critic, trunk, rows))


def _score(spec: _Spec, models, rollout: Rollout, key):
  """Old and reference log-probs and values: of each, only the passes the sampler did not make.

  As many rows at a time as in a gradient pass: activations of a whole rollout may not fit.

  Args:
    spec: as given to `ppo`.
    models: {"params": of the state, "reference": policy parameters, or None without a reference}.
      Of a policy with adapters the reference is its frozen base, with the adapters given here, or
      with none.
    rollout: rows.
    key: not used; scoring is not random.

  Returns:
    {"old_log_probs", "ref_log_probs", "values"}: f32[B, T] each.
  """
  del key
  size = spec.config.micro_batch_size or spec.config.minibatch_size
  return _in_chunks(functools.partial(_score_rows, spec, models), rollout, size)


def _in_chunks(fn, rows, size: int):
  """`fn(rows)` for rows that do not depend on each other, `size` of them at a time."""
  count = jax.tree.leaves(rows)[0].shape[0]
  if count <= size or count % size:
    return fn(rows)
  # Every count // size-th row: rows that are split over devices stay where they are.
  split = lambda x: x.reshape(size, count // size, *x.shape[1:]).swapaxes(0, 1)
  merge = lambda x: x.swapaxes(0, 1).reshape(count, *x.shape[2:])
  return jax.tree.map(merge, jax.lax.map(fn, jax.tree.map(split, rows)))


def _score_rows(spec: _Spec, models, rollout: Rollout):
  config, policy = spec.config, models["params"]["policy"]
  old_log_probs, values, hidden = rollout.log_probs, rollout.values, None
  needs_values = values is None and config.critic == "shared"
  if config.recompute_log_probs or needs_values:
    hidden = response_features(spec.model, policy, rollout)
  if config.recompute_log_probs:
    old_log_probs = _log_probs(spec, policy, hidden, rollout)[0]
  if needs_values or config.critic == "separate":
    values = _values(spec, models["params"], hidden, rollout)
  ref_log_probs = old_log_probs
  if config.kl_coef > 0:
    reference = models["reference"]
    if lora.has_adapters(policy):
      reference = lora.join(lora.base(policy), reference or {})
    ref_log_probs = _log_probs(
        spec, reference, response_features(spec.model, reference, rollout), rollout)[0]
  return {"old_log_probs": old_log_probs, "ref_log_probs": ref_log_probs, "values": values}


def _make_batch(config: PPOConfig, rows, kl_coef: jax.Array) -> tuple[RolloutBatch, Metrics]:
  """(rollout, scores, rewards f32[B], is_scored bool[B]) -> the batch of an update."""
  rollout, scores, rewards, is_scored = rows
  mask = rollout.completion_mask & is_scored[:, None]
  scores = jax.tree.map(lambda x: masks.zero_masked(x, mask), scores)
  old_log_probs, values = scores["old_log_probs"], scores["values"]
  kl = losses.kl_estimate(old_log_probs, scores["ref_log_probs"], "k1")
  token_rewards = losses.terminal_rewards(jnp.where(is_scored, rewards, 0.0), mask)
  if config.kl_placement == "reward":
    token_rewards = token_rewards - kl_coef * kl
  if config.whiten_rewards:
    token_rewards = masks.whiten(token_rewards, mask, shift_mean=False)
  advantages, returns = losses.gae(
      token_rewards, values, mask, discount=config.discount, gae_lambda=config.gae_lambda)
  if config.whiten_advantages:
    advantages = masks.whiten(advantages, mask)
  batch = RolloutBatch(
      prompt_tokens=rollout.prompt_tokens, prompt_mask=rollout.prompt_mask,
      completion_tokens=rollout.completion_tokens, loss_mask=mask, advantages=advantages,
      returns=returns, old_log_probs=old_log_probs, old_values=values,
      ref_log_probs=scores["ref_log_probs"])
  one, tokens = jnp.float32(1.0), jnp.sum(mask.astype(jnp.float32))
  metrics = {
      "value/explained_variance": (losses.explained_variance(values, returns, mask), one),
      "value/mean": (masks.masked_sum(values, mask), tokens),
      "value/returns/mean": (masks.masked_sum(returns, mask), tokens),
  }
  if config.recompute_log_probs:
    gap = masks.zero_masked(rollout.log_probs, mask) - old_log_probs
    metrics |= {"policy/sampler_kl": (jnp.sum(gap), tokens),
                "policy/sampler_error": (jnp.sum(jnp.abs(gap)), tokens)}
  if config.kl_coef > 0:
    k3 = losses.kl_estimate(old_log_probs, scores["ref_log_probs"], "k3")
    num_rows = jnp.sum(jnp.any(mask, axis=1).astype(jnp.float32))
    metrics |= {
        "policy/kl": (masks.masked_sum(kl, mask), tokens),
        "policy/kl_k3": (masks.masked_sum(k3, mask), tokens),
        "policy/kl_per_sequence": (masks.masked_sum(kl, mask), num_rows),
        "policy/kl_coef": (kl_coef, one),
    }
  return batch, metrics


def _loss(spec: _Spec, params: Params, micro_batch, kl_coef: jax.Array, policy_on: jax.Array):
  """The share of a micro-batch in its minibatch's loss, and its metrics.

  Args:
    spec: as given to `ppo`.
    params: of the state; differentiated.
    micro_batch: (rows, f32[b, T] token weights that sum to 1 over the minibatch).
    kl_coef: weight of the KL, when that is in the loss.
    policy_on: 1, or 0 while only the critic learns.
  """
  config, (batch, weights) = spec.config, micro_batch
  hidden, balance = _features_and_balance(spec.model, params["policy"], batch, batch.loss_mask)
  log_probs, entropy = _log_probs(spec, params["policy"], hidden, batch)
  # While only the critic learns, a shared one sends no gradient into the trunk.
  value_input = jnp.where(policy_on > 0, hidden, jax.lax.stop_gradient(hidden))
  values = _values(spec, params, value_input, batch)

  mask = batch.loss_mask
  log_probs = jnp.where(mask, log_probs, batch.old_log_probs)
  clip = dict(clip_low=config.clip_low, clip_high=config.clip_high)
  per_token = {
      "policy": losses.clipped_surrogate(
          log_probs, batch.old_log_probs, batch.advantages, **clip),
      "value": losses.clipped_value_loss(
          values, batch.old_values, batch.returns, clip=config.value_clip),
      "entropy": entropy if config.entropy_coef else jax.lax.stop_gradient(entropy),
  }
  policy_loss = per_token["policy"] - config.entropy_coef * per_token["entropy"]
  if config.kl_placement == "loss" and config.kl_coef > 0:
    per_token["kl"] = losses.kl_estimate(log_probs, batch.ref_log_probs, config.kl_estimator)
    policy_loss = policy_loss + kl_coef * per_token["kl"]
  total = policy_on * policy_loss + config.value_coef * per_token["value"]
  loss = masks.masked_sum(total * weights, mask)

  low, high = losses.clip_flags(log_probs, batch.old_log_probs, batch.advantages, **clip)
  averaged = {
      "policy/entropy": per_token["entropy"], "policy/clip_fraction_low": low,
      "policy/clip_fraction_high": high,
      # k2 of the policy before and after: how far this step has moved it so far.
      "policy/step_kl": losses.kl_estimate(log_probs, batch.old_log_probs, "k2"),
      "policy/ratio_error": jnp.abs(jnp.expm1(log_probs - batch.old_log_probs)),
  }
  tokens = jnp.sum(mask.astype(jnp.float32))
  metrics = {name: (masks.masked_sum(x, mask), tokens) for name, x in averaged.items()}
  # This part's share of the minibatch, so that the parts of a loss add up to `loss/total`.
  share = jnp.sum(weights)
  if config.aggregation == "constant":
    share = jnp.sum(jnp.max(weights, axis=-1)) * config.constant_length
  for name in per_token.keys() - {"entropy"}:
    metrics[f"loss/{name}"] = (masks.masked_sum(per_token[name] * weights, mask), share)
  if spec.model.num_experts:
    loss = loss + policy_on * spec.model.balance_coef * share * balance
    metrics["loss/balance"] = (share * balance, share)
  return loss, (loss, metrics)


def _minibatch_step(spec: _Spec, optimizer, batch: RolloutBatch, replicas, state, indices):
  """One optimiser step on the rows `indices` i32[micro-batches, rows]; a body for `lax.scan`."""
  rows = replicas.take(batch, indices)
  flat = rows.loss_mask.reshape(-1, rows.loss_mask.shape[-1])
  weights = masks.token_weights(
      flat, spec.config.aggregation, constant_length=spec.config.constant_length,
      all_sum=replicas.sum).reshape(rows.loss_mask.shape)
  policy_on = (state.step >= spec.config.critic_warmup_steps).astype(jnp.float32)
  gradients, (loss, metrics) = base.accumulate_gradients(
      lambda params, micro_batch: _loss(spec, params, micro_batch, state.kl_coef, policy_on),
      state.params, (rows, weights), replicas)
  before, frozen = lora.split(state.params)
  state, optim_metrics = base.apply_gradients(state, gradients, loss, optimizer)
  # Weight decay and momentum must not move a policy that does not learn yet.
  trained = lora.split(state.params)[0]
  trained |= {"policy": jax.tree.map(
      lambda new, old: jnp.where(policy_on > 0, new, old), trained["policy"], before["policy"])}
  return state.replace(params=lora.join(trained, frozen)), metrics | optim_metrics


def _update_step(spec: _Spec, optimizer, state, batch: RolloutBatch, key, *, replicas=ALONE):
  """All epochs and minibatches of one rollout, with a fresh permutation of rows each epoch.

  Args:
    spec, optimizer: as given to `ppo`.
    state: donated by the caller.
    batch: this replica's rows; all rows together are a multiple of `minibatch_size`.
    key: consumed; orders the rows.
    replicas: how to reach the others.

  Returns:
    The new state and metrics summed over minibatches; `policy/ratio_error` is that of the first.
  """
  config = spec.config
  batch = replicas.gather(batch)
  # A NaN in the padding must not reach a gradient, where 0 * NaN is NaN.
  names = ("old_log_probs", "old_values", "ref_log_probs", "advantages", "returns")
  batch = batch.replace(**{
      name: masks.zero_masked(getattr(batch, name), batch.loss_mask) for name in names})
  num_rows = batch.loss_mask.shape[0]
  if num_rows % config.minibatch_size:
    raise ValueError(
        f"minibatch_size: got {config.minibatch_size}, allowed: a divisor of the {num_rows} rows")
  micro_size = config.micro_batch_size or config.minibatch_size
  order = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(
      jax.random.split(key, config.epochs))
  indices = order.reshape(-1, config.minibatch_size // micro_size, micro_size)
  state, metrics = jax.lax.scan(
      functools.partial(_minibatch_step, spec, optimizer, batch, replicas), state, indices)
  first_ratio = jax.tree.map(lambda x: x[0], metrics.pop("policy/ratio_error"))
  metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
  kl_coef = state.kl_coef
  if config.kl_target is not None:
    kl = masks.masked_sum(batch.old_log_probs - batch.ref_log_probs, batch.loss_mask)
    kept_rows = jnp.sum(jnp.any(batch.loss_mask, axis=1).astype(jnp.float32))
    kl_coef = losses.adapt_kl_coef(
        kl_coef, masks.safe_divide(kl, kept_rows), target=config.kl_target,
        horizon=config.kl_horizon, num_sequences=num_rows)
  state = state.replace(step=state.step + 1, kl_coef=kl_coef)
  return state, metrics | {"policy/ratio_error": first_ratio} | base.skip_metrics(state)
