"""Counting the work of compiled programs: against work known by hand."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import pytest

from rlreason.parallel import chips, hlo
from rlreason.parallel.mesh import ParallelConfig, make_mesh

LAYERS, WIDTH, ROWS = 5, 64, 16


def counts_of(fn, *args, turns=None):
  return hlo.count(hlo.parse(jax.jit(fn).lower(*args).compile().as_text()), turns)


def array(*shape, spec=None, dtype=jnp.float32):
  """A shape over a mesh of four devices, or of one."""
  sharding = None
  if spec is not None:
    mesh = make_mesh(ParallelConfig(data=1, fsdp=4))
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(*spec))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def layers(kernels, rows):
  return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), rows, kernels)[0]


def test_a_loop_counts_as_often_as_it_turns():
  """2 FLOPs for each parameter and token, and twice as many again for the gradients of both."""
  args = array(LAYERS, WIDTH, WIDTH), array(ROWS, WIDTH)
  needed = 2 * LAYERS * WIDTH * WIDTH * ROWS
  assert counts_of(layers, *args).total_flops == needed
  gradient = jax.grad(lambda kernels, rows: jnp.sum(layers(kernels, rows)), argnums=(0, 1))
  assert counts_of(gradient, *args).total_flops == 3 * needed


def test_a_loop_that_ends_when_the_data_say_so_turns_as_often_as_told():
  def until_large(kernel, x):
    with jax.named_scope("growth"):
      return jax.lax.while_loop(lambda x: jnp.max(x) < 9, lambda x: x @ kernel, x)

  args = array(WIDTH, WIDTH), array(ROWS, WIDTH)
  once = 2 * WIDTH * WIDTH * ROWS
  unknown = counts_of(until_large, *args)
  assert unknown.total_flops == once and len(unknown.unknown_loops) == 1
  told = counts_of(until_large, *args, turns={"growth": 7.5, "other": 3.0})
  assert told.total_flops == 7.5 * once and not told.unknown_loops


def test_of_a_branch_the_dearest_side_counts():
  def either(is_long, kernel, x):
    twice = lambda x: x @ kernel @ kernel
    return jax.lax.cond(is_long, twice, lambda x: x @ kernel, x)

  found = counts_of(
      either, array(dtype=jnp.bool_), array(WIDTH, WIDTH), array(ROWS, WIDTH))
  assert found.total_flops == 2 * 2 * WIDTH * WIDTH * ROWS


def test_collectives_of_a_split_product():
  """Each layer gathers its kernel, of which every device has a quarter, and rows stay apart."""
  kernels = array(LAYERS, WIDTH, WIDTH, spec=(None, "fsdp"))
  found = counts_of(layers, kernels, array(ROWS, WIDTH, spec=("fsdp",)))
  (of_kind,) = found.collectives.items()
  assert of_kind == (("all-gather", 4), hlo.Collective(LAYERS, LAYERS * WIDTH * WIDTH * 4))
  assert found.total_flops == 2 * LAYERS * WIDTH * WIDTH * ROWS / 4
  # Three quarters of a gathered array come from the others.
  assert chips.sent_bytes("all-gather", 4, of_kind[1]) == LAYERS * WIDTH * WIDTH * 4 * 3 / 4


TPU = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %p = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %w = bf16[16,16]{1,0:T(8,128)(2,1)} constant({...})
  %y = bf16[8,16]{1,0:T(8,128)(2,1)} convolution(%x, %w), dim_labels=bf_io->bf, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-gather.1 = bf16[8,16]{1,0} all-gather(%y), channel_id=6, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
  %all-gather.2 = bf16[8,16]{1,0} all-gather(%y), channel_id=6, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
  %q = bf16[2,4,128,64]{3,2,1,0} broadcast(%x), dimensions={}
  %k = bf16[2,1,128,64]{3,2,1,0} broadcast(%x), dimensions={}
  %splash_mha_fwd.3 = bf16[2,4,128,64]{3,2,1,0} custom-call(%q, %k, %k), \
custom_call_target="tpu_custom_call"
  ROOT %t = (s32[], bf16[8,16]) tuple(%i, %y)
}

%condition (p.1: (s32[], bf16[8,16])) -> pred[] {
  %p.1 = (s32[], bf16[8,16]) parameter(0)
  %end = s32[]{:T(128)} constant(7)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %end), direction=LT
}

ENTRY %main (a: bf16[8,16]) -> bf16[8,16] {
  %a = bf16[8,16]{1,0} parameter(0)
  %start = s32[] constant(3)
  %state = (s32[], bf16[8,16]) tuple(%start, %a)
  %loop = (s32[], bf16[8,16]) while(%state), condition=%condition, body=%body, \
metadata={op_name="jit(f)/while"}
  ROOT %out = bf16[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_the_text_of_a_tpu_program():
  """It counts from 3 to 7; the two pieces of one collective are one."""
  found = hlo.count(hlo.parse(TPU))
  assert found.cycles == 400 and found.flops == {"bf16": 4 * 2 * 8 * 16 * 16}
  assert found.collectives == {("all-gather", 4): hlo.Collective(4, 4 * 8 * 16 * 2)}
  # Forward: two products for half of the pairs of tokens.
  assert found.kernels == {"splash_mha_fwd": (4, 4 * 2 * (2 * 4 * 128 * 64) * 128)}
  chip = chips.CHIPS["v5e"]
  seconds = chips.project(found, chip)
  assert seconds.compute == pytest.approx(400 / 1.5e9)
  assert seconds.kernels == pytest.approx(4 * 2 * 2 * 4 * 128 * 64 * 128 / (0.45 * 197e12))
  assert seconds.links == pytest.approx(4 * 8 * 16 * 2 * 3 / 4 / (0.5 * 200e9))
  assert seconds.total == seconds.compute + seconds.kernels + seconds.links


def test_work_without_an_estimate_counts_as_none():
  """The compiler states the largest integer for what it gives to another core."""
  text = re.sub(r'"estimated_cycles":"\d+"', '"estimated_cycles":"9223372036854775807"', TPU)
  assert hlo.count(hlo.parse(text)).cycles == 0


@pytest.mark.parametrize("name", ["v5e", "v5p", "v6e"])
def test_the_clock_follows_from_the_peak(name):
  """Units of n x n that multiply and add once a cycle."""
  units, width = {"v5e": (4, 128), "v5p": (8, 128), "v6e": (4, 256)}[name]
  chip = chips.CHIPS[name]
  assert 2 * units * width**2 * chip.clock == pytest.approx(chip.peak, rel=2e-3)


@pytest.mark.parametrize("kind, peak, name", [
    ("TPU v5 lite", 197e12, "TPU v5e"), ("NVIDIA H100 80GB HBM3", 989e12, "NVIDIA H100 80GB HBM3"),
    ("cpu", 50e9, "CPU"), ("another", 50e9, "another")])
def test_chips_are_known_by_the_names_that_jax_gives_them(kind, peak, name):
  found = chips.named(kind)
  assert (found.peak, found.name) == (peak, name)


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match="allowed: the text of a compiled program"):
    hlo.parse("nothing")
