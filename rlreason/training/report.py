"""Plots and a one-page report of a run, made from the files it wrote.

    <workdir>/metrics.jsonl, samples.jsonl, summary.json, config.json   what is read
    <workdir>/plots/*.png, report.html                                  what is made

The page is self-contained (with its images) and shows text of a model as text, never as HTML. It
can be made during a run, and for a run that was killed; missing parts are omitted.

Not here: the live display (progress.py).
"""

import base64
from collections.abc import Iterable, Sequence
import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
from typing import Any

import jinja2
from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np

from rlreason import files
from rlreason.evaluation import metrics as evaluation_metrics
from rlreason.training import metrics as metrics_lib
from rlreason.training import provenance, tables

# Okabe and Ito's colours, which colour-blind readers can tell apart; black and yellow last.
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442",
)  # fmt: skip
_NUM_SAMPLES = 6
_EDGE = "#888888"
_WIDTH = 6.4  # inches, of a figure


@dataclasses.dataclass(frozen=True)
class _Panel:
  """A plot of the metrics whose name matches `pattern`."""

  name: str  # of the file
  title: str
  unit: str
  pattern: str


# In this order; a metric goes to the first panel that matches, and otherwise to a plot of its
# group.
_PANELS = (
    _Panel("reward", "Reward and its parts, mean", "reward", r"reward/.*mean"),
    _Panel("accuracy", "Right answers in rollouts", "share", r"rollout/accuracy"),
    _Panel("evaluation_steps", "Evaluations on the way", "share", r"eval/.*(greedy|mean|@\d+)"),
    _Panel("kl", "KL from the reference, and of one step", "nats",
           r"policy/(kl|kl_k3|kl_from_old)"),
    _Panel("kl_per_sequence", "KL from the reference", "nats per row", r"policy/kl_per_sequence"),
    _Panel("kl_coef", "Coefficient of the KL", "coefficient", r"policy/kl_coef"),
    _Panel("entropy", "Entropy of the policy", "nats per token", r"policy/.*entropy.*"),
    _Panel("length", "Length of completions", "tokens", r"rollout/.*length.*"),
    _Panel("clip_fraction", "Clipped share of tokens", "share", r".*/.*clip_fraction.*"),
    _Panel("rollout_shares", "Rollouts", "share", r"rollout/.*(fraction|share|waste).*"),
    _Panel("loss", "Losses", "loss", r"loss/.*"),
    _Panel("grad_norm", "Norm of the gradient before clipping", "norm", r"optim/.*grad_norm.*"),
    _Panel("learning_rate", "Learning rate", "per update", r"optim/.*(lr|learning_rate).*"),
    _Panel("explained_variance", "Critic", "share", r"value/.*explained_variance.*"),
    _Panel("tokens_per_second", "Speed", "tokens per second", r"time/.*per_second.*"),
    _Panel("time", "Time of a step", "seconds", r"time/.*"),
    _Panel("memory", "Peak memory", "bytes", r"system/.*memory.*"),
    _Panel("compilations", "Compilations", "programs", r"system/.*compilations.*"),
)


