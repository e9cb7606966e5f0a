"""Grouped-query self-attention, over whole rows or one new token against a cache."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from rlreason.losses import cap
from rlreason.models import cache as kv_cache
from rlreason.models.config import ModelConfig
from rlreason.models.layers import Projection, RMSNorm
from rlreason.models.rope import apply_rope


class Attention(nn.Module):
  """Grouped-query attention (Ainslie et al. 2023) with rotary positions.

  Called with `mask`, it attends over the rows given and also returns their keys and values (the
  prefill of a cache). Called with a `step`, T is 1, the token goes into its cache and the
  parameters are those of `transformer.split_layers`.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x, rotations, *, mask=None, step: kv_cache.DecodeStep | None = None):
    """x [B, T, D], rotations [B, T, h / 2] -> ([B, T, D], keys and values or the new cache)."""
    c, is_decoding = self.config, step is not None
    project = lambda name, heads, axis: Projection(
        c, (heads, c.head_dim), ("embed", axis, "head_dim"), use_bias=c.qkv_bias,
        is_transposed=is_decoding, name=name)(x)
    query = project("q", c.num_heads, "heads")
    key = project("k", c.num_kv_heads, "kv_heads")
    value = project("v", c.num_kv_heads, "kv_heads")
    if c.qk_norm:
      query = RMSNorm(c, "head_dim", name="q_norm")(query)
      key = RMSNorm(c, "head_dim", name="k_norm")(key)
    query, key = apply_rope(query, rotations), apply_rope(key, rotations)
    scale = (c.score_width or c.head_dim) ** -0.5
    if not is_decoding:
      out = attend(query, key, value, mask, scale=scale, softcap=c.attention_softcap)
      kept = (key, value)
    else:
      kept = kv_cache.write(step.cache, key[:, 0], value[:, 0], step.slot)
      out = kv_cache.attend(
          query[:, 0] * scale, step.replace(cache=kept), softcap=c.attention_softcap)[:, None]
    out = Projection(
        c, (c.width,), ("heads", "head_dim", "embed"), in_axes=2, is_transposed=is_decoding,
        name="o")(out)
    return out, kept


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, scale: float,
    softcap: float | None = None,
) -> jax.Array:
  """Attention over whole rows.

  Args:
    query: [B, T, H, h].
    key: [B, T, K, h].
    value: [B, T, K, h].
    mask: bool[B, 1, T, T].
    scale: of the scores.
    softcap: c of c * tanh(score / c), which Gemma 2 puts before the mask; None for none.

  Returns:
    [B, T, H, h].
  """
  if softcap is None:
    return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
  batch, length, heads, size = query.shape
  grouped = query.reshape(batch, length, key.shape[2], -1, size)
  # f32 scores, as in the library's function.
  scores = scale * jnp.einsum(
      "btkrh,bskh->bkrts", grouped, key, preferred_element_type=jnp.float32)
  scores = jnp.where(
      mask[:, :, None], cap(scores, softcap), jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("bkrts,bskh->btkrh", weights, value).reshape(query.shape)
