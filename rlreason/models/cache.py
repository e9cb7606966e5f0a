"""Key/value cache of one layer, in two parts: the prompt's, shared by its group, and the rows' own.

The prompt is computed once and stored once per *prompt*; its G samples read the same arrays. Keys
are stored with the slots last, [.., K, h, L], and values with the head's axis last: both products
of a decode step then read them in rows. (Keys stored like the values cost 1.3 times as much on the
CPU, one softmax over the joined scores 1.8 times.)
"""

from flax import struct
import jax
import jax.numpy as jnp

from rlreason.losses.logprobs import cap


@struct.dataclass
class LayerCache:
  """One layer's keys and values; B = P * G."""

  prompt_keys: jax.Array  # [P, K, h, S]
  prompt_values: jax.Array  # [P, K, S, h]
  keys: jax.Array  # [B, K, h, L], slots of generated tokens
  values: jax.Array  # [B, K, L, h]


@struct.dataclass
class DecodeStep:
  """Where the new token of every row stands, for one layer."""

  cache: LayerCache
  prompt_mask: jax.Array  # bool[P, S] prompt tokens that this layer may look at
  slot: jax.Array  # i32 scalar, the step of the new token; later slots are not looked at
  window: int | None = struct.field(pytree_node=False, default=None)  # tokens; None = all


def init(keys: jax.Array, values: jax.Array, group_size: int, length: int) -> list[LayerCache]:
  """One cache per layer, of a prefill's keys and values [N, P, S, K, h], with room for `length`."""
  def of_layer(key, value):
    prompts, _, heads, size = key.shape
    rows = prompts * group_size
    return LayerCache(
        prompt_keys=key.transpose(0, 2, 3, 1), prompt_values=value.transpose(0, 2, 1, 3),
        keys=jnp.zeros((rows, heads, size, length), key.dtype),
        values=jnp.zeros((rows, heads, length, size), value.dtype))
  return [of_layer(keys[i], values[i]) for i in range(keys.shape[0])]


def write(cache: LayerCache, key: jax.Array, value: jax.Array, slot: jax.Array) -> LayerCache:
  """Stores the key and value ([B, K, h]) of the token generated at step `slot` (i32 scalar)."""
  put = jax.lax.dynamic_update_slice_in_dim
  return cache.replace(
      keys=put(cache.keys, key[..., None].astype(cache.keys.dtype), slot, axis=3),
      values=put(cache.values, value[:, :, None].astype(cache.values.dtype), slot, axis=2))


def grow(cache: LayerCache, length: int) -> LayerCache:
  """The same cache with room for `length` generated tokens."""
  room = (0, length - cache.keys.shape[3])
  return cache.replace(
      keys=jnp.pad(cache.keys, ((0, 0), (0, 0), (0, 0), room)),
      values=jnp.pad(cache.values, ((0, 0), (0, 0), room, (0, 0))))


def keep_rows(cache: LayerCache, kept: jax.Array) -> LayerCache:
  """The cache of some rows of each prompt's group: `take_rows` of what is the rows' own."""
  return cache.replace(
      keys=take_rows(cache.keys, kept), values=take_rows(cache.values, kept))


def take_rows(x: jax.Array, kept: jax.Array) -> jax.Array:
  """[P * G, ...] -> [P * g, ...], the rows `kept` i32[P, g] of each group of G."""
  # Group by group, so that rows stay on the device that has their prompt.
  groups = x.reshape(kept.shape[0], -1, *x.shape[1:])
  return jax.vmap(lambda group, places: group[places])(groups, kept).reshape(-1, *x.shape[1:])


def attend(query: jax.Array, step: DecodeStep, *, softcap: float | None = None) -> jax.Array:
  """Attention of one new token per row over its prompt and its generated tokens so far.

  Args:
    query: [B, H, h], scaled.
    step: its cache already holds this token's key and value at `slot`.
    softcap: as in `attention.attend`.

  Returns:
    [B, H, h] in the type of `query`.
  """
  cache, slot = step.cache, step.slot
  batch, heads, size = query.shape
  prompts, kv_heads, _, _ = cache.prompt_keys.shape
  group, repeats, length = batch // prompts, heads // kv_heads, cache.keys.shape[3]
  # Rows of one prompt stand together for its products, [P, K, G * R, ..]; alone, [B, K, R, ..].
  together = lambda x: x.reshape(prompts, group, kv_heads, repeats, -1).swapaxes(1, 2).reshape(
      prompts, kv_heads, group * repeats, -1)
  alone = lambda x: x.reshape(prompts, kv_heads, group, repeats, -1).swapaxes(1, 2).reshape(
      batch, kv_heads, repeats, -1)
  # f32 scores: softmax differences of bf16 logits would not match the trainer's log-probs.
  product = lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32)
  query = query.reshape(batch, kv_heads, repeats, size)
  lowest = jnp.finfo(jnp.float32).min
  shared = jnp.where(
      step.prompt_mask[:, None, None], cap(product(together(query), cache.prompt_keys), softcap),
      lowest)
  slots = jnp.arange(length)
  is_seen = slots <= slot
  if step.window is not None:
    is_seen &= slots > slot - step.window
  own = jnp.where(is_seen[None, None, None], cap(product(query, cache.keys), softcap), lowest)
  # One softmax over both parts, with the division last.
  largest = jnp.maximum(
      alone(jnp.max(shared, axis=-1, keepdims=True)), jnp.max(own, axis=-1, keepdims=True))
  shared, own = jnp.exp(shared - together(largest)), jnp.exp(own - largest)
  total = alone(jnp.sum(shared, axis=-1, keepdims=True)) + jnp.sum(own, axis=-1, keepdims=True)
  out = alone(product(shared.astype(query.dtype), cache.prompt_values)) + product(
      own.astype(query.dtype), cache.values)
  return (out / total).astype(query.dtype).reshape(batch, heads, size)