def make_report(workdir: str | os.PathLike) -> pathlib.Path:
  """Makes the plots and the page of a run.

  Args:
    workdir: the folder of the run.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: there is no metrics.jsonl.
  """
  workdir = pathlib.Path(workdir)
  if not (workdir / "metrics.jsonl").exists():
    raise FileNotFoundError(
        f"no metrics.jsonl in {str(workdir)!r}; give the --workdir of a run that has started"
    )
  summary = _read_summary(workdir)
  plots = make_plots(workdir)
  page = _render(
      name=workdir.absolute().name,
      stages=[stage["name"] for stage in summary["stages"]] if summary else [],
      sections=tables.summary_rows(summary) if summary else [],
      plots=[(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in plots],
      samples=_pick_samples(metrics_lib.read_lines(workdir / "samples.jsonl")),
      made=provenance.rows((summary or {}).get("provenance", {})),
      config=json.dumps(_read_json(workdir / "config.json"), indent=2),
  )
  path = workdir / "report.html"
  files.write_whole(path, page)
  return path


def make_plots(workdir: str | os.PathLike) -> list[pathlib.Path]:
  """Draws every metric of a run against the step, and its evaluations against the stage.

  Returns:
    The paths of the images, in order of importance.
  """
  workdir = pathlib.Path(workdir)
  folder = workdir / "plots"
  folder.mkdir(exist_ok=True)
  lines = metrics_lib.read_lines(workdir / "metrics.jsonl")
  summary = _read_summary(workdir)
  figures = list(_evaluation_figures(summary)) if summary else []
  figures += [
      (f"calibration_{path.parent.name}", _draw_calibration(path.parent.name, _read_json(path)))
      for path in sorted((workdir / "models").glob("*/step_metrics.json"))]
  figures += [
      (panel.name, _draw_curves(panel, names, lines)) for panel, names in _assign_panels(lines)
  ]
  paths = []
  for name, figure in figures:
    paths.append(folder / f"{name}.png")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    files.write_whole(paths[-1], image.getvalue())
  return paths


def _assign_panels(lines: Sequence[dict]) -> list[tuple[_Panel, list[str]]]:
  """Gives every metric to one panel."""
  names = {name for line in lines for name in line if "/" in name}
  tasks = {name.split("/")[1] for name in names if name.startswith("eval/")}
  # Parts of a task (chain-2 of chain) have separate figures.
  parts = {task for task in tasks for whole in tasks if task.startswith(f"{whole}-")}
  names = sorted(name for name in names if not (
      name.startswith("eval/") and name.split("/")[1] in parts))
  panels, assigned = list(_PANELS), {}
  for name in names:
    group = name.split("/")[0]
    panel = next((p for p in panels if re.fullmatch(p.pattern, name)), None)
    if panel is None:
      panel = _Panel(f"{group}_other", f"Other metrics: {group}", "", f"{re.escape(group)}/.*")
      panels.append(panel)
    assigned.setdefault(panel, []).append(name)
  return sorted(assigned.items(), key=lambda item: panels.index(item[0]))


def _draw_curves(panel: _Panel, names: list[str], lines: Sequence[dict]) -> figure_lib.Figure:
  """Draws each metric faintly, and its running mean within a stage strongly."""
  figure, axes = _new_figure()
  lines = [line for line in lines if any(name in line for name in names)]
  stages = [(stage, list(group)) for stage, group in itertools.groupby(lines, lambda x: x["stage"])]
  for i, name in enumerate(names):
    label = _short_label(name, names)
    for _, group in stages:
      points = [(line["step"], line[name]) for line in group if name in line]
      if points:
        _draw_curve(axes, points, i, label)
        label = None  # one entry in the legend
  if len(stages) > 1:
    _mark_stages(axes, stages)
  low, high = axes.get_ylim()
  middle = (low + high) / 2
  if high - low < 1e-6 * abs(middle):  # constant up to rounding
    axes.set_ylim(0.9 * middle, 1.1 * middle)
  axes.set_title(panel.title, loc="left", fontsize=11, pad=14)
  axes.set_xlabel("step")
  axes.set_ylabel(panel.unit)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
  _add_legend(axes)
  return figure


def _draw_curve(axes: Any, points: list[tuple[int, float | None]], i: int, label: str | None):
  steps = [step for step, _ in points]
  values = np.asarray([np.nan if value is None else value for _, value in points], float)
  style = {"color": _COLOURS[i % len(_COLOURS)], "label": label}
  style["linestyle"] = ("-", "--", ":")[i // len(_COLOURS) % 3]
  window = len(values) // 20
  if window < 2:
    axes.plot(steps, values, marker="o" if len(values) < 40 else None, markersize=3, **style)
  else:
    axes.plot(steps, values, color=style["color"], alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(values, window), **style)


def _mark_stages(axes: Any, stages: Sequence[tuple[str, list[dict]]]) -> None:
  """Names the stages along the top, with a line at the start of each."""
  for i, (stage, group) in enumerate(stages):
    begin = group[0]["step"] - 0.5
    if i:
      axes.axvline(begin, color=_EDGE, linewidth=0.8, linestyle=":")
    axes.text(
        begin, 1.0, f" {stage}", transform=axes.get_xaxis_transform(), fontsize=7, color=_EDGE,
        verticalalignment="bottom",
    )  # fmt: skip


def _add_legend(axes: Any) -> None:
  """Puts the legend next to the axes, and reserves the width of its longest label."""
  legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
  longest = max((len(text.get_text()) for text in legend.get_texts()), default=0)
  width = 0.55 + 0.065 * longest  # inches: the line before a label, and a letter of 8 points
  axes.figure.subplots_adjust(right=max(1 - width / _WIDTH, 0.4))


def _evaluation_figures(summary: dict) -> Iterable[tuple[str, figure_lib.Figure]]:
  """Yields for each task its accuracies, with intervals, and then everything else measured."""
  stages = summary["stages"]
  for task in dict.fromkeys(task for stage in stages for task in stage["evaluation"]):
    results = [(stage["name"], stage["evaluation"].get(task, {})) for stage in stages]
    entries = [item for _, result in results for item in result.items()]
    names = list(dict.fromkeys(name for name, entry in entries if entry["value"] is not None))
    file = re.sub(r"\W+", "_", task)
    shares = [name for name in names if evaluation_metrics.is_share(name)]
    if shares:
      drawn = _largest_counts(shares)
      figure, axes = _new_figure()
      _draw_intervals(axes, drawn, results, scale=100.0)
      axes.set_ylabel("% of problems")
      axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
      axes.set_title(f"{task}: held-out problems, 95% intervals", loc="left", fontsize=11)
      _add_legend(axes)
      yield f"evaluation_{file}", figure
    others = [name for name in names if name not in shares]
    if others:
      yield f"behaviour_{file}", _draw_small_multiples(task, others, results)


def _largest_counts(names: list[str]) -> list[str]:
  """Keeps only the pass@k and maj@k of the most samples: a figure has space for one each."""
  parts = [name.partition("@") for name in names]
  largest = {kind: max(int(count) for other, _, count in parts if other == kind and count)
             for kind, _, count in parts if count}
  return [name for name, (kind, _, count) in zip(names, parts)
          if not count or int(count) == largest[kind]]


def _draw_small_multiples(task: str, names: list[str], results: list) -> figure_lib.Figure:
  """One small plot per metric, because their units differ."""
  columns = min(3, len(names))
  rows = -(-len(names) // columns)
  figure = figure_lib.Figure(figsize=(max(2.6 * columns, 4.5), 2.1 * rows + 0.4))
  height = figure.get_figheight()
  figure.subplots_adjust(
      left=0.08, right=0.98, bottom=0.35 / height, top=1 - 0.6 / height, wspace=0.3, hspace=0.45)
  grid = figure.subplots(rows, columns, squeeze=False)
  for i, axes in enumerate(grid.flat):
    if i >= len(names):
      axes.set_visible(False)
      continue
    _style(axes)
    _draw_intervals(axes, [names[i]], results)
    axes.set_title(names[i].replace("_", " "), loc="left", fontsize=9)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
  figure.suptitle(f"{task}: per solution, 95% intervals", fontsize=11, x=0.01, ha="left")
  return figure


def _draw_intervals(axes: Any, names: list[str], results: list, scale: float = 1.0) -> None:
  """Points with error bars, one group per stage, with the metrics side by side."""
  for i, name in enumerate(names):
    shift = 0.12 * (i - (len(names) - 1) / 2)
    entries = [
        (x + shift, result[name])
        for x, (_, result) in enumerate(results)
        if name in result and result[name]["value"] is not None
    ]
    positions = [x for x, _ in entries]
    values = np.asarray([entry["value"] for _, entry in entries], float)
    bars = [
        np.abs(values - [e["value"] if e[side] is None else e[side] for _, e in entries])
        for side in ("low", "high")
    ]
    axes.errorbar(
        positions, scale * values, yerr=scale * np.asarray(bars), label=name, marker="o", capsize=3,
        markersize=4, linewidth=1.2, color=_COLOURS[i % len(_COLOURS)],
    )  # fmt: skip
  axes.set_xticks(range(len(results)), [stage for stage, _ in results])
  axes.set_xlim(-0.4, len(results) - 0.6)


def _new_figure() -> tuple[figure_lib.Figure, Any]:
  figure = figure_lib.Figure(figsize=(_WIDTH, 3.4))
  # Fixed margins: a layout engine draws every figure twice to find them, half of a report's time.
  figure.subplots_adjust(left=0.9 / _WIDTH, right=0.98, bottom=0.15, top=0.87)
  axes = figure.subplots()
  _style(axes)
  return figure, axes


def _style(axes: Any) -> None:
  axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)


def _draw_calibration(stage: str, found: dict[str, Any]) -> figure_lib.Figure:
  """The share of right steps against the predicted probability, and the steps in each bin."""
  figure, axes = _new_figure()
  bins, most = found["bins"], max((one["count"] for one in found["bins"]), default=1)
  axes.bar([(one["low"] + one["high"]) / 2 for one in bins],
           [0.2 * one["count"] / most for one in bins], width=0.09, color="#cccccc",
           label=f"steps (at most {most} in a bin)")
  axes.plot([0, 1], [0, 1], color=_EDGE, linewidth=0.8, linestyle=":", label="calibrated")
  axes.plot([one["predicted"] for one in bins], [one["found"] for one in bins], marker="o",
            color=_COLOURS[0], label=f"{stage}: error {found['metrics']['calibration_error']:.3f}")
  axes.set_xlabel("predicted probability that a step is right")
  axes.set_ylabel("share of right steps")
  axes.set_title("Held-out steps of a process reward model", loc="left", fontsize=11)
  _add_legend(axes)
  return figure


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
  """Mean of the last `window` values that are numbers; NaN where there are none."""
  kept = np.isfinite(values)
  sums = np.cumsum(np.concatenate([[0.0], np.where(kept, values, 0.0)]))
  counts = np.cumsum(np.concatenate([[0], kept]))
  ends = np.arange(1, len(values) + 1)
  begins = np.maximum(ends - window, 0)
  count = counts[ends] - counts[begins]
  return np.where(count > 0, (sums[ends] - sums[begins]) / np.maximum(count, 1), np.nan)


def _short_label(name: str, names: list[str]) -> str:
  """The name without the group, or the statistic, that all curves of a plot share."""
  parts = name.split("/")
  if len({other.split("/")[0] for other in names}) == 1:
    parts = parts[1:]
  if len(parts) > 1 and len({other.split("/")[-1] for other in names}) == 1:
    parts = parts[:-1]
  return "/".join(parts)


def _pick_samples(lines: Sequence[dict]) -> list[dict]:
  """A handful: two from the first step of the last stage, and from its last step the rest.

  Within a step the samples with the highest and the lowest total reward alternate, at most one per
  prompt.
  """
  lines = [line for line in lines if line["stage"] == lines[-1]["stage"]]
  if not lines:
    return []
  first = [line for line in lines if line["step"] == lines[0]["step"]]
  last = [line for line in lines if line["step"] == lines[-1]["step"]]
  chosen = [] if first[0]["step"] == last[0]["step"] else _best_and_worst(first, 2)
  return chosen + _best_and_worst(last, _NUM_SAMPLES - len(chosen))


def _best_and_worst(lines: list[dict], count: int) -> list[dict]:
  unique = list({json.dumps(line.get("prompt")): line for line in lines}.values())
  ordered = sorted(unique, key=_total_reward, reverse=True)
  turns = itertools.zip_longest(ordered, ordered[::-1])
  return list({id(line): line for pair in turns for line in pair}.values())[:count]


def _total_reward(line: dict) -> float:
  rewards = line.get("rewards") or {}
  total = rewards.get("total", sum(value for value in rewards.values() if value is not None))
  return 0.0 if total is None else total


def _read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The content of summary.json, with the current names of metrics."""
  summary = _read_json(workdir / "summary.json")
  return summary and evaluation_metrics.with_current_summary(summary)


def _read_json(path: pathlib.Path) -> Any:
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _render(**values: Any) -> str:
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  environment.filters["as_text"] = _as_text
  return environment.from_string(_PAGE).render(**values)


def _as_text(value: Any) -> str:
  """A text unchanged, the messages of a chat as JSON."""
  return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2em auto;
       max-width: 1100px; padding: 0 1em; }
table { border-collapse: collapse; }
th, td { padding: .2em .9em; text-align: right; border-bottom: 1px solid #e6e6e6; }
th:first-child, td:first-child { text-align: left; }
tr.section td { font-weight: 600; padding-top: .8em; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); gap: 1em; }
.plots img { width: 100%; }
pre { background: #f6f6f4; padding: .7em .9em; white-space: pre-wrap; overflow-wrap: anywhere; }
.sample { border-left: 3px solid #0072B2; padding-left: 1em; margin: 1.5em 0; }
.made td { text-align: left; vertical-align: top; }
.note { color: #666; font-size: 13px; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
{% if sections %}
<h2>Summary</h2>
<p class="note">Values with 95% confidence intervals.</p>
<table>
<tr><th></th>{% for stage in stages %}<th>{{ stage }}</th>{% endfor %}</tr>
{% for title, rows in sections %}
<tr class="section"><td>{{ title }}</td>{% for stage in stages %}<td></td>{% endfor %}</tr>
{% for row, cells in rows %}
<tr><td>{{ row }}</td>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}{% endfor %}
</table>
{% endif %}
{% if plots %}
<h2>Curves</h2>
<div class="plots">
{% for title, data in plots %}
<img alt="{{ title }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
</div>
{% endif %}
{% if samples %}
<h2>Samples</h2>
{% for sample in samples %}
<div class="sample">
<p class="note">{{ sample.stage }}, step {{ sample.step }}
{% if "answer" in sample %}&middot; answer: {{ sample.answer }}{% endif %}
{% for part, value in (sample.get("rewards") or {}).items() %}
&middot; {{ part }} {{ "not scored" if value is none else "%.3g" | format(value) }}
{% endfor %}</p>
<pre>{{ sample.get("prompt", "") | as_text }}</pre>
<pre>{{ sample.get("completion", "") | as_text }}</pre>
</div>
{% endfor %}
{% endif %}
{% if made %}
<h2>How it was made</h2>
<table class="made">
{% for name, value in made %}
<tr><td>{{ name }}</td><td><pre>{{ value | as_text }}</pre></td></tr>
{% endfor %}
</table>
{% endif %}
{% if config != "null" %}
<h2>Config</h2>
<details><summary>config.json</summary><pre>{{ config }}</pre></details>
{% endif %}
</body>
</html>
"""
