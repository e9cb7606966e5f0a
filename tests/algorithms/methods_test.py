"""The named methods: each through whole steps, and hand-worked numbers of what is its own.

The optimiser is plain gradient descent, so that equal parameters after a step mean equal gradients.
"""

import functools
import importlib
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses, models
from rlreason.algorithms import init_rl_params, presets
from rlreason.slots import Slot
from rlreason.types import Outcome, RolloutBatch
from tests.algorithms import drift_methods_test, tiny
from tests.algorithms.policy_gradient_test import assert_close, assert_equal, differs, value

ROWS, GROUP = tiny.NUM_ROWS, 4
SIZES = dict(minibatch_size=ROWS, micro_batch_size=2)
# Of a share of tokens that is large enough to select some of these few.
SELECT = {"kl": Slot(losses.select_kl_cov, {"fraction": 0.2}),
          "clip": Slot(losses.select_clip_cov, {"fraction": 0.2, "low": -9.0, "high": 9.0})}
PRESETS = {
    "ppo": presets.ppo(**SIZES),
    "ppo_rlhf": presets.ppo_rlhf(**SIZES),
    "grpo": presets.grpo(**SIZES),
    "grpo_of": presets.grpo_of("verl", **SIZES),
    "r1_zero": presets.r1_zero(**SIZES),
    "dr_grpo": presets.dr_grpo(max_length=10, **SIZES),
    "dapo": presets.dapo(**SIZES),
    "gspo": presets.gspo(**SIZES),
    "cispo": presets.cispo(**SIZES),
    "vapo": presets.vapo(critic_warmup_steps=0, **SIZES),
    "rloo": presets.rloo(**SIZES),
    "reinforce_plus_plus": presets.reinforce_plus_plus(**SIZES),
    "reinforce_plus_plus_baseline": presets.reinforce_plus_plus_baseline(**SIZES),
    "remax": presets.remax(**SIZES),
    "opo": presets.opo(**SIZES),
    "pass_at_k": presets.pass_at_k(k=2, **SIZES),
    "clip_cov": presets.clip_cov(selection=SELECT["clip"], **SIZES),
    "kl_cov": presets.kl_cov(selection=SELECT["kl"], **SIZES),
    "t1": presets.t1(**SIZES),
    "dash": presets.dash(kl_coef=0.0, **SIZES),
    "one_example": presets.one_example(**SIZES),
    "satori": presets.satori(**SIZES),
    "latro": presets.latro(**SIZES),
}
# Others are made of the same parts, or take their steps in `drift_methods_test`.
STEPPED = [name for name in PRESETS if name not in ("ppo_rlhf", "r1_zero", "satori", "latro")]
every_preset = pytest.mark.parametrize("name", STEPPED)
SCORES = np.float32([1, 0, 0, 0, 0, 1, 1, 0])
UNIFORM = np.float32([1, 1, 1, 1, 0, 0, 0, 0])
SCORED = np.ones(ROWS, bool)
GREEDY = np.repeat(np.float32([1.0, 0.25]), GROUP)


def make_outcome(scores=SCORES, is_scored=SCORED):
  return Outcome(np.float32(scores), is_scored, is_right=scores > 0.5, greedy_scores=GREEDY)


@functools.cache
def policy():
  return tiny.random_params()


@functools.cache
def rollout():
  """Rows of several lengths, some of them truncated, with values."""
  found = tiny.sample_rollout(policy(), seed=20)
  assert 0 < found.truncated.sum() < ROWS
  return found


def compiled(config):
  return tiny.compiled_ppo(config, group_size=GROUP)


class Step(NamedTuple):
  """A whole step on `rollout()`."""

  start: Any
  scores: Any
  batch: RolloutBatch
  batch_metrics: Any
  state: Any
  metrics: Any


@functools.cache
def take_step(name):
  algorithm = compiled(PRESETS[name])
  start = algorithm.init(policy())
  reference = policy() if start.reference is None else start.reference
  scores = algorithm.score({"params": start.params, "reference": reference}, rollout(), None)
  batch, batch_metrics = algorithm.make_batch((rollout(), scores, make_outcome()), start.coefs)
  return Step(start, scores, jax.device_get(batch), batch_metrics,
              *algorithm.update_step(start, batch, jax.random.key(0)))


