"""The name of each parameter in a file, and the layout of its array there.

Files hold one matrix per layer, `[out, in]`; the parameter tree holds all layers in one array,
inputs before outputs and heads on a separate axis. Not here: files, and the sharding of parameters
(`stream.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from rlreason.models import ModelConfig
from rlreason.models.config import LORA_TARGETS
from rlreason.types import Params


_MOST_LISTED, _MOST_LETTERS = 50, 200  # names in a message, letters of each


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor of a file and its position in the parameter tree."""

  path: tuple[str, ...]  # in the tree
  shape: tuple[int, ...]  # of the part of the parameter that the tensor holds
  index: tuple[int, ...] = ()  # index in the parameter: layer; layer and expert
  in_axes: int = 0  # leading axes that are a matrix's inputs; 0 if the file has the same layout
  batch_axes: int = 0  # axes before those, also in the file (experts of a GGUF file)
  rope_heads: int = 0  # heads whose rows are stored for interleaved RoPE, 0 if they are not
  offset: float = 0.0  # the file holds the parameter plus this

  @property
  def file_shape(self) -> tuple[int, ...]:
    if not self.in_axes:
      return self.shape if self.path[0] == "embed" else (math.prod(self.shape),)
    batch, matrix = self.shape[:self.batch_axes], self.shape[self.batch_axes:]
    return (*batch, math.prod(matrix[self.in_axes:]), math.prod(matrix[:self.in_axes]))

  def pieces(self, max_elements: float) -> Iterator[tuple[slice, "Entry", tuple[int, ...]]]:
    """Splits a large tensor along the first axis of its file.

    Yields:
      Rows of the file; the entry of only these rows; their start in the whole parameter.
    """
    start = (*self.index, *(0 for _ in self.shape))
    if math.prod(self.shape) <= max_elements or len(self.file_shape) == 1:
      yield slice(0, self.file_shape[0]), self, start
      return
    axis = 0 if self.batch_axes else self.in_axes  # of the parameter: that of the file's rows
    length = self.shape[axis]
    rows = self.file_shape[0] // length  # of the file, per index of that axis
    step = max(1, max_elements * length // math.prod(self.shape))
    for low in range(0, length, step):
      high = min(low + step, length)
      shape = (*self.shape[:axis], high - low, *self.shape[axis + 1:])
      part = dataclasses.replace(self, shape=shape, rope_heads=self.rope_heads and high - low)
      at = len(self.index) + axis
      yield slice(low * rows, high * rows), part, (*start[:at], low, *start[at + 1:])

  def from_file(self, array: np.ndarray) -> np.ndarray:
    """The part of the parameter, `shape`, from the file's array, `file_shape`, in its type.

    As a view where that is possible.
    """
    if self.rope_heads:
      array = _unpermute_rope(array, self.rope_heads)
    if self.offset:
      array = array - np.asarray(self.offset, array.dtype)
    return (array.swapaxes(-1, -2) if self.in_axes else array).reshape(self.shape)

  def to_file(self, array: np.ndarray) -> np.ndarray:
    """The file's array, `file_shape`, from the part of the parameter; inverse of `from_file`."""
    if self.rope_heads:
      raise ValueError(f"{'/'.join(self.path)}: arrays for interleaved RoPE are read, not written")
    if self.offset:
      array = array + np.asarray(self.offset, array.dtype)
    if not self.in_axes:
      return array.reshape(self.file_shape)
    *batch, outputs, inputs = self.file_shape
    bits = array.view(f"u{array.itemsize}")  # numpy transposes those faster than bfloat16
    turned = bits.reshape(*batch, inputs, outputs).swapaxes(-1, -2)
    return np.ascontiguousarray(turned).view(array.dtype)


_HF_NAMES = {
    "embed": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head",
    "layer": "model.layers.{}.",
    "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.o_proj", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    "router_kernel": "mlp.gate", "gate_kernel": "mlp.experts.{}.gate_proj",
    "up_kernel": "mlp.experts.{}.up_proj", "down_kernel": "mlp.experts.{}.down_proj"}
# With norms after attention and feed-forward layer, one name means another norm.
_HF_POST_NORMS = {
    "attention_post_norm": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm"}
_GGUF_NAMES = {
    "embed": "token_embd", "final_norm": "output_norm", "lm_head": "output",
    "layer": "blk.{}.",
    "attention_norm": "attn_norm", "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm", "mlp_post_norm": "post_ffw_norm",
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
    "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
    "router_kernel": "ffn_gate_inp", "gate_kernel": "ffn_gate_exps", "up_kernel": "ffn_up_exps",
    "down_kernel": "ffn_down_exps"}


def hf_entries(config: ModelConfig) -> dict[str, Entry]:
  """Tensor names of a Hugging Face checkpoint."""
  names = _HF_NAMES | (_HF_POST_NORMS if config.post_norms else {})
  entries = {}
  for name, entry in _entries(config, names).items():
    if not entry.batch_axes:
      entries[name] = entry
      continue
    for expert in range(config.num_experts):  # a separate tensor for each
      entries[name.replace("{}", str(expert))] = dataclasses.replace(
          entry, shape=entry.shape[1:], index=(*entry.index, expert), batch_axes=0)
  return entries


def adapter_entries(config: ModelConfig) -> dict[str, Entry]:
  """Tensor names of the adapters of `config.lora`, as PEFT writes them."""
  entries, rank = {}, config.lora.rank
  for module, entry in _projections(config).items():
    if entry.path[-2] not in config.lora.targets:
      continue
    inputs, outputs = entry.shape[:entry.in_axes], entry.shape[entry.in_axes:]
    stem, owner = f"base_model.model.{module}.", entry.path[:-1]
    entries[f"{stem}lora_A.weight"] = dataclasses.replace(
        entry, path=(*owner, "lora_a"), shape=(*inputs, rank))
    entries[f"{stem}lora_B.weight"] = dataclasses.replace(
        entry, path=(*owner, "lora_b"), shape=(rank, *outputs), in_axes=1)
  return entries


def projection_paths(config: ModelConfig) -> tuple[str, ...]:
  """The modules of a Hugging Face model that can have adapters: model.layers.0.self_attn.q_proj."""
  return tuple(_projections(config))


def _projections(config: ModelConfig) -> dict[str, Entry]:
  return {name.removesuffix(".weight"): entry for name, entry in hf_entries(config).items()
          if entry.path[-1] == "kernel" and entry.path[-2] in LORA_TARGETS}


def gguf_entries(config: ModelConfig, *, interleaved_rope: bool) -> dict[str, Entry]:
  """Tensor names of a GGUF file.

  Args:
    config: the model.
    interleaved_rope: whether the rows of q and k are stored for RoPE on neighbouring pairs, as
      files of architecture `llama` have them.
  """
  heads = {("q", "kernel"): config.num_heads, ("k", "kernel"): config.num_kv_heads}

  def as_stored(entry: Entry) -> Entry:
    if interleaved_rope and entry.path[-2:] in heads:
      return dataclasses.replace(entry, rope_heads=heads[entry.path[-2:]])
    if config.unit_offset_norms and entry.path[-1] == "scale":
      return dataclasses.replace(entry, offset=1.0)
    return entry

  return {name: as_stored(entry) for name, entry in _entries(config, _GGUF_NAMES).items()}


def check_names(found: Iterable[str], entries: Mapping[str, Entry], where: str) -> None:
  """Checks that a checkpoint has exactly these tensors.

  Raises:
    ValueError: lists the missing and the unknown names.
  """
  found = set(found)
  missing, unknown = sorted(set(entries) - found), sorted(found - set(entries))
  if missing or unknown:
    raise ValueError(
        f"{where}: missing tensors {_listed(missing)}; unknown tensors {_listed(unknown)}")


def _listed(names: list[str]) -> str:
  """The first names, enough to show the error."""
  rest = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
  return f"{[name[:_MOST_LETTERS] for name in names[:_MOST_LISTED]]}{rest}"


def check_shape(shape: Iterable[int], name: str, entry: Entry, where: str) -> None:
  """Raises ValueError unless tensor `name` has the shape of its entry in the tree."""
  shape = tuple(shape)
  if shape != entry.file_shape:
    raise ValueError(
        f"{where}: {name}: got the shape {shape}, allowed: {entry.file_shape} for "
        f"{'/'.join(entry.path)}")


def read_pieces(
    params: Params, name: str, entry: Entry, *, max_elements: float = math.inf
) -> Iterator[np.ndarray]:
  """The array of tensor `name` from the parameters, in the file's layout, in pieces of rows.

  Together they are [*entry.file_shape], in the type of the parameter.

  Raises:
    ValueError: the parameters have no such entry, or one of another shape; names it.
  """
  leaf = check_leaf(params, name, entry)
  for _, part, start in entry.pieces(max_elements):
    shape = (1,) * len(entry.index) + part.shape
    yield part.to_file(_fetch(leaf, start, shape).reshape(part.shape))


def check_leaf(params: Params, name: str, entry: Entry) -> Any:
  """The parameter that holds tensor `name`.

  Raises:
    ValueError: there is none, or one of another shape; names it.
  """
  leaf, where = params, "/".join(entry.path)
  for part in entry.path:
    if part not in leaf:
      raise ValueError(f"params: missing {where}, which is written as {name}")
    leaf = leaf[part]
  shape = leaf.shape[len(entry.index):]
  if shape != entry.shape or any(np.array(entry.index) >= leaf.shape[:len(entry.index)]):
    raise ValueError(
        f"params: {where}: got the shape {shape} per layer, allowed: {entry.shape}")
  return leaf


def _fetch(leaf: Any, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
  """A part of a parameter; only this part is transferred from the devices.

  Raises:
    ValueError: it is on devices of other hosts.
  """
  if not isinstance(leaf, jax.Array):
    return leaf[tuple(slice(low, low + size) for low, size in zip(start, shape, strict=True))]
  part, filled = np.empty(shape, leaf.dtype), 0
  shards = {str(shard.index): shard for shard in leaf.addressable_shards}  # one of each replica
  for shard in shards.values():
    offset = [axis.indices(size)[0] for axis, size in zip(shard.index, leaf.shape, strict=True)]
    low = np.maximum(start, offset)
    high = np.minimum(np.add(start, shape), np.add(offset, shard.data.shape))
    if np.any(low >= high):
      continue
    mine = jax.lax.dynamic_slice(shard.data, low - offset, high - low)
    part[tuple(map(slice, low - start, high - start))] = mine
    filled += mine.size
  if filled != part.size:
    raise ValueError(f"params: got an array of shape {leaf.shape} that is spread over hosts, "
                     "allowed: all of it on this one")
  return part


def _entries(config: ModelConfig, names: Mapping[str, str]) -> dict[str, Entry]:
  """Every tensor of the model, under the given names of its parts."""
  c, entries = config, {}
  query, kv = (c.num_heads, c.head_dim), (c.num_kv_heads, c.head_dim)
  attention = {
      "q": (1, (c.width, *query)), "k": (1, (c.width, *kv)), "v": (1, (c.width, *kv)),
      "o": (2, (*query, c.width))}
  mlp = {"gate": (c.width, c.mlp_width), "up": (c.width, c.mlp_width),
         "down": (c.mlp_width, c.width)}
  scales = {("attention_norm",): c.width, ("mlp_norm",): c.width}
  if c.post_norms:
    scales |= {("attention_post_norm",): c.width, ("mlp_post_norm",): c.width}
  if c.qk_norm:
    scales |= {("attention", "q_norm"): c.head_dim, ("attention", "k_norm"): c.head_dim}
  biases = {"q": query, "k": kv, "v": kv} if c.qkv_bias else {}

  entries[f"{names['embed']}.weight"] = Entry(("embed", "embedding"), (c.vocab_size, c.width))
  for layer in range(c.num_layers):
    def add(part, path, shape, suffix="weight", layer=layer, **layout):
      name = names["layer"].format(layer) + f"{names[part]}.{suffix}"
      entries[name] = Entry(("layers", *path), shape, (layer,), **layout)

    for part, (in_axes, shape) in attention.items():
      add(part, ("attention", part, "kernel"), shape, in_axes=in_axes)
    for part, shape in biases.items():
      add(part, ("attention", part, "bias"), shape, "bias")
    for path, size in scales.items():
      add(path[-1], (*path, "scale"), (size,))
    if not c.num_experts:
      for part, shape in mlp.items():
        add(part, ("mlp", part, "kernel"), shape, in_axes=1)
      continue
    add("router_kernel", ("experts", "router_kernel"), (c.width, c.num_experts), in_axes=1)
    for part, shape in mlp.items():
      add(f"{part}_kernel", ("experts", f"{part}_kernel"), (c.num_experts, *shape),
          in_axes=1, batch_axes=1)
  entries[f"{names['final_norm']}.weight"] = Entry(("final_norm", "scale"), (c.width,))
  if not c.tie_embeddings:
    entries[f"{names['lm_head']}.weight"] = Entry(
        ("lm_head", "kernel"), (c.width, c.vocab_size), in_axes=1)
  return entries


def _unpermute_rope(weight: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head from pairs (0, 1), (2, 3), ... to pairs (i, i + h / 2).

  Rows 0 1 2 3 of a head of size 4 hold pairs (0, 1), (2, 3); the result has rows 0 2 1 3.
  """
  half = weight.shape[0] // heads // 2
  return weight.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)
