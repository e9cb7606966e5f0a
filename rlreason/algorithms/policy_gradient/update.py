"""Policy gradients for language models: one core whose slots give PPO, GRPO and other methods.

Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) with the
details of RLHF is the default: the reward of a completion is on its last token, a per-token KL
penalty keeps the policy near a reference, and a critic distributes the reward over tokens. Without
a critic the scores of a group serve as its baseline (GRPO, https://arxiv.org/abs/2402.03300, and
others: `presets`). All epochs, minibatches and micro-batches of a step are scans inside one
compiled update.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from rlreason import masks
from rlreason.algorithms import base
from rlreason.algorithms.policy_gradient import scoring
from rlreason.algorithms.policy_gradient.batch import make_batch
from rlreason.algorithms.policy_gradient.coefficients import (
    current_coefs, initial_coefs, move_coefs, move_reference, reference_copy)
from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.algorithms.policy_gradient.loss import micro_batch_loss
from rlreason.algorithms.policy_gradient.scoring import Spec
from rlreason.models import lora
from rlreason.models.config import ModelConfig
from rlreason.models.heads import init_value_head
from rlreason.parallel.shards import ALONE, take_rows
from rlreason.types import GroupPlan, Key, Params, RolloutBatch, RowPlan


def policy_gradient(
    config: PolicyGradientConfig, model: ModelConfig, optimizer: optax.GradientTransformation, *,
    temperature: float, group_size: int = 1, critic: ModelConfig | None = None,
    reference: ModelConfig | None = None, has_answers: bool = False,
) -> base.Algorithm:
  """The algorithm that a configuration defines.

  Args:
    config: settings.
    model: of the policy.
    optimizer: of all parameters.
    temperature: that of the rollouts' sampling, > 0. Log-probs here use the same.
    group_size: completions of each prompt, next to each other in a rollout.
    critic: the model of a separate critic; None: as the policy.
    reference: the model of a reference that is not an earlier policy, such as a teacher.
    has_answers: the tokens given after the last action of a completion are the right answer, and
      their likelihood is a part of the score.

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
    extra = {"coefs": initial_coefs(config)}
    if config.reference_every:
      extra["reference"] = reference_copy(params)
    return base.init_state(params, optimizer, extra)

  return base.Algorithm(
      init=init, score=functools.partial(scoring.score, spec),
      make_batch=functools.partial(make_batch, spec),
      update_step=functools.partial(_update_step, spec, optimizer))


def init_rl_params(
    config: PolicyGradientConfig, model: ModelConfig, policy: Params, critic: Params | None = None
) -> Params:
  """Parameters of a state: {"policy"} and, with a critic, "value_head" or "critic".

  Args:
    config: settings.
    model: of the policy.
    policy: its parameters, used without a copy.
    critic: {"trunk", "value_head"} of a separate critic, used without a copy; None: a copy of the
      policy, with a head of zeros.
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

  Groups stay together if a minibatch is a multiple of their size, so that they can share prompts.

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


def _update_step(spec: Spec, optimizer, state, batch: RolloutBatch, key, *, replicas=ALONE):
  """All epochs and minibatches of one rollout, with a fresh permutation of rows each epoch.

  Args:
    spec, optimizer: of the algorithm.
    state: donated by the caller.
    batch: this replica's rows; all rows together are a multiple of `minibatch_size`. With a plan
      in it, groups share their prompt, or rows are packed.
    key: consumed; determines the order of the rows.
    replicas: how to communicate with the others.

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
  if isinstance(plan, GroupPlan):
    indices = plan.indices
  else:
    micro_size = config.micro_batch_size or config.minibatch_size
    indices = minibatch_rows(config, key, num_rows, spec.group_size)
    indices = indices.reshape(-1, config.minibatch_size // micro_size, micro_size)
  keys = jax.random.split(jax.random.fold_in(key, 1), indices.shape[0])
  state, metrics = jax.lax.scan(
      functools.partial(_minibatch_step, spec, optimizer, batch, replicas), state,
      (indices, plan, keys))
  first_ratio = jax.tree.map(lambda x: x[0], metrics.pop("policy/ratio_error"))
  metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
  if config.entropy_target is not None:
    metrics["policy/entropy_coef"] = (
        current_coefs(config, state, batch)["entropy"], jnp.float32(1.0))
  state = move_coefs(config, state, batch).replace(step=state.step + 1)
  return move_reference(config, state), (
      metrics | {"policy/ratio_error": first_ratio} | base.skip_metrics(state))


def _minibatch_step(spec: Spec, optimizer, batch: RolloutBatch, replicas, state, per_minibatch):
  """One optimiser step on the rows i32[micro-batches, rows]; a body for `lax.scan`."""
  config, (indices, plan, key) = spec.config, per_minibatch
  is_needed, packing = None, None if plan is None else plan.packing
  if config.advantage_threshold is not None and plan is None:
    indices, is_needed = _order_rows(batch, indices)
  if config.selection is not None:
    batch = _select_tokens(config, batch, indices, key)
  if isinstance(plan, RowPlan):  # its passes hold some of this replica's rows each
    rows, is_needed = replicas.place(take_rows(batch, plan.rows[None])), plan.is_needed
  else:
    rows = replicas.take(batch, indices)
  weigh = lambda mask, aggregation: None if mask is None else masks.token_weights(
      mask.reshape(-1, mask.shape[-1]), aggregation, constant_length=config.constant_length,
      all_sum=replicas.sum).reshape(mask.shape)
  weights = weigh(rows.counted_mask, config.aggregation)
  nll_weights = weigh(rows.nll_mask, config.nll_aggregation)
  coefs = current_coefs(config, state, batch)
  passes = (rows, weights, nll_weights, replicas.place(packing))
  loss_fn = lambda params, micro_batch: micro_batch_loss(spec, params, micro_batch, coefs)
  if isinstance(plan, RowPlan):
    loss_fn, passes = _loss_of_passes(loss_fn, *passes)
  gradients, (parts, metrics) = base.accumulate_gradients(
      loss_fn, state.params, passes, replicas, is_needed=is_needed)
  (before, frozen), opt_before = lora.split(state.params), state.opt_state
  state, optim_metrics = base.apply_gradients(state, gradients, parts.pop("total"), optimizer)
  # Weight decay and momentum must not move a policy that does not learn yet.
  trained = lora.split(state.params)[0]
  trained |= {"policy": jax.tree.map(
      lambda new, old: jnp.where(coefs["policy"] > 0, new, old), trained["policy"],
      before["policy"])}
  state = state.replace(
      params=lora.join(trained, frozen),
      opt_state=base.kept_still(state.opt_state, opt_before, "policy", coefs["policy"] <= 0))
  loss_metrics = {f"loss/{name}": (part, jnp.float32(1.0)) for name, part in parts.items()}
  return state, metrics | loss_metrics | optim_metrics


def _loss_of_passes(loss_fn, rows, weights, nll_weights, packings):
  """The loss of a pass as a function of its packing, and the packings; the rest is [1, Q, T]."""
  rows, weights, nll_weights = jax.tree.map(lambda x: x[0], (rows, weights, nll_weights))

  def loss_of_pass(params, packing):
    is_here = (packing.starts >= 0).reshape(-1, 1)
    keep = lambda mask: None if mask is None else mask & is_here
    here = rows.replace(loss_mask=keep(rows.loss_mask), nll_mask=keep(rows.nll_mask))
    return loss_fn(params, (here, weights, nll_weights, packing))

  return loss_of_pass, packings


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