def rebatch(name, outcome):
  step = take_step(name)
  algorithm = compiled(PRESETS[name])
  return algorithm.make_batch((rollout(), step.scores, outcome), step.start.coefs)


def update(config, batch, state=None):
  algorithm = compiled(config)
  state = algorithm.init(policy()) if state is None else state
  return algorithm.update_step(state, batch, jax.random.key(0))


def noisy(batch):
  """As in the middle of an update: ratios are not 1."""
  random = np.random.default_rng(3)
  shake = lambda x: None if x is None else np.where(
      batch.loss_mask, x + 0.3 * random.normal(size=x.shape), 0).astype(np.float32)
  return batch.replace(
      old_log_probs=shake(batch.old_log_probs), ref_log_probs=shake(batch.ref_log_probs),
      old_values=shake(batch.old_values))


def is_finite(tree):
  return all(np.all(np.isfinite(x)) for x in jax.tree.leaves(tree))


def test_grpo_as_released_codes_have_it():
  """What docs/formulas.md says gives each code's numbers."""
  verl, trl, openrlhf = map(presets.grpo_of, ("verl", "TRL", "OpenRLHF"))
  assert [config.advantage.options["epsilon"] for config in (verl, trl, openrlhf)] == [
      1e-6, 1e-4, 1e-9]
  assert {config.aggregation for config in (verl, trl, openrlhf)} == {"token-mean"}
  assert verl.policy_loss.options == {"dual_clip": 3.0} and verl.kl_clamps == {
      "clamp_ratio": 20.0, "clamp": 10.0}
  assert trl.kl_coef == 0.0 and openrlhf.policy_loss.options == {"max_log_ratio": 20.0}
  with pytest.raises(ValueError, match="code: got 'trl', allowed: verl, TRL, OpenRLHF"):
    presets.grpo_of("trl")


# What every method has in common.


def test_every_preset_is_here():
  assert set(PRESETS) | set(drift_methods_test.PRESETS) == {
      name for name, x in vars(presets).items() if inspect.isfunction(x) and name[0] != "_"}


@every_preset
def test_the_first_ratio_is_one_and_the_policy_learns(name):
  _, _, _, batch_metrics, state, metrics = take_step(name)
  assert value(metrics, "policy/ratio_error") < 1e-5
  assert differs(state.params["policy"], policy())
  assert is_finite((state, batch_metrics, metrics)) and int(state.skipped) == 0
  # On-policy no token is clipped, but for those that Clip-Cov holds back.
  clipped = sum(value(metrics, f"policy/clip_fraction_{side}") for side in ("low", "high"))
  assert 0 < clipped <= 0.25 if name == "clip_cov" else clipped == 0.0


@every_preset
def test_nothing_is_made_that_the_method_does_not_need(name):
  config, (start, scores, batch, *_) = PRESETS[name], take_step(name)
  wanted = {"old_log_probs"}
  wanted |= {"ref_log_probs"} if config.kl_coef else set()
  wanted |= {"values"} if config.critic != "none" else set()
  assert set(scores) == wanted
  heads = {"none": set(), "shared": {"value_head"}, "separate": {"critic"}}[config.critic]
  assert set(init_rl_params(config, tiny.MODEL, policy())) == {"policy"} | heads
  assert (batch.ref_log_probs is not None) == (config.kl_coef > 0)
  assert (batch.old_values is not None) == (batch.returns is not None) == bool(heads)
  assert (batch.nll_mask is not None) == (name == "vapo")
  assert (batch.counted_mask is not None) == (name == "dash")
  assert batch.sampler_log_probs is None and batch.is_selected is None
  assert (start.reference is not None) == (name == "t1")


@every_preset
def test_a_batch_that_could_not_be_scored_teaches_nothing(name):
  batch, metrics = rebatch(name, make_outcome(np.full(ROWS, np.nan), ~SCORED))
  assert not np.any(batch.loss_mask) and is_finite((batch, metrics))
  state, metrics = update(PRESETS[name], batch, take_step(name).start)
  assert_equal(state.params, take_step(name).start.params)
  assert is_finite((state, metrics)) and int(state.skipped) == 0


