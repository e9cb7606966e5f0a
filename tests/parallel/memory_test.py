"""The memory of compiled programs, by kind."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import optax

from rlreason.algorithms.base import init_state
from rlreason.parallel import memory
from rlreason.parallel.mesh import ParallelConfig, make_mesh

ROWS, WIDTH = 32, 16


def test_kinds_add_up_to_what_a_program_takes():
  mesh = make_mesh(ParallelConfig(data=1, fsdp=4))
  split = NamedSharding(mesh, PartitionSpec("fsdp"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  optimizer = optax.adam(1e-3)
  params = {"policy": {"kernel": jax.device_put(jnp.ones((WIDTH, WIDTH), jnp.bfloat16), split)}}
  state = init_state(params, optimizer)
  rows = jax.device_put(jnp.ones((ROWS, WIDTH)), split)

  def update(state, rows):
    loss = lambda params: jnp.sum((rows @ params["policy"]["kernel"].astype(jnp.float32)) ** 2)
    updates, _ = optimizer.update(jax.grad(loss)(state.params), state.opt_state)
    return state.replace(params=optax.apply_updates(state.params, updates)), jnp.sum(rows)

  compiled = jax.jit(update, out_shardings=(everywhere, everywhere)).lower(state, rows).compile()
  own = memory.program_bytes(compiled)
  found = memory.program_kinds(own, (state, rows))
  assert sum(found.values()) == sum(own.values())
  assert found["parameters"] == 2 * WIDTH * WIDTH / 4  # of bf16, a quarter on each device
  assert found["moments"] == 2 * found["parameters"] + 4  # and the count of updates
  assert found["gradients"] == min(2 * found["parameters"], own["temp"])
  assert found["rows"] >= 4 * ROWS * WIDTH / 4 and not found["cache"]
  cached = memory.program_kinds(own, (state, rows), cache=8)
  assert cached["cache"] == 8 and cached["activations"] == found["activations"] - 8


def test_arguments_that_a_program_does_not_read_are_no_part_of_it():
  models = {"policy": jnp.ones((WIDTH, WIDTH)), "critic": jnp.ones((WIDTH, 100 * WIDTH))}
  compiled = jax.jit(lambda models: models["policy"] * 2).lower(models).compile()
  own = memory.program_bytes(compiled)
  assert own == {"in": 4 * WIDTH**2, "out": 4 * WIDTH**2, "temp": 0}


def test_a_backend_that_does_not_say_gives_nothing():
  class Compiled:
    memory_analysis = staticmethod(lambda: None)

  assert memory.program_kinds(memory.program_bytes(Compiled()), ()) == {}


def test_the_peak_counts_on_a_tpu():
  """Where loops do not need their temporaries at one time."""
  class Device:
    platform = "tpu"

  class Sharding:
    device_set = {Device()}

  class Analysis:
    argument_size_in_bytes, output_size_in_bytes, alias_size_in_bytes = 10, 6, 5
    temp_size_in_bytes, peak_memory_in_bytes = 50, 41

  class Compiled:
    output_shardings = [Sharding()]
    memory_analysis = staticmethod(Analysis)

  assert memory.program_bytes(Compiled()) == {"in": 10, "out": 1, "temp": 30}
