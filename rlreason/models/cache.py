"""Key/value cache of one layer, in two parts: the prompt's, shared by its group, and each row's own.

The prompt is computed once and stored once per *prompt*; its G samples read the same arrays. Keys
come before positions in the layout ([.., K, S, h]) so that both products of a decode step are
batched matrix products without a transposition.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class LayerCache:
  """One layer's keys and values; B = P * G."""

  prompt_keys: jax.Array  # [P, K, S, h]
  prompt_values: jax.Array  # [P, K, S, h]
  keys: jax.Array  # [B, K, L, h], slots of generated tokens
  values: jax.Array  # [B, K, L, h]


def init(keys: jax.Array, values: jax.Array, group_size: int, length: int) -> list[LayerCache]:
  """One cache per layer, of a prefill's keys and values [N, P, S, K, h], with room for `length`."""
  def of_layer(key, value):
    prompts, _, heads, size = key.shape
    own = jnp.zeros((prompts * group_size, heads, length, size), key.dtype)
    return LayerCache(
        prompt_keys=key.swapaxes(1, 2), prompt_values=value.swapaxes(1, 2), keys=own, values=own)
  return [of_layer(keys[i], values[i]) for i in range(keys.shape[0])]


def write(cache: LayerCache, key: jax.Array, value: jax.Array, slot: jax.Array) -> LayerCache:
  """Stores the key and value ([B, K, h]) of the token generated at step `slot` (i32 scalar)."""
  put = lambda cached, new: jax.lax.dynamic_update_slice_in_dim(
      cached, new[:, :, None].astype(cached.dtype), slot, axis=2)
  return cache.replace(keys=put(cache.keys, key), values=put(cache.values, value))


def grow(cache: LayerCache, length: int) -> LayerCache:
  """The same cache with room for `length` generated tokens."""
  pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))
  return cache.replace(keys=pad(cache.keys), values=pad(cache.values))


def attend(
    query: jax.Array, cache: LayerCache, prompt_mask: jax.Array, slot: jax.Array
) -> jax.Array:
  """Attention of one new token per row over its prompt and its generated tokens so far.

  Args:
    query: [B, H, h].
    cache: already holds this token's key and value at `slot`.
    prompt_mask: bool[P, S].
    slot: i32 scalar, the step of the newest token; later slots are not looked at.

  Returns:
    [B, H, h] in the type of `query`.
  """
  batch, heads, size = query.shape
  prompts, kv_heads, prompt_length, _ = cache.prompt_keys.shape
  group, repeats, length = batch // prompts, heads // kv_heads, cache.keys.shape[2]
  scaled = query * (size ** -0.5)
  shared = scaled.reshape(prompts, group, kv_heads, repeats, size)
  own = scaled.reshape(batch, kv_heads, repeats, size)
  # f32 scores: softmax differences of bf16 logits would not match the trainer's log-probs.
  prompt_scores = jnp.einsum(
      "pgkrh,pksh->pgkrs", shared, cache.prompt_keys, preferred_element_type=jnp.float32)
  own_scores = jnp.einsum(
      "bkrh,bklh->bkrl", own, cache.keys, preferred_element_type=jnp.float32)
  lowest = jnp.finfo(jnp.float32).min
  prompt_scores = jnp.where(prompt_mask[:, None, None, None], prompt_scores, lowest)
  own_scores = jnp.where((jnp.arange(length) <= slot)[None, None, None], own_scores, lowest)
  scores = jnp.concatenate(
      [prompt_scores.reshape(batch, kv_heads, repeats, prompt_length), own_scores], axis=-1)
  weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
  shared_weights = weights[..., :prompt_length].reshape(
      prompts, group, kv_heads, repeats, prompt_length)
  from_prompt = jnp.einsum("pgkrs,pksh->pgkrh", shared_weights, cache.prompt_values)
  from_own = jnp.einsum("bkrl,bklh->bkrh", weights[..., prompt_length:], cache.values)
  return from_prompt.reshape(batch, heads, size) + from_own.reshape(batch, heads, size)