@every_preset
def test_a_row_that_could_not_be_scored_takes_part_in_nothing(name):
  is_scored = np.arange(ROWS) != 2
  batches = [rebatch(name, make_outcome(np.where(is_scored, SCORES, other), is_scored))[0]
             for other in (np.nan, 100.0)]
  assert_equal(*batches)
  assert not np.any(batches[0].loss_mask[2]) and not np.any(batches[0].advantages[2])
  assert is_finite(update(PRESETS[name], batches[0], take_step(name).start))


WITHOUT_OTHER_TERMS = ["dr_grpo", "dapo", "gspo", "cispo", "opo", "pass_at_k", "clip_cov", "kl_cov",
                       "dash"]


@pytest.mark.parametrize("name", WITHOUT_OTHER_TERMS)
def test_groups_of_one_score_have_a_gradient_of_exactly_zero(name):
  batch, _ = rebatch(name, make_outcome(UNIFORM))
  assert not np.any(batch.advantages)
  state, metrics = update(PRESETS[name], batch)
  assert value(metrics, "optim/grad_norm") == 0.0
  assert_equal(state.params["policy"], policy())


@pytest.mark.parametrize("name", ["grpo", "one_example"])
def test_groups_of_one_score_leave_the_other_terms(name):
  batch, _ = rebatch(name, make_outcome(UNIFORM))
  state, metrics = update(PRESETS[name], noisy(batch))
  assert value(metrics, "loss/policy") == 0.0 and value(metrics, "loss/kl") > 0.0
  assert differs(state.params["policy"], policy())


# One of each way to average, and whatever looks beyond its own row.
SPLIT = {name: PRESETS[name] for name in ("gspo", "vapo", "kl_cov")} | {
    "dr_grpo_dropping": presets.dr_grpo(max_length=10, advantage_threshold=0.6, **SIZES),
    "token_sum_dropping": presets.dapo(
        aggregation="token-sum", advantage_threshold=0.9,
        advantage_threshold_normalizer="kept", **SIZES)}


@pytest.mark.parametrize("name", SPLIT)
def test_micro_batches_are_one_batch(name):
  config = SPLIT[name]
  source = {"dr_grpo_dropping": "dr_grpo", "token_sum_dropping": "dapo"}.get(name, name)
  if config.advantage_threshold is None:
    batch = noisy(take_step(name).batch)
  else:
    batch = noisy(compiled(config).make_batch(
        (rollout(), take_step(source).scores, make_outcome()), {"kl": np.float32(0.0)})[0])
    assert 0 < np.any(batch.loss_mask, axis=1).sum() < ROWS
  split, split_metrics = update(config, batch)
  whole, metrics = update(tiny.replace(config, micro_batch_size=0), batch)
  assert_close(split.params, whole.params)
  assert differs(split.params["policy"], policy())
  for metric in metrics:
    assert value(split_metrics, metric) == pytest.approx(value(metrics, metric), abs=1e-5), metric


@pytest.mark.parametrize("name", ["clip_cov", "vapo"])
def test_wider_padding_changes_nothing(name):
  batch = noisy(take_step(name).batch)
  fill = np.random.default_rng(0).integers(0, tiny.MODEL.vocab_size, (ROWS, 3), dtype=np.int32)
  wide = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 3))), batch)
  wide = wide.replace(
      prompt_tokens=np.concatenate([fill[:, :2], batch.prompt_tokens], axis=1),
      prompt_mask=np.pad(batch.prompt_mask, ((0, 0), (2, 0))),
      completion_tokens=np.concatenate([batch.completion_tokens, fill], axis=1))
  narrow_state, narrow_metrics = update(PRESETS[name], batch)
  wide_state, wide_metrics = update(PRESETS[name], wide)
  assert_close(narrow_state.params, wide_state.params)
  for metric in narrow_metrics:
    assert value(narrow_metrics, metric) == pytest.approx(
        value(wide_metrics, metric), abs=1e-5), metric


