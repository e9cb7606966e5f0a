"""The one place that knows how a program is spread over devices: `jit` over a mesh, or `pmap`.

Algorithms are written once, for "all rows" or for "my share of the rows", and talk to the other
replicas only through the three functions of `Replicas`. Under `jit` the partitioner does the work
and these are nearly nothing; under `pmap` they are collectives. Either way every minibatch holds
the same rows as on one device, so the numbers are the same.
"""

import functools
from typing import Any, Callable, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlreason import tracking
from rlreason.parallel import memory, rules
from rlreason.parallel.mesh import ParallelConfig, make_mesh, mesh_devices
from rlreason.parallel.shards import ALONE, Replicas, take_rows

_REPLICAS = "replicas"  # the axis name under pmap


class Layout(NamedTuple):
  """How arrays and programs are placed. Row trees have the rows on axis 0, as on one device."""

  num_shards: int  # the number of rows must be a multiple of it
  num_replicas: int  # and that of a gradient pass a multiple of this one: 1 under jit
  takes_plans: bool  # whether the batch of an update may hold a `GroupPlan`
  param_shardings: Callable[[Any], Any]  # boxed shapes, or None for no axes -> places of parameters
  put_params: Callable[[Any, Any], Any]  # (params, boxed shapes or None) -> placed
  put_state: Callable[[Any], Any]  # train state -> placed
  get_state: Callable[[Any], Any]  # placed train state -> one copy
  put_rows: Callable[[Any], Any]  # host rows -> device rows
  get_rows: Callable[[Any], Any]  # device rows -> host rows
  compile_sampler: Callable[[Callable], Callable]  # fn(placed, rows, key) -> rows
  compile_rows: Callable[[Callable], Callable]  # the same, with log-probs of whole rows
  compile_whole: Callable[[Callable], Callable]  # fn(rows, *unplaced) -> (rows, unplaced)
  compile_update: Callable[[Callable, Any], Callable]  # fn(state, rows, key, replicas=), state


def compiler_options() -> dict[str, str] | None:
  """XLA's options for programs with log-probs on this machine, under `jit`; pmap takes none.

  On the CPU the XLA of jaxlib 0.10 computes a product and the sum or softmax after it in one piece,
  and then turns the whole right-hand factor around each time: 75 rows of logits over 49,152 words
  took 0.6 s instead of 0.06. Later versions fuse them too, but read the factor as it lies (0.04 s).
  The sampler does without the option, which makes its short products 8% slower.
  """
  if jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11):
    return None
  return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def _told(name: str, program: Callable) -> Callable:
  """A jitted function that tells a display, if there is one, what it takes before it first runs.

  Compiling it by hand fills the cache that its call looks into: nothing is compiled twice.
  """
  shapes = set()

  def call(*args):
    if tracking.display() is not None:
      shape = tuple((np.shape(x), getattr(x, "dtype", None)) for x in jax.tree.leaves(args))
      if shape not in shapes:
        shapes.add(shape)
        with tracking.work(f"compiling {name}"):
          compiled = program.lower(*args).compile()
          tracking.program(name, memory.program_bytes(compiled))
    return program(*args)

  call.lower = program.lower  # as jitted functions have it
  return call


def _name_of(fn: Callable) -> str:
  """What a program is called in logs and profiles: the name of its function."""
  while isinstance(fn, functools.partial):
    fn = fn.func
  name = getattr(fn, "__name__", "").strip("_")
  return name if name.isidentifier() else "program"  # a lambda's is none


def make_layout(config: ParallelConfig) -> Layout:
  """The layout a configuration asks for.

  Raises:
    ValueError: the mesh does not fit the devices there are.
  """
  return {"jit": _jit_layout, "pmap": _pmap_layout}[config.mode](config)


def _check_rows(tree, num_shards: int):
  for leaf in jax.tree.leaves(tree):
    if np.shape(leaf)[0] % num_shards:
      raise ValueError(
          f"rows: got {np.shape(leaf)[0]}, allowed: a multiple of {num_shards}, the number of "
          "devices that split them")


