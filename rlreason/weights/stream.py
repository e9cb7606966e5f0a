"""Fills parameters from a file piece by piece, each directly with its sharding and type.

At most one piece besides the parameters is on the host: the buffers are allocated on their devices,
and every piece is written into them in place.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.models import ModelConfig, abstract_params, quantize as quantization
from rlreason.parallel import rules
from rlreason.types import Params
from rlreason.weights.names import Entry

PIECE_ELEMENTS = 2**19  # 2 MiB in f32: larger ones fragment the heap


def load_params(
    config: ModelConfig, entries: Mapping[str, Entry], read: Callable[[str, slice], np.ndarray],
    dtype: np.dtype, shardings: Any = None, *, quantize: str | None = None,
    piece_elements: int = PIECE_ELEMENTS,
) -> Params:
  """Reads all parameters.

  Args:
    config: the model.
    entries: tensor name to entry.
    read: rows of a tensor, by its name, in the file's layout.
    dtype: of the result, independent of that of the file.
    shardings: a tree of shardings like the parameters, or one for all; None: the default device.
    quantize: int8 or nf4 for the kernels of layers (`models.quantize`); None: they stay floats.
    piece_elements: most elements read at once; one index of an axis is never split.

  Returns:
    A nested dict of arrays on the devices.
  """
  shapes = abstract_params(dataclasses.replace(config, param_dtype=str(dtype)))
  if shardings is None or isinstance(shardings, (jax.Device, jax.sharding.Sharding)):
    shardings = jax.tree.map(lambda _: _as_sharding(shardings), shapes)
  buffers = jax.tree.map(_Buffer, shapes, shardings)
  if quantize is not None:
    buffers["layers"] = quantization.map_kernels(
        lambda path, buffer: _QuantizedBuffer(buffer, quantize, quantization.input_axis(path)),
        buffers["layers"])
  for name, entry in entries.items():
    buffer = functools.reduce(lambda node, part: node[part], entry.path, buffers)
    for rows, part, start in entry.pieces(piece_elements):
      buffer.write(part.from_file(read(name, rows)), start)
  return jax.tree.map(lambda buffer: buffer.array(), buffers)


def _as_sharding(target: jax.Device | jax.sharding.Sharding | None) -> jax.sharding.Sharding:
  if isinstance(target, jax.sharding.Sharding):
    return target
  return jax.sharding.SingleDeviceSharding(target or jax.local_devices()[0])


class _Buffer:
  """A parameter being filled: one array on each device of this host, for its share."""

  def __init__(self, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding):
    self.shape, self.dtype, self.sharding = leaf.shape, leaf.dtype, sharding
    self._shares = {}  # device -> (start of its share, array); made for the first piece

  def _make_shares(self) -> None:
    for device, index in self.sharding.addressable_devices_indices_map(self.shape).items():
      bounds = [axis.indices(size)[:2] for axis, size in zip(index, self.shape, strict=True)]
      shape = tuple(stop - start for start, stop in bounds)
      # bf16 as bits: to write into it the CPU would convert the whole array to f32 and back.
      as_bits = self.dtype == jnp.bfloat16 and device.platform == "cpu"
      array = _zeros(shape, jnp.dtype("uint16") if as_bits else self.dtype, device)
      self._shares[device] = ([start for start, _ in bounds], array)

  def write(self, part: np.ndarray, start: tuple[int, ...]) -> None:
    """Puts `part` [...] at `start` on every device that has a share of it, in the buffer's type.

    Waits, so that pieces do not pile up.
    """
    if not self._shares:
      self._make_shares()
    part = part.reshape((1,) * (len(start) - part.ndim) + part.shape)
    for device, (offset, array) in self._shares.items():
      low = np.maximum(start, offset)
      high = np.minimum(np.add(start, part.shape), np.add(offset, array.shape))
      if np.any(low >= high):
        continue
      mine = part[tuple(map(slice, low - start, high - start))]
      offset_in_share = (low - offset).astype(np.int32)
      written = _write(array, jax.device_put(mine, device), offset_in_share, self.dtype)
      self._shares[device] = (offset, written.block_until_ready())

  def array(self) -> jax.Array:
    """The parameter, [*shape] of `dtype`, when all of it is written."""
    arrays = [_as_type(array, self.dtype) for _, array in self._shares.values()]
    self._shares.clear()
    return jax.make_array_from_single_device_arrays(self.shape, self.sharding, arrays)


class _QuantizedBuffer:
  """A kernel being filled whose pieces are quantised on arrival: none splits its inputs."""

  def __init__(self, kernel: _Buffer, kind: str, axis: int):
    self._quantize = functools.partial(_quantize, kind=kind, axis=axis)
    self._axis = axis
    shapes = jax.eval_shape(self._quantize, jax.ShapeDtypeStruct(kernel.shape, kernel.dtype))
    self._parts = {
        name: _Buffer(shape, rules.fit_sharding(kernel.sharding, shape.shape))
        for name, shape in shapes.items()}

  def write(self, part: np.ndarray, start: tuple[int, ...]) -> None:
    if start[self._axis]:
      raise AssertionError(f"start: got {start}, a piece of the inputs, which share their scales")
    for name, piece in self._quantize(part).items():
      self._parts[name].write(np.asarray(piece), start)

  def array(self) -> Params:
    """The quantised kernel, as of `quantize.quantize`, when all of it is written."""
    return {name: part.array() for name, part in self._parts.items()}


_quantize = jax.jit(quantization.quantize, static_argnames=("kind", "axis"))


def _zeros(shape: tuple[int, ...], dtype: jnp.dtype, device: jax.Device) -> jax.Array:
  return _zeros_program(shape, jnp.dtype(dtype), device)()


@functools.lru_cache(maxsize=1024)  # one program for each shape, about twenty per model
def _zeros_program(shape: tuple[int, ...], dtype: jnp.dtype, device: jax.Device):
  # Compiled for the device: otherwise another device makes them and then transfers a copy.
  sharding = jax.sharding.SingleDeviceSharding(device)
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="dtype")
def _write(array: jax.Array, part: jax.Array, start: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """`part` as `dtype` at `start` of `array`, in place."""
  part = jax.lax.bitcast_convert_type(part.astype(dtype), array.dtype)
  return jax.lax.dynamic_update_slice(array, part, tuple(start))


def _as_type(array: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """The same bits read as `dtype`, without a copy."""
  if array.dtype == dtype:
    return array
  (device,) = array.devices()
  return jax.device_put(np.asarray(array).view(dtype), device, may_alias=True)
