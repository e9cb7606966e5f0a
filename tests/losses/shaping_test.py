"""Rewards within completions: where they are paid, and potential-based shaping, by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.slots import Slot
from rlreason.types import Outcome
from tests.algorithms import gaps_test, tiny

F, T = False, True


def test_a_reward_on_a_given_token_is_of_the_action_before_it():
  mask = np.array([[F, T, F, T], [T, F, F, F], [F, F, F, F], [T, T, T, T]])
  rewards = np.tile(np.float32([1, 2, 4, 8]), (4, 1))
  np.testing.assert_array_equal(
      losses.rewards_of_actions(rewards, mask),
      [[0, 6, 0, 8], [15, 0, 0, 0], [0, 0, 0, 0], [1, 2, 4, 8]])
  rewards[2] = np.nan  # of a row that is not scored
  assert np.all(np.isfinite(losses.rewards_of_actions(rewards, mask)))


def test_shaping_by_hand():
  potentials = np.float32([[0.2, 0.5, 0.9], [0.2, 9, 0.6]])
  mask = np.array([[T, T, T], [T, F, T]])
  shaped = losses.potential_shaping(potentials, mask, discount=1.0)
  np.testing.assert_allclose(shaped, [[0.3, 0.4, -0.9], [0.4, 0, -0.6]], atol=1e-6)
  truncated = losses.potential_shaping(
      potentials, mask, discount=0.5, last_potentials=jnp.float32([0, 1.0]))
  np.testing.assert_allclose(truncated, [[0.05, -0.05, -0.9], [0.1, 0, -0.1]], atol=1e-6)


def random_rows(seed=0, rows=16, columns=12):
  random = np.random.default_rng(seed)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)
  mask = random.random((rows, columns)) < 0.7
  mask[0], mask[1] = True, False
  return mask, draw(rows, columns), draw(rows, columns), draw(rows, columns), draw(rows), draw(rows)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_shaped_return_is_less_by_the_first_potential(discount):
  mask, rewards, _, potentials, *_ = random_rows()
  plain = losses.returns_to_go(rewards, mask, discount=discount)
  shaped = losses.returns_to_go(
      rewards + losses.potential_shaping(potentials, mask, discount=discount), mask,
      discount=discount)
  # Of the state before every token, not of the first alone.
  np.testing.assert_allclose(shaped, plain - np.where(mask, potentials, 0), atol=2e-6)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_critic_less_the_potential_has_the_same_advantages(gae_lambda, discount):
  """Also for truncated rows, whose potential continues."""
  mask, rewards, values, potentials, last_values, last_potentials = random_rows()
  shaping = losses.potential_shaping(
      potentials, mask, discount=discount, last_potentials=last_potentials)
  arguments = dict(discount=discount, gae_lambda=gae_lambda)
  plain, _ = losses.gae(rewards, values, mask, last_values=last_values, **arguments)
  shaped, _ = losses.gae(
      rewards + shaping, values - potentials, mask, last_values=last_values - last_potentials,
      **arguments)
  np.testing.assert_allclose(shaped, plain, atol=3e-6)


def best_length(paid):
  """How many steps of padding before the answer pay most; `paid` f32[n] of the steps -> rewards."""
  def value(padding):
    potentials = np.float32([[0.5] * (padding + 1) + [0.0] * (8 - padding)])
    mask = np.arange(9)[None] <= padding
    rewards = losses.terminal_rewards(jnp.float32([1.0]), mask) + paid(potentials, mask)
    return float(losses.returns_to_go(rewards, mask, discount=0.99)[0, 0])

  return int(np.argmax([value(padding) for padding in range(8)]))


def test_padding_pays_where_the_potential_itself_is_paid():
  """The answer is worth 1 and every step before it nothing: the best policy answers at once."""
  assert best_length(lambda potentials, mask: 0.0) == 0
  assert best_length(
      lambda potentials, mask: losses.potential_shaping(potentials, mask, discount=0.99)) == 0
  assert best_length(lambda potentials, mask: jnp.where(mask, potentials, 0.0)) == 7


def batch_of(config, token_rewards):
  algorithm = tiny.Compiled(config, 1.0, optax.sgd(0.1), gaps_test.GROUP)
  rollout = gaps_test.make_rollout(gaps_test.action_mask("in the middle"))
  random = np.random.default_rng(0)
  scores = {name: random.normal(size=rollout.token_mask.shape).astype(np.float32)
            for name in ("old_log_probs", "ref_log_probs", "values")}
  outcome = Outcome(
      np.zeros(gaps_test.ROWS, np.float32), np.array([True] * 6 + [False, True]),
      token_rewards=token_rewards)
  batch, _ = algorithm.make_batch((rollout, scores, outcome), {"kl": jnp.float32(0.0)})
  return rollout, outcome, batch


def test_rewards_within_a_completion_reach_the_tokens_before_them():
  config = tiny.replace(gaps_test.CONFIG, whiten_advantages=False)
  paid = np.zeros((gaps_test.ROWS, gaps_test.COLUMNS), np.float32)
  paid[0, 3], paid[0, 4], paid[6, 0] = 1.0, 0.5, 9.0  # given in row 0; row 6 is not scored
  rollout, outcome, batch = batch_of(config, paid)
  # Of 1.5 and 0 in the group: less the mean of .75, and of what is left after each payment.
  expected = np.zeros_like(paid)
  expected[0] = [0.75, 0.75, 0, 0, -0.25, -0.75]
  expected[1] = np.where(rollout.action_mask[1], -0.75, 0)
  np.testing.assert_allclose(batch.advantages, expected, atol=1e-6)
  _, _, without = batch_of(config, None)
  np.testing.assert_array_equal(without.advantages, np.zeros_like(paid))
  assert outcome.token_rewards.shape == rollout.token_mask.shape


def test_an_advantage_without_the_unit_of_rewards_is_that_of_the_sum():
  """As verl adds up token rewards for GRPO; the same rewards at the end are the same advantages."""
  config = tiny.replace(
      gaps_test.CONFIG, whiten_advantages=False, advantage=Slot(losses.group_normalized))
  paid = np.zeros((gaps_test.ROWS, gaps_test.COLUMNS), np.float32)
  paid[0, 1], paid[2, 0], paid[3, 1] = 1.0, 0.5, -2.0
  rollout, outcome, batch = batch_of(config, paid)
  at_end = losses.terminal_rewards(
      losses.rewards_of_actions(paid, rollout.action_mask).sum(1), rollout.action_mask)
  np.testing.assert_allclose(batch.advantages, batch_of(config, at_end)[2].advantages, atol=1e-6)
  one = [np.ptp(row[mask]) for row, mask in zip(np.asarray(batch.advantages), rollout.action_mask)
         if mask.any()]
  np.testing.assert_allclose(one, 0, atol=1e-6)
  assert not config.places_rewards and gaps_test.CONFIG.places_rewards and tiny.BASE.places_rewards


def test_a_group_loses_no_more_than_the_potential_by_shaping():
  """Advantages of a group less the potential of the state, as if it were a baseline."""
  config = tiny.replace(gaps_test.CONFIG, whiten_advantages=False)
  random = np.random.default_rng(3)
  shape = gaps_test.ROWS, gaps_test.COLUMNS
  potentials = random.normal(size=shape).astype(np.float32)
  rollout, _, without = batch_of(config, None)
  mask = rollout.action_mask & (np.arange(gaps_test.ROWS) != 6)[:, None]  # 6 is not scored
  first = potentials[np.arange(gaps_test.ROWS), mask.argmax(1)]
  potentials -= first[:, None]  # of one prompt, the first state is one state
  shaping = np.asarray(losses.potential_shaping(potentials, mask, discount=1.0))
  _, _, batch = batch_of(config, shaping)
  np.testing.assert_allclose(
      batch.advantages, without.advantages - np.where(mask, potentials, 0), atol=2e-6)


def test_a_critic_spreads_them():
  """δ of the token that is paid is more by as much, and λγ of it reaches the one before."""
  config = tiny.replace(
      tiny.BASE, gae_lambda=0.5, discount=1.0, whiten_advantages=False, whiten_rewards=False)
  paid = np.zeros((gaps_test.ROWS, gaps_test.COLUMNS), np.float32)
  paid[0, 1] = 1.0
  (_, _, batch), (_, _, without) = batch_of(config, paid), batch_of(config, None)
  difference = np.zeros_like(paid)
  difference[0, :2] = 0.5, 1.0
  np.testing.assert_allclose(batch.advantages - without.advantages, difference, atol=1e-6)
