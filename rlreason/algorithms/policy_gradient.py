"""Policy gradients for language models: one core whose slots make PPO, GRPO and their relatives.

Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) with the
details of RLHF is the default: the reward of a completion sits on its last token, a per-token KL
penalty keeps the policy near a reference, and a critic spreads the reward over tokens. Without a
critic the scores of a group are each other's baseline (GRPO, https://arxiv.org/abs/2402.03300, and
others: `presets`). All epochs, minibatches and micro-batches of a step are scans inside one
compiled update.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from rlreason import losses, masks
from rlreason.algorithms import base, scoring
from rlreason.algorithms.policy_gradient_config import PolicyGradientConfig
from rlreason.algorithms.scoring import Spec
from rlreason.models import ModelConfig, init_value_head, lora
from rlreason.parallel import ALONE
from rlreason.types import Key, Metrics, Outcome, Params, Rollout, RolloutBatch


def policy_gradient(
    config: PolicyGradientConfig, model: ModelConfig, optimizer: optax.GradientTransformation, *,
    temperature: float, group_size: int = 1, critic: ModelConfig | None = None,
    reference: ModelConfig | None = None, has_answers: bool = False,
) -> base.Algorithm:
  """The algorithm that a configuration describes.

  Args:
    config: settings.
    model: of the policy.
    optimizer: of all parameters.
    temperature: the rollouts were sampled at, > 0. Log-probs here use the same.
    group_size: completions of each prompt, next to each other in a rollout.
    critic: the model of a separate critic; None: as the policy.
    reference: the model of a reference that is not an earlier policy, such as a teacher.
    has_answers: what is given after the last action of a completion is the right answer, and its
      likelihood is a part of the score.

  Returns:
    The algorithm; its parameters are those of `init_rl_params`.

  Raises:
    ValueError: the temperature is not positive.
  """
  if temperature <= 0:
    raise ValueError(
        f"temperature: got {temperature}, allowed: above 0 (the gradient needs a distribution)")
  spec = Spec(config, model, critic or model, temperature, group_size, reference, has_answers)

  def init(params):
    state = base.init_state(params, optimizer, config.kl_coef, config.entropy_coef)
    return state.replace(reference=_moving_reference(config, state.params))

  return base.Algorithm(
      init=init, score=functools.partial(scoring.score, spec),
      make_batch=functools.partial(_make_batch, spec),
      update_step=functools.partial(_update_step, spec, optimizer))


def init_rl_params(
    config: PolicyGradientConfig, model: ModelConfig, policy: Params, critic: Params | None = None
) -> Params:
  """Parameters of a state: {"policy"} and, with a critic, "value_head" or "critic".

  Args:
    config: settings.
    model: of the policy.
    policy: its parameters, taken over.
    critic: {"trunk", "value_head"} of a separate critic, taken over; None: a copy of the policy,
      with a head of zeros.
  """
  if not config.has_critic:
    return {"policy": policy}
  head = init_value_head(model.width)
  if config.critic == "shared":
    return {"policy": policy, "value_head": head}
  if critic is not None:
    return {"policy": policy, "critic": critic}
  # A copy, not an alias: a donated state must not hold one buffer twice. Where the policy has
  # adapters the critic has its own, on the same base.
  trunk = jax.tree.map(jnp.copy, lora.split(policy)[0])
  return {"policy": policy, "critic": {"trunk": trunk, "value_head": head}}


def minibatch_rows(
    config: PolicyGradientConfig, key: Key, num_rows: int, group_size: int
) -> jax.Array:
  """The rows of each minibatch of an update, i32[N, minibatch_size], in random order.

  Groups stay together where a minibatch is a multiple of them, so that they can share their prompt.

  Args:
    config: of the algorithm.
    key: of the update.
    num_rows: B of the rollout.
    group_size: G.
  """
  unit = group_size if config.minibatch_size % group_size == 0 else 1
  order = jax.vmap(lambda key: jax.random.permutation(key, num_rows // unit))(
      jax.random.split(key, config.epochs))
  rows = order.reshape(-1, 1) * unit + jnp.arange(unit)[None]
  return rows.reshape(-1, config.minibatch_size)


def _moving_reference(config: PolicyGradientConfig, params: Params) -> Params | None:
  """A copy of what is trained of the policy, in f32: a mean of bf16 would stand still."""
  if not config.reference_every:
    return None
  return jax.tree.map(
      lambda x: jnp.array(x, jnp.float32, copy=True), lora.split(params["policy"])[0])


def _make_batch(
    spec: Spec, rows: tuple[Rollout, dict, Outcome], kl_coef: jax.Array
) -> tuple[RolloutBatch, Metrics]:
  """(rollout, scores of `scoring.score`, outcome) -> the batch of an update."""
  config, (rollout, scores, outcome) = spec.config, rows
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
  if config.kl_coef > 0:
    # Where it is in the loss, this one is looked at, and moves an adaptive coefficient.
    estimator = "k1" if config.kl_placement == "loss" else config.kl_estimator
    kl = losses.kl_estimate(
        old_log_probs, scores["ref_log_probs"], estimator, **config.kl_clamps)
  if answer_mask is not None:  # its likelihood is the score of the tokens before it
    mask = mask & ~answer_mask
    of_answers = (
        losses.mean_probability(old_log_probs, answer_mask) if config.answer_score == "mean_prob"
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
  """Rewards of tokens, f32[B, T]: what a completion is paid at its end, and on its way there."""
  if outcome.token_rewards is None:
    return losses.terminal_rewards(advantages_of_rows(outcome), mask)
  paid = losses.rewards_of_actions(outcome.token_rewards, mask)
  # A group compares what its completions get in all.
  sums = jnp.sum(paid, axis=1)
  of_rows = advantages_of_rows(outcome.replace(scores=outcome.scores + sums))
  if not spec.config.places_rewards:
    return losses.terminal_rewards(of_rows, mask)
  return losses.terminal_rewards(of_rows - sums, mask) + paid  # of a token, what is still to come


def _advantages_of_rows(
    spec: Spec, mask, outcome: Outcome, kl_coef: jax.Array, kl: jax.Array, truncated: jax.Array
) -> jax.Array:
  """What each completion is paid, f32[B]: the advantage slot of the scores of its group.

  `kl` f32[B] is that of whole completions.
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
  """Advantages f32[B, T] and, with a critic, what it should have said; else None."""
  if not config.has_critic:
    return losses.returns_to_go(token_rewards, mask, discount=config.discount), None
  gae = functools.partial(
      losses.gae, token_rewards, scores["values"], mask, discount=config.discount,
      last_values=scores.get("last_values"))
  policy_lambda = config.gae_lambda
  if config.length_adaptive_alpha is not None:
    lengths = jnp.sum(mask, axis=1, dtype=jnp.float32)
    policy_lambda = losses.length_adaptive_lambda(lengths, alpha=config.length_adaptive_alpha)
  advantages, returns = gae(gae_lambda=policy_lambda)
  critic_lambda = config.gae_lambda if config.critic_lambda is None else config.critic_lambda
  if critic_lambda is not policy_lambda:
    _, returns = gae(gae_lambda=critic_lambda)
  return advantages, returns


