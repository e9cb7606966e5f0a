"""Grouped-query self-attention, over whole rows or of new tokens against a cache."""

import functools
from typing import Literal, NamedTuple

from absl import logging
from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.losses.logprobs import cap
from rlreason.models import cache as kv_cache
from rlreason.models import flash
from rlreason.models.config import ModelConfig
from rlreason.models.layers import Projection, RMSNorm
from rlreason.models.rope import apply_rope
from rlreason.parallel import rules
from rlreason.parallel.shards import constrain, map_shards, whole_columns
from rlreason.types import GroupPacking


Implementation = Literal["xla", "cudnn", "flash"]


class Platform(NamedTuple):
  """The device type that a program will run on."""

  name: str  # cpu, gpu, tpu
  capability: tuple[int, int] | None = None  # of a CUDA device; None on others


def this_platform() -> Platform:
  """The platform of the mesh that a program is traced for, or else that of JAX's default."""
  name = rules.platform()
  if name != jax.default_backend() or name != "gpu" or (
      "cuda" not in jax.devices()[0].client.platform_version):
    return Platform(name)
  return Platform(name, tuple(int(x) for x in jax.devices()[0].compute_capability.split(".")))


def resolve(config: ModelConfig, length: int, platform: Platform | None = None) -> Implementation:
  """The implementation of attention for rows of `length` tokens, by `config.attention`.

  `auto` is cuDNN on a CUDA device and flash on a TPU where they support this model and length, and
  XLA otherwise. An implementation that is requested by name but unavailable is replaced by XLA,
  with one warning.

  Args:
    config: the model.
    length: tokens of a row.
    platform: None for `this_platform()`.
  """
  if config.attention == "xla" or length == 1:  # parameters are initialised with one token
    return "xla"
  platform = platform or this_platform()
  if config.attention == "flash" or (config.attention == "auto" and platform.name == "tpu"):
    wanted, obstacle = "flash", _flash_obstacle(config, length, platform)
  else:
    wanted, obstacle = "cudnn", _cudnn_obstacle(config, length, platform)
  if obstacle is None:
    return wanted
  if config.attention != "auto":
    _warn_once(f"attention {wanted!r} needs {obstacle}: XLA's is used where that is not so")
  return "xla"


@functools.cache
def _warn_once(message: str):
  logging.warning(message)


def _flash_obstacle(config: ModelConfig, length: int, platform: Platform) -> str | None:
  if platform.name != "tpu":
    return "a TPU"
  if config.head_dim % 64:
    return "a head_dim that is a multiple of 64"
  if length < flash.LANES:
    return f"rows of {flash.LANES} tokens or more"
  return None


def _cudnn_obstacle(config: ModelConfig, length: int, platform: Platform) -> str | None:
  """The conditions of `jax.nn.dot_product_attention` for training with a mask."""
  if platform.capability is None or platform.capability < (8, 0):
    return "a CUDA device of compute capability 8.0 or more"
  if config.compute_dtype != jnp.bfloat16:
    return "dtype bfloat16"
  largest = 256 if platform.capability >= (9, 0) else 128
  if config.head_dim % 8 or config.head_dim > largest:
    return f"a head_dim that is a multiple of 8, {largest} at most"
  if config.attention_softcap is not None:
    return "a model without attention_softcap"
  if rules.num_shards("length") > 1:
    return "rows whose tokens are not split over devices"
  return "rows of an even length" if length % 2 else None


@struct.dataclass
class Segments:
  """Replaces a mask for a kernel that makes its own."""

  ids: jax.Array  # i32[B, T], 0 on padding
  kind: jax.Array  # i32 scalar, the layer's index in `config.kinds`
  is_balanced: bool = struct.field(pytree_node=False, default=False)  # for `attend_balanced`


class GroupMasks(NamedTuple):
  """What prompts, and completions packed in separate rows, may attend to."""

  prompts: jax.Array  # bool[P, 1, S, S]
  rows: jax.Array  # bool[R, 1, W, S + W], the prompt's tokens first
  prompt_of_row: jax.Array  # i32[C, R / C], as in `GroupPacking`


