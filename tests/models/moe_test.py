"""Experts against a loop over tokens, and the load-balancing loss on hand-worked numbers."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.models import moe
from rlreason.parallel import ParallelConfig, make_layout
from tests.tiny_families import CONFIGS

CONFIG = CONFIGS["qwen3_moe"]


def _params(config):
  random = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: nn.unbox(moe.Experts(config).init(
      jax.random.key(0), jnp.zeros((1, 1, config.width)))))["params"]
  return jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype),
                      shapes)


def _silu(x):
  return x / (1 + np.exp(-x))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_each_token_goes_through_its_experts(normalise, chosen):
  config = dataclasses.replace(CONFIG, normalize_experts=normalise, experts_per_token=chosen)
  params = _params(config)
  x = np.random.default_rng(1).standard_normal((2, 3, config.width)).astype(np.float32)
  got, load = jax.jit(moe.Experts(config).apply)({"params": params}, x)
  assert load is None
  kernels = {name: np.asarray(kernel, np.float64) for name, kernel in params.items()}
  for place in np.ndindex(2, 3):
    scores = x[place] @ kernels["router_kernel"]
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    best = np.argsort(-weights)[:chosen]
    total = weights[best].sum() if normalise else 1.0
    wanted = sum(
        weights[expert] / total * (
            _silu(x[place] @ kernels["gate_kernel"][expert])
            * (x[place] @ kernels["up_kernel"][expert])) @ kernels["down_kernel"][expert]
        for expert in best)
    np.testing.assert_allclose(got[place], wanted, rtol=1e-3, atol=1e-3)


def test_the_load_is_that_of_counted_tokens():
  params, x = _params(CONFIG), jax.random.normal(jax.random.key(0), (1, 4, CONFIG.width))
  apply = jax.jit(moe.Experts(CONFIG).apply)
  _, load = apply({"params": params}, x, jnp.array([[True, False, True, False]]))
  _, first = apply({"params": params}, x[:, :1], jnp.ones((1, 1), bool))
  _, third = apply({"params": params}, x[:, 2:3], jnp.ones((1, 1), bool))
  np.testing.assert_allclose(load, first + third, rtol=1e-5)
  np.testing.assert_allclose(jnp.sum(load, axis=1), [4, 2], rtol=1e-5)  # 2 experts, 2 tokens


def test_balance_loss_by_hand():
  # Two layers, two experts, one choice each. Even: shares and means 1/2, 2 (1/4 + 1/4) = 1.
  even = jnp.full((2, 2, 2), 2.0)
  np.testing.assert_allclose(moe.balance_loss(even, jnp.float32(4)), 1.0, rtol=1e-6)
  # All on expert 0 in both layers, with probability 0.9: 2 * 1 * 0.9.
  uneven = jnp.array([[[4.0, 0.0], [3.6, 0.4]]] * 2)
  np.testing.assert_allclose(moe.balance_loss(uneven, jnp.float32(4)), 1.8, rtol=1e-6)
  assert moe.balance_loss(jnp.zeros((2, 2, 2)), jnp.float32(0)) == 0.0


def test_gradients_on_a_mesh_are_those_of_one_device():
  """Experts over the tensor axis, rows over the data axis."""
  config = dataclasses.replace(CONFIG, num_experts=4)
  tokens = np.random.default_rng(0).integers(0, 17, (4, 5)).astype(np.int32)
  boxed = models.abstract_boxed_params(config)
  random = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape), leaf.dtype),
      models.abstract_params(config))

  def loss(params, tokens):
    hidden, balance = models.forward_and_balance(config, params, tokens, jnp.ones_like(tokens))
    return jnp.sum(jnp.sin(hidden)) + balance

  results = []
  for parallel in (ParallelConfig(data=1), ParallelConfig(data=2, tensor=4)):
    layout = make_layout(parallel)
    placed = layout.put_params(jax.tree.map(jnp.copy, params), boxed)
    results.append(jax.device_get(jax.jit(jax.grad(loss))(placed, layout.put_rows(tokens))))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), *results)
