"""The layout of `jit`: one program over a mesh, which the partitioner splits."""

from collections.abc import Callable
import functools
import threading
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from rlreason import tracking
from rlreason.parallel import memory, rules
from rlreason.parallel.layout import Layout
from rlreason.parallel.mesh import ParallelConfig, make_mesh
from rlreason.parallel.shards import ALONE, take_rows
from rlreason.parallel.transfer import transfers

# Programs of several devices must start in the same order on all of them, or their collectives
# deadlock: threads submit them one at a time. While there is a second thread each waits for its own
# to end: on the cores of a CPU an update that runs with a sampler, whose steps are short, delays
# each of these steps, 0.7 s in total instead of 0.15.
_TURN = threading.Lock()
_others: set[threading.Thread] = set()  # that have started a program, besides the main one


def compiler_options(platform: str) -> dict[str, str] | None:
  """XLA's options for programs with log-probs on a platform, under `jit`; pmap takes none.

  On the CPU the XLA of jaxlib 0.10 fuses a product with the sum or softmax after it, and then
  transposes the whole right-hand factor each time: 75 rows of logits over 49,152 words took 0.6 s
  instead of 0.06. Later versions fuse them too, but read the factor in its layout (0.04 s). The
  sampler does not use the option, which makes its short products 8% slower.
  """
  if platform != "cpu" or jax.__version_info__ >= (0, 11):
    return None
  return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def make_jit_layout(config: ParallelConfig) -> Layout:
  """One program over a mesh."""
  mesh = make_mesh(config)
  table = rules.make_table(config.rules, mesh.axis_names)
  num_shards = rules.count_row_shards(mesh.shape)
  put_tree, get_rows = transfers(rules.replicated(mesh), in_turn)
  rows, everywhere = rules.rows_sharding(mesh), rules.replicated(mesh)
  minibatches = rules.minibatches_sharding(mesh)
  jit = functools.partial(jax.jit, compiler_options=compiler_options(mesh.devices.flat[0].platform))

  def param_shardings(boxed):
    return everywhere if boxed is None else rules.param_shardings(boxed, mesh, table)

  def put_state(state):
    # The optimiser's moments are sharded like the parameters already; counters and coefficients are
    # replicated.
    placed = lambda x: isinstance(x, jax.Array) and getattr(x.sharding, "mesh", None) == mesh
    return jax.tree.map(lambda x: x if placed(x) else put_tree(x, everywhere), state)

  def put_rows(tree):
    check_rows(tree, num_shards)
    return put_tree(tree, rows)

  def take_placed(batch, indices):
    taken = take_rows(batch, indices)
    return taken if indices.shape[1] % num_shards else place(taken)

  def place(tree):
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, minibatches), tree)

  def in_mesh(fn, name=None):
    def traced(*args, **kwargs):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(table):
        return fn(*args, **kwargs)
    traced.__name__ = name or name_of(fn)
    return traced

  def compile_update(fn, state):
    replicas = ALONE._replace(take=take_placed, place=place)
    shardings = jax.tree.map(lambda x: x.sharding, state)
    return told("update", jit(
        in_mesh(
            lambda state, batch, key: fn(state, batch, key, replicas=replicas), name_of(fn)),
        donate_argnums=0, out_shardings=(shardings, everywhere)))

  return Layout(
      num_shards=num_shards, num_replicas=1,
      sampling_shards=rules.count_token_shards(mesh.shape),
      # Tokens of prompts, and of packed rows that read them, would be on different devices.
      takes_plans=mesh.shape["sequence"] == 1, param_shardings=param_shardings,
      put_params=lambda params, boxed: put_tree(params, param_shardings(boxed)),
      put_state=put_state,
      get_state=lambda s: s, put_rows=put_rows, get_rows=get_rows,
      put_plan=lambda plan: plan,
      compile_sampler=lambda fn: told("sampling", jax.jit(
          in_mesh(_by_all_devices(fn, mesh, table), name_of(fn)), out_shardings=rows)),
      compile_rows=lambda fn: told("scoring", jit(in_mesh(fn), out_shardings=rows)),
      compile_whole=lambda fn: in_turn(jit(in_mesh(fn), out_shardings=(rows, everywhere))),
      compile_update=compile_update)


def _by_all_devices(fn: Callable, mesh: jax.sharding.Mesh, table: tuple) -> Callable:
  """A sampler whose rows all devices split where they can: no step has several tokens of a row."""
  def sample(params, tree, key):
    count = rules.count_token_shards(mesh.shape)
    names = rules.ROWS if any(x.shape[0] % count for x in jax.tree.leaves(tree)) else rules.TOKENS
    split = rules.rows_sharding(mesh, names)
    tree = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, split), tree)
    with nn.logical_axis_rules(rules.make_sampler_table(table, names)):
      return fn(params, tree, key)

  return sample


def told(name: str, program: Callable) -> Callable:
  """A jitted function that reports its memory to the display, if there is one, before its first
  run.

  Compiling it explicitly fills the cache of its call: nothing is compiled twice.
  """
  shapes, begin = set(), in_turn(program)

  def call(*args):
    if tracking.DISPLAY.get() is not None:
      shape = tuple((np.shape(x), getattr(x, "dtype", None)) for x in jax.tree.leaves(args))
      if shape not in shapes:
        shapes.add(shape)
        with tracking.work(f"compiling {name}"):
          compiled = program.lower(*args).compile()
          tracking.program(
              name, memory.program_kinds(memory.program_bytes(compiled), args))
    return begin(*args)

  call.lower = program.lower
  return call


def in_turn(program: Callable) -> Callable:
  """A jitted function that no other thread's program overlaps."""
  def call(*args):
    with _TURN:
      if threading.current_thread() is not threading.main_thread():
        _others.add(threading.current_thread())
      result = program(*args)
      is_alone = not any(thread.is_alive() for thread in _others)
      return result if is_alone else jax.block_until_ready(result)

  call.lower = program.lower  # as jitted functions have it
  return call


def name_of(fn: Callable) -> str:
  """The name of a program in logs and profiles: that of its function."""
  while isinstance(fn, functools.partial):
    fn = fn.func
  name = getattr(fn, "__name__", "").strip("_")
  return name if name.isidentifier() else "program"  # a lambda's is none


def check_rows(tree: Any, num_shards: int):
  """Raises ValueError if `num_shards` devices cannot split the rows of a tree."""
  for leaf in jax.tree.leaves(tree):
    if np.shape(leaf)[0] % num_shards:
      raise ValueError(
          f"rows: got {np.shape(leaf)[0]}, allowed: a multiple of {num_shards}, the number of "
          "devices that split them")