def _jit_layout(config: ParallelConfig) -> Layout:
  mesh = make_mesh(config)
  num_shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows, everywhere = rules.rows_sharding(mesh), rules.replicated(mesh)
  minibatches = rules.minibatches_sharding(mesh)
  jit = functools.partial(jax.jit, compiler_options=compiler_options())

  def param_shardings(boxed):
    return everywhere if boxed is None else rules.param_shardings(boxed, mesh)

  def put_state(state):
    # The optimiser's moments were made like the parameters and are where they belong; counters and
    # coefficients go everywhere.
    placed = lambda x: isinstance(x, jax.Array) and getattr(x.sharding, "mesh", None) == mesh
    return jax.tree.map(lambda x: x if placed(x) else jax.device_put(x, everywhere), state)

  def put_rows(tree):
    _check_rows(tree, num_shards)
    return jax.device_put(tree, rows)

  def take(batch, indices):
    taken = take_rows(batch, indices)
    return taken if indices.shape[1] % num_shards else place(taken)

  def place(tree):
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, minibatches), tree)

  def in_mesh(fn, name=None):
    def traced(*args, **kwargs):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(rules.RULES):
        return fn(*args, **kwargs)
    traced.__name__ = name or _name_of(fn)
    return traced

  def compile_update(fn, state):
    replicas = ALONE._replace(take=take, place=place)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return _told("update", jit(
        in_mesh(
            lambda state, batch, key: fn(state, batch, key, replicas=replicas), _name_of(fn)),
        donate_argnums=0, out_shardings=(shardings, everywhere)))

  return Layout(
      num_shards=num_shards, num_replicas=1, takes_plans=True, param_shardings=param_shardings,
      put_params=lambda params, boxed: jax.device_put(params, param_shardings(boxed)),
      put_state=put_state,
      get_state=lambda s: s, put_rows=put_rows, get_rows=jax.device_get,
      compile_sampler=lambda fn: _told("sampling", jax.jit(in_mesh(fn), out_shardings=rows)),
      compile_rows=lambda fn: _told("scoring", jit(in_mesh(fn), out_shardings=rows)),
      compile_whole=lambda fn: jit(in_mesh(fn), out_shardings=(rows, everywhere)),
      compile_update=compile_update)


def _pmap_replicas(count: int) -> Replicas:
  """The collectives of `count` replicas."""

  def take(batch, indices):
    if indices.shape[1] % count:
      raise ValueError(
          f"micro-batch: got {indices.shape[1]} rows, allowed: a multiple of {count} replicas")
    share = indices.shape[1] // count
    mine = jax.lax.dynamic_slice_in_dim(
        indices, jax.lax.axis_index(_REPLICAS) * share, share, axis=1)
    return take_rows(batch, mine)

  return Replicas(
      sum=lambda x: jax.lax.psum(x, _REPLICAS),
      gather=lambda tree: jax.tree.map(
          lambda x: jax.lax.all_gather(x, _REPLICAS, axis=0, tiled=True), tree),
      take=take, place=lambda tree: tree)


def _pmap_layout(config: ParallelConfig) -> Layout:
  devices, _ = mesh_devices(config)
  count = len(devices)

  def split(tree):
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), tree)

  def merge(tree):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

  def replicate(tree):
    # Under the name of the update's axis: it is part of the sharding, and another one compiles the
    # update twice.
    return jax.pmap(
        lambda i, tree: tree, axis_name=_REPLICAS, in_axes=(0, None), devices=devices)(
            jnp.arange(count), tree)

  def one_copy(tree):
    # The first device's own, not x[0]: that is spread over all devices again.
    return jax.tree.map(lambda x: x.addressable_data(0).reshape(x.shape[1:]), tree)

  def put_rows(tree):
    _check_rows(tree, count)
    return split(jax.tree.map(np.asarray, tree))

  def compile_update(fn, state):
    del state
    update = _told("update", jax.pmap(
        lambda state, batch, key: fn(state, batch, key, replicas=_pmap_replicas(count)),
        axis_name=_REPLICAS, in_axes=(0, 0, None), devices=devices, donate_argnums=0))

    def update_once(state, batch, key):
      state, metrics = update(state, batch, key)
      return state, one_copy(metrics)

    return update_once

  def compile_whole(fn):
    compiled = jax.jit(fn)

    def whole(rows, *args):
      rows, rest = compiled(merge(jax.device_get(rows)), *args)
      return split(jax.device_get(rows)), rest  # pmap splits host arrays itself

    return whole

  def compile_as(name):
    return lambda fn: _told(name, jax.pmap(
        fn, axis_name=_REPLICAS, in_axes=(0, 0, None), devices=devices))

  return Layout(
      num_shards=count, num_replicas=count, takes_plans=False,
      param_shardings=lambda boxed: jax.sharding.SingleDeviceSharding(devices[0]),
      put_params=lambda params, boxed: jax.device_put(params, devices[0]),
      put_state=replicate, get_state=one_copy, put_rows=put_rows,
      get_rows=lambda tree: jax.device_get(merge(jax.device_get(tree))),
      compile_sampler=compile_as("sampling"), compile_rows=compile_as("scoring"),
      compile_whole=compile_whole,
      compile_update=compile_update)
