"""The layout that a configuration asks for."""

from rlreason.parallel.jit import make_jit_layout
from rlreason.parallel.layout import Layout
from rlreason.parallel.mesh import ParallelConfig
from rlreason.parallel.pmap import make_pmap_layout


def make_layout(config: ParallelConfig) -> Layout:
  """The layout a configuration asks for.

  Raises:
    ValueError: the mesh does not fit the devices there are.
  """
  return {"jit": make_jit_layout, "pmap": make_pmap_layout}[config.mode](config)
