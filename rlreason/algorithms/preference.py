"""Preference tuning: the policy learns from preferred completions, without sampling.

The loss is a function of `losses/preference.py`. It receives the arrays that its parameters name:

- with pairs: `chosen`, `rejected`, `ref_chosen`, `ref_rejected`, f32[B] each;
- without pairs (KTO): `log_probs`, `ref_log_probs`, `is_desirable`, `kl`.

If it names no `ref_` array, no reference is computed. A step takes one batch, so that the baseline
of KTO, which has no gradient, comes from the policy that is differentiated.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlreason import losses, masks
from rlreason.algorithms import base, rows
from rlreason.models import ModelConfig, token_log_probs
from rlreason.parallel import ALONE
from rlreason.slots import Slot
from rlreason.types import Metrics, PairBatch, Params

PAIRED = ("chosen", "rejected", "ref_chosen", "ref_rejected")
UNPAIRED = ("log_probs", "ref_log_probs", "is_desirable", "kl")


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
  """Settings of the preference update."""

  loss: Slot  # of losses/preference.py
  average_log_probs: bool  # means over tokens, for IPO, ORPO, SimPO; else sums, for DPO, KTO
  nll_coef: float = 0.0  # weight of the chosen completion's mean NLL per token, 0 or more; pairs
  micro_batch_size: int = 0  # prompts per gradient pass over all devices; 0 = the whole batch

  def __post_init__(self):
    for name in ("nll_coef", "micro_batch_size"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 0 or more")
    names = set(self.arrays)
    if not names or not (names <= set(PAIRED) or names <= set(UNPAIRED)):
      raise ValueError(
          f"loss: got a function of {self.arrays}, allowed: of {PAIRED} or of {UNPAIRED}")
    if self.nll_coef and not self.has_pairs:
      raise ValueError(f"nll_coef: got {self.nll_coef} without pairs, allowed: 0")

  @property
  def arrays(self) -> tuple[str, ...]:
    """The arrays that the loss takes."""
    return self.loss.arrays

  @property
  def has_pairs(self) -> bool:
    return set(self.arrays) <= set(PAIRED)

  @property
  def has_reference(self) -> bool:
    return any(name.startswith("ref_") for name in self.arrays)


class _Spec(NamedTuple):
  """The settings that all parts of the algorithm share."""

  config: PreferenceConfig
  model: ModelConfig


def preference(
    config: PreferenceConfig, model: ModelConfig, optimizer: optax.GradientTransformation
) -> base.Algorithm:
  """The preference algorithm on `PairBatch`es; its parameters are {"policy"}.

  - `score(models, batch)`: {"ref_log_probs": f32[B, 2]} and, without pairs, the policy's
    {"other_log_probs": f32[B]}; sums over tokens. None without a reference.
  - `make_batch((batch, scores), {})`: the batch with these added. None without a reference:
  `update_step` then takes the batch unchanged.
  """
  spec = _Spec(config, model)
  return base.Algorithm(
      init=lambda params: base.init_state(params, optimizer),
      score=functools.partial(_score, spec) if config.has_reference else None,
      make_batch=functools.partial(_make_batch, config) if config.has_reference else None,
      update_step=functools.partial(_update_step, spec, optimizer))


def unpaired_batch(
    prompt_tokens: np.ndarray, prompt_mask: np.ndarray, completion_tokens: np.ndarray,
    completion_mask: np.ndarray, is_desirable: np.ndarray,
) -> PairBatch:
  """A batch without pairs: each row's second completion is that of the next row of another prompt.

  Rows wrap around; if all rows have one prompt, it is that of the next row.

  Args:
    prompt_tokens: i32[B, S].
    prompt_mask: bool[B, S].
    completion_tokens: i32[B, T].
    completion_mask: bool[B, T].
    is_desirable: bool[B].
  """
  rows = np.arange(len(prompt_tokens))
  prompts = np.where(prompt_mask, prompt_tokens, -1)
  next_rows = (rows[:, None] + 1 + rows) % len(rows)  # of each row, those after it
  is_other = (prompts[next_rows] != prompts[:, None]).any(axis=-1)
  other = next_rows[rows, is_other.argmax(axis=1)]
  both = lambda x: np.stack([x, x[other]], axis=1)
  return PairBatch(
      prompt_tokens=prompt_tokens, prompt_mask=prompt_mask,
      completion_tokens=both(completion_tokens), completion_mask=both(completion_mask),
      is_desirable=is_desirable)


def _sequence_log_probs(model: ModelConfig, params: Params, batch: PairBatch):
  """Log-probs f32[B, n] of the n completions of each row, and the load-balancing loss."""
  flat = rows.flatten_completions(batch)
  mask = flat.completion_mask
  hidden, balance = rows.completion_features(model, params, flat, mask)
  log_probs, _ = token_log_probs(model, params, hidden, flat.completion_tokens)
  sums = masks.masked_sum(log_probs, mask, axis=1)
  return sums.reshape(batch.completion_tokens.shape[:2]), balance


def _per_token(config: PreferenceConfig, log_probs: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums or means f32[B, n], as the loss requires; mask bool[B, n, T]."""
  if not config.average_log_probs:
    return log_probs
  return masks.safe_divide(log_probs, jnp.sum(mask.astype(jnp.float32), axis=-1))


