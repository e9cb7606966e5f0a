"""Log-probs and entropies from hidden states: direct formulas, chunks, temperature, masks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses, masks
from rlreason.parallel import ParallelConfig
from rlreason.parallel import mesh as parallel_mesh

B, T, D, V = 2, 7, 5, 11


@pytest.fixture(scope="module", name="inputs")
def inputs_fixture():
  random = np.random.default_rng(0)
  hidden = jnp.asarray(random.normal(size=(B, T, D)), jnp.float32)
  kernel = jnp.asarray(random.normal(size=(D, V)), jnp.float32)
  targets = jnp.asarray(random.integers(0, V, (B, T)), jnp.int32)
  return hidden, kernel, targets


def direct(hidden, kernel, targets, temperature=1.0):
  log_probs = jax.nn.log_softmax(hidden @ kernel / temperature)
  chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  return chosen, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def test_hand_worked():
  logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])) + 100.0
  log_probs, entropy = losses.from_logits(logits, jnp.array([1, 2]))
  np.testing.assert_allclose(log_probs, [np.log(0.25), np.log(1 / 3)], rtol=1e-5)
  np.testing.assert_allclose(entropy, [1.5 * np.log(2), np.log(3)], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_equals_the_direct_formula(inputs, temperature):
  got = losses.token_log_probs(*inputs, temperature=temperature)
  expected = direct(*inputs, temperature=temperature)
  for x, y in zip(got, expected, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("chunk_elements, vocab_axis", [(10**9, 1), (60, 1), (60, 0)])
def test_words_that_there_are_not_have_no_probability_and_no_gradient(
    inputs, chunk_elements, vocab_axis):
  hidden, kernel, targets = inputs
  known = V - 5
  targets = targets % known
  turned = kernel if vocab_axis else kernel.T
  loss = lambda fn, **options: lambda kernel: jnp.sum(jnp.sin(jnp.stack(fn(
      hidden, kernel, targets, **options))))
  value, gradient = jax.value_and_grad(loss(
      losses.token_log_probs, num_words=known, chunk_elements=chunk_elements,
      vocab_axis=vocab_axis))(turned)
  expected, of_known = jax.value_and_grad(loss(direct))(kernel[:, :known])
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  gradient = gradient if vocab_axis else gradient.T
  np.testing.assert_allclose(gradient[:, :known], of_known, atol=1e-5)
  assert not np.any(gradient[:, known:])


def test_temperature_zero_is_read_as_one(inputs):
  np.testing.assert_array_equal(
      losses.token_log_probs(*inputs, temperature=0.0)[0], losses.token_log_probs(*inputs)[0])


def weighted_sum(hidden, kernel, targets, chunk_elements, vocab_axis=1):
  log_probs, entropy = losses.token_log_probs(
      hidden, kernel, targets, temperature=0.7, chunk_elements=chunk_elements,
      vocab_axis=vocab_axis)
  weights = jnp.arange(B * T, dtype=jnp.float32).reshape(B, T)
  return jnp.sum(weights * log_probs) + jnp.sum(jnp.cos(weights) * entropy)


@pytest.mark.parametrize("columns", [1, 2, 3, 6])  # 7 columns: none of these divides them
def test_chunked_equals_whole(inputs, columns):
  hidden, kernel, targets = inputs
  run = lambda chunk_elements: jax.value_and_grad(weighted_sum, argnums=(0, 1))(
      hidden, kernel, targets, chunk_elements)
  whole, chunked = run(10**9), run(columns * B * V)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), whole, chunked)


@pytest.mark.parametrize("options", [dict(softcap=2.0), dict(temperature=0.0)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_chunks_know_the_cap_and_the_types(inputs, options, dtype):
  hidden, kernel, targets = inputs

  def loss(hidden, kernel, chunk_elements):
    log_probs, entropy = losses.token_log_probs(
        hidden.astype(dtype), kernel, targets, chunk_elements=chunk_elements, **options)
    return jnp.sum(log_probs * jnp.cos(targets)) - jnp.sum(entropy)

  run = lambda chunk_elements: jax.value_and_grad(loss, argnums=(0, 1))(
      hidden, kernel, chunk_elements)
  whole, chunked = run(10**9), run(30)
  tolerance = 1e-4 if dtype == jnp.float32 else 0.1
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), whole, chunked)


@pytest.mark.parametrize("words", [24, 22])  # the tensor axis of 4 does not divide 22
def test_a_vocabulary_split_over_devices_is_not_gathered(words):
  """Each device makes the logits of its own words; no array as large as the kernel is sent."""
  random = np.random.default_rng(0)
  mesh = parallel_mesh.make_mesh(ParallelConfig(data=2, tensor=4))
  hidden = jnp.asarray(random.normal(size=(4, T, D)), jnp.float32)
  kernel = jnp.asarray(random.normal(size=(D, words)), jnp.float32)
  targets = jnp.asarray(random.integers(0, words, (4, T)), jnp.int32)
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  columns = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(None, "tensor" if words == 24 else None))

  def loss(hidden, kernel, targets):
    log_probs, entropy = losses.token_log_probs(hidden, kernel, targets, chunk_elements=64)
    return jnp.sum(jnp.cos(jnp.arange(T, dtype=jnp.float32))[None] * log_probs) + jnp.sum(entropy)

  def in_mesh(*args):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return jax.value_and_grad(loss, argnums=(0, 1))(*args)

  args = (jax.device_put(hidden, rows), jax.device_put(kernel, columns),
          jax.device_put(targets, rows))
  compiled = jax.jit(in_mesh, out_shardings=(None, (rows, columns))).lower(*args).compile()
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), compiled(*args),
      jax.value_and_grad(loss, argnums=(0, 1))(hidden, kernel, targets))
  assert words != 24 or "all-gather" not in compiled.as_text()


@pytest.mark.parametrize("chunk_elements", [10**9, 30])
def test_a_kernel_may_have_its_vocabulary_first(inputs, chunk_elements):
  hidden, kernel, targets = inputs
  run = jax.value_and_grad(weighted_sum, argnums=(0, 1))
  value, gradients = run(hidden, kernel, targets, chunk_elements)
  turned = run(hidden, kernel.T, targets, chunk_elements, 0)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
      (value, (gradients[0], gradients[1].T)), turned)


def largest_array(inputs, chunk_elements):
  """Elements of the largest array in the gradient's program."""
  program = jax.make_jaxpr(jax.grad(weighted_sum), static_argnums=3)(*inputs, chunk_elements)
  return max(all_sizes(program.jaxpr))


