"""Divergences: hand-worked numbers, limits and gradients; blocks of tokens, a teacher's top k."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses
from rlreason.parallel import ParallelConfig
from rlreason.parallel import mesh as parallel_mesh
from tests.losses.logprobs_test import all_sizes

B, T, V, WIDTH, TEACHER_WIDTH = 2, 7, 11, 3, 4
HALVES, QUARTERS = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
DIVERGENCES = {
    "forward": losses.forward_kl, "reverse": losses.reverse_kl,
    "jsd": functools.partial(losses.generalized_jsd, beta=0.3)}
divergences = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6))


def random_log_probs(seed, shape=(5, V), scale=2.0):
  return jax.nn.log_softmax(
      jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32))


def test_hand_worked():
  # With P = (1/2, 1/2) and Q = (1/4, 3/4): KL(P || Q) = log 2 - log 3 / 2 = 0.143841,
  # KL(Q || P) = 3/4 log 3 - log 2 = 0.130812, and M = (3/8, 5/8) at β = 1/2.
  assert float(losses.forward_kl(QUARTERS, HALVES)) == pytest.approx(0.143841, abs=1e-6)
  assert float(losses.reverse_kl(QUARTERS, HALVES)) == pytest.approx(0.130812, abs=1e-6)
  half = 0.5 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)
                + 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5))
  assert float(losses.generalized_jsd(QUARTERS, HALVES, beta=0.5)) == pytest.approx(half, abs=1e-6)


def test_gradient_of_the_forward_kl_is_a_difference_of_probabilities():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, V)), jnp.float32)
  teacher = random_log_probs(1)
  gradient = jax.grad(
      lambda logits: jnp.sum(losses.forward_kl(jax.nn.log_softmax(logits), teacher)))(logits)
  np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - jnp.exp(teacher), atol=1e-6)


def test_gradient_of_the_reverse_kl():
  """p (log p - log q - KL), also what it is for the log-probs alone."""
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, V)), jnp.float32)
  teacher, student = random_log_probs(1), jax.nn.log_softmax(logits)
  gradient = jax.grad(
      lambda logits: jnp.sum(losses.reverse_kl(jax.nn.log_softmax(logits), teacher)))(logits)
  kl = losses.reverse_kl(student, teacher)[:, None]
  np.testing.assert_allclose(
      gradient, jnp.exp(student) * (student - teacher - kl), atol=1e-6)


def test_limits_of_the_jensen_shannon_divergence():
  student, teacher = random_log_probs(0, scale=0.5), random_log_probs(1, scale=0.5)
  jsd = lambda beta: losses.generalized_jsd(student, teacher, beta=beta)
  np.testing.assert_allclose(jsd(1e-3) / 1e-3, losses.forward_kl(student, teacher), rtol=0.02)
  np.testing.assert_allclose(jsd(1 - 1e-3) / 1e-3, losses.reverse_kl(student, teacher), rtol=0.02)
  assert_close(jsd(0), losses.forward_kl(student, teacher))
  assert_close(jsd(1), losses.reverse_kl(student, teacher))


def test_jensen_shannon_divergence_is_symmetric_and_bounded():
  student, teacher = random_log_probs(0), random_log_probs(1)
  for beta in (0.1, 0.5, 0.8):
    assert_close(losses.generalized_jsd(student, teacher, beta=beta),
                 losses.generalized_jsd(teacher, student, beta=1 - beta))
  apart = jnp.array([0.0, -jnp.inf]), jnp.array([-jnp.inf, 0.0])  # nothing in common: log 2
  assert float(losses.generalized_jsd(*apart, beta=0.5)) == pytest.approx(math.log(2), rel=1e-6)


@divergences
def test_divergences_are_not_negative_and_0_only_where_equal(divergence):
  student, teacher = random_log_probs(0), random_log_probs(1)
  assert np.all(np.asarray(divergence(student, teacher)) > 0.01)
  np.testing.assert_allclose(divergence(teacher, teacher), 0.0, atol=1e-6)
  order = np.random.default_rng(2).permutation(V)
  assert_close(divergence(student, teacher), divergence(student[:, order], teacher[:, order]))


@divergences
def test_the_teacher_gets_no_gradient_and_equals_give_none(divergence):
  logits, teacher = jnp.log(jnp.array([[0.1, 0.2, 0.7]])), random_log_probs(1, (1, 3))
  loss = lambda logits, teacher: jnp.sum(divergence(jax.nn.log_softmax(logits), teacher))
  np.testing.assert_array_equal(jax.grad(loss, argnums=1)(logits, teacher), 0.0)
  np.testing.assert_allclose(jax.grad(loss)(teacher, teacher), 0.0, atol=1e-7)


@divergences
def test_words_that_both_rule_out_change_nothing(divergence):
  student, teacher = random_log_probs(0, (1, 3)), random_log_probs(1, (1, 3))
  wide = lambda x: jnp.pad(x, ((0, 0), (0, 2)), constant_values=-jnp.inf)
  loss = lambda student, pad: jnp.sum(divergence(
      jax.nn.log_softmax(pad(student)), jax.nn.log_softmax(pad(teacher))))
  narrow = jax.value_and_grad(loss)(student, lambda x: x)
  assert_close(narrow, jax.value_and_grad(loss)(student, wide))


@divergences
def test_a_word_that_one_side_rules_out_stays_finite(divergence):
  apart = (jnp.array([0.0, -200.0]), jnp.array([0.0, -jnp.inf]))
  for student, teacher in (apart, apart[::-1]):
    assert float(divergence(student, teacher)) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(jax.grad(divergence)(student, teacher)[1], 0.0, atol=1e-6)
  certain, half = jnp.array([0.0, -jnp.inf]), HALVES
  for student, teacher in ((certain, half), (half, certain)):
    loss, gradient = jax.value_and_grad(divergence)(student, teacher)
    assert float(loss) > 0.1 and np.all(np.isfinite(gradient))


def test_beta_out_of_range_is_named():
  with pytest.raises(ValueError, match="beta: got 1.5, allowed: 0 to 1"):
    losses.generalized_jsd(HALVES, HALVES, beta=1.5)


# From hidden states.


@pytest.fixture(scope="module", name="models")
def models_fixture():
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
  return (losses.Unembedded(draw(B, T, WIDTH), draw(WIDTH, V)),
          losses.Unembedded(draw(B, T, TEACHER_WIDTH), draw(V, TEACHER_WIDTH), vocab_axis=0,
                            softcap=2.0))


WEIGHTS = jnp.cos(jnp.arange(B * T, dtype=jnp.float32)).reshape(B, T)


def weighted(per_token):
  return jnp.sum(WEIGHTS * per_token)


def run(models, loss):
  """A loss of (student, teacher) and its gradient for the student's hidden states and kernel."""
  student, teacher = models
  of = lambda hidden, kernel, teacher_hidden, teacher_kernel: loss(
      student._replace(hidden=hidden, kernel=kernel),
      teacher._replace(hidden=teacher_hidden, kernel=teacher_kernel))
  return jax.jit(jax.value_and_grad(of, argnums=(0, 1)))(
      student.hidden, student.kernel, teacher.hidden, teacher.kernel)


