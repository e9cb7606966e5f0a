"""Training adapters: what moves, what the reference is, and that gradients are those of the sum."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import models
from rlreason.algorithms import SFTConfig, init_rl_params, policy_gradient, sft
from rlreason.algorithms.base import trained_part, with_frozen
from rlreason.models import lora
from rlreason.types import Outcome, PackedBatch
from tests.algorithms import tiny

MODEL = dataclasses.replace(tiny.MODEL, lora=models.LoRAConfig(rank=2, alpha=4.0))
CONFIG = tiny.replace(tiny.FULL, epochs=1)
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5))
assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)


def make_policy(is_new=False):
  """Frozen parameters with adapters that have moved already, or not yet."""
  base = tiny.random_params()
  new = jax.jit(models.init_params, static_argnums=0)
  adapters = lora.split(
      new(MODEL, jax.random.key(1)) if is_new else tiny.random_params(MODEL, 3))[0]
  return base, lora.join(base, adapters)


@functools.cache
def ppo_step(critic, is_new):
  """A state before and after an update on rollouts of its own, with scores and metrics."""
  config = tiny.replace(CONFIG, critic=critic)
  algorithm = policy_gradient(config, MODEL, optax.adam(0.01), temperature=0.7)
  policy = make_policy(is_new)[1]
  before = algorithm.init(init_rl_params(config, MODEL, policy))
  rollout = tiny.sample_rollout(lora.merge(MODEL, policy), temperature=0.7)
  if critic == "separate":
    rollout = rollout.replace(values=None)
  scores = jax.jit(algorithm.score)(
      {"params": before.params, "reference": None}, rollout, None)
  rewards = np.linspace(-1, 1, tiny.NUM_ROWS).astype(np.float32)
  batch, _ = algorithm.make_batch(
      (rollout, scores, Outcome(rewards, np.ones(tiny.NUM_ROWS, bool))), before.coefs)
  after, metrics = jax.jit(algorithm.update_step)(before, batch, jax.random.key(0))
  return before, after, scores, rollout, metrics


@pytest.mark.parametrize("critic, is_new", [
    ("shared", True), ("shared", False), ("separate", False)])
def test_adapters_and_heads_move_and_nothing_else(critic, is_new):
  before, after, *_ = ppo_step(critic, is_new)
  (trained, frozen), (old, was) = lora.split(after.params), lora.split(before.params)
  assert_equal(frozen, was)
  moved = jax.tree.leaves(jax.tree.map(lambda x, y: np.any(x != y), trained, old))
  assert sum(moved) >= len(moved) / 2  # A of a new pair has no gradient yet
  assert jax.tree.structure(after.opt_state[0].mu) == jax.tree.structure(trained)
  names = {path[-1].key for path, _ in jax.tree.leaves_with_path(trained)}
  assert names == {"lora_a", "lora_b", "kernel", "bias"}  # the latter two of the value head


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_ratio_of_the_first_minibatch_is_1(critic):
  metrics = ppo_step(critic, False)[-1]
  numerator, denominator = metrics["policy/ratio_error"]
  assert float(numerator / denominator) < 1e-5


def test_the_frozen_base_is_the_reference():
  _, _, scores, rollout, _ = ppo_step("shared", False)
  algorithm = policy_gradient(CONFIG, tiny.MODEL, optax.adam(0.01), temperature=0.7)
  base, policy = make_policy()
  params = {"policy": lora.merge(MODEL, policy), "value_head": tiny.random_value_head()}
  expected = jax.jit(algorithm.score)({"params": params, "reference": base}, rollout, None)
  assert_close(scores["ref_log_probs"], expected["ref_log_probs"])
  assert np.abs(scores["ref_log_probs"] - rollout.log_probs).max() > 0.1


def test_before_its_first_update_a_policy_is_its_reference():
  scores = ppo_step("shared", True)[2]
  mask = ppo_step("shared", True)[3].token_mask
  np.testing.assert_allclose(
      scores["ref_log_probs"][mask], scores["old_log_probs"][mask], atol=1e-6)


def test_a_separate_critic_has_adapters_of_its_own_on_the_same_base():
  before = ppo_step("separate", False)[0]
  assert jax.tree.structure(before.params["critic"]["trunk"]) == jax.tree.structure(
      lora.split(before.params["policy"])[0])


def test_gradients_are_those_of_the_merged_model():
  random = np.random.default_rng(0)
  tokens = random.integers(2, tiny.MODEL.vocab_size, (4, 9)).astype(np.int32)
  batch = PackedBatch(
      tokens=tokens, segment_ids=np.ones_like(tokens), loss_weights=np.ones((4, 9), np.float32),
      positions=np.tile(np.arange(9, dtype=np.int32), (4, 1)))
  base, policy = make_policy()
  algorithm = sft(SFTConfig(micro_batch_size=2), MODEL, optax.sgd(1.0))
  state = algorithm.init({"policy": policy})
  after, _ = jax.jit(algorithm.update_step)(state, batch, None)
  step = jax.tree.map(
      jnp.subtract, lora.split(policy)[0], lora.split(after.params["policy"])[0])

  def loss(adapters):
    merged = lora.merge(MODEL, lora.join(base, adapters))
    logits = models.logits(
        tiny.MODEL, merged, models.forward(tiny.MODEL, merged, tokens, np.ones_like(tokens)))
    log_probs = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.mean(jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1))

  assert_close(step, jax.jit(jax.grad(loss))(lora.split(policy)[0]))


def test_a_checkpoint_holds_the_trained_part_and_is_made_whole_again():
  before, after, *_ = ppo_step("separate", False)
  part = trained_part(after)
  assert "embed" not in part.params["policy"]
  whole = with_frozen(part, lora.split(before.params)[1])
  assert jax.tree.structure(whole) == jax.tree.structure(after)
  assert_equal(whole, after)
