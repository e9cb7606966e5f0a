"""Grouped-query self-attention, over whole rows or one new token against a cache."""

from flax import linen as nn
import jax

from rlreason.models import cache as kv_cache
from rlreason.models.config import ModelConfig
from rlreason.models.layers import Projection, RMSNorm, apply_rope


class Attention(nn.Module):
  """Grouped-query attention (Ainslie et al. 2023) with rotary positions.

  Called with `mask`, it attends over the rows given and also returns their keys and values (the
  prefill of a cache). Called with `cache`, T is 1, the token goes to slot `slot` of the cache and
  the parameters are those of `transformer.split_layers`.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x, rotations, *, mask=None, cache=None, prompt_mask=None, slot=None):
    """x [B, T, D], `rope_rotations` -> ([B, T, D], keys and values or the new cache)."""
    c, is_decoding = self.config, cache is not None
    project = lambda name, heads, axis: Projection(
        c, (heads, c.head_dim), ("embed", axis, "head_dim"), use_bias=c.qkv_bias,
        is_transposed=is_decoding, name=name)(x)
    query = project("q", c.num_heads, "heads")
    key = project("k", c.num_kv_heads, "kv_heads")
    value = project("v", c.num_kv_heads, "kv_heads")
    if c.qk_norm:
      query = RMSNorm(c.norm_eps, c.param_dtype, "head_dim", name="q_norm")(query)
      key = RMSNorm(c.norm_eps, c.param_dtype, "head_dim", name="k_norm")(key)
    query, key = apply_rope(query, rotations), apply_rope(key, rotations)
    if not is_decoding:
      out = jax.nn.dot_product_attention(query, key, value, mask=mask)
      kept = (key, value)
    else:
      kept = kv_cache.write(cache, key[:, 0], value[:, 0], slot)
      out = kv_cache.attend(query[:, 0], kept, prompt_mask, slot)[:, None]
    out = Projection(
        c, (c.width,), ("heads", "head_dim", "embed"), in_axes=2, is_transposed=is_decoding,
        name="o")(out)
    return out, kept
