"""Plots curves of several runs, with a band over the seeds of each.

Not here: curves and page of one run (report.py), and the numbers (comparison.py).
"""

from collections.abc import Sequence
import io
import os
import pathlib

from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np

from rlreason import files
from rlreason.training.comparison import Group

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# In this order, if at least one run has them; then the accuracies of evaluations.
_METRICS = (
    "reward/total/mean", "rollout/accuracy", "rollout/length/mean", "policy/kl", "policy/entropy",
    "rollout/truncated_fraction", "optim/grad_norm", "loss/sft")
_COLUMNS = 3
_WINDOW = 1 / 20  # of a curve, over which a value is the mean

Curve = dict[int, float]  # step -> value


def draw(file: pathlib.Path, groups: Sequence[Group]) -> list[str]:
  """Draws each metric of the runs against the step, and writes the picture.

  Step 0 is the start of the compared stage, so that curves align whether or not a run had earlier
  stages. A line is the mean over the seeds, at the steps that all of them have, and its band
  reaches from the lowest to the highest seed; values are running means over a twentieth of the
  curve.

  Args:
    file: of the picture, PNG.
    groups: those without metrics.jsonl are skipped.

  Returns:
    The metrics that are drawn; none, and no picture, if no run has any.
  """
  groups = [group for group in groups if any(run.lines for run in group.runs)]
  names = _names(groups)
  if not names:
    return []
  labels = short_names([group.name for group in groups])
  rows = -(-len(names) // _COLUMNS)
  figure = figure_lib.Figure(figsize=(4.2 * _COLUMNS, 2.8 * rows + 0.6), layout="constrained")
  grid = figure.subplots(rows, _COLUMNS, squeeze=False)
  for axes, name in zip(grid.flat, names):
    for i, group in enumerate(groups):
      _draw_band(axes, [curve(run.lines, name, run.stage) for run in group.runs], labels[i],
                 _COLOURS[i % len(_COLOURS)])
    axes.set_title(name, loc="left", fontsize=9)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  for axes in grid.flat[len(names):]:
    axes.set_visible(False)
  handles, labels = grid.flat[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False, fontsize=8)
  image = io.BytesIO()
  figure.savefig(image, format="png", dpi=110)
  files.write_whole(file, image.getvalue())
  return names


def curve(lines: Sequence[dict], name: str, stage: str) -> Curve:
  """A metric by step, counted from the start of a stage; skips values that are not numbers."""
  before = min((line["step"] for line in lines if line.get("stage") == stage), default=1) - 1
  return {line["step"] - before: line[name] for line in lines if line.get(name) is not None}


def band(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
  """Steps [N] that all curves have, and their running means [number of curves, N]."""
  curves = [one for one in curves if one]
  steps = sorted(set.intersection(*map(set, curves))) if curves else []
  values = np.zeros((len(curves), len(steps)))
  for row, one in zip(values, curves, strict=True):
    row[:] = [one[step] for step in steps]
  window = max(int(len(steps) * _WINDOW), 1)
  sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
  ends = np.arange(1, len(steps) + 1)
  begins = np.maximum(ends - window, 0)
  return np.array(steps), (sums[:, ends] - sums[:, begins]) / (ends - begins)


def short_names(paths: Sequence[str]) -> list[str]:
  """Paths without their common parent folders."""
  parts = [pathlib.PurePath(path).parts for path in paths]
  shared = len(os.path.commonprefix([one[:-1] for one in parts]))
  return [os.path.join(*one[shared:]) for one in parts]


def _draw_band(axes, curves: Sequence[Curve], label: str, colour: str):
  steps, values = band(curves)
  if not len(steps):
    axes.plot([], [], color=colour, label=label)  # an entry in the legend
    return
  marker = "o" if len(steps) < 40 else None
  axes.plot(steps, values.mean(axis=0), color=colour, label=label, marker=marker, markersize=3)
  if len(values) > 1:
    axes.fill_between(
        steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _names(groups: Sequence[Group]) -> list[str]:
  """The metrics to draw, each of at least one run."""
  found = {name for group in groups for run in group.runs for line in run.lines for name in line}
  tasks = {name.split("/")[1] for name in found if name.startswith("eval/")}
  evaluations = sorted(
      name for name in found if name.startswith("eval/")
      and name.split("/")[-1].startswith(("greedy", "avg@")) and "unboxed" not in name
      # Parts of a task (chain-2 of chain) are only in the table.
      and not any(name.split("/")[1].startswith(f"{task}-") for task in tasks))
  return [name for name in (*_METRICS, *evaluations) if name in found]