@struct.dataclass
class GroupSegments:
  """Replaces `GroupMasks` for the flash kernel."""

  prompts: jax.Array  # bool[P, S] True on tokens
  rows: jax.Array  # i32[R, W] number of the completion in its group, from 1; 0 on padding
  prompt_of_row: jax.Array  # i32[C, R / C]
  group_size: int = struct.field(pytree_node=False)


def row_masks(
    config: ModelConfig, segment_ids: jax.Array, positions: jax.Array, is_balanced: bool = False
) -> jax.Array | Segments:
  """What tokens may attend to, for every kind of layer on the first axis: bool[n, B, 1, T, T].

  Or `Segments`, with the same first axis, for the flash kernel, whose columns may be balanced.
  """
  count = len(config.kinds)
  if resolve(config, segment_ids.shape[1]) == "flash":
    return Segments(jnp.stack([segment_ids] * count), jnp.arange(count), is_balanced)
  found = jnp.stack([
      masks.attention_mask(segment_ids, positions, kind.window) for kind in config.kinds])
  return constrain(found, (None, "batch", None, "length", None))


def group_masks(
    config: ModelConfig, packing: GroupPacking, prompt_mask: jax.Array, positions: jax.Array
) -> GroupMasks | GroupSegments:
  """The masks of `models.forward_groups`, with the kinds of layers on the first axis.

  Args:
    config: the model.
    packing: of P prompts in R rows of W tokens.
    prompt_mask: bool[P, S].
    positions: i32[R, W], continued from those of the prompt.
  """
  prompts, rows = masks.positions_from_mask(prompt_mask), packing.segment_ids.reshape(
      positions.shape)
  if resolve_groups(config, prompt_mask.shape[1], rows.shape[1]) == "flash":
    ids = jnp.where(rows > 0, (rows - 1) % packing.group_size + 1, 0)
    stacked = (jnp.stack([x] * len(config.kinds))
               for x in (prompt_mask, ids, packing.prompt_of_row))
    return GroupSegments(*stacked, packing.group_size)
  mask_of_row = of_rows(prompt_mask, packing.prompt_of_row)
  of_prompts = [masks.attention_mask(prompt_mask.astype(jnp.int32), prompts, kind.window)
                for kind in config.kinds]
  of_packed = [
      jnp.concatenate([
          masks.shared_prompt_mask(rows, positions, mask_of_row, kind.window),
          masks.attention_mask(rows, positions, kind.window)], axis=-1) for kind in config.kinds]
  return GroupMasks(
      jnp.stack(of_prompts), jnp.stack(of_packed),
      jnp.stack([packing.prompt_of_row] * len(config.kinds)))


def of_rows(prompts: jax.Array, prompt_of_row: jax.Array) -> jax.Array:
  """Takes the entries of prompts, [P, ...], for every packed row, [R, ...]; i32[C, R / C]."""
  parts, rest = prompt_of_row.shape[0], prompts.shape[1:]
  # Part by part, so that each stays on its device.
  chosen = jax.vmap(lambda x, index: x[index])(prompts.reshape(parts, -1, *rest), prompt_of_row)
  return chosen.reshape(-1, *rest)