def _masks(config: PolicyGradientConfig, mask, truncated, advantages):
  """Tokens that count in means over a minibatch (None: the same), and those trained on."""
  if config.mask_truncated:
    mask = mask & ~truncated[:, None]
  if config.drop_threshold is None:
    return None, mask
  is_far = jnp.abs(masks.zero_masked(advantages, mask)) > config.drop_threshold
  kept = mask & jnp.any(is_far, axis=1, keepdims=True)
  return mask if config.drop_normalizer == "all" else None, kept


def _batch_metrics(spec: Spec, batch: RolloutBatch, mask, kl, kl_coef, sampler_log_probs):
  config, one = spec.config, jnp.float32(1.0)
  tokens = jnp.sum(mask.astype(jnp.float32))
  count_rows = lambda mask: jnp.sum(jnp.any(mask, axis=1).astype(jnp.float32))
  rows = count_rows(mask)
  metrics = {"policy/advantage_size": (masks.masked_sum(jnp.abs(batch.advantages), mask), tokens),
             "rollout/trained_fraction": (count_rows(batch.loss_mask), rows)}
  if config.has_critic:
    metrics |= {
        "value/explained_variance": (
            losses.explained_variance(batch.old_values, batch.returns, mask), one),
        "value/mean": (masks.masked_sum(batch.old_values, mask), tokens),
        "value/returns/mean": (masks.masked_sum(batch.returns, mask), tokens)}
  if config.recompute_log_probs:
    gap = masks.zero_masked(sampler_log_probs - batch.old_log_probs, mask)
    metrics |= {"policy/sampler_kl": (jnp.sum(gap), tokens),
                "policy/sampler_error": (jnp.sum(jnp.abs(gap)), tokens)}
  if config.kl_coef > 0:
    k3 = losses.kl_estimate(batch.old_log_probs, batch.ref_log_probs, "k3", **config.kl_clamps)
    metrics |= {
        "policy/kl": (masks.masked_sum(kl, mask), tokens),
        "policy/kl_k3": (masks.masked_sum(k3, mask), tokens),
        "policy/kl_per_sequence": (masks.masked_sum(kl, mask), rows),
        "policy/kl_coef": (kl_coef, one)}
  return metrics


