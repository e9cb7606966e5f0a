"""Masked reductions, token weights, positions and attention masks, on hand-worked numbers."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import masks

F, T = False, True


AGGREGATIONS = {  # of a loss of 1 in a row of 2 tokens and of 0 in a row of 8
    "token-mean": 0.2, "token-sum": 2.0, "sequence-mean": 0.5, "sequence-sum": 1.0,
    "constant": 0.1}


@pytest.mark.parametrize("aggregation, expected", AGGREGATIONS.items())
def test_token_weights_hand_worked(aggregation, expected):
  mask = jnp.arange(8)[None] < jnp.array([[2], [8]])
  weights = masks.token_weights(mask, aggregation, constant_length=10)
  loss = jnp.array([[1.0] * 8, [0.0] * 8])
  assert float(jnp.sum(weights * loss)) == pytest.approx(expected)


def test_every_aggregation_has_its_number():
  assert set(AGGREGATIONS) == set(typing.get_args(masks.Aggregation))


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
def test_token_weights_of_a_mean_sum_to_one(aggregation):
  mask = jnp.array([[T, T, F], [F, F, F], [F, T, F]])
  np.testing.assert_allclose(jnp.sum(masks.token_weights(mask, aggregation)), 1.0, rtol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_token_weights_do_not_depend_on_padding(aggregation):
  mask = jnp.array([[T, T, F], [F, F, F], [F, T, F]])
  weights = masks.token_weights(mask, aggregation, constant_length=3)
  assert not np.any(np.asarray(weights)[~np.asarray(mask)])
  padded = jnp.pad(mask, ((0, 2), (1, 3)))
  wider = masks.token_weights(padded, aggregation, constant_length=3)
  np.testing.assert_array_equal(wider[:3, 1:4], weights)
  assert not np.any(np.asarray(wider)[~np.asarray(padded)])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_token_weights_of_replicas_are_those_of_the_minibatch(aggregation):
  # Lengths 2, 8, 0, 5, 1, 3: every replica holds another number of tokens and of rows with any.
  mask = jnp.arange(8)[None] < jnp.array([[2], [8], [0], [5], [1], [3]])
  whole = masks.token_weights(mask, aggregation, constant_length=7)
  for replicas in (2, 3, 6):
    shares = jax.vmap(
        lambda rows: masks.token_weights(
            rows, aggregation, constant_length=7,
            all_sum=lambda x: jax.lax.psum(x, "replicas")),
        axis_name="replicas")(mask.reshape(replicas, -1, 8))
    np.testing.assert_allclose(shares.reshape(6, 8), whole, rtol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradients_of_micro_batches_add_up(aggregation):
  mask = jnp.arange(8)[None] < jnp.array([[2], [8], [0], [5]])
  weights = masks.token_weights(mask, aggregation, constant_length=7)
  x = jax.random.normal(jax.random.key(0), (4, 8))

  def loss(scale, rows):
    return masks.masked_sum(jnp.sin(scale * x[rows]) * weights[rows], mask[rows])

  # The definition, in plain numbers of the whole batch.
  lengths, slope = [2, 8, 5], np.asarray(jnp.where(mask, x * jnp.cos(x), 0.0)).sum(1)[[0, 1, 3]]
  expected = {
      "token-mean": slope.sum() / 15, "token-sum": slope.sum(),
      "sequence-mean": (slope / lengths).mean(), "sequence-sum": slope.mean(),
      "constant": slope.mean() / 7}[aggregation]
  for splits in ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 0], [2, 1]], [[2], [0, 1, 3]]):
    total = sum(float(jax.grad(loss)(1.0, np.array(rows))) for rows in splits)
    assert total == pytest.approx(expected, rel=1e-5)


def test_token_weights_without_any_token_are_zero():
  for aggregation in AGGREGATIONS:
    np.testing.assert_array_equal(masks.token_weights(jnp.zeros((2, 3), bool), aggregation), 0.0)


def test_token_weights_names_what_is_allowed():
  with pytest.raises(ValueError, match="aggregation: got 'mean', allowed: token-mean, token-sum, "):
    masks.token_weights(jnp.ones((1, 1), bool), "mean")


def test_masked_mean_and_variance_hand_worked():
  x, mask = jnp.array([[1.0, 5.0, 9.0], [3.0, 2.0, 0.0]]), jnp.array([[T, F, F], [T, T, F]])
  assert float(masks.masked_mean(x, mask)) == 2.0
  np.testing.assert_allclose(masks.masked_variance(x, mask), 2 / 3, rtol=1e-6)
  np.testing.assert_array_equal(masks.masked_mean(x, mask, axis=1), [1.0, 2.5])
  assert float(masks.masked_mean(x, jnp.zeros_like(mask))) == 0.0


def test_masked_sum_is_in_f32():
  # 256 + 1 is 256 in bf16.
  x = jnp.array([256.0, 1.0, 1.0], jnp.bfloat16)
  total = masks.masked_sum(x, jnp.ones(3, bool))
  assert total.dtype == jnp.float32 and float(total) == 258.0


def test_whiten_hand_worked():
  x, mask = jnp.array([[1.0, 3.0, 100.0]]), jnp.array([[T, T, F]])
  np.testing.assert_allclose(masks.whiten(x, mask), [[-1.0, 1.0, 0.0]], atol=1e-6)
  np.testing.assert_allclose(
      masks.whiten(x, mask, shift_mean=False), [[1.0, 3.0, 0.0]], atol=1e-6)


def test_unbiased_variance_hand_worked():
  # 1, 2, 6 have mean 3 and squared distances 4 + 1 + 9.
  x, mask = jnp.array([1.0, 2.0, 50.0, 6.0]), jnp.array([T, T, F, T])
  np.testing.assert_allclose(masks.masked_variance(x, mask), 14 / 3, rtol=1e-6)
  np.testing.assert_allclose(masks.masked_variance(x, mask, ddof=1), 7.0, rtol=1e-6)
  np.testing.assert_allclose(
      masks.whiten(x, mask, ddof=1), np.array([-2.0, -1.0, 0.0, 3.0]) / np.sqrt(7), rtol=1e-6)


def test_unbiased_variance_of_one_number_and_of_none_is_zero():
  x = jnp.array([[5.0, jnp.nan]])
  for mask in ([[T, F]], [[F, F]]):
    whitened = lambda x: jnp.sum(masks.whiten(x, jnp.array(mask), ddof=1))
    assert float(masks.masked_variance(x, jnp.array(mask), ddof=1)) == 0.0
    assert float(whitened(x)) == 0.0
    np.testing.assert_array_equal(jax.grad(whitened)(x), 0.0)


def test_whiten_of_equal_numbers_is_zero():
  # To the bit: what rounding leaves of 0.9 less the mean of 3,072 of them was -.03 after whitening.
  for number, shape in ((3.0, (2, 2)), (0.35, (64, 48)), (0.9, (64, 48)), (1000.3, (7,))):
    x = jnp.full(shape, number, jnp.float32)
    mask = jnp.arange(x.size).reshape(shape) != 1
    np.testing.assert_array_equal(masks.whiten(x, mask), 0.0)
    np.testing.assert_array_equal(masks.masked_variance(x, mask), 0.0)


@pytest.mark.parametrize("function", [
    masks.zero_masked, masks.masked_sum, masks.masked_mean, masks.masked_variance, masks.whiten,
    functools.partial(masks.whiten, ddof=1)])
def test_nan_at_masked_positions_does_not_leak(function):
  mask = jnp.array([[T, T, F], [T, F, F]])
  x = jnp.array([[1.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
  with_nan = jnp.where(mask, x, jnp.array([[0, 0, jnp.nan], [0, jnp.inf, jnp.nan]]))
  np.testing.assert_array_equal(function(with_nan, mask), function(x, mask))
  loss = lambda x: jnp.sum(jnp.sin(function(x, mask)))
  gradient = jax.grad(loss)(with_nan)
  np.testing.assert_array_equal(gradient, jax.grad(loss)(x))
  np.testing.assert_array_equal(np.asarray(gradient)[~np.asarray(mask)], 0.0)


def test_safe_divide_by_zero_has_zero_value_and_gradient():
  assert float(masks.safe_divide(jnp.float32(3), jnp.float32(0))) == 0.0
  gradient = jax.grad(masks.safe_divide, argnums=(0, 1))(jnp.float32(3), jnp.float32(0))
  assert gradient == (0.0, 0.0)


@pytest.mark.parametrize("mask, positions", [
    ([F, F, T, T, T], [0, 0, 0, 1, 2]),  # padded on the left
    ([T, T, F, F, F], [0, 1, 1, 1, 1]),  # on the right
    ([F, T, T, F, F], [0, 0, 1, 1, 1]),  # a left-padded prompt and its completion
    ([F, F, F, F, F], [0, 0, 0, 0, 0]),
])
def test_positions_from_mask(mask, positions):
  np.testing.assert_array_equal(masks.positions_from_mask(jnp.array([mask])), [positions])


def test_attention_mask_left_padded():
  expected = [[T, F, F, F], [F, T, F, F], [F, F, T, F], [F, F, T, T]]
  np.testing.assert_array_equal(masks.attention_mask(jnp.array([[0, 0, 1, 1]]))[0, 0], expected)


def test_attention_mask_right_padded():
  expected = [[T, F, F, F], [T, T, F, F], [F, F, T, F], [F, F, F, T]]
  np.testing.assert_array_equal(masks.attention_mask(jnp.array([[1, 1, 0, 0]]))[0, 0], expected)


def test_attention_mask_packed():
  expected = [
      [T, F, F, F, F], [T, T, F, F, F], [F, F, T, F, F], [F, F, T, T, F], [F, F, F, F, T]]
  np.testing.assert_array_equal(
      masks.attention_mask(jnp.array([[1, 1, 2, 2, 0]]))[0, 0], expected)


def test_packed_completions_see_their_prompt_by_hand():
  # Two completions of a prompt of two tokens, which stand at 0 and 1; a window of 3.
  segment_ids, positions = jnp.array([[1, 1, 2, 0]]), jnp.array([[2, 3, 2, 0]])
  prompt_mask = jnp.array([[False, True, True]])
  found = masks.shared_prompt_mask(segment_ids, positions, prompt_mask)
  np.testing.assert_array_equal(found[0, 0], [[0, 1, 1]] * 3 + [[0, 0, 0]])
  found = masks.shared_prompt_mask(segment_ids, positions, prompt_mask, window=3)
  np.testing.assert_array_equal(found[0, 0], [[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
