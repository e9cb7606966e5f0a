"""Divergences between the next-token distributions of a student and a teacher.

The divergences take log-probabilities f32[..., V] of the same V outcomes: the words of a
vocabulary, or a teacher's top words and "any other". Only the student receives gradients.

For models, logits of `[B, T, V]` are never held: they are computed for blocks of tokens, and again
in the backward pass.
"""

import functools
import math
from typing import Callable, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlreason.losses.logprobs import CHUNK_ELEMENTS, cap, hide_words, log1mexp
from rlreason.parallel.rules import num_shards
from rlreason.parallel.shards import map_rows, pad_columns

Others = Literal["bucket", "renormalize"]

# Nats: a probability of 0 in f32, but finite. An outcome that only the other side rules out then
# has a large cost instead of infinity, whose gradient is NaN.
_ZERO = -1e4


def forward_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """KL(teacher || student), which is mass-covering.

  Its gradient with respect to the student's logits is p_student - p_teacher.

  Args:
    student: f32[..., V] log-probs.
    teacher: f32[..., V] log-probs; gradients stopped.

  Returns:
    f32[...] nats, 0 or more.
  """
  return _kl(jax.lax.stop_gradient(teacher), student)


def reverse_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """KL(student || teacher), which is mode-seeking; arguments as for `forward_kl`.

  For f32[..., V] log-probs it is f32[...] nats.
  """
  return _kl(student, jax.lax.stop_gradient(teacher))


def generalized_jsd(student: jax.Array, teacher: jax.Array, *, beta: float) -> jax.Array:
  """The generalized Jensen-Shannon divergence of GKD.

  β KL(P || M) + (1 - β) KL(Q || M),  M = β P + (1 - β) Q,  P the teacher, Q the student.  Eq. (1),
  Agarwal et al. 2023, https://arxiv.org/abs/2306.13649.

  Divided by β it tends to the forward KL as β -> 0, and divided by 1 - β to the reverse KL as
  β -> 1. As in released implementations, β = 0 and β = 1 give these two, not the 0 of the formula:
  the scale jumps at both ends.

  Args:
    student: f32[..., V] log-probs.
    teacher: f32[..., V] log-probs; gradients stopped.
    beta: β in [0, 1].

  Returns:
    f32[...] nats; for 0 < β < 1 at most the entropy of (β, 1 - β).

  Raises:
    ValueError: `beta` is out of range.
  """
  if not 0 <= beta <= 1:
    raise ValueError(f"beta: got {beta}, allowed: 0 to 1")
  if beta == 0:
    return forward_kl(student, teacher)
  if beta == 1:
    return reverse_kl(student, teacher)
  student, teacher = _finite(student), _finite(jax.lax.stop_gradient(teacher))
  mixture = jnp.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
  return beta * _kl(teacher, mixture) + (1.0 - beta) * _kl(student, mixture)


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
  """KL(p || q) of log-probs; an outcome that p rules out adds nothing."""
  chex.assert_equal_shape([p, q])
  p, q = _finite(p), _finite(q)
  return jnp.sum(jnp.exp(p) * (p - q), axis=-1)


def _finite(log_probs):
  return jnp.maximum(log_probs, _ZERO)


def with_others(log_probs: jax.Array, others: Others) -> jax.Array:
  """Log-probs of some words as a distribution.

  Args:
    log_probs: f32[..., K] of K of the V words.
    others: "bucket" adds the remaining probability as one more outcome, nothing if it is less than
      1e-6; "renormalize" distributes it, and ignores how much it is.

  Returns:
    f32[..., K + 1], or f32[..., K].
  """
  if others == "renormalize":
    return jax.nn.log_softmax(log_probs)
  if others != "bucket":
    raise ValueError(f"others: got {others!r}, allowed: bucket, renormalize")
  rest = log1mexp(jax.nn.logsumexp(log_probs, axis=-1, keepdims=True))
  return jnp.concatenate([log_probs, rest], axis=-1)


class Unembedded(NamedTuple):
  """Hidden states and the parameters that turn them into logits."""

  hidden: jax.Array  # [B, T, D]
  kernel: jax.Array  # [D, V], or [V, D] with `vocab_axis=0`
  vocab_axis: int = 1
  softcap: float | None = None  # logits x become softcap * tanh(x / softcap)
  num_words: int | None = None  # words from here on have probability 0; None: there are none


