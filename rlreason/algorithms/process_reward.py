"""Process reward models: a policy's backbone and a head, read at the last token of each step.

Lightman et al. 2023, https://arxiv.org/abs/2305.20050; Wang et al. 2023 (Math-Shepherd),
https://arxiv.org/abs/2312.08935. The loss is a function of `losses/process_reward.py`. It receives
the arrays that its parameters name: `step_scores` and `labels` with a scalar head, `step_logits`
and `ratings` with one of three classes. A model of pairs of steps is a reward model on the pairs
(`reward_model.py`): it is read in the same way.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlreason import losses, masks
from rlreason.algorithms import base, rows
from rlreason.models import ModelConfig, apply_value_head, init_reward_head, num_classes
from rlreason.parallel import ALONE
from rlreason.slots import Slot
from rlreason.types import Key, Params, StepBatch

SCALAR = ("step_scores", "labels")
THREE_WAY = ("step_logits", "ratings")


@dataclasses.dataclass(frozen=True)
class ProcessRewardConfig:
  """Settings of the update of a process reward model."""

  loss: Slot = Slot(losses.step_cross_entropy)  # of losses/process_reward.py
  micro_batch_size: int = 0  # prompts per gradient pass over all devices; 0 = the whole batch

  def __post_init__(self):
    if self.micro_batch_size < 0:
      raise ValueError(f"micro_batch_size: got {self.micro_batch_size}, allowed: 0 or more")
    if set(self.loss.arrays) not in (set(SCALAR), set(THREE_WAY)):
      raise ValueError(
          f"loss: got a function of {self.loss.arrays}, allowed: of {SCALAR} or of {THREE_WAY}")

  @property
  def num_classes(self) -> int:
    """Of the head: 1, or 3 for ratings."""
    return 3 if set(self.loss.arrays) == set(THREE_WAY) else 1


class _Spec(NamedTuple):
  """The settings that all parts of the algorithm share."""

  config: ProcessRewardConfig
  model: ModelConfig


def process_reward(
    config: ProcessRewardConfig, model: ModelConfig, optimizer: optax.GradientTransformation
) -> base.Algorithm:
  """The algorithm on `StepBatch`es; its parameters are those of `init_process_params`.

  `update_step` takes a batch unchanged: there is no scoring before it.
  """
  spec = _Spec(config, model)
  return base.Algorithm(
      init=lambda params: base.init_state(params, optimizer), score=None, make_batch=None,
      update_step=functools.partial(_update_step, spec, optimizer))


def init_process_params(
    config: ProcessRewardConfig, model: ModelConfig, trunk: Params, key: Key) -> Params:
  """{"trunk", "value_head"}: the given backbone, and a random head (`init_reward_head`)."""
  return {"trunk": trunk, "value_head": init_reward_head(model.width, key, config.num_classes)}


def score_steps(model: ModelConfig, params: Params, batch, columns: jax.Array) -> jax.Array:
  """The scores of steps by a process reward model, or by a reward model, f32[B, K].

  σ of a score is the probability that the step is right after those before it, if the model was
  trained on labels; the scores of one trained on pairs are only in order.

  Args:
    model: the config of its backbone.
    params: {"trunk", "value_head"}.
    batch: as for `score_completions`: anything with prompt_tokens i32[B, S], prompt_mask bool[B, S]
      and completion_tokens i32[B, T].
    columns: i32[B, K] of the last token of each step among the T; where there is no step any
      number, and the score means nothing.
  """
  return _log_odds(params, _outputs(model, params, batch, columns)[0])


def _outputs(
    model: ModelConfig, params: Params, batch, columns: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The head at the steps, [B, K] or [B, K, 3], and the load-balancing loss of the experts."""
  hidden, balance = rows.features_with_last(model, params["trunk"], batch, mask)
  # Column 0 of `hidden` is the end of the prompt.
  at = jnp.clip(columns, 0, hidden.shape[1] - 2) + 1
  read = jnp.take_along_axis(hidden, at[:, :, None], axis=1)
  return apply_value_head(params["value_head"], read), balance


def _log_odds(params: Params, outputs: jax.Array) -> jax.Array:
  return losses.step_log_odds(outputs, num_classes(params["value_head"]))


def _loss(spec: _Spec, params: Params, micro_batch):
  """The contribution of a micro-batch (rows, f32[b, K] weights of steps) to the batch's loss, and
  metrics.
  """
  config, (batch, weights) = spec.config, micro_batch
  outputs, balance = _outputs(spec.model, params, batch, batch.columns, batch.token_mask)
  is_kept, share = weights > 0, jnp.sum(weights)
  labels = masks.zero_masked(batch.labels, is_kept)
  scores, is_scalar = _log_odds(params, outputs), config.num_classes == 1
  arrays = dict(zip(SCALAR if is_scalar else THREE_WAY, (outputs, labels)))
  loss = masks.masked_sum(config.loss(**arrays) * weights, is_kept)
  is_right = labels >= (0.5 if is_scalar else 0.0)
  averaged = {
      "accuracy": ((scores > 0) == is_right, is_kept),
      "margin": (jnp.where(is_right, scores, -scores), is_kept),
      "score_right": (scores, is_kept & is_right), "score_wrong": (scores, is_kept & ~is_right)}
  metrics = {"loss/process_reward": (loss, share)} | {
      f"process_reward/{name}": (masks.masked_sum(x, mask), jnp.sum(mask.astype(jnp.float32)))
      for name, (x, mask) in averaged.items()}
  return base.with_balance(spec.model, loss, metrics, balance, share)


def _update_step(spec: _Spec, optimizer, state, batch: StepBatch, key, *, replicas=ALONE):
  """One optimiser step on the mean over the labelled steps of a batch."""
  del key  # nothing here is random
  batch = replicas.gather(batch)
  is_kept = batch.label_mask.astype(jnp.float32)
  weights = masks.safe_divide(is_kept, jnp.sum(is_kept))  # of all rows: they were gathered
  indices = rows.micro_batch_indices(weights.shape[0], spec.config.micro_batch_size)
  return base.step_on_batch(
      functools.partial(_loss, spec), state, replicas.take((batch, weights), indices), optimizer,
      replicas)
