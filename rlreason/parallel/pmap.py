"""The layout of `pmap`: each device has the parameters and computes its share of the rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel.jit import check_rows, told
from rlreason.parallel.layout import Layout
from rlreason.parallel.mesh import ParallelConfig, mesh_devices
from rlreason.parallel.shards import Replicas, take_rows
from rlreason.types import RowPlan

_REPLICAS = "replicas"  # the axis name under pmap


def _replicas(count: int) -> Replicas:
  """The collectives of `count` replicas."""

  def take_share(batch, indices):
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
      take=take_share, place=lambda tree: tree)


def _put_plan(count: int, plan: RowPlan) -> RowPlan:
  """The plan with an axis of devices first, each with its own part."""
  part_first = lambda x: np.moveaxis(x, 2, 0)[:, :, :, None]
  return RowPlan(
      rows=np.moveaxis(plan.rows.reshape(len(plan.rows), count, -1), 1, 0),
      is_needed=np.stack([plan.is_needed] * count),
      packing=jax.tree.map(part_first, plan.packing))


def make_pmap_layout(config: ParallelConfig) -> Layout:
  """A copy of the parameters for each device, and a share of the rows."""
  devices, _ = mesh_devices(config)
  count = len(devices)

  def split(tree):
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), tree)

  def merge(tree):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

  def replicate(tree):
    # With the axis name of the update, which is part of the sharding: another one compiles the
    # update twice.
    return jax.pmap(
        lambda i, tree: tree, axis_name=_REPLICAS, in_axes=(0, None), devices=devices)(
            jnp.arange(count), tree)

  def one_copy(tree):
    # The first device's shard, not x[0], which is distributed over all devices again.
    return jax.tree.map(lambda x: x.addressable_data(0).reshape(x.shape[1:]), tree)

  def put_rows(tree):
    check_rows(tree, count)
    return split(jax.tree.map(np.asarray, tree))

  def compile_update(fn, state):
    del state
    update = told("update", jax.pmap(
        lambda state, batch, key: fn(state, batch, key, replicas=_replicas(count)),
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

  def compile_as(name, third):
    return lambda fn: told(name, jax.pmap(
        fn, axis_name=_REPLICAS, in_axes=(0, 0, third), devices=devices))

  return Layout(
      num_shards=count, num_replicas=count, sampling_shards=count, takes_plans=False,
      param_shardings=lambda boxed: jax.sharding.SingleDeviceSharding(devices[0]),
      put_params=lambda params, boxed: jax.device_put(params, devices[0]),
      put_state=replicate, get_state=one_copy, put_rows=put_rows,
      get_rows=lambda tree: jax.device_get(merge(jax.device_get(tree))),
      put_plan=functools.partial(_put_plan, count), compile_sampler=compile_as("sampling", None),
      compile_rows=compile_as("scoring", 0),
      compile_whole=compile_whole, compile_update=compile_update)
