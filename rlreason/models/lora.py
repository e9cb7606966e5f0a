"""Low-rank adapters: splits parameters into trained and frozen ones, and merges them.

The adapters of a projection, `lora_a` and `lora_b`, are next to its kernel in the parameter tree.
In a tree with adapters only these and the heads are trained; in one without, everything except
entries named "frozen". Gradients, optimiser states and checkpoints cover only the trained part
(`split`). The frozen part, which is the policy before its first update, serves as the reference
without extra memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.models import quantize
from rlreason.models.config import ModelConfig
from rlreason.types import Params

_ADAPTERS = ("lora_a", "lora_b")


def has_adapters(params: Params) -> bool:
  return isinstance(params, dict) and any(
      name in _ADAPTERS or has_adapters(node) for name, node in params.items())


def split(params: Params) -> tuple[Params, Params]:
  """(trained, frozen): two trees that `join` combines again.

  Args:
    params: of a model, or of a train state: models and heads by name. Entries named "frozen" are
      frozen with and without adapters.
  """
  if has_adapters(params):
    return _divide(params, False)
  if isinstance(params, dict) and "frozen" in params:
    trained = {name: node for name, node in params.items() if name != "frozen"}
    return trained, {"frozen": params["frozen"]}
  return params, {}


def join(one: Params, other: Params) -> Params:
  """Merges two trees that share no leaf."""
  if not (isinstance(one, dict) and isinstance(other, dict)):
    raise ValueError("join: got trees that share a leaf, allowed: the two parts of one tree")
  return one | other | {name: join(one[name], other[name]) for name in one.keys() & other.keys()}


def base(params: Params) -> Params:
  """A policy without its adapters."""
  return split(params)[1]


def merge(config: ModelConfig, params: Params) -> Params:
  """A policy merged into one model without adapters, with kernels in `config.param_dtype`."""
  one = lambda layer: merge_layer(config, layer, jnp.dtype(config.param_dtype))
  return params | {"layers": jax.lax.map(one, params["layers"])}


def merged_view(config: ModelConfig, params: Params) -> Params:
  """As `merge`, but a kernel is merged layer by layer when it is read, as by `save_model`."""
  def visit(node: Params, owner: str) -> Params:
    view = {}
    for name, child in node.items():
      if quantize.is_kernel((owner, name)):
        parts = {part: node[part] for part in (name, *_ADAPTERS) if part in node}
        is_merged = quantize.is_quantized(child) or len(parts) > 1
        view[name] = MergedKernel(config, {owner: parts}, (owner, name)) if is_merged else child
      elif isinstance(child, dict):
        view[name] = visit(child, name)
      elif name not in _ADAPTERS:
        view[name] = child
    return view

  return params | {"layers": visit(params["layers"], "layers")}


class MergedKernel:
  """A kernel of all layers, one of which is in memory at a time; read by slices, like an array."""

  def __init__(self, config: ModelConfig, parts: Params, path: tuple[str, str]):
    """`parts`: {owner: {kernel, adapters}} of all layers; `path`: (owner, name of the kernel)."""
    self._config, self._parts, self._path = config, parts, path
    layer = jax.eval_shape(self._merge, 0)
    self.shape = (jax.tree.leaves(parts)[0].shape[0], *layer.shape)
    self.dtype = layer.dtype
    self._latest = (-1, None)

  def _merge(self, layer: int) -> jax.Array:
    owner, name = self._path
    return _merge_one(self._config, self._parts, layer)[owner][name]

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    layers, *rest = index
    found = []
    for layer in range(*layers.indices(self.shape[0])):
      if layer != self._latest[0]:
        self._latest = (layer, np.asarray(self._merge(layer)))
      found.append(self._latest[1][tuple(rest)])
    return np.stack(found)


def merge_layer(
    config: ModelConfig, layer: Params, dtype: jnp.dtype, *, keeps_adapters: bool = False
) -> Params:
  """One layer with its adapters added to its kernels.

  Args:
    config: the model, with the `lora` of the adapters, if there are any.
    layer: parameters of one layer.
    dtype: of the kernels.
    keeps_adapters: keep the adapters separate and only convert quantised kernels to floats.
  """
  def visit(node: Params, path: tuple[str, ...]) -> Params:
    has_both = "lora_a" in node and not keeps_adapters
    merged = {}
    for name, child in node.items():
      if quantize.is_kernel((*path, name)):
        merged[name] = kernel_of(node, (*path, name), has_both)
      elif isinstance(child, dict):
        merged[name] = visit(child, (*path, name))
      elif name not in _ADAPTERS or keeps_adapters:
        merged[name] = child
    return merged

  def kernel_of(projection: Params, path: tuple[str, ...], has_both: bool) -> jax.Array:
    """[inputs, outputs], each of one axis or more, in `dtype`: with what adapters add to it."""
    kernel = projection[path[-1]]
    if quantize.is_quantized(kernel):
      kernel = quantize.dequantize(
          kernel, quantize.input_axis(path), jnp.dtype(jnp.float32) if has_both else dtype)
    if has_both:
      delta = jnp.tensordot(projection["lora_a"], projection["lora_b"], axes=1)
      kernel = kernel.astype(jnp.float32) + config.lora.scale * delta
    return kernel.astype(dtype)

  return visit(layer, ())


@functools.partial(jax.jit, static_argnums=0)
def _merge_one(config: ModelConfig, parts: Params, layer: jax.Array) -> Params:
  return merge_layer(
      config, jax.tree.map(lambda x: x[layer], parts), jnp.dtype(config.param_dtype))


def _divide(node: Params, is_head: bool) -> tuple[Params, Params]:
  trained, frozen = {}, {}
  for name, child in node.items():
    is_trained = is_head or name in _ADAPTERS or name == "value_head"
    if not isinstance(child, dict):
      (trained if is_trained else frozen)[name] = child
      continue
    for tree, part in zip((trained, frozen), _divide(child, is_trained), strict=True):
      if part:
        tree[name] = part
  return trained, frozen
