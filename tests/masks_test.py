"""Masked reductions, token weights, positions and attention masks, on hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import masks

F, T = False, True


def test_token_weights_hand_worked():
  mask = jnp.arange(8)[None] < jnp.array([[2], [8]])
  loss = jnp.array([[1.0] * 8, [0.0] * 8])
  means = {
      "token-mean": masks.token_weights(mask, "token-mean"),
      "sequence-mean": masks.token_weights(mask, "sequence-mean"),
      "constant": masks.token_weights(mask, "constant", constant_length=10),
  }
  got = {name: float(jnp.sum(weights * loss)) for name, weights in means.items()}
  assert got == pytest.approx({"token-mean": 0.2, "sequence-mean": 0.5, "constant": 0.1})


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean"])
def test_token_weights_are_a_mean_whatever_the_empty_rows_and_columns(aggregation):
  mask = jnp.array([[T, T, F], [F, F, F], [F, T, F]])
  weights = masks.token_weights(mask, aggregation)
  np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-6)
  assert not np.any(np.asarray(weights)[~np.asarray(mask)])
  wider = masks.token_weights(jnp.pad(mask, ((0, 2), (1, 3))), aggregation)
  np.testing.assert_array_equal(wider[:3, 1:4], weights)


def test_token_weights_without_any_token_are_zero():
  for aggregation in ("token-mean", "sequence-mean", "constant"):
    np.testing.assert_array_equal(masks.token_weights(jnp.zeros((2, 3), bool), aggregation), 0.0)


def test_token_weights_names_what_is_allowed():
  with pytest.raises(ValueError, match="got 'mean', allowed: token-mean, sequence-mean, constant"):
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


def test_whiten_of_equal_numbers_is_zero():
  np.testing.assert_allclose(masks.whiten(jnp.full((2, 2), 3.0), jnp.ones((2, 2), bool)), 0.0)


@pytest.mark.parametrize("function", [
    masks.zero_masked, masks.masked_sum, masks.masked_mean, masks.masked_variance, masks.whiten])
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