def _policy_terms(spec: Spec, batch: RolloutBatch, log_probs: jax.Array):
  """The policy slot's loss per token, f32[B, T], and metrics of where it has no gradient."""
  config, mask = spec.config, batch.loss_mask
  arrays = dict(
      old_log_probs=batch.old_log_probs, sampler_log_probs=batch.sampler_log_probs,
      advantages=batch.advantages, mask=mask, is_selected=batch.is_selected)
  policy_loss = lambda log_probs: config.policy_loss(log_probs=log_probs, **arrays)
  per_token = policy_loss(log_probs)
  # Whatever the slot does, a token is clipped where its advantage moves nothing.
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


def _loss(spec: Spec, params: Params, micro_batch, coefs: dict[str, jax.Array]):
  """The share of a micro-batch in its minibatch's loss, and its metrics.

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
  if config.kl_placement == "loss" and config.kl_coef > 0:
    per_token["kl"] = losses.kl_estimate(
        log_probs, batch.ref_log_probs, config.kl_estimator, **config.kl_clamps)
    if config.unbiased_kl:
      per_token["kl"] = losses.unbiased_kl(log_probs, batch.old_log_probs, per_token["kl"])
    policy_loss = policy_loss + coefs["kl"] * per_token["kl"]
  total = coefs["policy"] * policy_loss
  if config.has_critic:
    # While only the critic learns, a shared one sends no gradient into the trunk.
    value_input = jnp.where(coefs["policy"] > 0, hidden, jax.lax.stop_gradient(hidden))
    per_token["value"] = losses.clipped_value_loss(
        scoring.values_of_rows(spec, params, value_input, batch, packing), batch.old_values,
        batch.returns, clip=config.value_clip, huber_delta=config.huber_delta)
    total = total + config.value_coef * per_token["value"]
  loss = masks.masked_sum(total * weights, mask)

  averaged |= {
      "policy/entropy": entropy,
      # k2 of the policy before and after: how far this step has moved it so far.
      "policy/step_kl": losses.kl_estimate(log_probs, batch.old_log_probs, "k2"),
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


def _order_rows(batch: RolloutBatch, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Rows without a trained token last, i32 like `indices`, and which passes have any, bool[n]."""
  flat = indices.reshape(-1)
  is_trained = jnp.any(batch.learned_mask[flat], axis=1)
  order = jnp.argsort(~is_trained, stable=True)
  is_needed = jnp.any(is_trained[order].reshape(indices.shape), axis=1)
  return flat[order].reshape(indices.shape), is_needed


def _select_tokens(config: PolicyGradientConfig, batch: RolloutBatch, indices, key):
  """The batch with the tokens of one minibatch that the selection slot chooses."""
  flat = indices.reshape(-1)
  take = lambda x: None if x is None else x[flat]
  chosen = config.selection(
      old_log_probs=batch.old_log_probs[flat], sampler_log_probs=take(batch.sampler_log_probs),
      old_entropies=take(batch.old_entropies), advantages=batch.advantages[flat],
      mask=batch.loss_mask[flat], key=key)
  empty = jnp.zeros(batch.loss_mask.shape, bool)
  return batch.replace(is_selected=empty.at[flat].set(chosen))


def _minibatch_step(spec: Spec, optimizer, batch: RolloutBatch, replicas, state, per_minibatch):
  """One optimiser step on the rows i32[micro-batches, rows]; a body for `lax.scan`."""
  config, (indices, packing, key) = spec.config, per_minibatch
  is_needed = None
  if config.drop_threshold is not None and packing is None:
    indices, is_needed = _order_rows(batch, indices)
  if config.selection is not None:
    batch = _select_tokens(config, batch, indices, key)
  rows = replicas.take(batch, indices)
  weigh = lambda mask, aggregation: None if mask is None else masks.token_weights(
      mask.reshape(-1, mask.shape[-1]), aggregation, constant_length=config.constant_length,
      all_sum=replicas.sum).reshape(mask.shape)
  weights = weigh(rows.counted_mask, config.aggregation)
  nll_weights = weigh(rows.nll_mask, config.nll_aggregation)
  coefs = _coefs(config, state, batch)
  gradients, (parts, metrics) = base.accumulate_gradients(
      lambda params, micro_batch: _loss(spec, params, micro_batch, coefs),
      state.params, (rows, weights, nll_weights, replicas.place(packing)), replicas,
      is_needed=is_needed)
  before, frozen = lora.split(state.params)
  state, optim_metrics = base.apply_gradients(state, gradients, parts.pop("total"), optimizer)
  # Weight decay and momentum must not move a policy that does not learn yet.
  trained = lora.split(state.params)[0]
  trained |= {"policy": jax.tree.map(
      lambda new, old: jnp.where(coefs["policy"] > 0, new, old), trained["policy"],
      before["policy"])}
  loss_metrics = {f"loss/{name}": (part, jnp.float32(1.0)) for name, part in parts.items()}
  return state.replace(params=lora.join(trained, frozen)), metrics | loss_metrics | optim_metrics


