"""Metrics of rollouts on hand-worked numbers."""

import numpy as np
import pytest

from rlreason.rewards import RewardResult
from rlreason.rollout import Sampled, Scored
from rlreason.training.stages import rl_metrics
from rlreason.types import Rollout


def make_scored(totals, lengths, verdicts=None, counts=None):
  parts = {"verifier": verdicts or [None if t is None else float(t >= 1) for t in totals],
           "exploration": [-0.5] * len(totals)}
  return Scored(
      completions=[f"text {i}" for i in range(len(totals))],
      rewards=RewardResult(totals, parts, counts or {"unscored": totals.count(None)}),
      totals=np.array([total or 0.0 for total in totals], np.float32),
      is_scored=np.array([total is not None for total in totals]),
      lengths=np.array(lengths, np.int32), reasoning_lengths=np.array(lengths, np.int32))


def make_rollout(lengths, truncated=None):
  mask = np.arange(8) < np.array(lengths)[:, None]
  rows = len(lengths)
  return Rollout(
      prompt_tokens=np.zeros((rows, 4), np.int32), prompt_mask=np.ones((rows, 4), bool),
      completion_tokens=np.zeros((rows, 8), np.int32), token_mask=mask, action_mask=mask,
      log_probs=np.zeros((rows, 8)), values=None,
      truncated=np.array(truncated or [False] * rows))


def test_hand_worked():
  totals, lengths = [1.0, 0.0, 0.5, None], [2, 4, 8, 6]
  metrics = rl_metrics.rollout_metrics(
      make_scored(totals, lengths), make_rollout(lengths, [False, False, True, False]), 2)
  assert metrics == pytest.approx({
      "reward/total/mean": 0.5,  # of the three that were scored
      "reward/total/std": np.std([1.0, 0.0, 0.5]),
      "reward/verifier/mean": 1 / 3, "reward/exploration/mean": -0.5,
      "rollout/accuracy": 1 / 3,
      "rollout/length_right/mean": 2.0,
      "rollout/length_wrong/mean": 6.0,  # rows 1 and 2; what was not scored is neither
      "rollout/zero_variance_groups": 0.0,  # the second group has one scored row: not counted
      "rollout/length/mean": 5.0, "rollout/length/max": 8.0, "rollout/truncated_fraction": 0.25,
      "rollout/padding_waste": 1 - (16 + 20) / 48, "reward/unscored": 1.0})


def test_how_often_the_vote_of_a_group_is_right():
  """7, 7, 5, 7, 3 where 7 is right, where 5 is, and a group without any answer."""
  paid = [1.0, 1, 0, 1, 0] * 2 + [0.0] * 5
  verdicts = [1.0, 1, 0, 1, 0, 0, 0, 1, 0, 0] + [0.0] * 5
  scored = make_scored(paid, [2] * 15, verdicts)
  scored.rewards.parts["majority"] = paid
  metrics = rl_metrics.rollout_metrics(scored, make_rollout([2] * 15), 5)
  assert metrics["reward/majority/label_accuracy"] == 0.5
  assert metrics["reward/majority/mean"] == pytest.approx(0.4)
  assert metrics["rollout/accuracy"] == pytest.approx(4 / 15)


def test_share_of_groups_without_spread():
  totals = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, None, 0.5, 0.5, 0.5, 0.5, None]
  lengths = [1] * len(totals)
  share = lambda size: rl_metrics.rollout_metrics(
      make_scored(totals, lengths), make_rollout(lengths), size)["rollout/zero_variance_groups"]
  assert share(2) == pytest.approx(3 / 4)  # four groups have two scored rows
  assert share(4) == pytest.approx(1 / 3)  # the group with None at its end has one value


def test_what_could_not_be_measured_is_left_out():
  totals, lengths = [None, None], [3, 3]
  metrics = rl_metrics.rollout_metrics(make_scored(totals, lengths), make_rollout(lengths), 2)
  for name in ("reward/total/mean", "reward/total/std", "reward/verifier/mean",
               "rollout/accuracy", "rollout/length_right/mean", "rollout/length_wrong/mean",
               "rollout/zero_variance_groups"):
    assert name not in metrics, name
  assert metrics["reward/unscored"] == 2.0 and metrics["rollout/length/mean"] == 3.0
  single = rl_metrics.rollout_metrics(make_scored([1.0], [3]), make_rollout([3]), 1)
  assert "rollout/zero_variance_groups" not in single  # a group of one has no spread


def test_samples_carry_each_reward():
  rows = [{"prompt": "p0", "answer": "a0"}, {"prompt": "p1", "answer": "a1"}]
  scored = make_scored([1.0, 0.0, None, 0.5], [1, 2, 3, 4])
  samples = rl_metrics.sample_rows(rows, scored, 2, 3)
  assert len(samples) == 3
  assert samples[2] == {
      "prompt": "p1", "completion": "text 2", "answer": "a1", "length": 3,
      "rewards": {"total": None, "verifier": None, "exploration": -0.5}}
  assert len(rl_metrics.sample_rows(rows, scored, 2, 99)) == 4


ROWS = [{"prompt": "p0", "answer": "a0"}, {"prompt": "p1", "answer": "a1"}]


def test_rows_of_completions():
  scored, rollout = make_scored([1.0, 0.5, None, 2.0], [1, 2, 3, 4]), make_rollout([1, 2, 3, 4])
  rows = rl_metrics.data_rows(Sampled(ROWS, rollout, scored), 2)
  assert [row["is_right"] for row in rows] == [True, False, None, True]
  assert [row["prompt"] for row in rows] == ["p0", "p0", "p1", "p1"]
  assert rows[1] == {
      "prompt": "p0", "answer": "a0", "completion": "text 1", "is_right": False, "reward": 0.5,
      "rewards": {"verifier": 0.0, "exploration": -0.5}, "tokens": 2, "truncated": False,
      "prompt_ids": [0] * 4, "completion_ids": [0] * 2}


def test_rows_of_accuracy_count_what_has_a_verdict():
  # Their problems may come from rows that an earlier stage wrote; of these, only the problem stays.
  written = [row | {"stage": "sample", "is_right": True, "tokens": 3} for row in ROWS]
  parts = [Sampled(written, make_rollout([1] * 4), make_scored(totals, [1] * 4))
           for totals in ([1.0, 0.0, None, 1.0], [None, None, 0.0, 0.0])]
  found = [(row["prompt"], row["right"], row["count"], row["step"])
           for row in rl_metrics.accuracy_rows(parts, 7)]
  columns = {"prompt", "answer", "right", "count", "step"}
  assert all(set(row) == columns for row in rl_metrics.accuracy_rows(parts, 7))
  assert found == [("p0", 1, 2, 7), ("p1", 1, 1, 7), ("p0", 0, 0, 7), ("p1", 0, 2, 7)]
