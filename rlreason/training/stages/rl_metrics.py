"""Host metrics and readable samples of a rollout and its rewards."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rlreason.data.selections.rows import problem
from rlreason.data.tasks.base import Row
from rlreason.rewards import RewardResult
from rlreason.rollout import Sampled, Scored
from rlreason.types import Rollout


def rollout_metrics(scored: Scored, rollout: Rollout, group_size: int) -> dict[str, float]:
  """Rewards, lengths and failures of B completions.

  A metric without data is omitted: lengths of right answers if none is right.
  """
  result, lengths = scored.rewards, scored.lengths
  metrics = {"reward/total/mean": _mean(scored.totals[scored.is_scored])}
  metrics["reward/total/std"] = (
      float(np.std(scored.totals[scored.is_scored])) if scored.is_scored.any() else None)
  for name, values in result.parts.items():
    metrics[f"reward/{name}/mean"] = _mean([value for value in values if value is not None])
  if result.placed is not None:
    metrics["reward/within/mean"] = _mean([
        sum(number for _, number in placed) for placed in result.placed])
  verdicts = result.parts.get("verifier")
  if verdicts is not None:
    # None, a completion that could not be scored, is neither.
    is_right = scored.is_right
    is_wrong = np.array([value is not None for value in verdicts]) & ~is_right
    metrics["rollout/accuracy"] = _mean(is_right[is_right | is_wrong])
    metrics["rollout/length_right/mean"] = _mean(lengths[is_right])
    metrics["rollout/length_wrong/mean"] = _mean(lengths[is_wrong])
    metrics["reward/majority/label_accuracy"] = _label_accuracy(scored, group_size)
  if group_size > 1:
    metrics["rollout/zero_variance_groups"] = _uniform_share(scored, group_size)
  metrics |= {
      "rollout/length/mean": _mean(lengths), "rollout/length/max": float(lengths.max()),
      "rollout/truncated_fraction": _mean(rollout.truncated),
      "rollout/padding_waste": 1.0 - _mean(
          np.concatenate([rollout.prompt_mask, rollout.token_mask], axis=1)),
  }
  metrics |= {f"reward/{name}": float(count) for name, count in result.counts.items()}
  return {name: value for name, value in metrics.items() if value is not None}


def _label_accuracy(scored: Scored, group_size: int) -> float | None:
  """The accuracy of the answers that the reward "majority" took as right; None: no such."""
  parts = scored.rewards.parts.get("majority")
  if parts is None:
    return None
  is_label = np.array([value == 1.0 for value in parts]).reshape(-1, group_size)
  has_label = is_label.any(axis=1)
  return _mean((is_label & scored.is_right.reshape(is_label.shape)).any(axis=1)[has_label])


def sample_rows(
    rows: Sequence[Row], scored: Scored, group_size: int, count: int
) -> list[dict[str, Any]]:
  """The first `count` completions of a step, with each of their rewards."""
  samples = []
  for i in range(min(count, len(scored.completions))):
    row, rewards = rows[i // group_size], scored.rewards
    parts = {name: values[i] for name, values in rewards.parts.items()}
    samples.append({
        "prompt": row["prompt"], "completion": scored.completions[i], "answer": row["answer"],
        "rewards": {"total": rewards.total[i], **parts}, **_places(rewards, i),
        "length": int(scored.lengths[i])})
  return samples


def round_metrics(
    everything: Sequence[Sampled], chosen: Sampled, group_size: int,
    by: Literal["reward", "accuracy"],
) -> dict[str, float]:
  """Metrics of dynamic sampling: rounds, chosen groups without variance, all verdicts."""
  is_right = np.concatenate([part.scored.is_right for part in everything])
  return {"rollout/rounds": float(len(everything)),
          "rollout/sampled_groups": float(sum(len(part.rows) for part in everything)),
          "rollout/zero_variance_groups": _mean(~chosen.differs(group_size, by)),
          "rollout/accuracy_sampled": _mean(is_right)}


def accuracy_rows(everything: Sequence[Sampled], step: int) -> list[dict[str, Any]]:
  """The number of right completions of each prompt: {prompt, ..., right, count, step}.

  Completions without a verdict do not count.
  """
  rows = []
  for rows_of_part, _, scored in everything:
    verdicts = scored.rewards.verdicts
    size = len(verdicts) // len(rows_of_part)
    for i, row in enumerate(rows_of_part):
      known = [verdict for verdict in verdicts[i * size:(i + 1) * size] if verdict is not None]
      rows.append({**problem(row), "right": sum(known), "count": len(known), "step": step})
  return rows


def data_rows(sampled: Sampled, group_size: int) -> list[dict[str, Any]]:
  """Each completion with its problem, its token ids and its rewards, for JSONL.

  `is_right` is None where the verifier gave no score, `reward` where any part gave none, and
  `rewards` holds the parts.
  """
  rows, rollout, scored = sampled
  prompt_ids = [ids[mask].tolist() for ids, mask in zip(
      rollout.prompt_tokens, rollout.prompt_mask, strict=True)]
  completion_ids = [ids[mask].tolist() for ids, mask in zip(
      rollout.completion_tokens, rollout.token_mask, strict=True)]
  verdicts = scored.rewards.verdicts
  return [{
      **problem(rows[i // group_size]), "completion": completion, "is_right": verdicts[i],
      "reward": scored.rewards.total[i],
      "rewards": {name: values[i] for name, values in scored.rewards.parts.items()},
      **_places(scored.rewards, i), "tokens": int(scored.lengths[i]),
      "truncated": bool(rollout.truncated[i]),
      "prompt_ids": prompt_ids[i], "completion_ids": completion_ids[i],
  } for i, completion in enumerate(scored.completions)]


def _places(rewards: RewardResult, i: int) -> dict[str, Any]:
  """The (position, number) of rewards within a completion, and of increases of potentials."""
  lists = {"placed": rewards.placed, "potentials": rewards.potentials}
  return {name: rows[i] for name, rows in lists.items() if rows is not None}


def _uniform_share(scored: Scored, group_size: int) -> float | None:
  """Share of groups whose scored completions all have one reward, of those with two or more."""
  groups = zip(scored.totals.reshape(-1, group_size), scored.is_scored.reshape(-1, group_size),
               strict=True)
  kept = [totals[is_scored] for totals, is_scored in groups if is_scored.sum() > 1]
  return _mean([np.ptp(totals) == 0 for totals in kept])


def _mean(values: Any) -> float | None:
  values = np.asarray(values, np.float64)
  return float(values.mean()) if values.size else None
