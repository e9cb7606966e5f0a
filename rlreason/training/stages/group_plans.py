"""Plans, on the host, which completions of a rollout share a packed row."""

import jax
import numpy as np

from rlreason import masks
from rlreason.algorithms import PolicyGradientConfig, minibatch_rows
from rlreason.data.group_packing import plan_groups
from rlreason.data.row_packing import Sequences, padding_waste, plan_rows
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.types import GroupPlan, Key, Rollout, RolloutBatch, RowPlan


def plan_metrics(plan: GroupPlan | RowPlan | None) -> dict[str, float]:
  """The share of padding in an update of packed rows, which replaces that of the rollout."""
  return {"rollout/padding_waste": padding_waste(plan)} if isinstance(plan, RowPlan) else {}


class GroupPlanner:
  """Plans for one algorithm on one layout; None where every row has its own prompt and padding."""

  def __init__(
      self, config: PolicyGradientConfig, group_size: int, layout: Layout,
      model: ModelConfig | None = None):
    """Prompts are shared if the settings enable it and micro-batches are whole groups.

    Otherwise rows are packed, if the settings enable that.

    Args:
      config: of the algorithm.
      group_size: completions of each prompt, next to each other in a rollout.
      layout: that of the programs that read the plans.
      model: of the policy; rows are not packed if it has experts.
    """
    self._config, self._group_size, self._parts = config, group_size, layout.num_shards
    size = config.micro_batch_size or config.minibatch_size
    self._groups = size // group_size  # of a micro-batch
    is_whole = size % (group_size * self._parts) == 0
    self._shares = (
        config.share_prompts and group_size > 1 and is_whole and layout.takes_plans and
        not config.bootstrap_truncated)
    self._packs = (
        config.pack_rows and not self._shares and not (model and model.num_experts) and
        config.minibatch_size % self._parts == 0)
    self.is_used = self._shares or self._packs  # else no plan is made
    self._put_plan = layout.put_plan
    self._width = {} if model is None else {"model_width": model.width}

  def of_rollout(self, rollout: Rollout) -> GroupPlan | RowPlan | None:
    """For scoring: all rows in their order."""
    lengths = masks.lengths(np.asarray(rollout.token_mask))
    if self._packs and not self._config.bootstrap_truncated:
      prompts = np.asarray(rollout.prompt_mask).sum(axis=1)
      return self._plan_rows(
          prompts, lengths, np.arange(len(lengths))[None], rollout, is_update=False)
    if not self._shares:
      return None
    groups = np.arange(len(lengths) // self._group_size)[None]
    return self._plan(lengths, groups, rollout.token_mask.shape[1])

  def of_update(self, batch: RolloutBatch, key: Key) -> GroupPlan | RowPlan | None:
    """For an update with this key. Rows without trained tokens take no space, nor do tokens after
    the last trained one of a row; given tokens before it do. Waits for the batch.
    """
    if not self.is_used:
      return None
    whole = lambda x: x.reshape(-1, x.shape[-1])  # under pmap the devices are another axis
    learned = whole(batch.learned_mask)
    rows = minibatch_rows(self._config, key, learned.shape[0], self._group_size)
    lengths, rows, prompts = jax.device_get(
        (masks.lengths(learned), rows, whole(batch.prompt_mask).sum(axis=1)))
    if self._packs:
      return self._plan_rows(prompts, lengths, rows, batch, is_update=True)
    return self._plan(
        lengths, rows[:, ::self._group_size] // self._group_size, learned.shape[1])

  def _plan(self, lengths: np.ndarray, order: np.ndarray, columns: int) -> GroupPlan:
    return plan_groups(
        lengths.reshape(-1, self._group_size), order, min(self._groups, order.shape[1]), columns,
        num_parts=self._parts)

  def _plan_rows(
      self, prompts: np.ndarray, lengths: np.ndarray, order: np.ndarray, rows, *, is_update: bool
  ) -> RowPlan | None:
    """No pass has more tokens than one of padded rows. Parts of a rollout keep their devices."""
    columns = rows.prompt_mask.shape[-1], rows.completion_tokens.shape[-1]
    size = self._config.micro_batch_size or self._config.minibatch_size
    sequences = Sequences(prompts, lengths, columns)
    plan = plan_rows(
        sequences, order, size * sum(columns), num_parts=self._parts,
        width=self._config.packed_width, deals=is_update, **self._width)
    return None if plan is None else self._put_plan(plan)
