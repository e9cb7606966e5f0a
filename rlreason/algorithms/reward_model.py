"""Reward models: a policy's backbone and a scalar head, read at the last token of a completion.

The loss is a function of `losses/reward_model.py`. It receives the arrays that its parameters name:
`chosen_scores` and `rejected_scores` with pairs, `scores` and `is_right` with verdicts, [B] each,
and `ranked_scores` and `ranked_mask` with rankings of up to K completions, [B, K] each.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlreason import losses, masks
from rlreason.algorithms import base, rows
from rlreason.models import (
    ModelConfig, apply_value_head, init_reward_head, reward_of_rows)
from rlreason.parallel import ALONE
from rlreason.slots import Slot
from rlreason.types import Key, PairBatch, Params

PAIRED = ("chosen_scores", "rejected_scores")
UNPAIRED = ("scores", "is_right")
RANKED = ("ranked_scores", "ranked_mask")
_FORMS = {PAIRED: "pairs", UNPAIRED: "verdicts", RANKED: "rankings"}


@dataclasses.dataclass(frozen=True)
class RewardModelConfig:
  """Settings of the update of a reward model."""

  loss: Slot = Slot(losses.bradley_terry)  # of losses/reward_model.py
  # With verdicts: whether the head is trained at the last token of a completion, or at every token
  # with the verdict on the whole (https://arxiv.org/abs/2110.14168), like a value.
  trained_tokens: Literal["last", "every"] = "last"
  micro_batch_size: int = 0  # prompts per gradient pass over all devices; 0 = the whole batch

  def __post_init__(self):
    if self.micro_batch_size < 0:
      raise ValueError(f"micro_batch_size: got {self.micro_batch_size}, allowed: 0 or more")
    if not any(set(self.loss.arrays) == set(arrays) for arrays in _FORMS):
      raise ValueError(f"loss: got a function of {self.loss.arrays}, allowed: of {PAIRED}, of "
                       f"{UNPAIRED} or of {RANKED}")
    if self.trained_tokens == "every" and self.form != "verdicts":
      raise ValueError(f"trained_tokens: got 'every' with {self.form}, allowed: with verdicts")

  @property
  def form(self) -> Literal["pairs", "verdicts", "rankings"]:
    """Of the examples."""
    return next(form for arrays, form in _FORMS.items()
                if set(self.loss.arrays) == set(arrays))

  @property
  def has_pairs(self) -> bool:
    return self.form == "pairs"


class _Spec(NamedTuple):
  """The settings that all parts of the algorithm share."""

  config: RewardModelConfig
  model: ModelConfig


def reward_model(
    config: RewardModelConfig, model: ModelConfig, optimizer: optax.GradientTransformation
) -> base.Algorithm:
  """The algorithm on `PairBatch`es; its parameters are those of `init_reward_params`.

  `update_step` takes a batch unchanged: there is no scoring before it.
  """
  spec = _Spec(config, model)
  return base.Algorithm(
      init=lambda params: base.init_state(params, optimizer), score=None, make_batch=None,
      update_step=functools.partial(_update_step, spec, optimizer))


def init_reward_params(model: ModelConfig, trunk: Params, key: Key) -> Params:
  """{"trunk", "value_head"}: the given backbone, and a random head (`init_reward_head`)."""
  return {"trunk": trunk, "value_head": init_reward_head(model.width, key)}


def score_completions(model: ModelConfig, params: Params, batch) -> jax.Array:
  """Scores of completions by a reward model, f32[B].

  Args:
    model: the config of its backbone.
    params: {"trunk", "value_head"}.
    batch: anything with prompt_tokens i32[B, S], prompt_mask bool[B, S], completion_tokens
      i32[B, T] and token_mask bool[B, T], such as a `Rollout`, or a `PairBatch` of one completion
      each. For a completion without tokens the prompt is scored.
  """
  return _scores_and_balance(model, params, batch)[0]


def score_tokens(model: ModelConfig, params: Params, batch) -> jax.Array:
  """The head of a reward model at every token of completions, f32[B, T]; arguments as above.

  Column t is read after token t. Beyond the end of a completion the numbers mean nothing.
  """
  hidden, _ = rows.features_with_last(model, params["trunk"], batch)
  return apply_value_head(params["value_head"], hidden[:, 1:])


def _scores_and_balance(model: ModelConfig, params: Params, batch) -> tuple[jax.Array, jax.Array]:
  mask = batch.completion_mask if isinstance(batch, PairBatch) else batch.token_mask
  hidden, balance = rows.features_with_last(model, params["trunk"], batch, mask)
  read = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)  # the end of the prompt comes first
  return reward_of_rows(params["value_head"], hidden, read), balance


def _scores_of_tokens(
    model: ModelConfig, params: Params, flat: PairBatch
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Scores at the last token, f32[b], and at every one, f32[b, T], and the experts' balance."""
  mask = flat.completion_mask
  hidden, balance = rows.features_with_last(model, params["trunk"], flat, mask)
  by_token = apply_value_head(params["value_head"], hidden[:, 1:])
  last = jnp.maximum(jnp.sum(mask, axis=1, dtype=jnp.int32) - 1, 0)
  return jnp.take_along_axis(by_token, last[:, None], axis=1)[:, 0], by_token, balance


