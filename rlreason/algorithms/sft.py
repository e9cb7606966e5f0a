"""Supervised fine-tuning on packed examples: cross-entropy of the completion tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rlreason import masks
from rlreason.algorithms import base, rows
from rlreason.models import ModelConfig, forward_and_balance, token_log_probs
from rlreason.parallel import ALONE
from rlreason.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class SFTConfig:
  """Settings of the supervised update."""

  micro_batch_size: int = 0  # rows per gradient pass over all devices; 0 = the whole batch

  def __post_init__(self):
    if self.micro_batch_size < 0:
      raise ValueError(f"micro_batch_size: got {self.micro_batch_size}, allowed: 0 or more")


def sft(
    config: SFTConfig, model: ModelConfig, optimizer: optax.GradientTransformation
) -> base.Algorithm:
  """The supervised algorithm: `update_step` takes a `PackedBatch`."""

  def loss_fn(params, micro_batch):
    batch, weights = micro_batch
    params = params["policy"]
    hidden, balance = forward_and_balance(
        model, params, batch.tokens, batch.segment_ids, batch.positions)
    log_probs, entropy = token_log_probs(
        model, params, hidden[:, :-1], batch.tokens[:, 1:])
    trained = weights > 0
    loss = -masks.masked_sum(log_probs * weights, trained)
    kept = trained.astype(jnp.float32)
    metrics = {
        "loss/sft": (-masks.masked_sum(log_probs, trained), jnp.sum(kept)),
        "policy/entropy": (masks.masked_sum(jax.lax.stop_gradient(entropy), trained),
                           jnp.sum(kept)),
        "rollout/padding_waste": (
            jnp.sum(batch.segment_ids == 0).astype(jnp.float32),
            jnp.float32(batch.segment_ids.size)),
    }
    return base.with_balance(model, loss, metrics, balance, jnp.sum(weights))

  def update_step(state, batch: PackedBatch, key, *, replicas=ALONE):
    del key  # nothing here is random
    batch = replicas.gather(batch)
    indices = rows.micro_batch_indices(batch.tokens.shape[0], config.micro_batch_size)
    # A token is predicted from the one before it, which must be of the same example.
    follows = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
    weights = jnp.where(follows, batch.loss_weights[:, 1:], 0.0)
    weights = masks.safe_divide(weights, jnp.sum(weights))  # of all rows: they were gathered
    return base.step_on_batch(
        loss_fn, state, replicas.take((batch, weights), indices), optimizer, replicas)

  return base.Algorithm(
      init=lambda params: base.init_state(params, optimizer), score=None, make_batch=None,
      update_step=update_step)
