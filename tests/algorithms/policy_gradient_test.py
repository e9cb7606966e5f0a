"""PPO: ratios of 1, token rewards, and everything that must not change an update.

The optimiser of most tests is plain gradient descent, so that equal parameters after a step mean
equal gradients.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import PolicyGradientConfig, init_rl_params, policy_gradient
from rlreason.algorithms.base import masters_of, with_masters
from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.types import Outcome, RolloutBatch
from tests.algorithms import tiny

ROWS = tiny.NUM_ROWS
SCORED = np.ones(ROWS, bool)
BASE, FULL = tiny.BASE, tiny.FULL
K3 = tiny.replace(BASE, kl_coef=0.2, kl_placement="loss", kl_estimator="k3", value_coef=0.0,
                  entropy_coef=0.0)
REWARDS = np.linspace(-1.0, 1.0, ROWS).astype(np.float32)
OUTCOME = Outcome(REWARDS, SCORED)


@pytest.fixture(scope="module", name="policy")
def policy_fixture():
  return tiny.random_params()


@pytest.fixture(scope="module", name="rollout")
def rollout_fixture(policy):
  return tiny.sample_rollout(policy)


@pytest.fixture(scope="module", name="batch")
def batch_fixture(rollout):
  return random_batch(rollout)


def random_batch(rollout):
  """A batch of arbitrary numbers, such as in the middle of an update: ratios are not 1."""
  random = np.random.default_rng(3)
  mask = rollout.token_mask
  draw = lambda scale: np.where(mask, scale * random.normal(size=mask.shape), 0).astype(np.float32)
  return RolloutBatch(
      prompt_tokens=rollout.prompt_tokens, prompt_mask=rollout.prompt_mask,
      completion_tokens=rollout.completion_tokens, loss_mask=mask,
      old_log_probs=rollout.log_probs + draw(0.2), old_values=draw(1.0),
      ref_log_probs=rollout.log_probs + draw(0.3), advantages=draw(1.0), returns=draw(1.0))


def update(compiled, policy, batch, state=None, key=0):
  state = compiled.init(policy) if state is None else state
  return compiled.update_step(state, batch, jax.random.key(key))


def value(metrics, name):
  numerator, denominator = metrics[name]
  return float(jnp.sum(numerator) / jnp.sum(denominator))


def assert_close(left, right, tolerance=1e-5):
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), left, right)


assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)


def differs(left, right):
  return any(np.any(np.asarray(x) != np.asarray(y))
             for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


# What the sampler says is what the trainer computes.


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_log_probs_and_values_of_the_sampler_are_the_trainers(policy, temperature):
  compiled = tiny.compiled_ppo(tiny.replace(BASE, recompute_log_probs=True), temperature)
  params = compiled.init(policy).params
  rollout = tiny.sample_rollout(policy, temperature)
  scores = compiled.score(
      {"params": params, "reference": None}, rollout.replace(values=None), None)
  mask = rollout.token_mask
  assert_close(scores["old_log_probs"][mask], rollout.log_probs[mask])
  assert_close(scores["values"][mask], rollout.values[mask])
  assert "ref_log_probs" not in scores  # without a KL nobody pays for a reference


@pytest.mark.parametrize("critic, temperature", [
    ("shared", 0.6), ("shared", 1.7), ("separate", 0.6), ("separate", 1.0)])
def test_ratio_is_one_on_the_first_minibatch(policy, critic, temperature):
  compiled = tiny.compiled_ppo(tiny.replace(FULL, critic=critic), temperature)
  state = compiled.init(policy)
  rollout = tiny.sample_rollout(policy, temperature)
  scores = compiled.score({"params": state.params, "reference": policy}, rollout, None)
  batch, metrics = compiled.make_batch((rollout, scores, OUTCOME), state.coefs)
  assert abs(value(metrics, "policy/kl")) < 1e-5  # the reference is the policy
  state, metrics = update(compiled, policy, batch, state)
  assert value(metrics, "policy/ratio_error") < 1e-5
  assert value(metrics, "policy/kl_from_old") > 1e-5  # over all minibatches it has moved
  assert int(state.step) == 1


def test_how_far_the_sampler_is_from_the_trainer(policy, rollout):
  """As with int8 weights: twice as likely to the sampler in even columns, half in odd ones."""
  compiled = tiny.compiled_ppo(tiny.replace(BASE, recompute_log_probs=True))
  state, mask = compiled.init(policy), rollout.token_mask
  columns = np.where(np.arange(mask.shape[1]) % 2, -1.0, 1.0)[None]
  moved = rollout.replace(
      log_probs=np.float32(rollout.log_probs + np.log(2) * np.where(mask, columns, 0)))
  scores = compiled.score({"params": state.params, "reference": None}, moved, None)
  _, metrics = compiled.make_batch((moved, scores, OUTCOME), state.coefs)
  assert value(metrics, "policy/sampler_error") == pytest.approx(np.log(2), rel=1e-4)
  mean = np.where(mask, columns, 0).sum() / mask.sum()
  assert value(metrics, "policy/sampler_kl") == pytest.approx(np.log(2) * mean, abs=1e-4)
  _, metrics = tiny.compiled_ppo(BASE).make_batch((moved, scores, OUTCOME), state.coefs)
  assert "policy/sampler_kl" not in metrics  # nothing to compare with


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("size", [1, ROWS // 2])
def test_a_few_rows_at_a_time_have_the_scores_of_all(policy, rollout, critic, size):
  settings = dict(critic=critic, recompute_log_probs=True)
  whole = tiny.compiled_ppo(tiny.replace(FULL, **settings, minibatch_size=ROWS, micro_batch_size=0))
  parts = tiny.compiled_ppo(tiny.replace(FULL, **settings, minibatch_size=size, micro_batch_size=0))
  models = {"params": whole.init(policy).params, "reference": tiny.random_params()}
  rollout = rollout.replace(values=None)
  assert_close(parts.score(models, rollout, None), whole.score(models, rollout, None))


def test_ratio_is_not_one_at_another_temperature(policy):
  """The check above can fail: the sampler's 1.0 against the trainer's 1.7."""
  compiled = tiny.compiled_ppo(FULL, 1.7)
  rollout = tiny.sample_rollout(policy, 1.0)
  _, metrics = update(compiled, policy, random_batch(rollout).replace(
      old_log_probs=rollout.log_probs))
  assert value(metrics, "policy/ratio_error") > 0.01


# Token rewards.


def token_rewards(config, rollout, scores, rewards, is_scored=SCORED, kl_coef=None):
  """Recovered from the returns, which without discount and bootstrapping are sums to the end."""
  config = tiny.replace(config, gae_lambda=1.0, whiten_advantages=False)
  batch, _ = tiny.compiled_ppo(config).make_batch(
      (rollout, scores, Outcome(np.float32(rewards), is_scored)),
      {"kl": np.float32(config.kl_coef if kl_coef is None else kl_coef)})
  following = np.pad(np.asarray(batch.returns)[:, 1:], ((0, 0), (0, 1)))
  return np.where(rollout.token_mask, batch.returns - following, 0.0)


def make_scores(rollout, batch):
  return {"old_log_probs": batch.old_log_probs, "ref_log_probs": batch.ref_log_probs,
          "values": np.zeros_like(rollout.log_probs)}


def test_token_rewards_are_the_clipped_reward_minus_the_kl(rollout, batch):
  reward = combine_rewards(
      [RewardSpec(name="mine", function=lambda prompts, completions, **columns: completions)],
      verifier="math", clip_range=(-10.0, 10.0))
  raw = [25.0, -25.0, 3.0, 0.0, 1.0, 0.5, 10.0, -9.0]
  clipped = np.float32(reward([""] * ROWS, raw).total)
  np.testing.assert_array_equal(clipped, [10.0, -10.0, 3.0, 0.0, 1.0, 0.5, 10.0, -9.0])
  beta = 0.05
  config = tiny.replace(BASE, kl_coef=beta)
  got = token_rewards(config, rollout, make_scores(rollout, batch), clipped)
  kl = batch.old_log_probs - batch.ref_log_probs
  np.testing.assert_allclose(got.sum(axis=1), clipped - beta * kl.sum(axis=1), atol=1e-5)
  # Under right padding only the last valid token carries r; the KL is on every token.
  last = rollout.token_mask.sum(axis=1) - 1
  expected = -beta * kl
  expected[np.arange(ROWS), last] += clipped
  np.testing.assert_allclose(got, np.where(rollout.token_mask, expected, 0), atol=2e-5)
  # The coefficient is the state's, which may have been adapted, not the config's.
  doubled = token_rewards(
      config, rollout, make_scores(rollout, batch), clipped, kl_coef=2 * beta)
  np.testing.assert_allclose(
      doubled.sum(axis=1), clipped - 2 * beta * kl.sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("estimator, of", [
    ("k2", lambda x: x**2 / 2), ("k3", lambda x: np.exp(-x) - 1 + x)])
def test_other_estimates_in_the_reward(rollout, batch, estimator, of):
  config = tiny.replace(BASE, kl_coef=0.05, kl_estimator=estimator, allow_any_kl=True)
  got = token_rewards(config, rollout, make_scores(rollout, batch), REWARDS)
  kl = np.where(rollout.token_mask, of(batch.old_log_probs - batch.ref_log_probs), 0.0)
  np.testing.assert_allclose(got.sum(axis=1), REWARDS - 0.05 * kl.sum(axis=1), atol=1e-5)


def test_kl_in_the_loss_is_not_in_the_rewards(rollout, batch):
  got = token_rewards(K3, rollout, make_scores(rollout, batch), REWARDS)
  np.testing.assert_allclose(got.sum(axis=1), REWARDS, atol=1e-6)
  assert np.count_nonzero(got) == np.count_nonzero(REWARDS)


def test_advantages_are_whitened_over_scored_tokens(rollout, batch):
  is_scored = np.arange(ROWS) != 2
  made, _ = tiny.compiled_ppo(BASE).make_batch(
      (rollout, make_scores(rollout, batch), Outcome(REWARDS, is_scored)), {"kl": np.float32(0.0)})
  kept = np.asarray(made.advantages)[rollout.token_mask & is_scored[:, None]]
  np.testing.assert_allclose([kept.mean(), kept.std()], [0.0, 1.0], atol=1e-4)
  assert not np.any(np.asarray(made.loss_mask)[2])


# What must not change an update.


AGGREGATIONS = {
    "sequence-mean": BASE, "token-mean": tiny.replace(BASE, aggregation="token-mean"),
    "constant": tiny.replace(BASE, aggregation="constant", constant_length=10)}


@pytest.mark.parametrize("config", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_micro_batches_are_one_batch(policy, batch, config):
  whole, metrics = update(tiny.compiled_ppo(config), policy, batch)
  split, split_metrics = update(
      tiny.compiled_ppo(tiny.replace(config, micro_batch_size=2)), policy, batch)
  assert_close(whole.params, split.params)
  assert differs(whole.params["policy"], policy)
  for name in metrics:
    assert value(metrics, name) == pytest.approx(value(split_metrics, name), abs=1e-5), name


@pytest.mark.parametrize("config", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_the_parts_of_a_loss_add_up(policy, batch, config):
  config = tiny.replace(config, entropy_coef=0.0)
  _, metrics = update(tiny.compiled_ppo(config), policy, batch)
  parts = value(metrics, "loss/policy") + config.value_coef * value(metrics, "loss/value")
  assert value(metrics, "loss/total") == pytest.approx(parts, rel=1e-4)


def test_aggregations_differ(policy, batch):
  states = [update(tiny.compiled_ppo(config), policy, batch)[0]
            for config in AGGREGATIONS.values()]
  assert differs(states[0].params, states[1].params)
  assert differs(states[1].params, states[2].params)


def test_wider_padding_changes_nothing(policy, batch):
  compiled = tiny.compiled_ppo(BASE)
  random = np.random.default_rng(0)
  # What fills the padding is arbitrary: the masks come from lengths.
  fill = lambda rows, columns: random.integers(0, tiny.MODEL.vocab_size, (rows, columns))
  right = {name: np.pad(getattr(batch, name), ((0, 0), (0, 3)))
           for name in ("loss_mask", "old_log_probs", "old_values", "ref_log_probs", "advantages",
                        "returns")}
  wide = batch.replace(
      prompt_tokens=np.concatenate([fill(ROWS, 2), batch.prompt_tokens], axis=1, dtype=np.int32),
      prompt_mask=np.pad(batch.prompt_mask, ((0, 0), (2, 0))),
      completion_tokens=np.concatenate(
          [batch.completion_tokens, fill(ROWS, 3)], axis=1, dtype=np.int32), **right)
  narrow_state, narrow_metrics = update(compiled, policy, batch)
  wide_state, wide_metrics = update(compiled, policy, wide)
  assert_close(narrow_state.params, wide_state.params)
  for name in narrow_metrics:
    assert value(narrow_metrics, name) == pytest.approx(value(wide_metrics, name), abs=1e-5), name


def test_masked_positions_are_not_read(policy, batch):
  """Not even NaN, in any field, reaches the loss or a gradient."""
  mask = batch.loss_mask
  names = ("old_log_probs", "old_values", "ref_log_probs", "advantages", "returns")
  dirty = batch.replace(**{
      name: np.where(mask, getattr(batch, name), np.nan).astype(np.float32) for name in names})
  for compiled in (tiny.compiled_ppo(BASE), tiny.compiled_ppo(K3)):
    clean_state, clean_metrics = update(compiled, policy, batch)
    dirty_state, dirty_metrics = update(compiled, policy, dirty)
    assert_equal(clean_state.params, dirty_state.params)
    assert_equal(clean_metrics, dirty_metrics)


def test_nan_scores_at_masked_positions_do_not_reach_the_batch(rollout, batch):
  compiled, mask = tiny.compiled_ppo(tiny.replace(BASE, kl_coef=0.05)), rollout.token_mask
  clean = make_scores(rollout, batch)
  dirty = {name: np.where(mask, x, np.nan).astype(np.float32) for name, x in clean.items()}
  assert_equal(*(compiled.make_batch((rollout, scores, OUTCOME), {"kl": np.float32(0.05)})
                 for scores in (clean, dirty)))


# Rows that could not be scored.


def linear_batch(rollout, batch, rewards, is_scored):
  """Without whitening, the gradient of a row does not depend on the other rows."""
  compiled = tiny.compiled_ppo(tiny.replace(BASE, whiten_advantages=False))
  made, _ = compiled.make_batch(
      (rollout, make_scores(rollout, batch), Outcome(np.float32(rewards), is_scored)),
      {"kl": np.float32(0.0)})
  return made


def test_unscored_rows_get_no_gradient(policy, rollout, batch):
  compiled = tiny.compiled_ppo(BASE)
  start = compiled.init(policy).params

  def gradient(rows, rewards=REWARDS):
    is_scored = np.isin(np.arange(ROWS), rows)
    made = linear_batch(rollout, batch, np.where(is_scored, rewards, np.nan), is_scored)
    state, metrics = update(compiled, policy, made)
    assert np.isfinite(value(metrics, "loss/total"))
    return jax.tree.map(lambda new, old: np.asarray(new) - old, state.params, start)

  first, second, both = gradient([0]), gradient([5]), gradient([0, 5])
  mean = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
  assert_close(both, mean)
  assert max(np.abs(x).max() for x in jax.tree.leaves(first)) > 1e-3
  nothing = gradient([])
  assert not any(np.any(x) for x in jax.tree.leaves(nothing))


# Gradients that are not finite.


def test_a_non_finite_minibatch_is_skipped_and_counted(policy, batch):
  compiled = tiny.compiled_ppo(FULL, 1.7)
  advantages = batch.advantages.copy()
  row = int(np.argmax(batch.loss_mask.sum(axis=1)))
  advantages[row, 0] = np.inf
  start = compiled.init(policy)
  state, metrics = update(compiled, policy, batch.replace(advantages=advantages), start)
  assert int(state.skipped) == 2  # one of the two minibatches of each epoch
  assert differs(state.params["policy"], policy)  # the other one was used
  assert value(metrics, "optim/skipped_updates") == 0.5
  assert value(metrics, "optim/skipped_total") == 2.0
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))
  hopeless = batch.replace(advantages=np.full_like(advantages, np.nan))
  after, metrics = update(compiled, policy, hopeless, state)
  assert_equal(after.params, state.params)
  assert int(after.skipped) == 6 and int(after.skipped_in_a_row) >= 4 and int(after.step) == 2
  assert float(metrics["optim/grad_norm"][1]) == 0.0  # nothing to show, which is not 0


# The parts of the loss.


def test_nothing_to_learn_leaves_the_policy_alone(policy, batch):
  compiled = tiny.compiled_ppo(tiny.replace(BASE, value_coef=0.0, entropy_coef=0.0))
  state, _ = update(compiled, policy, batch.replace(advantages=np.zeros_like(batch.advantages)))
  assert_equal(state.params["policy"], policy)


def test_minibatches_and_epochs_use_each_row_once_an_epoch(policy, batch):
  _, metrics = update(tiny.compiled_ppo(FULL, 1.7), policy, batch)
  tokens = float(batch.loss_mask.sum())
  assert float(metrics["policy/entropy"][1]) == 2 * tokens
  assert float(metrics["optim/grad_norm"][1]) == 4.0  # minibatches
  assert float(metrics["policy/ratio_error"][1]) < tokens  # of the first only


def test_k3_in_the_loss(policy, rollout, batch):
  compiled = tiny.compiled_ppo(K3)
  idle = batch.replace(advantages=np.zeros_like(batch.advantages))
  scorer = tiny.compiled_ppo(tiny.replace(BASE, recompute_log_probs=True))
  log_probs = scorer.score(
      {"params": scorer.init(policy).params, "reference": None}, rollout, None)
  log_probs = np.where(batch.loss_mask, log_probs["old_log_probs"], 0.0)
  state, metrics = update(compiled, policy, idle)
  k3 = np.asarray(losses.kl_estimate(log_probs, np.asarray(batch.ref_log_probs), "k3"))
  lengths = batch.loss_mask.sum(axis=1)
  expected = np.mean(np.where(batch.loss_mask, k3, 0).sum(axis=1) / lengths)
  assert value(metrics, "loss/kl") == pytest.approx(expected, rel=1e-4)
  assert value(metrics, "loss/total") == pytest.approx(0.2 * expected, rel=1e-4)
  assert differs(state.params["policy"], policy)
  # With the reference at the policy there is nothing to pull.
  same, metrics = update(compiled, policy, idle.replace(ref_log_probs=np.float32(log_probs)))
  assert value(metrics, "loss/kl") == pytest.approx(0.0, abs=1e-6)
  assert_close(same.params["policy"], policy, 1e-6)
  # A step along the gradient comes nearer to the reference.
  _, after = update(compiled, policy, idle, state)
  assert value(after, "loss/kl") < expected


def test_adaptive_coefficient_moves(policy, batch):
  compiled = tiny.compiled_ppo(FULL, 1.7)
  start = compiled.init(policy)

  def coefficient(kl_per_row, num_rows=ROWS):
    """After a step in which each kept row has that KL, summed over its tokens."""
    mask = batch.loss_mask & (np.arange(ROWS) < num_rows)[:, None]
    lengths = mask.sum(axis=1, keepdims=True)
    kl = np.where(mask, kl_per_row / np.maximum(lengths, 1), 0.0).astype(np.float32)
    shifted = batch.replace(
        loss_mask=mask, old_log_probs=np.where(mask, batch.old_log_probs, 0.0),
        ref_log_probs=np.where(mask, batch.old_log_probs, 0.0) - kl)
    state, _ = update(compiled, policy, shifted, start)
    return float(state.coefs["kl"]) / 0.15

  step = ROWS / FULL.kl_horizon
  assert coefficient(12.0) == pytest.approx(1 + 0.2 * step, abs=3e-7)
  assert coefficient(0.0) == pytest.approx(1 - 0.2 * step, abs=3e-7)
  assert coefficient(6.6) == pytest.approx(1 + 0.1 * step, abs=1e-6)
  assert coefficient(6.6, num_rows=3) == pytest.approx(1 + 0.1 * step, abs=1e-6)


# The critic's warm-up.


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_warm_up_moves_only_the_critic(policy, batch, critic):
  config = tiny.replace(BASE, critic=critic, critic_warmup_steps=1, entropy_coef=0.1)
  # Momentum and weight decay must not move the policy either.
  compiled = tiny.Compiled(config, 1.0, optax.adamw(0.01, weight_decay=0.1))
  start = compiled.init(policy)
  state, _ = update(compiled, policy, batch, start)
  assert_equal(state.params["policy"], policy)
  critic_of = lambda params: {name: x for name, x in params.items() if name != "policy"}
  assert differs(critic_of(state.params), critic_of(start.params))
  if critic == "separate":
    assert differs(state.params["critic"]["trunk"], policy)  # it learns as a whole
  state, _ = update(compiled, policy, batch, state)
  assert differs(state.params["policy"], policy)


def test_warm_up_does_not_move_the_master_weights_of_the_policy(policy, batch):
  model = dataclasses.replace(tiny.MODEL, param_dtype="bfloat16")
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), policy)
  config = tiny.replace(BASE, critic="separate", critic_warmup_steps=1)
  compiled = tiny.Compiled(
      config, 1.0, with_masters(optax.adamw(1e-4, weight_decay=0.1)), model=model)
  start = compiled.init(rounded)
  state, _ = update(compiled, rounded, batch, start)
  masters = lambda state: masters_of(state.params, state.opt_state.rest)
  assert_equal(masters(state)["policy"], masters(start)["policy"])
  assert differs(masters(state)["critic"], masters(start)["critic"])
  state, _ = update(compiled, rounded, batch, state)
  assert differs(masters(state)["policy"], masters(start)["policy"])


def test_moments_of_bfloat16_parameters_keep_their_type(policy, batch):
  """Two updates in one program, whose state has to keep its types; gradients are f32."""
  model = dataclasses.replace(tiny.MODEL, param_dtype="bfloat16")
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), policy)
  compiled = tiny.Compiled(
      tiny.replace(BASE, minibatch_size=4, critic="separate"), 1.0, optax.adamw(1e-2), model=model)
  start = compiled.init(rounded)
  state, _ = update(compiled, rounded, batch, start)
  types = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
  assert types(state) == types(start) and jnp.bfloat16 in types(start.opt_state)
  assert differs(state.params["policy"], rounded)


def test_a_new_critic_starts_at_zero_and_shares_no_buffer(policy):
  policy = jax.tree.map(jnp.asarray, policy)
  separate = init_rl_params(tiny.replace(BASE, critic="separate"), tiny.MODEL, policy)
  assert_equal(separate["critic"]["trunk"], policy)
  assert not any(jax.tree.leaves(jax.tree.map(
      lambda x, y: x is y, separate["critic"]["trunk"], policy)))
  head = init_rl_params(BASE, tiny.MODEL, policy)["value_head"]
  assert not np.any(head["kernel"]) and not np.any(head["bias"])


# What is refused.


@pytest.mark.parametrize("fields, message", [
    (dict(epochs=0), "epochs: got 0, allowed: 1 or more"),
    (dict(discount=1.5), "discount: got 1.5, allowed: 0 to 1"),
    (dict(gae_lambda=-0.1), "gae_lambda: got -0.1, allowed: 0 to 1"),
    (dict(advantage_threshold=-0.1), "advantage_threshold: got -0.1, allowed: 0 or more"),
    (dict(reference_decay=1.2), "reference_decay: got 1.2, allowed: 0 to 1"),
    (dict(value_clip=-0.2), "value_clip: got -0.2, allowed: 0 or more"),
    (dict(kl_coef=-0.1), "kl_coef: got -0.1, allowed: 0 or more"),
    (dict(kl_target=0.0), "kl_target: got 0.0, allowed: above 0, or None"),
    (dict(kl_target=6.0, kl_coef=0.0), "kl_target: got 6.0 with kl_coef=0, allowed: none"),
    (dict(minibatch_size=6, micro_batch_size=4), "micro_batch_size: got 4, allowed: a divisor of"),
    (dict(kl_estimator="k3"), "kl_estimator: got 'k3' with kl_placement='reward'"),
    (dict(kl_placement="loss"), "kl_estimator: got 'k1' with .* or set allow_any_kl"),
])
def test_settings_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    PolicyGradientConfig(**fields)


def test_a_temperature_of_zero_is_refused():
  with pytest.raises(ValueError, match="temperature: got 0.0, allowed: above 0"):
    policy_gradient(BASE, tiny.MODEL, optax.sgd(0.1), temperature=0.0)


def test_a_minibatch_that_does_not_divide_the_rows_is_refused(policy, batch):
  compiled = tiny.compiled_ppo(tiny.replace(BASE, minibatch_size=3))
  with pytest.raises(ValueError, match="minibatch_size: got 3, allowed: a divisor of the 8 rows"):
    update(compiled, policy, batch)