def _score(spec: _Spec, models, batch: PairBatch, plan=None):
  del plan  # rows are computed one by one

  def score_rows(batch):
    of = lambda params, batch: _sequence_log_probs(spec.model, params, batch)[0]
    scores = {"ref_log_probs": of(rows.reference_of(models), batch)}
    if not spec.config.has_pairs:
      scores["other_log_probs"] = of(
          models["params"]["policy"], rows.take_completions(batch, np.s_[1:]))[:, 0]
    return scores

  return rows.in_chunks(score_rows, batch, spec.config.micro_batch_size)


def _make_batch(config: PreferenceConfig, inputs, coefs):
  """(batch, scores) -> the batch of an update, and metrics."""
  del coefs  # the losses have none
  batch, scores = inputs
  ref_log_probs = scores["ref_log_probs"]
  if config.has_pairs:
    return batch.replace(ref_log_probs=ref_log_probs), {}
  mask = batch.completion_mask[:, 1:]
  ratios = _per_token(config, scores["other_log_probs"][:, None] - ref_log_probs[:, 1:], mask)
  kl = losses.kto_baseline(ratios[:, 0], jnp.any(mask, axis=(1, 2)))
  return batch.replace(ref_log_probs=ref_log_probs, kl=jnp.full(mask.shape[:1], kl)), {
      "preference/kl": (kl, jnp.float32(1.0))}


def _named_arrays(config: PreferenceConfig, batch: PairBatch, log_probs: jax.Array):
  """Every array that a loss may take, and the margin of each row, f32[B] nats."""
  ref = jnp.zeros_like(log_probs)
  if config.has_reference:
    ref = _per_token(
        config, batch.ref_log_probs[:, :log_probs.shape[1]], batch.completion_mask)
  ratios = log_probs - ref
  if config.has_pairs:
    arrays = (log_probs[:, 0], log_probs[:, 1], ref[:, 0], ref[:, 1])
    return dict(zip(PAIRED, arrays, strict=True)), ratios[:, 0] - ratios[:, 1]
  arrays = (log_probs[:, 0], ref[:, 0], batch.is_desirable, batch.kl)
  distance = ratios[:, 0] if batch.kl is None else ratios[:, 0] - batch.kl
  return dict(zip(UNPAIRED, arrays, strict=True)), jnp.where(
      batch.is_desirable, distance, -distance)


def _loss(spec: _Spec, params: Params, micro_batch) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
  """The contribution of a micro-batch (rows, f32[b] weights) to the batch's loss, and metrics."""
  config, (batch, weights) = spec.config, micro_batch
  log_probs, balance = _sequence_log_probs(spec.model, params["policy"], batch)
  log_probs = _per_token(config, log_probs, batch.completion_mask)
  arrays, margin = _named_arrays(config, batch, log_probs)
  is_kept, share = weights > 0, jnp.sum(weights)
  per_row = {"preference": config.loss(**arrays)}
  loss = per_row["preference"]
  if config.nll_coef:
    lengths = jnp.sum(batch.completion_mask[:, 0].astype(jnp.float32), axis=-1)
    per_row["nll"] = -log_probs[:, 0] if config.average_log_probs else -masks.safe_divide(
        log_probs[:, 0], lengths)
    loss = loss + config.nll_coef * per_row["nll"]
  loss = masks.masked_sum(loss * weights, is_kept)
  metrics = {f"loss/{name}": (masks.masked_sum(x * weights, is_kept), share)
             for name, x in per_row.items()}
  is_chosen = is_kept if config.has_pairs else is_kept & batch.is_desirable
  is_rejected = is_kept if config.has_pairs else is_kept & ~batch.is_desirable
  averaged = {
      "accuracy": (margin > 0, is_kept), "margin": (margin, is_kept),
      "log_probs/chosen": (log_probs[:, 0], is_chosen),
      "log_probs/rejected": (log_probs[:, -1], is_rejected)}
  metrics |= {f"preference/{name}": (masks.masked_sum(x, mask), jnp.sum(mask.astype(jnp.float32)))
              for name, (x, mask) in averaged.items()}
  return base.with_balance(spec.model, loss, metrics, balance, share)


def _update_step(spec: _Spec, optimizer, state, batch: PairBatch, key, *, replicas=ALONE):
  """One optimiser step on the mean over a batch; rows without tokens are skipped."""
  del key  # nothing here is random
  config = spec.config
  batch = replicas.gather(batch)
  if not config.has_pairs:
    batch = rows.take_completions(batch, np.s_[:1])
  has_tokens = jnp.any(batch.completion_mask, axis=-1)
  if config.has_reference:
    # A NaN in a row of padding must not reach a gradient, where 0 * NaN is NaN.
    batch = batch.replace(ref_log_probs=masks.zero_masked(
        batch.ref_log_probs[:, :has_tokens.shape[1]], has_tokens))
  is_kept = jnp.all(has_tokens, axis=-1).astype(jnp.float32)
  weights = masks.safe_divide(is_kept, jnp.sum(is_kept))  # of all rows: they were gathered
  indices = rows.micro_batch_indices(weights.shape[0], config.micro_batch_size)
  return base.step_on_batch(
      functools.partial(_loss, spec), state, replicas.take((batch, weights), indices), optimizer,
      replicas)
