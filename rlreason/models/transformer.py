"""The decoder-only transformer: a scanned stack of blocks, and a decode step of unrolled layers.

The backbone returns hidden states; logits are computed from them only for the positions that need
them (`losses/logprobs.py`, `sampling/`), never for `[B, T, V]` at once.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from rlreason import masks
from rlreason.losses import logprobs
from rlreason.models import flash, lora, quantize
from rlreason.models.attention import Attention, resolve, row_masks
from rlreason.models.cache import DecodeStep, LayerCache
from rlreason.models.config import ModelConfig
from rlreason.models.layers import MLP, PRODUCT, Matrix, RMSNorm, look_up
from rlreason.models.moe import Experts, balance_loss
from rlreason.models.rope import rope_rotations
from rlreason.parallel.rules import num_shards, split_axis
from rlreason.parallel.shards import constrain, gather_rows, map_rows, pad_columns
from rlreason.types import Params


class Block(nn.Module):
  """Residual block: attention, then the feed-forward layer or the experts.

  In the form that `nn.scan` requires: (carry, inputs) -> (carry, output). The output is the layer's
  keys and values, or its cache after a decode step, or None if it is not used; and the experts'
  load.
  """

  config: ModelConfig
  keep_cache: bool

  @nn.compact
  def __call__(
      self, x, kind, rotations, mask=None, counts=None, step: DecodeStep | None = None):
    """`kind` is an index in `config.kinds` and the first axis of `rotations` and `mask`."""
    c = self.config
    if c.remat == "offload":
      x = checkpoint_name(x, _LAYER_INPUT)
    choose = lambda stacked: jax.tree.map(lambda x: x[0 if len(c.kinds) == 1 else kind], stacked)
    norm = lambda name, x: RMSNorm(c, name=name)(x)
    attended, kept = Attention(c, name="attention")(
        norm("attention_norm", x), choose(rotations), mask=choose(mask), step=step)
    x = x + (norm("attention_post_norm", attended) if c.post_norms else attended)
    out, load = self._feed_forward(norm("mlp_norm", x), counts, step is not None)
    x = x + (norm("mlp_post_norm", out) if c.post_norms else out)
    x = constrain(x, ("batch", "length", "embed_act"))
    return x, (kept if self.keep_cache else None, load)

  def _feed_forward(self, x, counts, is_decoding):
    if self.config.num_experts:
      return Experts(self.config, name="experts")(x, counts)
    return MLP(self.config, is_transposed=is_decoding, name="mlp")(x), None


_LAYER_INPUT = "layer_input"
_REMAT_POLICIES = {
    "full": None,
    "attention": jax.checkpoint_policies.save_only_these_names(flash.RESIDUALS),
    "dots": jax.checkpoint_policies.save_only_these_names(flash.RESIDUALS, PRODUCT),
    # What "attention" keeps, in the memory of the host.
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_LAYER_INPUT, flash.RESIDUALS],
        offload_src="device", offload_dst="pinned_host"),
}


class Transformer(nn.Module):
  """Token ids to the hidden states after the final norm."""

  config: ModelConfig
  keep_cache: bool = False

  @nn.compact
  def __call__(self, tokens, positions, mask, counts=None, is_token=None):
    """i32[B, T] each -> [B, T, D]; keys and values [N, B, T, K, h] or None; load of experts.

    `mask` is one of attention.py, and `counts` [B, T] is the weight of each token in the load.
    Where `is_token`, bool[B, T], is False the embedding is zero; None: nowhere.
    """
    c = self.config
    table = Matrix((c.vocab_size, c.width), ("vocab", "embed"), "embedding", c.param_dtype,
                   name="embed")()
    if not c.tie_embeddings:
      Matrix((c.width, c.vocab_size), ("embed", "vocab"), "kernel", c.param_dtype,
             name="lm_head")()
    block = Block
    if c.remat != "none":
      # Without a loop, XLA would reuse the values of the forward pass instead of recomputing them.
      block = nn.remat(
          block, prevent_cse=c.unroll == c.num_layers, policy=_REMAT_POLICIES[c.remat])
    stack = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.num_layers,
        unroll=c.unroll, in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        metadata_params={nn.PARTITION_NAME: "layers"})
    kinds = jnp.array([c.kinds.index(kind) for kind in c.layer_kinds])
    x = constrain(_embed(c, table, tokens), ("batch", "length", "embed_act"))
    x = x if is_token is None else masks.zero_masked(x, is_token[..., None])
    x, (kept, loads) = stack(c, self.keep_cache, name="layers")(
        x, kinds, rope_rotations(positions, c), mask, counts)
    return RMSNorm(c, name="final_norm")(x), kept, loads


def _embed(config: ModelConfig, table: jax.Array, tokens: jax.Array) -> jax.Array:
  x = look_up(config.compute_dtype, table, tokens)
  if config.scale_embeddings:
    # The root is first rounded to the compute type, as in the published models.
    x = x * jnp.asarray(config.width ** 0.5, config.compute_dtype)
  return x


def init_params(config: ModelConfig, key: jax.Array) -> Params:
  """Random parameters: a plain nested dict, those of layers stacked on axis 0, [N, ...].

  They are `config.param_dtype`; adapters are f32.
  """
  return nn.unbox(boxed_params(config, key))


def init_adapters(config: ModelConfig, key: jax.Array) -> Params:
  """New adapters of `config.lora`, to `lora.join` with parameters; initially without effect.

  f32[N, inputs, rank] and f32[N, rank, outputs] for the N layers.
  """
  return lora.split(init_params(config, key))[0]


def boxed_params(config: ModelConfig, key: jax.Array):
  """Those of `init_params` boxed with their logical axis names (for `parallel/rules.py`)."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  mask = row_masks(config, tokens + 1, tokens)
  return Transformer(config).init(key, tokens, tokens, mask)["params"]


