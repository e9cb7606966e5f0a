"""The layout of a configuration."""

from rlreason.parallel.jit import make_jit_layout
from rlreason.parallel.layout import Layout
from rlreason.parallel.mesh import ParallelConfig
from rlreason.parallel.pmap import make_pmap_layout


def make_layout(config: ParallelConfig) -> Layout:
  """Makes the layout of a configuration.

  Raises:
    ValueError: the mesh does not fit the devices there are.
  """
  return {"jit": make_jit_layout, "pmap": make_pmap_layout}[config.mode](config)
