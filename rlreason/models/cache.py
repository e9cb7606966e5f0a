"""Key/value cache of one layer, in two parts: the prompt's, shared by its group, and each row's.

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
  """Cache and slots of T new tokens of every row, for one layer. Rows may differ in length."""

  cache: LayerCache
  # bool[P, S] prompt tokens this layer may attend to; bool[B, T, S] where that differs by token.
  prompt_mask: jax.Array
  slots: jax.Array  # i32[B, T] of the new tokens, none of which attends to later slots
  window: int | None = struct.field(pytree_node=False, default=None)  # tokens; None = all


def init(keys: jax.Array, values: jax.Array, group_size: int, length: int) -> list[LayerCache]:
  """One cache per layer, of a prefill's keys and values [N, P, S, K, h], of capacity `length`."""
  def of_layer(key, value):
    prompts, _, heads, size = key.shape
    rows = prompts * group_size
    return LayerCache(
        prompt_keys=key.transpose(0, 2, 3, 1), prompt_values=value.transpose(0, 2, 1, 3),
        keys=jnp.zeros((rows, heads, size, length), key.dtype),
        values=jnp.zeros((rows, heads, length, size), value.dtype))
  return [of_layer(keys[i], values[i]) for i in range(keys.shape[0])]


def write(cache: LayerCache, keys: jax.Array, values: jax.Array, slots: jax.Array) -> LayerCache:
  """Stores keys and values ([B, T, K, h]) of new tokens in slots i32[B, T]; slots outside are
  skipped.

  Every row has its own slots, so that rows of different lengths have no gaps and need no moves when
  they grow, fork or restart. Writing all rows at one slot saves 0.3 ms in 30 layers for a batch of
  1 and about 2 ms for 32, 1% and 2% of a decode step of SmolLM2 on two cores.
  """
  slots = jnp.where(slots < 0, cache.keys.shape[3], slots)  # negative ones would count from the end
  # Row by row, so that rows stay on their device.
  put = jax.vmap(lambda cache, keys, values, slots: cache.replace(
      keys=cache.keys.at[:, :, slots].set(
          keys.transpose(1, 2, 0).astype(cache.keys.dtype), mode="drop"),
      values=cache.values.at[:, slots].set(
          values.swapaxes(0, 1).astype(cache.values.dtype), mode="drop")))
  own = cache.replace(prompt_keys=None, prompt_values=None)
  return put(own, keys, values, slots).replace(
      prompt_keys=cache.prompt_keys, prompt_values=cache.prompt_values)


def grow(cache: LayerCache, length: int) -> LayerCache:
  """The same cache with capacity for `length` generated tokens."""
  padding = (0, length - cache.keys.shape[3])
  return cache.replace(
      keys=jnp.pad(cache.keys, ((0, 0), (0, 0), (0, 0), padding)),
      values=jnp.pad(cache.values, ((0, 0), (0, 0), padding, (0, 0))))


def keep_rows(cache: LayerCache, kept: jax.Array) -> LayerCache:
  """The cache of the rows `kept` i32[P, g] of each prompt's group, by `take_rows`.

  For [P * G, ...] keys and values it has [P * g, ...]; those of prompts, [P, ...], stay.
  """
  return cache.replace(
      keys=take_rows(cache.keys, kept), values=take_rows(cache.values, kept))


def take_rows(x: jax.Array, kept: jax.Array) -> jax.Array:
  """[P * G, ...] -> [P * g, ...], the rows `kept` i32[P, g] of each group of G."""
  # Group by group, so that rows stay on the device that has their prompt.
  groups = x.reshape(kept.shape[0], -1, *x.shape[1:])
  return jax.vmap(lambda group, rows: group[rows])(groups, kept).reshape(-1, *x.shape[1:])


def attend(query: jax.Array, step: DecodeStep, *, softcap: float | None = None) -> jax.Array:
  """Attention of T new tokens per row over its prompt and its own previous tokens.

  Args:
    query: [B, T, H, h], scaled.
    step: its cache already holds the new tokens' keys and values.
    softcap: as in `attention.attend`.

  Returns:
    [B, T, H, h] in the type of `query`.
  """
  cache = step.cache
  batch, count, heads, size = query.shape
  prompts, kv_heads, _, _ = cache.prompt_keys.shape
  group, repeats = batch // prompts, heads // kv_heads
  # Rows of one prompt are grouped for its products, [P, K, G * T * R, ..]; alone, [B, K, T * R,
  # ..].
  together = lambda x: x.reshape(prompts, group, kv_heads, count * repeats, -1).swapaxes(
      1, 2).reshape(prompts, kv_heads, group * count * repeats, -1)
  alone = lambda x: x.reshape(prompts, kv_heads, group, count * repeats, -1).swapaxes(
      1, 2).reshape(batch, kv_heads, count * repeats, -1)
  # f32 scores: softmax differences of bf16 logits would not match the trainer's log-probs.
  product = lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32)
  query = query.reshape(batch, count, kv_heads, repeats, size).swapaxes(1, 2).reshape(
      batch, kv_heads, count * repeats, size)
  lowest = jnp.finfo(jnp.float32).min
  own_mask, prompt_mask = _own_mask(step), step.prompt_mask[:, None]
  if step.prompt_mask.ndim == 3:
    prompt_mask = prompt_mask.reshape(prompts, group * count, -1)
    prompt_mask = jnp.repeat(prompt_mask, repeats, axis=1)
  if count > 1:
    own_mask = jnp.repeat(own_mask, repeats, axis=1)
  shared = jnp.where(
      prompt_mask[:, None], cap(product(together(query), cache.prompt_keys), softcap), lowest)
  own = jnp.where(own_mask[:, None], cap(product(query, cache.keys), softcap), lowest)
  # One softmax over both parts, with the division last.
  largest = jnp.maximum(
      alone(jnp.max(shared, axis=-1, keepdims=True)), jnp.max(own, axis=-1, keepdims=True))
  shared, own = jnp.exp(shared - together(largest)), jnp.exp(own - largest)
  total = alone(jnp.sum(shared, axis=-1, keepdims=True)) + jnp.sum(own, axis=-1, keepdims=True)
  out = alone(product(shared.astype(query.dtype), cache.prompt_values)) + product(
      own.astype(query.dtype), cache.values)
  return (out / total).astype(query.dtype).reshape(
      batch, kv_heads, count, repeats, size).swapaxes(1, 2).reshape(batch, count, heads, size)


def _own_mask(step: DecodeStep) -> jax.Array:
  """bool[B, T, L] slots that each new token may attend to."""
  slots = jnp.arange(step.cache.keys.shape[3])[None, None]
  newest = step.slots[:, :, None]
  is_seen = slots <= newest
  return is_seen if step.window is None else is_seen & (slots > newest - step.window)