def abstract_params(config: ModelConfig) -> Params:
  """The shapes and types of the parameters, without allocating them."""
  return _abstract(init_params, config)


def abstract_boxed_params(config: ModelConfig):
  """The same with their logical axis names."""
  return _abstract(boxed_params, config)


def _abstract(init: Callable[[ModelConfig, jax.Array], Any], config: ModelConfig) -> Any:
  """The abstract result of `init`; its dicts belong to the caller."""
  return jax.tree.map(lambda leaf: leaf, _traced(init, config))


@functools.lru_cache(maxsize=64)
def _traced(init: Callable[[ModelConfig, jax.Array], Any], config: ModelConfig) -> Any:
  # It is called often, and takes most of a second for a model of many parts.
  return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def forward(
    config: ModelConfig, params: Params, tokens: jax.Array, segment_ids: jax.Array,
    positions: jax.Array | None = None,
) -> jax.Array:
  """Hidden states of whole rows.

  Args:
    config: the model.
    params: its parameters.
    tokens: i32[B, T].
    segment_ids: i32[B, T] 0 on padding, else the segment of the token; may be a bool mask.
    positions: i32[B, T] within each segment; counted from `segment_ids > 0` when None.

  Returns:
    [B, T, D] in `config.dtype`; arbitrary where `segment_ids` is 0.
  """
  return forward_and_balance(config, params, tokens, segment_ids, positions)[0]


