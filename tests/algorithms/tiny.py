"""A model small enough to compile in seconds, its rollouts, and compiled algorithms, for tests."""

import dataclasses
import functools

import jax
import numpy as np
import optax

from rlreason import models, sampling, types
from rlreason.algorithms import PolicyGradientConfig, init_rl_params, policy_gradient
from rlreason.models import ModelConfig

MODEL = ModelConfig(
    vocab_size=11, width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=16)
STOP = (1, 4, 7)
NUM_ROWS, COMPLETION = 8, 6


def random_params(model=MODEL, seed=0, scale=0.3):
  """Random everywhere; larger than at the start of a training, so that differences show."""
  random = np.random.default_rng(seed)
  is_scale = lambda path: path[-1].key == "scale"
  return jax.tree.map_with_path(
      lambda path, leaf: (scale * random.standard_normal(leaf.shape) + is_scale(path)).astype(
          leaf.dtype),
      models.abstract_params(model))


def make_prompts(num_prompts=NUM_ROWS):
  """Prompts of 3, 1, 2, 3, 1... tokens."""
  random = np.random.default_rng(7)
  lengths = np.array([3, 1, 2])[np.arange(num_prompts) % 3]
  mask = np.arange(3) >= 3 - lengths[:, None]
  tokens = np.where(mask, random.integers(2, MODEL.vocab_size, mask.shape), 0)
  return types.Prompts(
      tokens=tokens.astype(np.int32), mask=mask, index=np.arange(num_prompts, dtype=np.int32))


@functools.cache
def compiled_sample(temperature):
  options = sampling.SamplingOptions(max_new_tokens=COMPLETION, temperature=temperature)

  def sample(policy, value_head, prompts, key):
    return sampling.sample(
        MODEL, policy, prompts, key, options=options, stop_ids=STOP, value_head=value_head)

  return jax.jit(sample)


def sample_rollout(policy, temperature=1.0, seed=1):
  """A numpy rollout of `NUM_ROWS` rows, whose completions are of several lengths."""
  rollout = jax.device_get(compiled_sample(temperature)(
      policy, random_value_head(), make_prompts(), jax.random.key(seed)))
  assert len(set(rollout.token_mask.sum(axis=1))) > 2
  return rollout


def fast_jit(fn):
  """Compiled in half the time; such a small program runs no slower."""
  is_cpu = jax.default_backend() == "cpu"
  return jax.jit(
      fn, compiler_options={"xla_backend_optimization_level": "0"} if is_cpu else None)


class Compiled:
  """An algorithm whose parts are compiled when first used; `config` and `model` are kept."""

  def __init__(
      self, config: PolicyGradientConfig, temperature: float, optimizer, group_size=1, model=MODEL):
    self.config, self.model = config, model
    self.algorithm = policy_gradient(
        config, model, optimizer, temperature=temperature, group_size=group_size)
    self.score = fast_jit(self.algorithm.score)
    self.make_batch = fast_jit(self.algorithm.make_batch)
    # Not donated: tests compare before and after.
    self.update_step = fast_jit(self.algorithm.update_step)

  def init(self, policy, value_head=None):
    """A state; a value head of zeros would hide mistakes, so this one is random."""
    params = init_rl_params(self.config, self.model, policy)
    head = random_value_head() if value_head is None else value_head
    if self.config.critic == "shared":
      params["value_head"] = head
    elif self.config.critic == "separate":
      params["critic"]["value_head"] = head
    return self.algorithm.init(params)


def random_value_head():
  random = np.random.default_rng(5)
  return {"kernel": random.normal(size=MODEL.width).astype(np.float32), "bias": np.float32(0.3)}


@functools.cache
def compiled_ppo(config, temperature=1.0, learning_rate=0.1, group_size=1):
  """With plain gradient descent: the change of the parameters is the gradient."""
  return Compiled(config, temperature, optax.sgd(learning_rate), group_size)


BASE = PolicyGradientConfig(minibatch_size=NUM_ROWS, kl_coef=0.0, value_coef=0.5, entropy_coef=0.01)
# Several updates in a step, and everything that depends on the reference.
FULL = PolicyGradientConfig(
    minibatch_size=NUM_ROWS // 2, epochs=2, kl_coef=0.15, kl_target=6.0, whiten_rewards=True)


def replace(config, **changes):
  return dataclasses.replace(config, **changes)
