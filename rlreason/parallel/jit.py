"""The layout of `jit`: one program over a mesh, which the partitioner splits."""

import functools

from flax import linen as nn
import jax

from rlreason.parallel import rules
from rlreason.parallel.layout import Layout, check_rows
from rlreason.parallel.mesh import ParallelConfig, make_mesh
from rlreason.parallel.programs import in_turn, name_of, told
from rlreason.parallel.shards import ALONE, take_rows


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


def make_jit_layout(config: ParallelConfig) -> Layout:
  """One program over a mesh."""
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
    check_rows(tree, num_shards)
    return jax.device_put(tree, rows)

  def take_placed(batch, indices):
    taken = take_rows(batch, indices)
    return taken if indices.shape[1] % num_shards else place(taken)

  def place(tree):
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, minibatches), tree)

  def in_mesh(fn, name=None):
    def traced(*args, **kwargs):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(rules.RULES):
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
      num_shards=num_shards, num_replicas=1, takes_plans=True, param_shardings=param_shardings,
      put_params=lambda params, boxed: jax.device_put(params, param_shardings(boxed)),
      put_state=put_state,
      get_state=lambda s: s, put_rows=put_rows, get_rows=jax.device_get,
      compile_sampler=lambda fn: told("sampling", jax.jit(in_mesh(fn), out_shardings=rows)),
      compile_rows=lambda fn: told("scoring", jit(in_mesh(fn), out_shardings=rows)),
      compile_whole=lambda fn: in_turn(jit(in_mesh(fn), out_shardings=(rows, everywhere))),
      compile_update=compile_update)
