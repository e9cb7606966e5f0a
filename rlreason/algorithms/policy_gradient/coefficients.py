"""Other state that an update moves: the coefficients of KL and entropy, and the reference."""

import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.losses.entropy import active_entropy_coef, adapt_entropy_coef
from rlreason.losses.kl import adapt_kl_coef
from rlreason.models import lora
from rlreason.types import Params, RolloutBatch


def initial_coefs(config: PolicyGradientConfig) -> dict[str, jax.Array]:
  """The coefficients of a new state: {"kl", "entropy"}, f32 scalars."""
  return {"kl": jnp.float32(config.kl_coef), "entropy": jnp.float32(config.entropy_coef)}


def current_coefs(config: PolicyGradientConfig, state, batch: RolloutBatch) -> dict[str, jax.Array]:
  """Weights of the terms of the loss in this step, as `loss.micro_batch_loss` takes them.

  {"kl", "entropy", "policy"}, f32 scalars.
  """
  entropy = state.coefs["entropy"]
  if config.entropy_target is not None:
    entropy = active_entropy_coef(
        entropy, _mean_entropy(batch), target=config.entropy_target)
  is_warm = state.step >= config.critic_warmup_steps
  return {"kl": state.coefs["kl"], "entropy": entropy, "policy": is_warm.astype(jnp.float32)}


def _mean_entropy(batch: RolloutBatch) -> jax.Array:
  """The entropy of the policy before the update, estimated from its samples; nats per token."""
  return -masks.masked_mean(batch.old_log_probs, batch.counted_mask)


def move_coefs(config: PolicyGradientConfig, state, batch: RolloutBatch):
  """The coefficients of the KL and of the entropy, each moved towards its target."""
  mask, coefs = batch.counted_mask, dict(state.coefs)
  if config.kl_target is not None:
    kl = masks.masked_sum(batch.old_log_probs - batch.ref_log_probs, mask)
    kept_rows = jnp.sum(jnp.any(mask, axis=1).astype(jnp.float32))
    coefs["kl"] = adapt_kl_coef(
        coefs["kl"], masks.safe_divide(kl, kept_rows), target=config.kl_target,
        horizon=config.kl_horizon, num_sequences=mask.shape[0])
  if config.entropy_target is not None:
    coefs["entropy"] = adapt_entropy_coef(
        coefs["entropy"], _mean_entropy(batch), target=config.entropy_target,
        step_size=config.entropy_step)
  return state.replace(extra=state.extra | {"coefs": coefs})


def reference_copy(params: Params) -> Params:
  """A copy of the policy's trained parameters, in f32: a bf16 moving average would not move."""
  return jax.tree.map(
      lambda x: jnp.array(x, jnp.float32, copy=True), lora.split(params["policy"])[0])


def move_reference(config: PolicyGradientConfig, state):
  """Every `reference_every` steps: reference <- decay * reference + (1 - decay) * policy."""
  if not config.reference_every:
    return state
  is_due = state.step % config.reference_every == 0
  # In f32 before they are multiplied: a fraction of a bf16 parameter would be rounded to bf16.
  policy = jax.tree.map(
      lambda x: x.astype(jnp.float32), lora.split(state.params["policy"])[0])
  decay = config.reference_decay
  reference = jax.tree.map(
      lambda old, new: jnp.where(is_due, decay * old + (1 - decay) * new, old),
      state.reference, policy)
  return state.replace(extra=state.extra | {"reference": reference})
