"""Which completions of a rollout share a packed row in scoring and in updates, on the host."""

import jax
import numpy as np

from rlreason import masks
from rlreason.algorithms import PolicyGradientConfig, minibatch_rows
from rlreason.data.group_packing import plan_groups
from rlreason.parallel import Layout
from rlreason.types import GroupPlan, Key, Rollout, RolloutBatch


class GroupPlanner:
  """Plans for one algorithm on one layout; None where groups do not share their prompt."""

  def __init__(self, config: PolicyGradientConfig, group_size: int, layout: Layout):
    """Prompts are shared where the settings ask for it and micro-batches are of whole groups.

    Args:
      config: of the algorithm.
      group_size: completions of each prompt, next to each other in a rollout.
      layout: where the programs run that read the plans.
    """
    self._config, self._group_size, self._parts = config, group_size, layout.num_shards
    size = config.micro_batch_size or config.minibatch_size
    self._groups = size // group_size  # of a micro-batch
    is_whole = size % (group_size * self._parts) == 0
    self.is_used = (  # else no plan is made
        config.share_prompts and group_size > 1 and is_whole and layout.takes_plans and
        not config.bootstrap_truncated)

  def of_rollout(self, rollout: Rollout) -> GroupPlan | None:
    """For scoring: all groups in their order."""
    if not self.is_used:
      return None
    lengths = masks.lengths(np.asarray(rollout.token_mask))
    groups = np.arange(len(lengths) // self._group_size)[None]
    return self._plan(lengths, groups, rollout.token_mask.shape[1])

  def of_update(self, batch: RolloutBatch, key: Key) -> GroupPlan | None:
    """For an update with this key: rows that are not trained on take no room, nor does what stands
    after the last trained token of a row; what is given before it does. Waits for the batch.
    """
    if not self.is_used:
      return None
    learned = batch.learned_mask
    rows = minibatch_rows(self._config, key, learned.shape[0], self._group_size)
    lengths, rows = jax.device_get((masks.lengths(learned), rows))
    return self._plan(
        lengths, rows[:, ::self._group_size] // self._group_size, learned.shape[1])

  def _plan(self, lengths: np.ndarray, order: np.ndarray, columns: int) -> GroupPlan:
    return plan_groups(
        lengths.reshape(-1, self._group_size), order, min(self._groups, order.shape[1]), columns,
        num_parts=self._parts)
