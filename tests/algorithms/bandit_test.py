"""PPO on a bandit, where the optimum is known: one prompt, one token, a few actions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import models, sampling
from rlreason.algorithms import PolicyGradientConfig, init_rl_params, policy_gradient
from rlreason.parallel import ALONE
from rlreason.types import Outcome, Prompts
from tests.algorithms import tiny

ACTIONS, SAMPLES = 6, 64
MODEL = tiny.replace(tiny.MODEL, vocab_size=ACTIONS)
PROMPT = Prompts(
    tokens=np.array([[2]], np.int32), mask=np.ones((1, 1), bool), index=np.zeros(1, np.int32))


def probabilities(policy):
  hidden = models.forward(MODEL, policy, PROMPT.tokens, PROMPT.mask)
  return jax.nn.softmax(models.logits(MODEL, policy, hidden)[0, 0])


def make_run(config, rewards, optimizer, steps):
  """Whole steps: sample, score, make the batch, update. Returns the last policy's probabilities."""
  algorithm = policy_gradient(config, MODEL, optimizer, temperature=1.0)
  options = sampling.SamplingOptions(max_new_tokens=1)

  def step(carry, key):
    state, reference = carry
    key_sample, key_update = jax.random.split(key)
    rollout = sampling.sample(
        MODEL, state.params["policy"], PROMPT, key_sample, options=options, stop_ids=(0,),
        group_size=SAMPLES, value_head=state.params["value_head"])
    scores = algorithm.score({"params": state.params, "reference": reference}, rollout, None)
    outcome = Outcome(rewards[rollout.completion_tokens[:, 0]], jnp.ones(SAMPLES, bool))
    batch, _ = algorithm.make_batch((rollout, scores, outcome), state.coefs)
    state, _ = algorithm.update_step(state, batch, key_update, replicas=ALONE)
    return (state, reference), None

  @jax.jit
  def run(policy, kl_coef, key):
    state = algorithm.init(init_rl_params(config, MODEL, policy))
    state = state.replace(extra={"coefs": state.coefs | {"kl": kl_coef}})
    (state, _), _ = jax.lax.scan(step, (state, policy), jax.random.split(key, steps))
    return probabilities(policy), probabilities(state.params["policy"])

  return run


@pytest.fixture(scope="module", name="policy")
def policy_fixture():
  return tiny.random_params(MODEL, scale=0.2)


def test_optimum_of_the_kl_regularised_reward(policy):
  """π_ref exp(r / β) / Z; the larger β, the nearer to the reference."""
  rewards = np.linspace(0.0, 1.0, ACTIONS).astype(np.float32)
  config = PolicyGradientConfig(minibatch_size=SAMPLES, kl_coef=1.0, whiten_advantages=False)
  run = make_run(config, jnp.asarray(rewards), optax.sgd(0.2), 400)
  kls = []
  for beta in (0.4, 1.0, 3.0):
    reference, found = run(policy, jnp.float32(beta), jax.random.key(0))
    optimum = reference * np.exp(rewards / beta)
    np.testing.assert_allclose(found, optimum / optimum.sum(), atol=1e-2)
    kls.append(float(np.sum(found * np.log(found / reference))))
  assert kls[0] > 2 * kls[1] > 4 * kls[2] > 0


def test_entropy_bonus_raises_entropy_to_its_maximum(policy):
  config = PolicyGradientConfig(
      minibatch_size=SAMPLES, kl_coef=0.0, entropy_coef=1.0, whiten_advantages=False)
  run = make_run(config, jnp.zeros(ACTIONS), optax.sgd(0.2), 200)
  start, found = (-float(np.sum(p * np.log(p)))
                  for p in run(policy, jnp.float32(0.0), jax.random.key(0)))
  assert start < 0.95 * np.log(ACTIONS)
  assert found == pytest.approx(np.log(ACTIONS), abs=1e-3)
