"""What moves besides the parameters: references that follow the policy, and entropy control."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import models
from rlreason.algorithms import init_rl_params, presets
from rlreason.algorithms.base import trained_part, with_frozen
from rlreason.models import lora
from rlreason.types import Outcome
from tests.algorithms import tiny
from tests.algorithms.policy_gradient_test import assert_close, assert_equal, differs, value

ROWS, GROUP = tiny.NUM_ROWS, 4
OUTCOME = Outcome(np.float32([1, 0, 0, 0, 0, 1, 1, 0]), np.ones(ROWS, bool))
assert_same = functools.partial(assert_close, tolerance=1e-6)


def following(every, decay):
  return presets.rloo(
      minibatch_size=ROWS, recompute_log_probs=True, reference_every=every, reference_decay=decay)


@functools.cache
def compiled(config, model=tiny.MODEL):
  return tiny.Compiled(config, 1.0, optax.sgd(0.3), GROUP, model)


def make_policy(model):
  if model.lora is None:
    return tiny.random_params(model)
  return lora.join(tiny.random_params(), lora.split(tiny.random_params(model, 3))[0])


def run(config, steps, model=tiny.MODEL):
  """States before and after each step, and the metrics of each step's batch."""
  algorithm = compiled(config, model)
  states, metrics = [algorithm.init(make_policy(model))], []
  for seed in range(steps):
    rollout = tiny.sample_rollout(tiny.random_params(), seed=seed + 20)
    state = states[-1]
    scores = algorithm.score(
        {"params": state.params, "reference": state.reference}, rollout, None)
    batch, batch_metrics = algorithm.make_batch((rollout, scores, OUTCOME), state.coefs)
    states.append(algorithm.update_step(state, batch, jax.random.key(seed))[0])
    metrics.append(batch_metrics)
  assert differs(states[0].params, states[1].params)
  return states, metrics


def trained(state):
  """In f32, as the reference is."""
  return jax.tree.map(
      lambda x: np.asarray(x, np.float32), lora.split(state.params["policy"])[0])


def closed_form(states, decay):
  """decay^n θ_0 + (1 - decay) Σ decay^(n - k) θ_k, in f64."""
  steps = len(states) - 1
  weights = [decay**steps] + [
      (1 - decay) * decay**(steps - number) for number in range(1, steps + 1)]
  return jax.tree.map(
      lambda *leaves: sum(w * np.float64(x) for w, x in zip(weights, leaves, strict=True)),
      *map(trained, states))


def test_a_reference_that_keeps_everything_is_a_fixed_one():
  states, metrics = run(following(1, 1.0), 2)
  for state in states:
    assert_equal(state.reference, states[0].params["policy"])
  assert abs(value(metrics[1], "policy/kl")) > 1e-4


def test_a_reference_that_keeps_nothing_is_the_policy():
  states, metrics = run(following(1, 0.0), 3)
  for state in states:
    assert_equal(state.reference, state.params["policy"])
  assert [value(of_step, "policy/kl") for of_step in metrics] == [0.0] * 3
  assert [value(of_step, "policy/kl_k3") for of_step in metrics] == [0.0] * 3


def test_a_reference_may_stand_between():
  states, metrics = run(following(3, 0.0), 6)
  for number, state in enumerate(states):
    assert_equal(state.reference, states[number - number % 3].params["policy"])
  at_policy = [value(of_step, "policy/kl_k3") == 0.0 for of_step in metrics]
  assert at_policy == [True, False, False, True, False, False]


ADAPTED = dataclasses.replace(tiny.MODEL, lora=models.LoRAConfig(rank=2, alpha=4.0))
HALF_WIDTH = dataclasses.replace(tiny.MODEL, param_dtype="bfloat16")


@pytest.mark.parametrize("model", [tiny.MODEL, ADAPTED, HALF_WIDTH], ids=["f32", "lora", "bf16"])
def test_a_moving_mean_in_closed_form(model):
  """In f32 throughout: one of bf16 would stand still, or come to rest beside the policy."""
  states, metrics = run(following(1, 0.9), 4, model)
  for number in range(1, 5):
    assert_same(states[number].reference, closed_form(states[:number + 1], 0.9))
  assert {x.dtype for x in jax.tree.leaves(states[-1].reference)} == {jnp.dtype("float32")}
  assert jax.tree.structure(states[-1].reference) == jax.tree.structure(trained(states[-1]))
  assert value(metrics[0], "policy/kl_k3") < value(metrics[3], "policy/kl_k3")


def test_the_first_reference_of_adapters_is_the_policy_with_them():
  _, metrics = run(following(1, 0.9), 1, ADAPTED)
  assert value(metrics[0], "policy/kl_k3") == 0.0


def test_a_moving_reference_is_in_a_checkpoint():
  state = run(following(1, 0.9), 2, ADAPTED)[0][-1]
  part = trained_part(state)
  assert "embed" not in part.params["policy"] and differs(part.reference, trained(state))
  whole = with_frozen(part, lora.split(state.params)[1])
  assert jax.tree.structure(whole) == jax.tree.structure(state)
  assert_equal(whole, state)


def test_a_moving_reference_shares_no_buffer():
  """The state that holds both is donated."""
  policy = jax.tree.map(jnp.asarray, tiny.random_params())
  config = following(1, 0.9)
  state = compiled(config).algorithm.init(init_rl_params(config, tiny.MODEL, policy))
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state.params, state.reference))]
  assert len(set(pointers)) == len(pointers)


# Entropy control.


CONTROLLED = presets.dapo(
    minibatch_size=ROWS, entropy_coef=0.01, entropy_target=1.0, entropy_step=0.004)


def control(entropy, coef=0.01):
  """A step without advantages after which the estimate of the entropy was `entropy`."""
  algorithm = compiled(CONTROLLED)
  rollout = tiny.sample_rollout(tiny.random_params(), seed=20)
  scores = {"old_log_probs": np.full_like(rollout.log_probs, -entropy)}
  equal = OUTCOME.replace(scores=np.ones(ROWS, np.float32))
  batch, _ = algorithm.make_batch((rollout, scores, equal), {"kl": np.float32(0.0)})
  start = algorithm.init(tiny.random_params())
  assert float(start.coefs["entropy"]) == pytest.approx(0.01)
  start = start.replace(extra={"coefs": start.coefs | {"entropy": jnp.float32(coef)}})
  state, metrics = algorithm.update_step(start, batch, jax.random.key(0))
  return state, value(metrics, "policy/entropy")


@pytest.mark.parametrize("entropy, coef, expected", [
    (0.9, 0.01, 0.014), (1.1, 0.01, 0.006), (1.1, 0.003, 0.0), (0.9, 0.0, 0.004)])
def test_the_coefficient_moves_towards_the_target(entropy, coef, expected):
  assert float(control(entropy, coef)[0].coefs["entropy"]) == pytest.approx(expected, abs=1e-7)


def test_above_the_target_there_is_no_bonus():
  policy = tiny.random_params()
  assert_equal(control(1.1, 5.0)[0].params["policy"], policy)
  assert_equal(control(0.9, 0.0)[0].params["policy"], policy)
  raised, before = control(0.9, 0.5)
  assert differs(raised.params["policy"], policy)
  algorithm = compiled(CONTROLLED)
  rollout = tiny.sample_rollout(policy, seed=20)
  batch, _ = algorithm.make_batch(
      (rollout, {"old_log_probs": rollout.log_probs}, OUTCOME), {"kl": np.float32(0.0)})
  _, metrics = algorithm.update_step(raised, batch, jax.random.key(0))
  assert value(metrics, "policy/entropy") > before