def token_divergence(
    student: Unembedded, teacher: Unembedded, divergence: Callable, *,
    temperature: float = 1.0, chunk_elements: int = CHUNK_ELEMENTS,
) -> jax.Array:
  """A divergence of whole next-token distributions, per token.

  Args:
    student: the gradient flows into its hidden states and kernel.
    teacher: of the same vocabulary, of any width; gradients stopped.
    divergence: of this module, options bound: (student, teacher) f32[R, V] log-probs -> f32[R].
    temperature: above 0, divides the logits of both. The loss is not scaled by its square.
    chunk_elements: logits of a model in memory at once; at least one token per row.

  Returns:
    f32[B, T] nats.
  """
  teacher = teacher._replace(
      hidden=jax.lax.stop_gradient(teacher.hidden), kernel=jax.lax.stop_gradient(teacher.kernel))

  def of_block(student_kernel, student_rows, teacher_rows):
    return divergence(
        _log_probs(student, student_rows, student_kernel, temperature),
        _log_probs(teacher, teacher_rows, teacher.kernel, temperature))

  return _in_blocks(
      of_block, student, (student.hidden, teacher.hidden), chunk_elements)


def top_k_log_probs(
    teacher: Unembedded, k: int, *, temperature: float = 1.0, chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[jax.Array, jax.Array]:
  """The k likeliest words at each token: ids i32[B, T, K] and log-probs f32[B, T, K]."""
  def of_block(kernel, rows):
    log_probs, ids = jax.lax.top_k(_log_probs(teacher, rows, kernel, temperature), k)
    return ids, log_probs

  return _in_blocks(of_block, teacher, (teacher.hidden,), chunk_elements)


def top_k_divergence(
    student: Unembedded, ids: jax.Array, teacher_log_probs: jax.Array, divergence: Callable, *,
    others: Others = "bucket", temperature: float = 1.0, chunk_elements: int = CHUNK_ELEMENTS,
) -> jax.Array:
  """As `token_divergence`, from the teacher's likeliest words alone; the same when K = V.

  Args:
    student: as there.
    ids: i32[B, T, K] words of the teacher.
    teacher_log_probs: f32[B, T, K] of these in its whole vocabulary, at `temperature`.
    divergence: as there.
    others: how the other words are treated, see `with_others`.
    temperature: as there.
    chunk_elements: as there.

  Returns:
    f32[B, T] nats.
  """
  def of_block(kernel, rows, ids, teacher_log_probs):
    log_probs = _log_probs(student, rows, kernel, temperature)
    log_probs = jnp.take_along_axis(log_probs, ids, axis=-1)
    return divergence(with_others(log_probs, others), with_others(teacher_log_probs, others))

  return _in_blocks(
      of_block, student, (student.hidden, ids, teacher_log_probs), chunk_elements)


def _log_probs(model: Unembedded, rows, kernel, temperature):
  """f32[R, V] of rows [R, D]; f32 logits whatever the compute type: see `models.logits`."""
  equation = "rd,vd->rv" if model.vocab_axis == 0 else "rd,dv->rv"
  logits = jnp.einsum(
      equation, rows, kernel.astype(rows.dtype), preferred_element_type=jnp.float32)
  logits = cap(logits, model.softcap) / temperature
  return jax.nn.log_softmax(hide_words(logits, model.num_words))


def _in_blocks(of_block, model: Unembedded, arrays, chunk_elements):
  """`of_block(kernel, *rows [R, ...]) -> f32[R, ...]` over all tokens of arrays [B, T, ...].

  Where devices split the columns, each has blocks of its own tokens.
  """
  length, shards = model.hidden.shape[1], num_shards("length")
  run = functools.partial(_blocks, of_block, model.vocab_axis, chunk_elements)
  if shards == 1:
    return run(model.kernel, *arrays)
  kernel, token = ("embed", "vocab"), ("batch", "length")
  result = map_rows(
      run, (kernel[::-1] if model.vocab_axis == 0 else kernel, *(token for _ in arrays)), token)(
          model.kernel, *(pad_columns(x, shards) for x in arrays))
  return jax.tree.map(lambda x: x[:, :length], result)


def _blocks(of_block, vocab_axis, chunk_elements, kernel, *arrays):
  """The same on one device, or of its rows.

  A block is a few columns of every row, so that rows split over devices stay there.
  """
  (batch, length), vocabulary = arrays[0].shape[:2], kernel.shape[vocab_axis]
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  if batch * length * vocabulary <= chunk_elements:
    result = of_block(kernel, *map(flat, arrays))
    return jax.tree.map(lambda x: x.reshape(batch, length, *x.shape[1:]), result)

  columns = max(1, chunk_elements // (batch * vocabulary))
  blocks = -(-length // columns)
  columns = -(-length // blocks)  # even blocks waste the least padding
  pad = blocks * columns - length

  def to_blocks(x):
    x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(batch, blocks, columns, *x.shape[2:]).swapaxes(0, 1)

  def to_rows(x):
    x = x.reshape(blocks, batch, columns, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(batch, -1, *x.shape[3:])[:, :length]

  # In f32, because the gradient of the kernel is a sum over blocks.
  again = jax.checkpoint(of_block, prevent_cse=False)
  one = functools.partial(again, kernel.astype(jnp.float32))
  result = jax.lax.map(lambda block: one(*map(flat, block)), tuple(map(to_blocks, arrays)))
  return jax.tree.map(to_rows, result)
