"""What each parameter is called in a file, and how its array is laid out there.

Files hold one matrix per layer, `[out, in]`; the parameter tree holds all layers in one array,
inputs before outputs and heads on an axis of their own. Not here: files.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from rlreason.models.config import ModelConfig
from rlreason.types import Params


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor of a file and its place in the parameter tree."""

  path: tuple[str, ...]  # in the tree
  layer: int | None  # index on axis 0 of the stacked array, None outside the stack
  shape: tuple[int, ...]  # of the parameter of one layer
  in_axes: int = 0  # leading axes that are a matrix's inputs; 0 where the file has the same layout
  rope_heads: int = 0  # heads whose rows are stored for interleaved RoPE, 0 if they are not

  @property
  def file_shape(self) -> tuple[int, ...]:
    if not self.in_axes:
      return self.shape if self.path[0] == "embed" else (math.prod(self.shape),)
    return (math.prod(self.shape[self.in_axes:]), math.prod(self.shape[:self.in_axes]))

  def from_file(self, array: np.ndarray) -> np.ndarray:
    """The parameter of one layer from the file's array, as a view where that is possible."""
    if self.rope_heads:
      array = _unpermute_rope(array, self.rope_heads)
    return (array.T if self.in_axes else array).reshape(self.shape)

  def to_file(self, array: np.ndarray) -> np.ndarray:
    """The file's array from the parameter of one layer; inverse of `from_file`."""
    if self.rope_heads:
      raise ValueError(f"{'/'.join(self.path)}: arrays for interleaved RoPE are read, not written")
    if not self.in_axes:
      return array.reshape(self.file_shape)
    return np.ascontiguousarray(array.reshape(self.file_shape[::-1]).T)


def hf_entries(config: ModelConfig) -> dict[str, Entry]:
  """Tensor names of a Hugging Face checkpoint (Llama, Qwen2, Qwen3)."""
  return _entries(config, {
      "embed": "model.embed_tokens", "final_norm": "model.norm", "lm_head": "lm_head",
      "layer": "model.layers.{}.",
      "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
      "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
      "o": "self_attn.o_proj", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
      "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"})


def gguf_entries(config: ModelConfig, *, interleaved_rope: bool) -> dict[str, Entry]:
  """Tensor names of a GGUF file (architectures llama, qwen2, qwen3).

  Args:
    config: the model.
    interleaved_rope: whether the rows of q and k are stored for RoPE on neighbouring pairs, as
      files of architecture `llama` have them and no others.
  """
  entries = _entries(config, {
      "embed": "token_embd", "final_norm": "output_norm", "lm_head": "output",
      "layer": "blk.{}.",
      "attention_norm": "attn_norm", "mlp_norm": "ffn_norm",
      "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
      "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
      "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"})
  if not interleaved_rope:
    return entries
  heads = {("q", "kernel"): config.num_heads, ("k", "kernel"): config.num_kv_heads}
  return {
      name: dataclasses.replace(entry, rope_heads=heads.get(entry.path[-2:], 0))
      for name, entry in entries.items()}


def check_names(found: Iterable[str], entries: Mapping[str, Entry], where: str) -> None:
  """Checks that a checkpoint has exactly these tensors.

  Raises:
    ValueError: lists every missing and every unknown name.
  """
  found = set(found)
  missing, unknown = sorted(set(entries) - found), sorted(found - set(entries))
  if missing or unknown:
    raise ValueError(f"{where}: missing tensors {missing}; unknown tensors {unknown}")


def check_shape(shape: Iterable[int], name: str, entry: Entry, where: str) -> None:
  """Raises ValueError unless tensor `name` has the shape its place in the tree asks for."""
  shape = tuple(shape)
  if shape != entry.file_shape:
    raise ValueError(
        f"{where}: {name} has shape {shape}, expected {entry.file_shape} for "
        f"{'/'.join(entry.path)}")


