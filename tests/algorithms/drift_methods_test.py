"""Methods that look at drift, at parts of a reward or at entropies, through whole updates.

The model is the table of `tests.settings.of_algorithms`, whose update compiles in a moment: two
groups of two completions, of 3, 2, 3 and 1 tokens, which a sampler drew with -1.5 nats each.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import policy_gradient, presets
from rlreason.algorithms.policy_gradient import scoring
from rlreason.slots import Slot
from rlreason.training import metrics as metrics_lib
from tests.algorithms import tiny
from tests.settings import of_algorithms as of

SIZES = dict(minibatch_size=4, share_prompts=False)
PRESETS = {
    "sapo": presets.sapo(**SIZES), "gmpo": presets.gmpo(**SIZES),
    "two_sided_clip": presets.two_sided_clip(delta=4.0, **SIZES),
    "luspo": presets.luspo(**SIZES), "dppo": presets.dppo(**SIZES),
    "vespo": presets.vespo(**SIZES), "max_rl": presets.max_rl(**SIZES),
    "gdpo": presets.gdpo(**SIZES),
    "top_entropy": presets.top_entropy(recompute_log_probs=True, **SIZES),
    "deepseek_v3_2": presets.deepseek_v3_2(**SIZES),
    "masked_sequences": presets.masked_sequences(**SIZES), "rlpr": presets.rlpr(**SIZES),
    "on_policy_distillation": presets.on_policy_distillation(**SIZES),
}
PARTS = jnp.array([[1.0, 0.2], [0, 0.4], [0, 0.1], [1, 0.1]])
OUTCOME = of.OUTCOME.replace(parts=PARTS, part_weights=jnp.ones((4, 2)))


@pytest.fixture(autouse=True)
def with_parts(monkeypatch):
  monkeypatch.setattr(of, "OUTCOME", OUTCOME)


def told(config):
  """The batch and the metrics of the first update."""
  (batch, metrics), _ = of.update(config)
  return batch, metrics_lib.reduce_metrics(metrics)


@pytest.mark.parametrize("name", PRESETS)
def test_each_takes_a_step_and_every_number_is_finite(name):
  (batch, metrics), (_, (later, _)) = of.update(PRESETS[name])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((batch, metrics, later)))
  values = metrics_lib.reduce_metrics(metrics)
  has_far_rows = name == "masked_sequences"  # the table is not what has sampled
  assert (values["optim/grad_norm"] > 0) != has_far_rows
  assert (batch.old_entropies is not None) == (name == "top_entropy")
  assert (batch.sampler_log_probs is not None) == (
      name in ("deepseek_v3_2", "masked_sequences"))


def test_luspo_is_gspo_times_the_length_of_each_row():
  """On-policy the loss of a row is -A times its length, over 4 rows."""
  config = dataclasses.replace(PRESETS["luspo"], recompute_log_probs=True)
  batch, metrics = told(config)
  of_rows = -np.where(of.MASK, batch.advantages, 0).sum(axis=1)
  assert metrics["loss/policy"] == pytest.approx(of_rows.sum() / 4, abs=1e-6)
  assert abs(of_rows.sum()) > 0.1
  assert config.policy_loss == Slot(losses.gspo, {"clip_low": 0.002, "clip_high": 0.0025})


@pytest.mark.parametrize("ratio, advantage, delta, expected", [
    (9.0, -1.0, 4.0, 4.0), (0.5, -1.0, 4.0, 0.8), (2.0, -1.0, 4.0, 2.0), (9.0, 1.0, 4.0, -1.2),
    (1.15, 1.0, 1.2, -1.15), (1.3, -2.0, 1.2, 2.4)])
def test_the_two_sided_clip_is_a_dual_clip(ratio, advantage, delta, expected):
  """|A| min(max(r, .8), δ) where A < 0; where A > 0 the clip at 1.2 comes first."""
  slot = presets.two_sided_clip(delta=delta, **SIZES).policy_loss
  loss = slot(log_probs=jnp.log(jnp.full((1, 1), ratio)), old_log_probs=jnp.zeros((1, 1)),
              advantages=jnp.full((1, 1), advantage))
  assert float(loss[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_presets_take_the_bounds_of_released_codes():
  assert presets.cispo(**SIZES).policy_loss.options["clip_high"] == 0.28
  assert presets.cispo(max_weight=5.0, **SIZES).policy_loss.options["clip_high"] == 4.0
  kl = presets.dppo(divergence="kl", **SIZES)
  assert kl.policy_loss == Slot(losses.dppo_kl) and PRESETS["dppo"].policy_loss == Slot(
      losses.dppo_tv)
  masks = {code: {mean: dict(slot.options) for mean, slot in of_code.items()}
           for code, of_code in presets.SAMPLER_MASKS.items()}
  assert masks["TRL"] == {"product": dict(
      mean="product", low=0.0, high=3.0, importance="sequence")}
  assert masks["NeMo RL"]["geometric"]["high"] == 1.002
  assert masks["verl"]["product"] == masks["SkyRL"]["product"] == dict(
      mean="product", low=0.5, high=2.0)
  for call, message in (
      (lambda: presets.two_sided_clip(delta=1.1), "delta: got 1.1, allowed: at least 1 "),
      (lambda: presets.cispo(max_weight=0.5), "max_weight: got 0.5, allowed: 1 or more"),
      (lambda: presets.dppo(divergence="js"), "divergence: got 'js', allowed: tv, kl")):
    with pytest.raises(ValueError, match=message):
      call()


def test_parts_reach_the_advantage():
  """Row rewards (1, .2), (0, .4), and (0, .1), (1, .1): the second part of the second is equal."""
  config = presets.gdpo(advantage=Slot(losses.gdpo, {"epsilon": 0.0, "whiten": "none"}), **SIZES)
  batch, _ = told(config)
  half = 0.5**0.5
  np.testing.assert_allclose(batch.advantages[:, 0], [0, 0, -half, half], atol=1e-6)
  with pytest.raises(ValueError, match="outcome.parts: got None with advantage=gdpo"):
    algorithm = policy_gradient(
        config, of.MODEL, optax.identity(), temperature=1.0, group_size=2)
    algorithm.make_batch((of.ROLLOUT, {"old_log_probs": of.ROLLOUT.log_probs},
                          OUTCOME.replace(parts=None, part_weights=None)), {"kl": jnp.float32(0)})


@pytest.mark.parametrize("name", ["top_entropy", "deepseek_v3_2", "gmpo"])
def test_micro_batches_are_one_batch(name):
  """The quantile is of a minibatch, and what looks at rows looks at whole ones."""
  config = dataclasses.replace(PRESETS[name], mask_truncated=False)
  _, whole = told(config)
  _, split = told(dataclasses.replace(config, micro_batch_size=2))
  assert split == pytest.approx(whole, rel=1e-4, abs=1e-6) and abs(whole["loss/policy"]) > 1e-3


@pytest.mark.parametrize("discount, expected", [(0.0, [0.5, -1.0]), (1.0, [-0.5, -1.0])])
def test_each_token_is_paid_what_the_teacher_says_of_it(discount, expected):
  """log π -1 and -1 by the policy, -.5 and -2 by the teacher; the rewards have no weight."""
  rows = lambda pair: jnp.broadcast_to(jnp.array([*pair, 0.0]), of.MASK.shape)
  config = presets.on_policy_distillation(discount=discount, **SIZES)
  algorithm = policy_gradient(config, of.MODEL, optax.identity(), temperature=1.0, group_size=2)
  batch, _ = algorithm.make_batch(
      (of.ROLLOUT, {"old_log_probs": rows([-1, -1]), "ref_log_probs": rows([-0.5, -2])},
       OUTCOME.replace(scores=jnp.zeros(4))), {"kl": jnp.float32(1)})
  np.testing.assert_allclose(batch.advantages[1, :2], expected, atol=1e-6)


def test_the_expected_gradient_of_distillation_is_that_of_the_reverse_kl():
  """Over all words that the policy may sample next."""
  logits, teacher = (jnp.asarray(of.table(seed)["table"][0]) for seed in (0, 1))
  log_probs, of_teacher = jax.nn.log_softmax(logits), jax.nn.log_softmax(teacher)
  exact = jax.grad(lambda x: jnp.sum(
      jax.nn.softmax(x) * (jax.nn.log_softmax(x) - of_teacher)))(logits)
  found = jax.grad(lambda x: jnp.sum(jnp.exp(log_probs) * losses.clipped_surrogate(
      jax.nn.log_softmax(x), log_probs, of_teacher - log_probs)))(logits)
  np.testing.assert_allclose(found, exact, atol=1e-6)
  assert np.abs(exact).max() > 0.05


def test_a_reference_may_be_a_model_of_another_shape():
  """A teacher of twice the width is asked with its own configuration."""
  wide = tiny.replace(tiny.MODEL, width=32, num_heads=4, num_kv_heads=4)
  params, teacher = tiny.random_params(), tiny.random_params(wide, seed=1)
  rollout = tiny.sample_rollout(params)
  config = presets.on_policy_distillation(minibatch_size=8, share_prompts=False)
  found = [tiny.fast_jit(functools.partial(scoring.score, spec, plan=None))(models, rollout)
           for spec, models in (
               (scoring.Spec(config, tiny.MODEL, tiny.MODEL, 1.0, 1, wide),
                {"params": {"policy": params}, "reference": teacher}),
               (scoring.Spec(config, wide, wide, 1.0, 1),
                {"params": {"policy": teacher}, "reference": teacher}))]
  kept = rollout.token_mask
  np.testing.assert_allclose(*(x["ref_log_probs"][kept] for x in found), rtol=1e-5)
  assert np.abs(found[0]["ref_log_probs"] - rollout.log_probs)[kept].max() > 0.1


def test_the_kl_in_the_loss_is_weighted():
  """π / π_old is not 1: the sampler said -1.5 nats of each token, the reference another table."""
  config = presets.grpo(aggregation="token-mean", kl_coef=0.5, **SIZES)
  batch, plain = told(config)
  _, weighted = told(dataclasses.replace(config, unbiased_kl=True))
  now, before = log_probs(0), np.where(of.MASK, -1.5, 0)
  x = np.where(of.MASK, now - batch.ref_log_probs, 0)
  k3 = np.exp(-x) - 1 + x
  assert plain["loss/kl"] == pytest.approx(k3.sum() / 9, rel=1e-4)
  assert weighted["loss/kl"] == pytest.approx((np.exp(now - before) * k3).sum() / 9, rel=1e-4)
  assert weighted["loss/kl"] != pytest.approx(plain["loss/kl"], rel=1e-2)


def log_probs(seed):
  table = np.asarray(of.table(seed)["table"], np.float64)
  table = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
  tokens = np.concatenate([of.ROLLOUT.prompt_tokens[:, -1:], of.ROLLOUT.completion_tokens], axis=1)
  return np.where(of.MASK, table[tokens[:, :-1], tokens[:, 1:]], 0)


@pytest.mark.parametrize("changes, message", [
    (dict(kl_placement="reward", kl_estimator="k1"), "got True with kl_placement='reward'"),
    (dict(kl_estimator="k2"), "allowed: k3 in the loss"),
])
def test_a_kl_that_weights_would_not_make_unbiased_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    presets.grpo(unbiased_kl=True, **changes)


@pytest.mark.parametrize("changes, message", [
    (dict(truncated_score=0.5), "truncated_score: got 0.5 with advantage=gdpo"),
    (dict(kl_coef=0.1, kl_placement="score"), "kl_placement: got 'score' with advantage=gdpo"),
])
def test_what_moves_scores_is_refused_where_their_parts_are_read(changes, message):
  with pytest.raises(ValueError, match=message):
    presets.gdpo(**changes)


def test_bad_rows_the_policy_has_left_behind_teach_nothing():
  """The mean drift of each row from the sampler's -1.5 nats, against a threshold between them."""
  drift = np.where(of.MASK, -1.5 - log_probs(0), 0).sum(axis=1) / of.MASK.sum(axis=1)
  threshold = float(np.sort(drift)[1:3].mean())
  config = presets.grpo(
      kl_coef=0.0, recompute_log_probs=True, aggregation="token-mean",
      correction=Slot(losses.off_policy_mask, {"threshold": threshold}), **SIZES)
  batch, metrics = told(config)
  is_kept = (batch.advantages[:, 0] >= 0) | (drift <= threshold)
  assert 0 < is_kept.sum() < 4
  kept = of.MASK & is_kept[:, None]
  assert metrics["policy/correction"] == pytest.approx(kept.sum() / 9)
  assert metrics["loss/policy"] == pytest.approx(-batch.advantages[kept].sum() / 9, abs=1e-6)


def test_tokens_of_low_entropy_have_no_gradient_and_count_in_the_mean():
  config = dataclasses.replace(presets.top_entropy(fraction=0.5, **SIZES), mask_truncated=False)
  batch, metrics = told(config)
  table = np.asarray(of.table(0)["table"], np.float64)
  probabilities = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
  before = np.concatenate([of.ROLLOUT.prompt_tokens[:, -1:], of.ROLLOUT.completion_tokens], axis=1)
  entropies = -(probabilities * np.log(probabilities)).sum(axis=1)[before[:, :-1]]
  np.testing.assert_allclose(
      np.where(of.MASK, batch.old_entropies, 0), np.where(of.MASK, entropies, 0), rtol=1e-4)
  is_high = of.MASK & (entropies >= np.median(entropies[of.MASK]) - 1e-6)
  assert 4 <= is_high.sum() < 9
  ratios = np.exp(log_probs(0) + 1.5)
  per_token = np.maximum(
      -batch.advantages * ratios, -batch.advantages * np.clip(ratios, 0.8, 1.28))
  assert metrics["loss/policy"] == pytest.approx(per_token[is_high].sum() / 9, rel=1e-4)