def _loss(spec: _Spec, params: Params, micro_batch):
  """The contribution of a micro-batch (rows, f32[b] weights) to the batch's loss, and metrics."""
  config, (batch, weights) = spec.config, micro_batch
  flat = rows.flatten_completions(batch)
  if config.trained_tokens == "every":
    scores, by_token, balance = _scores_of_tokens(spec.model, params, flat)
  else:
    scores, balance = _scores_and_balance(spec.model, params, flat)
  scores = scores.reshape(weights.shape[0], -1)
  is_kept, share = weights > 0, jnp.sum(weights)
  first, last = scores[:, 0], scores[:, -1]
  is_chosen, is_rejected = is_kept, is_kept
  if config.form == "verdicts":
    is_right = batch.is_desirable
    is_chosen, is_rejected = is_kept & is_right, is_kept & ~is_right
    margin = jnp.where(is_right, first, -first)
    losses_of_rows = config.loss(scores=first, is_right=is_right)
    if config.trained_tokens == "every":
      verdicts = jnp.broadcast_to(is_right[:, None], by_token.shape)
      losses_of_rows = masks.masked_mean(
          config.loss(scores=by_token, is_right=verdicts), flat.completion_mask, axis=1)
  elif config.has_pairs:
    margin = first - last
    losses_of_rows = config.loss(chosen_scores=first, rejected_scores=last)
  else:
    mask = jnp.any(batch.completion_mask, axis=-1)
    worst = jnp.sum(mask, axis=1, dtype=jnp.int32)[:, None] - 1
    last = jnp.take_along_axis(scores, jnp.maximum(worst, 0), axis=1)[:, 0]
    margin = first - last
    losses_of_rows = config.loss(ranked_scores=scores, ranked_mask=mask)
  loss = masks.masked_sum(losses_of_rows * weights, is_kept)
  averaged = {
      "accuracy": (margin > 0, is_kept), "margin": (margin, is_kept),
      "score_chosen": (first, is_chosen), "score_rejected": (last, is_rejected)}
  metrics = {"loss/reward_model": (loss, share)} | {
      f"reward_model/{name}": (masks.masked_sum(x, mask), jnp.sum(mask.astype(jnp.float32)))
      for name, (x, mask) in averaged.items()}
  return base.with_balance(spec.model, loss, metrics, balance, share)


def _update_step(spec: _Spec, optimizer, state, batch: PairBatch, key, *, replicas=ALONE):
  """One optimiser step on the mean over a batch; rows without tokens are skipped."""
  del key  # nothing here is random
  batch = replicas.gather(batch)
  if spec.config.form == "verdicts":
    batch = rows.take_completions(batch, np.s_[:1])
  # A ranking may lack completions, but not two.
  is_there = jnp.any(batch.completion_mask, axis=-1)
  is_kept = jnp.all(is_there[:, :2], axis=-1).astype(jnp.float32)
  is_kept = is_kept if batch.weights is None else is_kept * batch.weights
  weights = masks.safe_divide(is_kept, jnp.sum(is_kept))  # of all rows: they were gathered
  indices = rows.micro_batch_indices(weights.shape[0], spec.config.micro_batch_size)
  return base.step_on_batch(
      functools.partial(_loss, spec), state, replicas.take((batch, weights), indices), optimizer,
      replicas)
