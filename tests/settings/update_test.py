"""The numbers that updates tell, worked out again from the tables of `of_algorithms`."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import (
    PolicyGradientConfig, PreferenceConfig, RewardModelConfig, SFTConfig, minibatch_rows,
    policy_gradient)
from rlreason.slots import Slot
from rlreason.training import metrics as metrics_lib
from rlreason.types import Outcome, PackedBatch
from tests.algorithms import tiny
from tests.settings import of_algorithms as of

MASK, ROLLOUT = of.MASK, jax.device_get(of.ROLLOUT)
SAMPLER = -1.5  # nats: what the sampler says of each token
SIZES = dict(minibatch_size=4, share_prompts=False)


def log_probs(seed):
  """Of the completions by a table, f32[rows, tokens]; 0 where there is no token."""
  table = np.asarray(of.table(seed)["table"], np.float64)
  table = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
  tokens = np.concatenate([ROLLOUT.prompt_tokens[:, -1:], ROLLOUT.completion_tokens], axis=1)
  return np.where(MASK, table[tokens[:, :-1], tokens[:, 1:]], 0)


def told(config):
  """The batch and the metrics of the first update."""
  (batch, metrics), _ = of.update(config)
  return batch, metrics_lib.reduce_metrics(metrics)


def test_how_far_the_policy_is_from_its_reference_and_its_sampler():
  """With k3 in the loss, its clamp too, and log-probs of the trainer."""
  _, metrics = told(PolicyGradientConfig(
      critic="none", recompute_log_probs=True, kl_placement="loss", kl_estimator="k3",
      kl_clamp_ratio=0.3, **SIZES))
  ratio = np.clip(log_probs(0) - log_probs(1), -0.3, 0.3)
  assert metrics["policy/kl"] == pytest.approx(ratio.sum() / 9, rel=1e-4)
  assert metrics["policy/kl_per_sequence"] == pytest.approx(ratio.sum() / 4, rel=1e-4)
  k3 = np.exp(-ratio) - 1 + ratio
  assert metrics["policy/kl_k3"] == pytest.approx(k3.sum() / 9, rel=1e-4)
  assert metrics["policy/kl_coef"] == pytest.approx(0.05)
  gap = SAMPLER - log_probs(0)[MASK]
  assert metrics["policy/sampler_kl"] == pytest.approx(gap.mean(), rel=1e-4)
  assert metrics["policy/sampler_error"] == pytest.approx(np.abs(gap).mean(), rel=1e-4)
  assert metrics["policy/kl_from_old"] == pytest.approx(0, abs=1e-6)


def test_how_far_an_update_begins_from_what_was_sampled():
  batch, metrics = told(PolicyGradientConfig(mask_truncated=True, **SIZES))
  kept = MASK & ~ROLLOUT.truncated[:, None]
  move = (log_probs(0) - SAMPLER)[kept]
  assert metrics["policy/kl_from_old"] == pytest.approx(np.mean(move**2 / 2), rel=1e-4)
  assert metrics["policy/ratio_error"] == pytest.approx(np.abs(np.expm1(move)).mean(), rel=1e-4)
  sign, ratio = np.sign(batch.advantages[kept]), np.exp(move)
  low, high = (sign < 0) & (ratio < 0.8), (sign > 0) & (ratio > 1.2)
  assert low.mean() != high.mean()
  assert metrics["policy/clip_fraction_low"] == pytest.approx(low.mean())
  assert metrics["policy/clip_fraction_high"] == pytest.approx(high.mean())
  assert metrics["rollout/trained_fraction"] == 0.75
  assert metrics["value/mean"] == pytest.approx(ROLLOUT.values[MASK].mean(), rel=1e-5)
  assert metrics["value/returns/mean"] == pytest.approx(batch.returns[MASK].mean(), rel=1e-5)
  assert metrics["policy/advantage_abs"] == pytest.approx(
      np.abs(batch.advantages[MASK]).mean(), rel=1e-5)


def test_only_the_values_count_while_the_critic_warms_up():
  _, metrics = told(PolicyGradientConfig(
      critic="separate", critic_warmup_steps=1, nll_coef=0.5, entropy_coef=0.5, value_coef=0.3,
      **SIZES))
  assert metrics["loss/nll"] > 0 and metrics["loss/value"] > 0
  assert metrics["loss/total"] == pytest.approx(0.3 * metrics["loss/value"], rel=1e-5)


def test_what_was_cut_off_scores_a_share_of_the_mean_of_what_has_a_score():
  """2 times the mean of 1, 0 and 2, and nothing for the third, which has none."""
  config = PolicyGradientConfig(
      critic="none", whiten_advantages=False, kl_coef=0.0, truncated_score=2.0, **SIZES)
  outcome = Outcome(
      jnp.array([1, 0, np.nan, 2], jnp.float32), jnp.array([True, True, False, True]),
      jnp.array([True, False, False, True]), None)
  algorithm = policy_gradient(config, of.MODEL, optax.identity(), temperature=1.0, group_size=2)
  batch, _ = algorithm.make_batch(
      (of.ROLLOUT, {"old_log_probs": of.ROLLOUT.log_probs}, outcome), {"kl": jnp.float32(0)})
  np.testing.assert_allclose(batch.advantages[:, 0], [2, 0, 0, 2])


def test_each_epoch_has_an_order_of_its_own():
  config = PolicyGradientConfig(epochs=2, minibatch_size=4)
  rows = np.asarray(minibatch_rows(config, jax.random.key(0), 8, 1)).reshape(2, 8)
  assert sorted(rows[0]) == sorted(rows[1]) == list(range(8)) and list(rows[0]) != list(rows[1])


def test_what_is_told_of_pairs():
  """The second completion of each row is the first of the first row."""
  beside = lambda x: jnp.stack([x, jnp.stack([x[0]] * 4)], 1)
  pairs = of.PAIRS.replace(
      completion_tokens=beside(of.ROLLOUT.completion_tokens),
      completion_mask=beside(of.ROLLOUT.token_mask))
  with mock.patch.object(of, "PAIRS", pairs):
    _, metrics = of.preferred(PreferenceConfig(
        loss=Slot(losses.dpo, {"beta": 0.5}), average_log_probs=False))
  values = metrics_lib.reduce_metrics(metrics)
  now, before = log_probs(0).sum(axis=1), log_probs(1).sum(axis=1)
  margin = (now - before) - (now - before)[0]
  assert values["preference/accuracy"] == np.mean(margin > 0)
  assert values["preference/margin"] == pytest.approx(margin.mean(), abs=1e-5)
  assert values["preference/log_probs/chosen"] == pytest.approx(now.mean(), rel=1e-4)
  assert values["preference/log_probs/rejected"] == pytest.approx(now[0], rel=1e-4)
  assert values["loss/preference"] == pytest.approx(
      np.log1p(np.exp(-0.5 * margin)).mean(), rel=1e-4)


def test_a_completion_by_itself_is_as_far_as_it_is_from_the_baseline():
  """Ratios of 1 and -2 nats, and a baseline of 0.25; the second is undesirable."""
  config = PreferenceConfig(loss=Slot(losses.kto, {"beta": 0.5}), average_log_probs=False)
  batch = of.PAIRS.replace(
      ref_log_probs=jnp.full((2, 1), -1.0), kl=jnp.full(2, 0.25),
      is_desirable=jnp.array([True, False]))
  _, margin = of.PREFERENCE._named_arrays(config, batch, jnp.array([[0.0], [-3.0]]))
  assert margin.tolist() == [0.75, 2.25]


def test_what_is_told_of_packed_rows():
  """6 of 8 columns are taken, by two examples, of which 1 and 2 tokens are learned."""
  batch = PackedBatch(
      tokens=jnp.ones((1, 8), jnp.int32), positions=jnp.zeros((1, 8), jnp.int32),
      segment_ids=jnp.array([[1, 1, 1, 2, 2, 2, 0, 0]]),
      loss_weights=jnp.array([[0, 0, 2.0, 1, 1, 1, 0, 0]]))
  hidden = lambda model, params, tokens, *rest: (jnp.zeros((1, 8, 1)) + params["w"], jnp.float32(0))
  chosen = lambda model, params, hidden, tokens: (
      -hidden[..., 0] * jnp.arange(7.0)[None], 2 * jnp.arange(7.0)[None])
  algorithm = of.SFT.sft(SFTConfig(), of.MODEL, optax.sgd(0.1))
  with mock.patch.object(of.SFT, "forward_and_balance", hidden), mock.patch.object(
      of.SFT, "token_log_probs", chosen):
    _, metrics = algorithm.update_step(
        algorithm.init({"policy": {"w": jnp.float32(1)}}), batch, None)
  values = metrics_lib.reduce_metrics(metrics)
  assert values["rollout/padding_waste"] == 0.25
  assert values["loss/sft"] == (1 + 3 + 4) / 3 and values["policy/entropy"] == 2 * (1 + 3 + 4) / 3
  assert values["loss/total"] == (2 * 1 + 3 + 4) / 4


def scored(config, batch):
  """Metrics of a reward model that says of a completion how many tokens it has."""
  lengths = lambda model, params, rows: (
      jnp.sum(rows.completion_mask, axis=1) * params["value_head"]["bias"], jnp.float32(0))
  algorithm = of.REWARD_MODEL.reward_model(config, of.MODEL, optax.sgd(0.1))
  params = {"trunk": of.table(0), "value_head": {"bias": jnp.float32(1)}}
  with mock.patch.object(of.REWARD_MODEL, "_scores_and_balance", lengths):
    _, metrics = tiny.fast_jit(algorithm.update_step)(algorithm.init(params), batch, None)
  return metrics_lib.reduce_metrics(jax.device_get(metrics))


def test_what_is_told_of_scores():
  """Lengths of 3, 2, 3 and 1; of pairs, with 3, 2, 1 and 2 beside them; or right, wrong, ..."""
  pairs = of.PAIRS.replace(
      completion_tokens=jnp.stack([of.ROLLOUT.completion_tokens] * 2, 1),
      completion_mask=jnp.stack([MASK, np.stack([MASK[i] for i in (0, 1, 3, 1)])], 1))
  values = scored(RewardModelConfig(), pairs)
  assert values["reward_model/score_chosen"] == 9 / 4
  assert values["reward_model/score_rejected"] == 8 / 4
  assert values["reward_model/margin"] == 1 / 4 and values["reward_model/accuracy"] == 1 / 4
  verdicts = pairs.replace(is_desirable=jnp.array([True, False, True, False]))
  values = scored(RewardModelConfig(loss=Slot(losses.outcome_cross_entropy)), verdicts)
  assert values["reward_model/score_chosen"] == 3 and values["reward_model/score_rejected"] == 1.5
  assert values["reward_model/margin"] == (3 - 2 + 3 - 1) / 4
  assert values["reward_model/accuracy"] == 1 / 2