class Attention(nn.Module):
  """Grouped-query attention (Ainslie et al. 2023) with rotary positions.

  Called with `mask`, it attends over the rows given and also returns their keys and values (the
  prefill of a cache). Called with a `step`, it writes the T new tokens to its cache, and the
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
      out = _attend_rows(c, query, key, value, mask, scale)
      kept = (key, value)
    else:
      kept = kv_cache.write(step.cache, key, value, step.slots)
      out = kv_cache.attend(
          query * scale, step.replace(cache=kept), softcap=c.attention_softcap)
    out = Projection(
        c, (c.width,), ("heads", "head_dim", "embed"), in_axes=2, is_transposed=is_decoding,
        name="o")(out)
    return out, kept


def _attend_rows(config, query, key, value, mask, scale):
  if isinstance(mask, (GroupMasks, GroupSegments)):
    return _attend_groups(config, query, key, value, mask, scale)
  if not isinstance(mask, Segments):
    run = functools.partial(
        attend, scale=scale, softcap=config.attention_softcap,
        implementation=resolve(config, query.shape[1]))
    return _attend_in_parts(run, query, key, value, mask)

  # The window is built into the kernel: one kernel for each kind.
  run = flash.attend_balanced if mask.is_balanced else flash.attend
  kernels = [
      functools.partial(run, window=kind.window, scale=scale, softcap=config.attention_softcap)
      for kind in config.kinds]
  if len(kernels) == 1:
    return kernels[0](query, key, value, mask.ids)
  return jax.lax.switch(mask.kind, kernels, query, key, value, mask.ids)


def _attend_in_parts(run, query, key, value, mask):
  """`run`, on a mesh whose devices split rows: for the queries of each, over all keys and values.

  These are gathered, and their gradients scattered; they are smaller than the queries where several
  of these share a head.
  """
  if not rules.splits_columns(query.shape[:2]):
    return run(query, key, value, mask)

  def of_device(query, key, value, mask):
    return run(query, whole_columns(key, 1), whole_columns(value, 1), mask)

  # Query heads are split like key heads, so that a group stays with its key head.
  heads = ("batch", "length", "kv_heads", "head_dim")
  return map_shards(of_device, (heads, heads, heads, ("batch", None, "length", None)), heads)(
      query, key, value, mask)


def _attend_groups(config, query, key, value, mask, scale):
  """Each part's prompts and then its rows, flat on the axis of tokens; see `GroupMasks`."""
  parts, is_flash = mask.prompt_of_row.shape[0], isinstance(mask, GroupSegments)
  prompts, columns = mask.prompts.shape[0], mask.prompts.shape[-1]
  rows, width = mask.rows.shape[0], mask.rows.shape[1 if is_flash else 2]
  cut = prompts * columns // parts
  first = lambda x: x[:, :cut].reshape(prompts, columns, *x.shape[2:])
  rest = lambda x: x[:, cut:].reshape(rows, width, *x.shape[2:])
  both = lambda x: jnp.concatenate([of_rows(first(x), mask.prompt_of_row), rest(x)], axis=1)
  prompt_parts = first(query), first(key), first(value)
  row_parts = rest(query), both(key), both(value)
  if is_flash:
    out = [flash.attend(
               *prompt_parts, mask.prompts.astype(jnp.int32), window=None, scale=scale,
               softcap=None),
           flash.attend_shared(
               *row_parts, of_rows(mask.prompts, mask.prompt_of_row), mask.rows,
               group_size=mask.group_size, scale=scale)]
  else:
    run = functools.partial(
        attend, scale=scale, softcap=config.attention_softcap,
        implementation=resolve_groups(config, columns, width))
    out = [run(*prompt_parts, mask.prompts), run(*row_parts, mask.rows)]
  return jnp.concatenate([x.reshape(parts, -1, *x.shape[2:]) for x in out], axis=1)


def resolve_groups(config: ModelConfig, *lengths: int) -> Implementation:
  """As `resolve`, for prompts and packed rows of these lengths."""
  found = {resolve(config, length) for length in lengths}
  if found == {"flash"} and (
      config.attention_softcap is not None or any(kind.window for kind in config.kinds)):
    if config.attention == "flash":
      _warn_once("attention 'flash' with shared prompts needs a model without attention_softcap "
                 "and sliding layers: XLA's is used where that is not so")
    return "xla"
  return found.pop() if len(found) == 1 else "xla"


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, scale: float,
    softcap: float | None = None, implementation: Literal["xla", "cudnn"] = "xla",
) -> jax.Array:
  """Attention over whole rows, or from some tokens to L others.

  Args:
    query: [B, T, H, h].
    key: [B, L, K, h].
    value: [B, L, K, h].
    mask: bool[B, 1, T, L].
    scale: of the scores.
    softcap: c of c * tanh(score / c), which Gemma 2 applies before the mask; None for none.
    implementation: of `jax.nn.dot_product_attention`; only "xla" has a softcap.

  Returns:
    [B, T, H, h].
  """
  if softcap is None:
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, scale=scale, implementation=implementation)
  batch, length, heads, size = query.shape
  grouped = query.reshape(batch, length, key.shape[2], -1, size)
  # f32 scores, as in the library's function.
  scores = scale * jnp.einsum(
      "btkrh,bskh->bkrts", grouped, key, preferred_element_type=jnp.float32)
  scores = jnp.where(
      mask[:, :, None], cap(scores, softcap), jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("bkrts,bskh->btkrh", weights, value).reshape(query.shape)