def build_tree(
    config: ModelConfig, entries: Mapping[str, Entry], read: Callable[[str], np.ndarray],
    dtype: np.dtype,
) -> Params:
  """Assembles the parameters, reading one tensor at a time.

  Args:
    config: the model; says how many layers are stacked.
    entries: tensor name to place.
    read: the array of a tensor name, in the file's layout.
    dtype: of the result.

  Returns:
    A nested dict of host arrays.
  """
  tree: dict[str, Any] = {}
  for name, entry in entries.items():
    node = tree
    for part in entry.path[:-1]:
      node = node.setdefault(part, {})
    if entry.layer is None:
      node[entry.path[-1]] = np.ascontiguousarray(entry.from_file(read(name)).astype(dtype))
      continue
    if entry.path[-1] not in node:
      node[entry.path[-1]] = np.empty((config.num_layers, *entry.shape), dtype)
    node[entry.path[-1]][entry.layer] = entry.from_file(read(name))
  return tree


def read_tree(params: Params, name: str, entry: Entry) -> np.ndarray:
  """The array of tensor `name`, in the file's layout, out of the parameters.

  Raises:
    ValueError: the parameters have no such entry, or one of another shape; names it.
  """
  node, where = params, "/".join(entry.path)
  for part in entry.path:
    if part not in node:
      raise ValueError(f"params: missing {where}, which is written as {name}")
    node = node[part]
  # One layer at a time leaves the device, so that a large model is never on the host twice.
  array = np.asarray(node if entry.layer is None else node[entry.layer])
  if array.shape != entry.shape:
    raise ValueError(f"params: {where} has shape {array.shape} per layer, expected {entry.shape}")
  return entry.to_file(array)


def _entries(config: ModelConfig, names: Mapping[str, str]) -> dict[str, Entry]:
  """Every tensor of the model, under the given names of its parts."""
  c, entries = config, {}
  query, kv = (c.num_heads, c.head_dim), (c.num_kv_heads, c.head_dim)
  kernels = {
      ("attention", "q"): (1, (c.width, *query)),
      ("attention", "k"): (1, (c.width, *kv)),
      ("attention", "v"): (1, (c.width, *kv)),
      ("attention", "o"): (2, (*query, c.width)),
      ("mlp", "gate"): (1, (c.width, c.mlp_width)),
      ("mlp", "up"): (1, (c.width, c.mlp_width)),
      ("mlp", "down"): (1, (c.mlp_width, c.width)),
  }
  scales = {("attention_norm",): c.width, ("mlp_norm",): c.width}
  if c.qk_norm:
    scales |= {("attention", "q_norm"): c.head_dim, ("attention", "k_norm"): c.head_dim}
  biases = {"q": query, "k": kv, "v": kv} if c.qkv_bias else {}

  entries[f"{names['embed']}.weight"] = Entry(("embed", "embedding"), None, (c.vocab_size, c.width))
  for layer in range(c.num_layers):
    add = lambda part, suffix, entry: entries.update(
        {f"{names['layer'].format(layer)}{names[part]}.{suffix}": entry})
    for path, (in_axes, shape) in kernels.items():
      add(path[-1], "weight", Entry(("layers", *path, "kernel"), layer, shape, in_axes))
    for path, size in scales.items():
      add(path[-1], "weight", Entry(("layers", *path, "scale"), layer, (size,)))
    for part, shape in biases.items():
      add(part, "bias", Entry(("layers", "attention", part, "bias"), layer, shape))
  entries[f"{names['final_norm']}.weight"] = Entry(("final_norm", "scale"), None, (c.width,))
  if not c.tie_embeddings:
    entries[f"{names['lm_head']}.weight"] = Entry(
        ("lm_head", "kernel"), None, (c.width, c.vocab_size), 1)
  return entries


def _unpermute_rope(weight: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head from pairs (0, 1), (2, 3), ... to pairs (i, i + h / 2).

  Rows 0 1 2 3 of a head of size 4 hold pairs (0, 1), (2, 3); the result has rows 0 2 1 3.
  """
  half = weight.shape[0] // heads // 2
  return weight.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape)
