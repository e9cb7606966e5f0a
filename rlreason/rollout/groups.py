"""Chooses among the groups of several samplings, for dynamic sampling."""

from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from rlreason.rewards import RewardResult
from rlreason.rollout.scored import Sampled, Scored
from rlreason.types import Rollout


def choose_groups(
    parts: Sequence[Sampled], num_prompts: int, group_size: int,
    by: Literal["reward", "accuracy"] = "reward",
) -> Sampled:
  """The first `num_prompts` groups with reward variance; if there are too few, also others.

  Args:
    parts: of one group size; together at least `num_prompts` groups.
    num_prompts: P of the result.
    group_size: G.
    by: the quantity that has to differ within a group.
  """
  sources = [(part, group) for part in range(len(parts)) for group in range(len(parts[part].rows))]
  has_spread = np.concatenate([part.differs(group_size, by) for part in parts])
  chosen = sorted(np.argsort(~has_spread, kind="stable")[:num_prompts])
  return _join([_take_groups(
      parts[part], [sources[i][1] for i in chosen if sources[i][0] == part], group_size)
                for part in range(len(parts))])


def _take_groups(sampled: Sampled, groups: Sequence[int], group_size: int) -> Sampled:
  """Only those groups; the counts of failures remain those of all."""
  index = (np.array(groups, int)[:, None] * group_size + np.arange(group_size)).reshape(-1)
  take = lambda values: [values[i] for i in index]
  take_all = lambda rows: None if rows is None else take(rows)
  scored = sampled.scored
  rewards = scored.rewards._replace(
      total=take(scored.rewards.total),
      parts={name: take(values) for name, values in scored.rewards.parts.items()},
      placed=take_all(scored.rewards.placed), potentials=take_all(scored.rewards.potentials))
  arrays = ("totals", "is_scored", "lengths", "reasoning_lengths")
  return Sampled(
      [sampled.rows[group] for group in groups],
      jax.tree.map(lambda x: x[index], sampled.rollout),
      scored._replace(completions=take(scored.completions), rewards=rewards,
                      **{name: getattr(scored, name)[index] for name in arrays}))


def _join(parts: Sequence[Sampled]) -> Sampled:
  """Concatenates the parts; prompts become as wide as the widest."""
  width = max(part.rollout.prompt_tokens.shape[1] for part in parts)
  rollouts = [_widen(part.rollout, width) for part in parts]
  scored = [part.scored for part in parts]
  chain = lambda lists: [value for values in lists for value in values]
  rewards = RewardResult(
      total=chain(one.rewards.total for one in scored),
      parts={name: chain(one.rewards.parts[name] for one in scored)
             for name in scored[0].rewards.parts},
      counts={name: sum(one.rewards.counts[name] for one in scored)
              for name in scored[0].rewards.counts},
      placed=_chain_placed(parts, "placed"), potentials=_chain_placed(parts, "potentials"))
  arrays = ("totals", "is_scored", "lengths", "reasoning_lengths")
  return Sampled(
      chain(part.rows for part in parts),
      jax.tree.map(lambda *leaves: np.concatenate(leaves), *rollouts),
      Scored(completions=chain(one.completions for one in scored), rewards=rewards,
             **{name: np.concatenate([getattr(one, name) for one in scored]) for name in arrays}))


def _chain_placed(parts: Sequence[Sampled], field: str) -> list | None:
  """A field of `RewardResult` that is None if no reward function gave a list."""
  lists = [getattr(part.scored.rewards, field) for part in parts]
  if all(rows is None for rows in lists):
    return None
  return [placed for part, rows in zip(parts, lists)
          for placed in rows or [[]] * len(part.scored.completions)]


def _widen(rollout: Rollout, width: int) -> Rollout:
  """Prompts padded on the left to `width` columns."""
  pad = lambda x: np.pad(x, ((0, 0), (width - x.shape[1], 0)))
  return rollout.replace(
      prompt_tokens=pad(rollout.prompt_tokens), prompt_mask=pad(rollout.prompt_mask))