def direct(divergence, temperature):
  def loss(student, teacher):
    logits = student.hidden @ student.kernel, losses.cap(teacher.hidden @ teacher.kernel.T, 2.0)
    return weighted(divergence(*(jax.nn.log_softmax(x / temperature) for x in logits)))
  return loss


def whole(divergence, temperature=1.5, chunk_elements=10**9):
  return lambda student, teacher: weighted(losses.token_divergence(
      student, teacher, divergence, temperature=temperature, chunk_elements=chunk_elements))


def top(divergence, k, others="bucket", chunk_elements=10**9):
  def loss(student, teacher):
    ids, log_probs = losses.top_k_log_probs(
        teacher, k, temperature=1.5, chunk_elements=chunk_elements)
    return weighted(losses.top_k_divergence(
        student, ids, log_probs, divergence, others=others, temperature=1.5,
        chunk_elements=chunk_elements))
  return loss


@divergences
@pytest.mark.parametrize("columns", [0, 3])  # of 7 columns; 0: one at least
def test_blocks_are_the_direct_formula(models, divergence, columns):
  expected = run(models, direct(divergence, 1.5))
  assert_close(expected, run(models, whole(divergence, chunk_elements=columns * B * V)))


@divergences
def test_all_words_of_the_teacher_are_the_whole(models, divergence):
  expected = run(models, whole(divergence))
  assert_close(expected, run(models, top(divergence, V, "bucket")))
  assert_close(expected, run(models, top(divergence, V, "renormalize", 2 * B * V)))


@pytest.mark.parametrize("others", ["bucket", "renormalize"])
def test_top_k_in_blocks_is_top_k(models, others):
  divergence = DIVERGENCES["jsd"]
  assert_close(run(models, top(divergence, 3, others)),
               run(models, top(divergence, 3, others, chunk_elements=2 * B * V)))


