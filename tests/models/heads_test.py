"""The scalar head on every family: values while sampling and while training, rewards of texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, sampling
from rlreason.algorithms import PolicyGradientConfig, init_rl_params
from rlreason.algorithms.rows import completion_features
from rlreason.types import Prompts
from tests import tiny_families

families = pytest.mark.parametrize("family", tiny_families.CONFIGS)
forward = jax.jit(models.forward, static_argnums=0)


def make_model(family):
  """A random model, and a head that tells hidden states apart."""
  config = tiny_families.CONFIGS[family]
  random = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: (0.3 * random.standard_normal(x.shape)).astype(x.dtype),
      models.abstract_params(config))
  head = {"kernel": random.standard_normal(config.width).astype(np.float32),
          "bias": np.float32(0.3)}
  return config, params, head


def test_a_new_head_says_nothing():
  head = models.init_value_head(3)
  np.testing.assert_array_equal(
      models.apply_value_head(head, jnp.ones((2, 5, 3))), np.zeros((2, 5)))


def test_values_hand_worked():
  head = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.float32(0.5)}
  hidden = jnp.array([[[1.0, 1.0], [0.0, 3.0]]], jnp.bfloat16)
  got = models.apply_value_head(head, hidden)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [[-0.5, -5.5]])


def test_the_reward_is_the_head_at_the_last_token():
  head = {"kernel": jnp.array([1.0]), "bias": jnp.float32(10.0)}
  hidden = jnp.arange(12.0).reshape(4, 3, 1)
  mask = jnp.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
  np.testing.assert_allclose(models.reward_of_rows(head, hidden, mask), [12, 14, 18, 0])


@families
def test_values_of_the_sampler_are_the_trainers(family):
  config, params, head = make_model(family)
  prompts = Prompts(
      tokens=jnp.array([[0, 5, 6], [7, 8, 9]]), mask=jnp.array([[0, 1, 1], [1, 1, 1]], bool),
      index=jnp.arange(2))
  options = sampling.SamplingOptions(max_new_tokens=5)
  rollout = jax.jit(lambda params, head: sampling.sample(
      config, params, prompts, jax.random.key(0), options=options, stop_ids=(1,),
      value_head=head))(params, head)
  hidden, _ = jax.jit(lambda params: completion_features(config, params, rollout))(params)
  mask = rollout.token_mask
  np.testing.assert_allclose(
      models.apply_value_head(head, hidden)[mask], rollout.values[mask], atol=1e-4)


@families
def test_rewards_do_not_depend_on_padding(family):
  config, params, head = make_model(family)
  tokens = np.random.default_rng(1).integers(2, config.vocab_size, (2, 6)).astype(np.int32)

  def rewards(left, right):
    pad = lambda x: np.pad(x, ((0, 0), (left, right)))
    mask = pad(np.ones_like(tokens, bool))
    return models.reward_of_rows(
        head, forward(config, params, pad(tokens), mask), jnp.asarray(mask))

  expected = rewards(0, 0)
  assert np.abs(expected[0] - expected[1]) > 0.01
  np.testing.assert_allclose(rewards(3, 0), expected, atol=1e-4)
  np.testing.assert_allclose(rewards(0, 3), expected, atol=1e-4)


def test_a_critic_of_its_own_is_a_copy_unless_one_is_given():
  config, params, head = make_model("qwen3")
  separate = PolicyGradientConfig(critic="separate")
  critic = init_rl_params(separate, config, params)["critic"]
  jax.tree.map(np.testing.assert_array_equal, critic["trunk"], params)
  assert not np.any(critic["value_head"]["kernel"])
  given = {"trunk": params, "value_head": head}
  assert init_rl_params(separate, config, params, given)["critic"] is given
