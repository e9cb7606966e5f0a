"""Log-probabilities and entropies of tokens, from hidden states, without logits for a whole batch.

Logits of `[B, T, V]` in f32 are the largest array of a language-model loss (40 GB for 32 rows of 2k
tokens and a vocabulary of 151k). Here they exist for a chunk of columns at a time, in the forward
and, by recomputation, in the backward pass.
"""

import chex
import jax
import jax.numpy as jnp

# Logits alive at once: 64 MiB in f32. Each chunk reads the kernel and adds to its gradient, so that
# chunks of a few dozen rows cost more than the logits they save.
CHUNK_ELEMENTS = 2**24


def from_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """log p(target) and entropy of softmax(logits).

  Args:
    logits: f32[..., V].
    targets: i32[...].

  Returns:
    log_probs, entropy: f32[...] each, in nats.
  """
  logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  exponentials = jnp.exp(logits)
  total = jnp.sum(exponentials, axis=-1)
  log_total = jnp.log(total)
  # A comparison and a sum instead of a gather: it fuses, its gradient is no scatter, and it works
  # on a vocabulary that is sharded over devices.
  is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == (
      targets[..., None])
  chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  entropy = log_total - jnp.sum(exponentials * logits, axis=-1) / total
  return chosen - log_total, entropy


def token_log_probs(
    hidden: jax.Array, kernel: jax.Array, targets: jax.Array, *, temperature: float = 1.0,
    softcap: float | None = None, chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[jax.Array, jax.Array]:
  """log p(target) under softmax(hidden @ kernel / temperature), and that distribution's entropy.

  The temperature must be the one the tokens were sampled at: only then is the ratio of the first
  PPO minibatch 1. A temperature of 0 (greedy) is read as 1.

  Args:
    hidden: [B, T, D].
    kernel: [D, V].
    targets: i32[B, T].
    temperature: 0 or more.
    softcap: logits x become softcap * tanh(x / softcap) before the temperature; None: they stay.
    chunk_elements: logits alive at once; the columns are cut into as many chunks as that needs.

  Returns:
    log_probs, entropy: f32[B, T] each, in nats.
  """
  chex.assert_rank([hidden, kernel, targets], [3, 2, 2])
  scale = 1.0 / (temperature if temperature > 0 else 1.0)
  kernel = kernel.astype(hidden.dtype)

  def of_columns(hidden, targets):
    # One product of two matrices: with batch and columns as separate axes its gradient is 2.3 times
    # slower on the CPU. f32 logits, whatever the compute type: see `models.logits`.
    rows = hidden.reshape(-1, hidden.shape[-1])
    logits = jnp.matmul(rows, kernel, preferred_element_type=jnp.float32)
    if softcap is not None:
      logits = softcap * jnp.tanh(logits / softcap)
    results = from_logits(logits * scale, targets.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(targets.shape), results)

  batch, length, _ = hidden.shape
  columns = max(1, chunk_elements // (batch * kernel.shape[1]))
  if columns >= length:
    return of_columns(hidden, targets)
  chunks = -(-length // columns)
  columns = -(-length // chunks)  # even chunks waste the least padding
  pad = chunks * columns - length

  def to_chunks(x):
    x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(batch, chunks, columns, *x.shape[2:]).swapaxes(0, 1)

  results = jax.lax.map(
      jax.checkpoint(lambda chunk: of_columns(*chunk)), (to_chunks(hidden), to_chunks(targets)))
  return jax.tree.map(
      lambda x: x.swapaxes(0, 1).reshape(batch, chunks * columns)[:, :length], results)