@every_preset
def test_masked_positions_are_not_read(name):
  batch, start = noisy(take_step(name).batch), take_step(name).start
  spoil = lambda x: np.where(batch.loss_mask, x, np.nan).astype(np.float32)
  names = ("old_log_probs", "ref_log_probs", "old_values", "advantages", "returns")
  dirty = batch.replace(**{
      field: spoil(x) for field in names if (x := getattr(batch, field)) is not None})
  assert_equal(update(PRESETS[name], batch, start), update(PRESETS[name], dirty, start))


# Losses, worked by hand.


LENGTHS = np.array([1, 6, 2, 4, 3, 1, 5, 2])
MASK = np.arange(tiny.COMPLETION) < LENGTHS[:, None]


def on_tokens(of_rows):
  return np.where(MASK, np.reshape(of_rows, (ROWS, 1)), 0.0)


def on_policy_batch(config, advantages, **fields):
  """Rows of `MASK` whose old log-probs are those of the policy."""
  batch = RolloutBatch(
      prompt_tokens=rollout().prompt_tokens, prompt_mask=rollout().prompt_mask,
      completion_tokens=rollout().completion_tokens, loss_mask=MASK & rollout().token_mask,
      old_log_probs=rollout().log_probs, advantages=np.float32(advantages))
  if config.kl_coef:
    batch = batch.replace(ref_log_probs=rollout().log_probs)
  return batch.replace(**fields)


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo"])
def test_aggregations_hand_worked(name):
  """A loss of 1 on each token of one row and 0 on those of the other seven."""
  config, advantages = PRESETS[name], np.zeros(MASK.shape)
  advantages[3] = -1.0
  batch = on_policy_batch(config, advantages)
  lengths = batch.loss_mask.sum(axis=1)
  expected = {"grpo": 1 / 8, "dapo": lengths[3] / lengths.sum(), "dr_grpo": lengths[3] / 80}
  _, metrics = update(config, batch)
  assert value(metrics, "loss/policy") == pytest.approx(expected[name], rel=1e-5)


NO_KL = presets.grpo(kl_coef=0.0, **SIZES)


def test_on_policy_gspo_is_grpo():
  batch = take_step("gspo").batch
  assert_close(update(PRESETS["gspo"], batch)[0].params, update(NO_KL, batch)[0].params, 1e-6)
  assert differs(update(PRESETS["gspo"], noisy(batch))[0].params,
                 update(NO_KL, noisy(batch))[0].params)


def test_the_likelihood_of_right_rows_alone_is_raised():
  batch, metrics = take_step("vapo").batch, take_step("vapo").metrics
  right = rollout().token_mask & (SCORES == 1)[:, None]
  np.testing.assert_array_equal(batch.nll_mask, right)
  nll = -rollout().log_probs[right].sum() / right.sum()
  assert value(metrics, "loss/nll") == pytest.approx(nll, rel=1e-4)
  parts = [value(metrics, f"loss/{name}") for name in ("policy", "value", "nll")]
  assert value(metrics, "loss/total") == pytest.approx(
      parts[0] + 0.1 * parts[1] + 0.1 * nll, rel=1e-4)
  nobody = make_outcome().replace(is_right=~SCORED)
  _, metrics = update(PRESETS["vapo"], rebatch("vapo", nobody)[0], take_step("vapo").start)
  assert value(metrics, "loss/nll") == 0.0