def _update_step(spec: Spec, optimizer, state, batch: RolloutBatch, key, *, replicas=ALONE):
  """All epochs and minibatches of one rollout, with a fresh permutation of rows each epoch.

  Args:
    spec, optimizer: of the algorithm.
    state: donated by the caller.
    batch: this replica's rows; all rows together are a multiple of `minibatch_size`. With a plan
      in it, groups share their prompt.
    key: consumed; orders the rows.
    replicas: how to reach the others.

  Returns:
    The new state and metrics summed over minibatches; `policy/ratio_error` is that of the first.
  """
  config, plan = spec.config, batch.plan
  batch = replicas.gather(batch.replace(plan=None))
  if batch.counted_mask is None:
    batch = batch.replace(counted_mask=batch.loss_mask)
  # A NaN in the padding must not reach a gradient, where 0 * NaN is NaN.
  names = ("old_log_probs", "sampler_log_probs", "old_entropies", "old_values", "ref_log_probs",
           "advantages", "returns")
  batch = batch.replace(**{
      name: masks.zero_masked(x, batch.counted_mask)
      for name in names if (x := getattr(batch, name)) is not None})
  num_rows = batch.loss_mask.shape[0]
  if num_rows % config.minibatch_size:
    raise ValueError(
        f"minibatch_size: got {config.minibatch_size}, allowed: a divisor of the {num_rows} rows")
  if plan is None:
    micro_size = config.micro_batch_size or config.minibatch_size
    indices = minibatch_rows(config, key, num_rows, spec.group_size)
    indices = indices.reshape(-1, config.minibatch_size // micro_size, micro_size)
  else:
    indices = plan.indices
  keys = jax.random.split(jax.random.fold_in(key, 1), indices.shape[0])
  state, metrics = jax.lax.scan(
      functools.partial(_minibatch_step, spec, optimizer, batch, replicas), state,
      (indices, None if plan is None else plan.packing, keys))
  first_ratio = jax.tree.map(lambda x: x[0], metrics.pop("policy/ratio_error"))
  metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
  if config.entropy_target is not None:
    metrics["policy/entropy_coef"] = (_coefs(config, state, batch)["entropy"], jnp.float32(1.0))
  state = _move_coefs(config, state, batch).replace(step=state.step + 1)
  return _move_reference(config, state), (
      metrics | {"policy/ratio_error": first_ratio} | base.skip_metrics(state))


def _coefs(config: PolicyGradientConfig, state, batch: RolloutBatch) -> dict[str, jax.Array]:
  """Weights of the terms of the loss in this step, as `_loss` takes them."""
  entropy = state.entropy_coef
  if config.entropy_target is not None:
    entropy = losses.active_entropy_coef(
        entropy, _mean_entropy(batch), target=config.entropy_target)
  is_warm = state.step >= config.critic_warmup_steps
  return {"kl": state.kl_coef, "entropy": entropy, "policy": is_warm.astype(jnp.float32)}


def _mean_entropy(batch: RolloutBatch) -> jax.Array:
  """Of the policy before the update, estimated from what it sampled; nats per token."""
  return -masks.masked_mean(batch.old_log_probs, batch.counted_mask)


def _move_coefs(config: PolicyGradientConfig, state, batch: RolloutBatch):
  """The coefficients of the KL and of the entropy, each towards its target."""
  mask = batch.counted_mask
  if config.kl_target is not None:
    kl = masks.masked_sum(batch.old_log_probs - batch.ref_log_probs, mask)
    kept_rows = jnp.sum(jnp.any(mask, axis=1).astype(jnp.float32))
    state = state.replace(kl_coef=losses.adapt_kl_coef(
        state.kl_coef, masks.safe_divide(kl, kept_rows), target=config.kl_target,
        horizon=config.kl_horizon, num_sequences=mask.shape[0]))
  if config.entropy_target is not None:
    state = state.replace(entropy_coef=losses.adapt_entropy_coef(
        state.entropy_coef, _mean_entropy(batch), target=config.entropy_target,
        step_size=config.entropy_step))
  return state


def _move_reference(config: PolicyGradientConfig, state):
  """Every `reference_every` steps: reference <- decay * reference + (1 - decay) * policy."""
  if not config.reference_every:
    return state
  is_due = state.step % config.reference_every == 0
  # In f32 before they are multiplied: a share of a bf16 parameter would be rounded to bf16.
  policy = jax.tree.map(
      lambda x: x.astype(jnp.float32), lora.split(state.params["policy"])[0])
  decay = config.reference_decay
  return state.replace(reference=jax.tree.map(
      lambda old, new: jnp.where(is_due, decay * old + (1 - decay) * new, old),
      state.reference, policy))
