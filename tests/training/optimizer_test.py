"""Tests of rlreason.training.optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason.training import optimizer as optimizer_lib

OptimizerConfig = optimizer_lib.OptimizerConfig


def _params():
  return {
      "policy": {
          "embed": {"embedding": jnp.ones((5, 3))},
          "layers": {
              "attention_norm": {"scale": jnp.ones((2, 3))},
              "attention": {"q": {"kernel": jnp.ones((2, 3, 1, 3)), "bias": jnp.ones((2, 1, 3))}},
          },
      },
      "critic": {"head": {"kernel": jnp.ones((3, 1))}},
      "value_head": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones((1,))},
  }


def _rates(config, total_steps, count):
  schedule = optimizer_lib.make_schedule(config, total_steps)
  return [float(schedule(jnp.asarray(i))) for i in range(count)]


def test_schedules_by_hand():
  constant = OptimizerConfig(learning_rate=4.0, warmup_steps=3)
  np.testing.assert_allclose(_rates(constant, 6, 6), [1, 2, 3, 4, 4, 4], rtol=1e-6)
  linear = OptimizerConfig(learning_rate=4.0, schedule="linear")
  np.testing.assert_allclose(_rates(linear, 4, 5), [4, 3, 2, 1, 0], rtol=1e-6)
  cosine = OptimizerConfig(learning_rate=4.0, schedule="cosine", warmup_steps=1)
  np.testing.assert_allclose(
      _rates(cosine, 5, 6), [2, 4, 2 + 2**0.5, 2, 2 - 2**0.5, 0], rtol=1e-5, atol=1e-6
  )


def test_first_update_of_adamw_by_hand():
  config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, eps=1e-12, max_grad_norm=None)
  params = {"kernel": jnp.asarray([[2.0, 4.0]]), "norm": {"scale": jnp.asarray([[2.0], [2.0]])}}
  grads = {"kernel": jnp.asarray([[3.0, -7.0]]), "norm": {"scale": jnp.asarray([[1.0], [-1.0]])}}
  tx = optimizer_lib.make_optimizer(config, total_steps=10)
  updates, _ = tx.update(grads, tx.init(params), params)
  # The first bias-corrected step of Adam is the sign; decay adds -lr * decay * w to matrices.
  np.testing.assert_allclose(updates["kernel"], [[-0.1 - 0.1, 0.1 - 0.2]], rtol=1e-5)
  np.testing.assert_allclose(updates["norm"]["scale"], [[-0.1], [0.1]], rtol=1e-5)


def test_critic_and_value_head_have_their_own_rate():
  config = OptimizerConfig(learning_rate=0.1, critic_learning_rate=0.3, max_grad_norm=None)
  params = _params()
  tx = optimizer_lib.make_optimizer(config, total_steps=10)
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  for key, rate in {"policy": 0.1, "critic": 0.3, "value_head": 0.3}.items():
    for leaf in jax.tree.leaves(updates[key]):
      np.testing.assert_allclose(leaf, -rate, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_equal_rates_are_plain_clipped_adamw(schedule):
  config = OptimizerConfig(
      learning_rate=0.1, critic_learning_rate=0.1, schedule=schedule, weight_decay=0.1,
      warmup_steps=1, max_grad_norm=0.5,
  )  # fmt: skip
  plain = optax.chain(
      optax.clip_by_global_norm(0.5),
      optax.adamw(
          optimizer_lib.make_schedule(config, 4),
          b1=config.b1, b2=config.b2, weight_decay=0.1, mask=optimizer_lib.decay_mask,
      ),  # fmt: skip
  )
  grouped = optimizer_lib.make_optimizer(config, 4)
  results = []
  for tx in (plain, grouped):
    params = _params()
    state = tx.init(params)
    step = jax.jit(tx.update)
    for i in range(4):
      grads = jax.tree.map(lambda x, i=i: jnp.cos(x * (i + 1)), params)
      updates, state = step(grads, state, params)
      params = optax.apply_updates(params, updates)
    results.append(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *results)


def test_clipping_is_over_all_groups_together():
  config = OptimizerConfig(learning_rate=1.0, max_grad_norm=1.0, b1=0.0, b2=0.0, eps=1e6)
  params = {"policy": {"kernel": jnp.zeros((1,))}, "critic": {"kernel": jnp.zeros((1,))}}
  grads = {"policy": {"kernel": jnp.asarray([3.0])}, "critic": {"kernel": jnp.asarray([4.0])}}
  tx = optimizer_lib.make_optimizer(config, total_steps=2)
  updates, _ = tx.update(grads, tx.init(params), params)
  # With a huge eps, Adam is gradient / eps; the clipped gradient is (3, 4) / 5.
  np.testing.assert_allclose(updates["policy"]["kernel"], -0.6e-6, rtol=1e-5)
  np.testing.assert_allclose(updates["critic"]["kernel"], -0.8e-6, rtol=1e-5)


def test_decay_mask_and_labels_go_by_name():
  mask = optimizer_lib.decay_mask(_params())
  layers = mask["policy"]["layers"]
  assert layers["attention"]["q"] == {"kernel": True, "bias": False}
  assert layers["attention_norm"] == {"scale": False}
  assert mask["policy"]["embed"] == {"embedding": True}
  labels = optimizer_lib.label_parameters(_params())
  assert set(jax.tree.leaves(labels["policy"])) == {"policy"}
  assert labels["value_head"] == {"kernel": "critic", "bias": "critic"}
  # A tree of one model has no such keys at its top.
  assert set(jax.tree.leaves(optimizer_lib.label_parameters(_params()["policy"]))) == {"policy"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate: got 0.0, allowed: > 0"),
        ({"critic_learning_rate": -1.0}, "critic_learning_rate: got -1.0"),
        ({"warmup_steps": -1}, "warmup_steps: got -1, allowed: >= 0"),
        ({"schedule": "step"}, "schedule: got 'step', allowed: constant, linear, cosine"),
        ({"b2": 1.0}, "b2: got 1.0"),
        ({"eps": 0.0}, "eps: got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay: got -0.1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: got 0.0, allowed: > 0 or None"),
    ],
)
def test_config_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    OptimizerConfig(**{"learning_rate": 1.0, **fields})


def test_warmup_must_fit_the_stage():
  config = OptimizerConfig(learning_rate=1.0, warmup_steps=5)
  with pytest.raises(ValueError, match="warmup_steps: got 5, allowed: less than the 5 updates"):
    optimizer_lib.make_optimizer(config, total_steps=5)
  with pytest.raises(ValueError, match="total_steps: got 0"):
    optimizer_lib.make_optimizer(config, total_steps=0)