def test_a_correction_weighs_the_policys_loss_alone():
  """Tokens of even columns were 4 times likelier to the trainer: capped at 2."""
  config = presets.grpo(
      correction=Slot(losses.truncated_importance, {"cap": 2.0}), **SIZES)
  columns = np.broadcast_to(np.arange(tiny.COMPLETION) % 2 == 0, MASK.shape)
  kept = rollout().token_mask
  old = np.where(kept, rollout().log_probs, 0.0)
  moved = rollout().replace(log_probs=np.float32(old - np.where(columns, np.log(4), 0)))
  scores = {"old_log_probs": old, "ref_log_probs": np.float32(old - 0.5)}
  batch, _ = compiled(config).make_batch((moved, scores, make_outcome()), {"kl": np.float32(0.04)})
  _, metrics = update(config, batch)
  weights = np.where(kept, np.where(columns, 2.0, 1.0), 0.0)
  of_rows = (weights * -np.asarray(batch.advantages)).sum(axis=1) / kept.sum(axis=1)
  assert value(metrics, "loss/policy") == pytest.approx(of_rows.mean(), abs=1e-5)
  k3 = np.exp(-0.5) - 1 + 0.5
  assert value(metrics, "loss/kl") == pytest.approx(k3, rel=1e-4)
  assert value(metrics, "loss/total") == pytest.approx(of_rows.mean() + 0.04 * k3, abs=1e-5)
  assert value(metrics, "policy/correction") == pytest.approx(weights[kept].mean(), rel=1e-5)


def test_clip_fractions_hand_worked():
  """Ratios 1.25, 1.3, 0.75, 4 by column, bounds .8 and 1.28, and 3 where advantages are negative.

  A token is clipped at 1.3 and 4 where A > 0, and where A < 0 at 0.75 and, doubly, at 4.
  """
  config = tiny.replace(NO_KL, policy_loss=Slot(
      losses.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}))
  ratios = np.broadcast_to(np.float32([1.25, 1.3, 0.75, 4.0, 1.25, 1.3]), MASK.shape)
  signs = np.where(np.arange(ROWS) % 2, -1.0, 1.0)[:, None]
  batch = on_policy_batch(config, on_tokens(signs))
  kept = batch.loss_mask
  batch = batch.replace(old_log_probs=rollout().log_probs - np.log(ratios))
  _, metrics = update(config, batch)
  low = (signs < 0) & (ratios == 0.75)
  high = ((signs > 0) & (ratios > 1.28)) | ((signs < 0) & (ratios == 4.0))
  assert low[kept].any() and (high & (signs < 0))[kept].any()
  assert value(metrics, "policy/clip_fraction_low") == pytest.approx(low[kept].mean())
  assert value(metrics, "policy/clip_fraction_high") == pytest.approx(high[kept].mean())


def test_gspo_clips_whole_rows():
  """Row ratios 1.0005, 0.9995, 1.0003, 0.9998 in turn, bounds 0.9997 and 1.0004."""
  ratios = np.resize([1.0005, 0.9995, 1.0003, 0.9998], (ROWS, 1))
  signs = np.float32([1, -1, 1, -1, -1, 1, 1, -1])[:, None]
  batch = on_policy_batch(PRESETS["gspo"], on_tokens(signs))
  kept = batch.loss_mask
  old = np.float32(rollout().log_probs - np.log(ratios))
  _, metrics = update(PRESETS["gspo"], batch.replace(old_log_probs=old))
  rows_low, rows_high = np.arange(ROWS) == 1, np.arange(ROWS) == 0
  share = lambda rows: (kept & rows[:, None]).sum() / kept.sum()
  assert value(metrics, "policy/clip_fraction_low") == pytest.approx(share(rows_low))
  assert value(metrics, "policy/clip_fraction_high") == pytest.approx(share(rows_high))


# DASH: rows that would teach nothing do not enter the network.


HALF = np.float32([1, 0, 0, 0, 1, 1, 1, 1])  # the second group has no advantage


def moved(state):
  return jax.tree.map(lambda new, old: np.asarray(new) - old, state.params["policy"], policy())


def test_filtered_rows_do_not_change_the_gradient():
  kept_mean = tiny.replace(PRESETS["dash"], advantage_threshold_normalizer="kept")
  batches = {
      config: compiled(config).make_batch(
          (rollout(), take_step("dash").scores, make_outcome(HALF)), {"kl": np.float32(0.0)})[0]
      for config in (NO_KL, PRESETS["dash"], kept_mean)}
  assert not np.any(batches[PRESETS["dash"]].loss_mask[GROUP:])
  everything, filtered, kept = (
      moved(update(config, batch)[0]) for config, batch in batches.items())
  assert_close(filtered, everything, 1e-6)
  # The mean over 4 rows instead of 8.
  assert_close(kept, jax.tree.map(lambda x: 2 * x, everything), 1e-6)
  assert max(np.abs(x).max() for x in jax.tree.leaves(everything)) > 1e-3


