"""The guarded gradient step and the accumulation of gradients, on models of one number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import (
    DistillConfig, PolicyGradientConfig, PreferenceConfig, RewardModelConfig, SFTConfig, base,
    distill, policy_gradient, preference, reward_model, sft)
from rlreason.parallel import ALONE
from rlreason.slots import Slot
from tests.algorithms import tiny


def make_state(value=1.0):
  return base.init_state({"policy": {"x": jnp.float32(value)}}, optax.adam(0.1))


def apply(state, gradient, loss=0.0):
  gradients = {"policy": {"x": jnp.float32(gradient)}}
  return base.apply_gradients(state, gradients, jnp.float32(loss), optax.adam(0.1))


def value_of(state):
  return float(state.params["policy"]["x"])


def test_a_finite_step_is_taken():
  state, metrics = apply(make_state(), 2.0, loss=3.0)
  np.testing.assert_allclose(value_of(state), 0.9, rtol=1e-5)  # Adam's first step is the rate
  assert int(state.skipped) == int(state.skipped_in_a_row) == 0
  assert [float(x) for x in metrics["optim/grad_norm"]] == [2.0, 1.0]
  assert [float(x) for x in metrics["loss/total"]] == [3.0, 1.0]


def test_a_non_finite_gradient_or_loss_changes_nothing_but_the_counts():
  before, _ = apply(make_state(), 2.0)
  for gradient, loss in ((np.nan, 0.0), (np.inf, 0.0), (1.0, np.nan), (1.0, -np.inf)):
    after, metrics = apply(before, gradient, loss)
    assert value_of(after) == value_of(before)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert int(after.skipped) == int(after.skipped_in_a_row) == 1
    assert [float(x) for x in metrics["optim/grad_norm"]] == [0.0, 0.0]  # left out, not 0
    assert float(metrics["optim/skipped_updates"][0]) == 1.0


def test_skips_in_a_row_are_counted_anew_after_a_good_step():
  state = make_state()
  counts = []
  for gradient in (np.nan, np.nan, 1.0, np.nan, 1.0):
    state, _ = apply(state, gradient)
    counts.append((int(state.skipped), int(state.skipped_in_a_row)))
  assert counts == [(1, 1), (2, 2), (2, 0), (3, 1), (3, 0)]
  metrics = base.skip_metrics(state)
  assert float(metrics["optim/skipped_total"][0]) == 3.0


def loss_fn(params, micro_batch):
  loss = params["x"] * jnp.sum(micro_batch)
  return loss, (loss, {"count": (jnp.sum(micro_batch), jnp.float32(micro_batch.size))})


def test_gradients_and_metrics_of_micro_batches_add_up():
  params = {"x": jnp.float32(3.0)}
  rows = jnp.arange(6.0)
  whole = base.accumulate_gradients(loss_fn, params, rows[None], ALONE)
  split = base.accumulate_gradients(loss_fn, params, rows.reshape(3, 2), ALONE)
  for gradients, (loss, metrics) in (whole, split):
    assert float(gradients["x"]) == 15.0 and float(loss) == 45.0
    assert [float(x) for x in metrics["count"]] == [15.0, 6.0]


def test_gradients_of_bfloat16_parameters_are_summed_in_f32():
  params = {"x": jnp.bfloat16(1.0)}
  rows = jnp.array([[256.0], [1.0], [1.0]])  # 256 + 1 is 256 in bf16
  gradients, _ = base.accumulate_gradients(loss_fn, params, rows, ALONE)
  assert gradients["x"].dtype == jnp.float32 and float(gradients["x"]) == 258.0


def is_in_one_place(tree):
  return {(x.committed, x.weak_type, frozenset(x.devices())) for x in jax.tree.leaves(tree)}


INITS = {
    "policy gradient": lambda optimizer: policy_gradient(
        PolicyGradientConfig(minibatch_size=2, kl_coef=0.1, reference_every=1), tiny.MODEL,
        optimizer, temperature=1.0),
    "sft": lambda optimizer: sft(SFTConfig(), tiny.MODEL, optimizer),
    "preference": lambda optimizer: preference(
        PreferenceConfig(loss=Slot(losses.dpo, {"beta": 0.5}), average_log_probs=False),
        tiny.MODEL, optimizer),
    "reward model": lambda optimizer: reward_model(RewardModelConfig(), tiny.MODEL, optimizer),
    "distil": lambda optimizer: distill(DistillConfig(), tiny.MODEL, tiny.MODEL, optimizer)}


@pytest.mark.parametrize("kind", INITS)
@pytest.mark.parametrize("optimizer", [
    optax.adam(optax.linear_schedule(1.0, 0.0, 5)), optax.MultiSteps(optax.sgd(0.1), 2)])
def test_a_state_is_where_the_policy_is_with_what_comes_to_it(kind, optimizer):
  place = jax.devices()[1]
  params = {"policy": jax.device_put(tiny.random_params(), place),
            "value_head": {"kernel": jnp.zeros(2), "bias": np.float32(0)}}
  state = INITS[kind](optimizer).init(params)
  assert is_in_one_place(state) == {(True, False, frozenset([place]))}
  assert (state.reference is not None) == (kind == "policy gradient")


def test_a_program_is_compiled_once_for_the_first_state_and_those_after_it():
  optimizer = optax.adam(0.1)
  update = jax.jit(lambda state: base.apply_gradients(
      state, jax.tree.map(jnp.ones_like, state.params), jnp.float32(0), optimizer)[0])
  committed = jax.device_put(jnp.float32(1), jax.devices()[0])
  for policy in (committed, jnp.float32(1), np.float32(1)):
    update.clear_cache()
    state = base.init_state({"policy": policy, "head": jnp.float32(0)}, optimizer)
    for _ in range(3):
      state = update(state)
    assert update._cache_size() == 1