def forward_and_balance(
    config: ModelConfig, params: Params, tokens: jax.Array, segment_ids: jax.Array,
    positions: jax.Array | None = None, is_counted: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As `forward`, and the load-balancing loss of the experts, f32 scalar; 0 without experts.

  The load counts the tokens `is_counted` (bool[B, T]); None: those that are not padding.
  """
  segment_ids = segment_ids.astype(jnp.int32)
  is_counted = segment_ids > 0 if is_counted is None else is_counted
  if positions is None:
    positions = masks.positions_from_mask(segment_ids > 0)
  length, shards = tokens.shape[1], num_shards("length")
  # Attention of XLA computes all pairs of tokens, wherever the columns are.
  is_balanced = shards > 1 and resolve(config, length) == "flash"
  if shards > 1:
    arrange = functools.partial(_split_columns, shards, is_balanced)
    tokens, segment_ids, positions, is_counted = map(
        arrange, (tokens, segment_ids, positions, is_counted))
  hidden, _, loads = Transformer(config).apply(
      {"params": params}, tokens, positions,
      row_masks(config, segment_ids, positions, is_balanced), is_counted)
  if is_balanced:
    hidden = flash.exchange(hidden, shards)
  return hidden[:, :length], balance_loss(loads, jnp.sum(is_counted, dtype=jnp.float32))


def _split_columns(shards: int, is_balanced: bool, x: jax.Array) -> jax.Array:
  """[B, T] padded to what `shards` devices can split, and in the order in which they do."""
  x = pad_columns(x, shards * (flash.LANES if is_balanced else 1))
  return x[:, flash.balanced(x.shape[1], shards)] if is_balanced else x


def prefill(
    config: ModelConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Hidden states [P, S, D] of prompts, and their keys and values, each [N, P, S, K, h]."""
  positions = masks.positions_from_mask(mask)
  hidden, kept, _ = Transformer(config, keep_cache=True).apply(
      {"params": params}, tokens, positions,
      row_masks(config, mask.astype(jnp.int32), positions))
  return hidden, kept


def split_layers(
    config: ModelConfig, params: Params, *, is_int8: bool = False
) -> list[Params]:
  """Per-layer parameters for `decode_step`: kernels in `config.dtype`, with their outputs first.

  Quantised kernels become floats, and in f32 adapters are added to the kernels. On a mesh devices
  with different rows get all of a kernel: once, instead of in every step.

  For the 8 to 64 rows of a decode step, a product with such a kernel takes 0.7 to 0.9 of the time
  on the CPU, and the copy that unrolled layers need anyway transposes it. Call this outside the
  loop. Kernels of experts keep their inputs first, and stay floats when the others become
  `is_int8`.
  """
  of_layers = nn.get_partition_spec(abstract_boxed_params(config))["layers"]

  def outputs_first(path, x):
    names = [part.key for part in path]
    axes = tuple(functools.reduce(lambda node, name: node[name], names, of_layers))[1:]
    if names[-1].endswith("_kernel"):
      return gather_rows(x.astype(config.compute_dtype), axes)
    if names[-1] != "kernel":
      return gather_rows(x, axes)
    inputs = 2 if names[-2] == "o" else 1
    turn = lambda x: (*x[inputs:], *x[:inputs])
    turned = jnp.transpose(x, turn(range(x.ndim)))
    turned = gather_rows(turned if is_int8 else turned.astype(config.compute_dtype), turn(axes))
    if is_int8:
      return quantize.quantize_rows(turned.reshape(-1, math.prod(turned.shape[-inputs:])))
    return turned

  def layer(i):
    # In bf16 adapters stay separate: rounding would lose what they add to a kernel.
    return lora.merge_layer(
        config, jax.tree.map(lambda x: x[i], params["layers"]), config.compute_dtype,
        keeps_adapters=config.compute_dtype != jnp.float32)

  return [jax.tree.map_with_path(outputs_first, layer(i)) for i in range(config.num_layers)]


def decode_step(
    config: ModelConfig, params: Params, layers: list[Params], caches: list[LayerCache],
    tokens: jax.Array, positions: jax.Array, prompt_mask: jax.Array, slot: jax.Array,
) -> tuple[jax.Array, list[LayerCache]]:
  """`extend` by one token per row: tokens, positions and slots i32[B], hidden states [B, D].

  A scalar `slot` applies to all rows.
  """
  slots = jnp.broadcast_to(slot, tokens.shape)
  hidden, caches = extend(
      config, params, layers, caches, tokens[:, None], positions[:, None], prompt_mask,
      slots[:, None])
  return hidden[:, 0], caches


def extend(
    config: ModelConfig, params: Params, layers: list[Params], caches: list[LayerCache],
    tokens: jax.Array, positions: jax.Array, prompt_mask: jax.Array, slots: jax.Array,
) -> tuple[jax.Array, list[LayerCache]]:
  """T tokens per row through every layer, layers unrolled with a cache array each.

  Args:
    config: the model.
    params: its parameters (embedding and final norm are read).
    layers: `split_layers(config, params)`.
    caches: one `LayerCache` per layer.
    tokens: i32[B, T] the newest tokens.
    positions: i32[B, T] their positions.
    prompt_mask: bool[P, S].
    slots: i32[B, T] their slots in the cache: token i after the prompt is in slot i. Tokens with a
      slot beyond the cache, or below 0, are ignored, and their hidden states are arbitrary.

  Returns:
    Hidden states [B, T, D] after the final norm, and the caches with these tokens in them.
  """
  x = _embed(config, params["embed"]["embedding"], tokens)
  # Behind a barrier: else XLA recomputes cosines and sines in every layer.
  rotations = jax.lax.optimization_barrier(rope_rotations(positions, config))
  prompt_masks = [_prompt_mask(prompt_mask, slots, kind.window) for kind in config.kinds]

  # Traced once per kind, not once per layer: the layers of a kind are calls of one function.
  @functools.partial(jax.jit, static_argnums=0)
  def apply_layer(index, layer, x, cache, rotations, prompt_mask, slots):
    step = DecodeStep(cache, prompt_mask, slots, config.kinds[index].window)
    block = Block(config, keep_cache=True)
    x, (cache, _) = block.apply({"params": layer}, x, index, rotations, step=step)
    return x, cache

  new_caches = []
  for kind, layer, cache in zip(config.layer_kinds, layers, caches, strict=True):
    index = config.kinds.index(kind)
    x, cache = apply_layer(index, layer, x, cache, rotations, prompt_masks[index], slots)
    new_caches.append(cache)
  return RMSNorm(config).apply({"params": params["final_norm"]}, x), new_caches


def _prompt_mask(prompt_mask: jax.Array, slots: jax.Array, window: int | None) -> jax.Array:
  """Prompt tokens that new ones in `slots` i32[B, T] may attend to: bool[P, S] or [B, T, S]."""
  if window is None:
    return prompt_mask
  # Prompts end in the last column, which is thus slot + 1 tokens before the new one.
  columns = prompt_mask.shape[1]
  distance = (columns - jnp.arange(columns))[None, None] + slots[:, :, None]
  of_rows = jnp.repeat(prompt_mask, slots.shape[0] // prompt_mask.shape[0], axis=0)
  return of_rows[:, None] & (distance < window)


def unembedding(config: ModelConfig, params: Params) -> jax.Array:
  """The matrix [D, V] that turns hidden states into logits."""
  if config.tie_embeddings:
    return params["embed"]["embedding"].T
  return params["lm_head"]["kernel"]


def logits(config: ModelConfig, params: Params, hidden: jax.Array) -> jax.Array:
  """f32[..., V] logits of a few hidden states [..., D]; not for whole training rows."""
  kernel = unembedding(config, params).astype(config.compute_dtype)
  # f32 result: bf16 logits have steps of 0.1 nats at magnitude 20.
  return cap_logits(config, jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32))


def cap_logits(config: ModelConfig, logits: jax.Array) -> jax.Array:
  """Logits f32[..., V] with the cap of Gemma 2; unchanged for other families."""
  return logprobs.cap(logits, config.logit_softcap)


def token_log_probs(
    config: ModelConfig, params: Params, hidden: jax.Array, targets: jax.Array, *,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """`losses.token_log_probs` of this model: log-probs and entropies, f32[B, T] each.

  Args:
    config: the model.
    params: its parameters.
    hidden: [B, T, D].
    targets: i32[B, T].
    temperature: 0 or more.
  """
  is_tied, split_by = config.tie_embeddings, split_axis("vocab", config.vocab_size)
  fn = functools.partial(
      logprobs.token_log_probs, temperature=temperature, softcap=config.logit_softcap,
      vocab_axis=0 if is_tied else 1, num_words=config.num_tokens)
  # The partitioner would gather a chunk of the kernel, and sum its gradient, in every turn of the
  # loop over chunks. Each device has chunks of its own rows' logits for its own words.
  rows, kernel = ("batch", "length"), ("vocab", "embed") if is_tied else ("embed", "vocab")
  length, shards = targets.shape[1], num_shards("length")
  found = map_rows(fn, ((*rows, "embed_act"), kernel, rows), (rows, rows), split_by)(
      pad_columns(hidden, shards),
      params["embed"]["embedding"] if is_tied else params["lm_head"]["kernel"],
      pad_columns(targets, shards))
  return jax.tree.map(lambda x: x[:, :length], found)