def test_filtered_rows_lose_their_kl():
  """So that the filter leaves the gradient as it is without a KL in the loss alone."""
  everything, filtered = (
      moved(update(config, noisy(compiled(config).make_batch(
          (rollout(), take_step("grpo").scores, make_outcome(HALF)), {"kl": 0.0})[0]))[0])
      for config in (PRESETS["grpo"], presets.dash(**SIZES)))
  assert differs(everything, filtered)


def test_micro_batches_without_a_kept_row_are_not_computed(monkeypatch):
  scoring = importlib.import_module("rlreason.algorithms.policy_gradient.scoring")
  passes, features = [], scoring.completion_features

  def counted(*args):
    jax.debug.callback(lambda: passes.append(1))
    return features(*args)

  monkeypatch.setattr(scoring, "completion_features", counted)
  algorithm = tiny.Compiled(PRESETS["dash"], 1.0, optax.sgd(0.1), GROUP)
  state = algorithm.init(policy())
  for scores, expected in ((SCORES, 4), (HALF, 2), (UNIFORM, 0)):
    batch, _ = rebatch("dash", make_outcome(scores))
    jax.block_until_ready(algorithm.update_step(state, batch, jax.random.key(0)))
    jax.effects_barrier()
    assert len(passes) == expected
    passes.clear()


# On a bandit, where gradients have a closed form.


def test_reinforce_on_a_bandit_follows_the_expected_reward():
  """Each action once, weighted with its probability: the gradient of Σ π(a) r(a), to the digit."""
  actions = tiny.MODEL.vocab_size
  prompt, mask = np.full((actions, 1), 2, np.int32), np.ones((actions, 1), bool)
  rewards = np.linspace(-1.0, 1.0, actions).astype(np.float32)
  log_probs_of = lambda params: jax.nn.log_softmax(models.logits(
      tiny.MODEL, params, models.forward(tiny.MODEL, params, prompt[:1], mask[:1]))[0, 0])
  expected = jax.jit(jax.grad(
      lambda params: jnp.sum(jnp.exp(log_probs_of(params)) * rewards)))(policy())
  log_probs = np.asarray(jax.jit(log_probs_of)(policy()))
  config = presets.opo(minibatch_size=actions, aggregation="token-sum")
  batch = RolloutBatch(
      prompt_tokens=prompt, prompt_mask=mask, loss_mask=mask,
      completion_tokens=np.arange(actions, dtype=np.int32)[:, None],
      old_log_probs=log_probs[:, None], advantages=(np.exp(log_probs) * rewards)[:, None])
  algorithm = tiny.Compiled(config, 1.0, optax.sgd(1.0))
  state, _ = algorithm.update_step(algorithm.init(policy()), batch, jax.random.key(0))
  assert_close(moved(state), expected, 1e-6)


def test_the_gradient_of_rloo_is_unbiased_and_its_variance_falls_with_the_group():
  """Of logits it is the mean over the group of A (e_a - π); its expectation is π (r - mean)."""
  random = np.random.default_rng(0)
  policy_of = np.array([0.5, 0.3, 0.2])
  rewards = np.array([1.0, 0.0, 2.0], np.float32)
  expected = policy_of * (rewards - policy_of @ rewards)
  variances = []
  for size in (2, 4, 8, 16):
    actions = random.choice(3, size=(20000, size), p=policy_of)
    advantages = losses.leave_one_out(rewards[actions], np.ones(actions.shape, bool))
    gradients = np.einsum("pg,pga->pa", advantages, np.eye(3)[actions] - policy_of) / size
    np.testing.assert_allclose(gradients.mean(axis=0), expected, atol=0.01)
    variances.append(gradients.var(axis=0).sum())
  ratios = np.divide(variances[:-1], variances[1:])
  np.testing.assert_array_less(1.9, ratios)
