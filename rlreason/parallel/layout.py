"""How programs and arrays are distributed over devices, independent of the mechanism.

Algorithms are written once, for "all rows" or for "my share of the rows", and communicate with
other replicas only through the functions of `Replicas`. Under `jit` the partitioner does the work
and these are almost empty (jit.py); under `pmap` they are collectives (pmap.py). In both cases
every minibatch holds the same rows as on one device, so the results are the same.
"""

from typing import Any, Callable, NamedTuple


from rlreason.types import RowPlan


class Layout(NamedTuple):
  """How arrays and programs are distributed. Row trees have rows on axis 0, as on one device."""

  num_shards: int  # the number of rows must be a multiple of it
  num_replicas: int  # and that of a gradient pass a multiple of this one: 1 under jit
  sampling_shards: int  # devices that split the prompts of a sampler that are a multiple of it
  takes_plans: bool  # whether the batch of an update may hold a `GroupPlan`; a `RowPlan` always
  param_shardings: Callable[[Any], Any]  # boxed shapes, or None for no axes -> shardings
  put_params: Callable[[Any, Any], Any]  # (params, boxed shapes or None) -> placed
  put_state: Callable[[Any], Any]  # train state -> placed
  get_state: Callable[[Any], Any]  # placed train state -> one copy
  put_rows: Callable[[Any], Any]  # host rows -> device rows
  get_rows: Callable[[Any], Any]  # device rows -> host rows
  put_plan: Callable[[RowPlan], RowPlan]  # as programs of rows and updates take it
  compile_sampler: Callable[[Callable], Callable]  # fn(placed, rows, key) -> rows
  compile_rows: Callable[[Callable], Callable]  # fn(placed, rows, plan or None) -> rows
  compile_whole: Callable[[Callable], Callable]  # fn(rows, *unplaced) -> (rows, unplaced)
  compile_update: Callable[[Callable, Any], Callable]  # fn(state, rows, key, replicas=), state

  def prompt_parts(self, *counts: int) -> int:
    """Devices that split the prompts of a sampler, of all of these numbers of prompts."""
    is_split = all(count % self.sampling_shards == 0 for count in counts)
    return self.sampling_shards if is_split else self.num_shards