@divergences
def test_the_top_k_with_a_bucket_is_a_lower_bound(models, divergence):
  """Joining outcomes loses what tells them apart, never more; 1 word < 3 words < all."""
  student, teacher = models

  def per_token(k):
    ids, log_probs = losses.top_k_log_probs(teacher, k)
    return np.asarray(losses.top_k_divergence(student, ids, log_probs, divergence))

  few, some, everything = (per_token(k) for k in (1, 3, V))
  assert np.all(few <= some + 1e-6) and np.all(some <= everything + 1e-6)
  assert np.all(few >= -1e-6) and few.mean() < some.mean() < everything.mean()


def test_top_k_hand_worked():
  # Teacher (1/2, 1/4, 1/8, 1/8), student the same turned round; the teacher's first is kept.
  log_probs = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.125]))
  bucket = [losses.with_others(x, "bucket") for x in log_probs]
  np.testing.assert_allclose(jnp.exp(bucket[0]), [0.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(jnp.exp(bucket[1]), [0.125, 0.875], rtol=1e-6)
  renormalized = losses.with_others(jnp.log(jnp.array([0.125, 0.375])), "renormalize")
  np.testing.assert_allclose(jnp.exp(renormalized), [0.25, 0.75], rtol=1e-6)
  with pytest.raises(ValueError, match="others: got 'none', allowed: bucket, renormalize"):
    losses.with_others(log_probs[0], "none")


def largest_array(models, loss):
  student, teacher = models
  program = jax.make_jaxpr(jax.grad(lambda hidden, kernel: loss(
      student._replace(hidden=hidden, kernel=kernel), teacher), argnums=(0, 1)))(
          student.hidden, student.kernel)
  return max(all_sizes(program.jaxpr))


def test_blocks_hold_no_more_logits_than_asked(models):
  narrow = tuple(model._replace(
      hidden=model.hidden[..., :1],
      kernel=jnp.take(model.kernel, jnp.array([0]), axis=1 - model.vocab_axis)) for model in models)
  for loss in (whole, functools.partial(top, k=1)):
    assert largest_array(narrow, loss(losses.forward_kl, chunk_elements=10**9)) == B * T * V
    assert largest_array(narrow, loss(losses.forward_kl, chunk_elements=B * V)) <= 2 * B * T


def test_a_vocabulary_may_be_split_over_devices():
  random = np.random.default_rng(0)
  mesh = parallel_mesh.make_mesh(ParallelConfig(data=2, tensor=4))
  draw = lambda spec, *shape: jax.device_put(
      jnp.asarray(random.normal(size=shape), jnp.float32),
      jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
  split = (losses.Unembedded(draw(("data",), 4, T, WIDTH), draw((None, "tensor"), WIDTH, 24)),
           losses.Unembedded(draw(("data",), 4, T, WIDTH), draw(("tensor",), 24, WIDTH), 0))
  everywhere = tuple(model._replace(hidden=np.asarray(model.hidden),
                                    kernel=np.asarray(model.kernel)) for model in split)

  def loss(k):
    def of(student, teacher):
      if not k:
        return jnp.sum(losses.token_divergence(
            student, teacher, losses.forward_kl, chunk_elements=2 * 4 * 24))
      ids, log_probs = losses.top_k_log_probs(teacher, k, chunk_elements=2 * 4 * 24)
      return jnp.sum(losses.top_k_divergence(
          student, ids, log_probs, losses.forward_kl, chunk_elements=2 * 4 * 24))
    return of

  for k in (0, 3):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      got = run(split, loss(k))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
                 got, run(everywhere, loss(k)))


def test_bfloat16_is_turned_into_f32(models):
  student, teacher = models
  low = [model._replace(hidden=model.hidden.astype(jnp.bfloat16)) for model in models]
  got = losses.token_divergence(*low, losses.forward_kl, chunk_elements=B * V)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(
      got, losses.token_divergence(student, teacher, losses.forward_kl), atol=0.2)


@pytest.mark.parametrize("chunk_elements", [10**9, 3 * V])
@pytest.mark.parametrize("divergence", [losses.forward_kl, losses.reverse_kl])
def test_words_that_there_are_not_are_nothing_to_both(models, divergence, chunk_elements):
  known = V - 2
  cut = lambda model: model._replace(
      kernel=model.kernel[:known] if model.vocab_axis == 0 else model.kernel[:, :known])
  loss = lambda student, teacher: weighted(losses.token_divergence(
      student, teacher, divergence, chunk_elements=chunk_elements))
  value, (_, gradient) = run([model._replace(num_words=known) for model in models], loss)
  expected, (_, of_known) = run(list(map(cut, models)), loss)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient[:, :known], of_known, atol=1e-5)
  assert not np.any(gradient[:, known:])
