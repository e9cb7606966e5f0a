"""The decoder-only transformer: a scanned stack of blocks, and a decode step of unrolled layers.

The trunk returns hidden states; logits are made from them where and for as many positions as they
are needed (`losses/logprobs.py`, `sampling/`), never for `[B, T, V]` at once.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.models.attention import Attention
from rlreason.models.cache import LayerCache
from rlreason.models.config import ModelConfig
from rlreason.models.layers import MLP, Matrix, RMSNorm, rope_rotations
from rlreason.types import Params


class Block(nn.Module):
  """Pre-norm residual block: attention, then the feed-forward layer.

  In the form `nn.scan` wants: (carry, inputs) -> (carry, output). The output is the layer's keys
  and values, or its cache after a decode step, or None when nobody needs it.
  """

  config: ModelConfig
  keep_cache: bool

  @nn.compact
  def __call__(self, x, rotations, mask=None, cache=None, prompt_mask=None, slot=None):
    c = self.config
    attended, kept = Attention(c, name="attention")(
        RMSNorm(c.norm_eps, c.param_dtype, name="attention_norm")(x), rotations,
        mask=mask, cache=cache, prompt_mask=prompt_mask, slot=slot)
    x = x + attended
    mlp = MLP(c, is_transposed=cache is not None, name="mlp")
    x = x + mlp(RMSNorm(c.norm_eps, c.param_dtype, name="mlp_norm")(x))
    x = nn.with_logical_constraint(x, ("batch", "length", "embed_act"))
    return x, kept if self.keep_cache else None


_REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Transformer(nn.Module):
  """Token ids to the hidden states after the final norm."""

  config: ModelConfig
  keep_cache: bool = False

  @nn.compact
  def __call__(self, tokens, segment_ids, positions):
    c = self.config
    table = Matrix((c.vocab_size, c.width), ("vocab", "embed"), "embedding", c.param_dtype,
                   name="embed")()
    if not c.tie_embeddings:
      Matrix((c.width, c.vocab_size), ("embed", "vocab"), "kernel", c.param_dtype,
             name="lm_head")()
    block = Block
    if c.remat != "none":
      # Without a loop, XLA would find the values of the forward pass and not compute them again.
      block = nn.remat(
          block, prevent_cse=c.unroll == c.num_layers, policy=_REMAT_POLICIES[c.remat])
    stack = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.num_layers,
        unroll=c.unroll, in_axes=nn.broadcast, metadata_params={nn.PARTITION_NAME: "layers"})
    x, kept = stack(c, self.keep_cache, name="layers")(
        table.astype(c.compute_dtype)[tokens], rope_rotations(positions, c),
        masks.attention_mask(segment_ids))
    return RMSNorm(c.norm_eps, c.param_dtype, name="final_norm")(x), kept


def init_params(config: ModelConfig, key: jax.Array) -> Params:
  """Random parameters: a plain nested dict, layers stacked on axis 0."""
  return nn.unbox(boxed_params(config, key))


def boxed_params(config: ModelConfig, key: jax.Array):
  """Random parameters boxed with their logical axis names (for `parallel/rules.py`)."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  return Transformer(config).init(key, tokens, tokens + 1, tokens)["params"]


def abstract_params(config: ModelConfig) -> Params:
  """The shapes and types of the parameters, without memory for them."""
  return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def forward(
    config: ModelConfig, params: Params, tokens: jax.Array, segment_ids: jax.Array,
    positions: jax.Array | None = None,
) -> jax.Array:
  """Hidden states of whole rows.

  Args:
    config: the model.
    params: its parameters.
    tokens: i32[B, T].
    segment_ids: i32[B, T] 0 on padding, else the segment a token belongs to; a bool mask will do.
    positions: i32[B, T] within each segment; counted from `segment_ids > 0` when None.

  Returns:
    [B, T, D] in `config.dtype`; arbitrary where `segment_ids` is 0.
  """
  segment_ids = segment_ids.astype(jnp.int32)
  if positions is None:
    positions = masks.positions_from_mask(segment_ids > 0)
  hidden, _ = Transformer(config).apply({"params": params}, tokens, segment_ids, positions)
  return hidden


def prefill(
    config: ModelConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Hidden states [P, S, D] of prompts, and their keys and values, each [N, P, S, K, h]."""
  return Transformer(config, keep_cache=True).apply(
      {"params": params}, tokens, mask.astype(jnp.int32), masks.positions_from_mask(mask))


def split_layers(config: ModelConfig, params: Params) -> list[Params]:
  """Per-layer parameters for `decode_step`: kernels in `config.dtype`, with their outputs first.

  For the 8 to 64 rows of a decode step, a product with such a kernel takes 0.7 to 0.9 of the time
  on the CPU, and the copy that unrolled layers need anyway turns it. Do this outside the loop.
  """
  def outputs_first(path, x):
    names = [part.key for part in path]
    if names[-1] != "kernel":
      return x
    inputs = 2 if names[-2] == "o" else 1
    turned = jnp.transpose(x, (*range(inputs, x.ndim), *range(inputs)))
    return turned.astype(config.compute_dtype)

  layer = lambda i: jax.tree.map(lambda x: x[i], params["layers"])
  return [jax.tree.map_with_path(outputs_first, layer(i)) for i in range(config.num_layers)]


def decode_step(
    config: ModelConfig, params: Params, layers: list[Params], caches: list[LayerCache],
    tokens: jax.Array, positions: jax.Array, prompt_mask: jax.Array, slot: jax.Array,
) -> tuple[jax.Array, list[LayerCache]]:
  """One token per row through every layer, layers unrolled with a cache array each.

  Args:
    config: the model.
    params: its parameters (embedding and final norm are read).
    layers: `split_layers(config, params)`.
    caches: one `LayerCache` per layer.
    tokens: i32[B] the newest tokens.
    positions: i32[B] their positions.
    prompt_mask: bool[P, S].
    slot: i32 scalar, where in the cache they go.

  Returns:
    Hidden states [B, D] after the final norm, and the caches with these tokens in them.
  """
  x = params["embed"]["embedding"][tokens].astype(config.compute_dtype)[:, None]
  # Behind a barrier, or XLA computes cosines and sines again in every layer.
  rotations = jax.lax.optimization_barrier(rope_rotations(positions[:, None], config))
  block, new_caches = Block(config, keep_cache=True), []
  for layer, cache in zip(layers, caches, strict=True):
    x, cache = block.apply(
        {"params": layer}, x, rotations, None, cache, prompt_mask, slot)
    new_caches.append(cache)
  norm = RMSNorm(config.norm_eps, config.param_dtype)
  return norm.apply({"params": params["final_norm"]}, x)[:, 0], new_caches


def unembedding(config: ModelConfig, params: Params) -> jax.Array:
  """The matrix [D, V] that turns hidden states into logits."""
  if config.tie_embeddings:
    return params["embed"]["embedding"].T
  return params["lm_head"]["kernel"]


def logits(config: ModelConfig, params: Params, hidden: jax.Array) -> jax.Array:
  """f32[..., V] logits of a few hidden states [..., D]; not for whole training rows."""
  kernel = unembedding(config, params).astype(config.compute_dtype)
  # f32 result: bf16 logits have steps of 0.1 nats at magnitude 20.
  return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