def test_chunks_hold_no_more_logits_than_asked(inputs):
  hidden, kernel, targets = inputs
  narrow = hidden[..., :1], kernel[:1], targets  # or these would be the largest arrays
  assert largest_array(narrow, 10**9) == B * T * V
  assert largest_array(narrow, 15) <= 15


def all_sizes(jaxpr):
  for equation in jaxpr.eqns:
    yield from (variable.aval.size for variable in equation.outvars)
    is_program = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield from all_sizes(inner)


def test_bfloat16_hidden_states_give_f32_log_probs(inputs):
  hidden, kernel, targets = inputs
  log_probs, entropy = losses.token_log_probs(hidden.astype(jnp.bfloat16), kernel, targets)
  assert log_probs.dtype == entropy.dtype == jnp.float32
  np.testing.assert_allclose(log_probs, direct(*inputs)[0], atol=0.1)


def test_large_logits_stay_finite():
  logits = jnp.array([[1e4, 0.0, -1e4]])
  for target, expected in ((0, 0.0), (1, -1e4), (2, -2e4)):
    log_prob, entropy = losses.from_logits(logits, jnp.array([target]))
    assert float(log_prob[0]) == expected and float(entropy[0]) == 0.0


def test_a_masked_nan_does_not_leak_into_a_gradient(inputs):
  """Hidden states of padding are arbitrary; what is masked out before is out for good."""
  hidden, kernel, targets = inputs
  mask = jnp.arange(T)[None] < jnp.array([[3], [7]])

  def loss(hidden, kernel):
    log_probs, _ = losses.token_log_probs(
        masks.zero_masked(hidden, mask[..., None]), kernel, targets)
    return masks.masked_mean(log_probs, mask)

  clean = jax.value_and_grad(loss, argnums=(0, 1))(hidden, kernel)
  dirty = jax.value_and_grad(loss, argnums=(0, 1))(
      jnp.where(mask[..., None], hidden, jnp.nan), kernel)
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_mean_probability_hand_worked():
  """Beside the product and the geometric mean; masked tokens may be anything."""
  p = np.array([[0.9, 0.5, 0.7, 9], [0.9, 0.01, 0.7, 9], [np.nan] * 4])
  mask = jnp.array([[True] * 3 + [False]] * 2 + [[False] * 4])
  found = losses.mean_probability(jnp.log(jnp.asarray(p)), mask)
  np.testing.assert_allclose(found, [0.7, 0.53667, 0], rtol=1e-5)
  products = p[:2, :3].prod(axis=1)
  np.testing.assert_allclose(products, [0.315, 0.0063])
  np.testing.assert_allclose(products ** (1 / 3), [0.68041, 0.18469], rtol=1e-4)


def test_cap_hand_worked():
  np.testing.assert_allclose(
      losses.cap(jnp.array([0.0, 50.0, 1e4]), 50.0), [0.0, 50 * math.tanh(1), 50.0], rtol=1e-6)
  assert losses.cap(3.0, None) == 3.0
