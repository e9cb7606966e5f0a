"""The layout of a configuration."""

from collections.abc import Callable
import functools

import jax

from rlreason.parallel.jit import make_jit_layout, name_of
from rlreason.parallel.layout import Layout
from rlreason.parallel.mesh import ParallelConfig
from rlreason.parallel.pmap import make_pmap_layout


def make_layout(config: ParallelConfig) -> Layout:
  """Makes the layout of a configuration.

  Raises:
    ValueError: the mesh does not fit the devices there are.
  """
  layout = {"jit": make_jit_layout, "pmap": make_pmap_layout}[config.mode](config)
  names = ("compile_sampler", "compile_rows", "compile_whole", "compile_update")
  return layout._replace(**{
      name: functools.partial(_compile, getattr(layout, name), config.precision)
      for name in names})


def _compile(compile_program: Callable, precision: str, fn: Callable, *args) -> Callable:
  """The program, whose products of f32 values have the precision."""
  def traced(*operands, **settings):
    with jax.default_matmul_precision(precision):
      return fn(*operands, **settings)

  traced.__name__ = name_of(fn)
  return compile_program(traced, *args)
