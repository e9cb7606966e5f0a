"""Expected results of a recipe, from earlier evaluations, and the comparison with a value.

Not here: whether a run has the settings of those evaluations (training/expectations.py).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from rlreason.evaluation.metrics import Estimate, is_share

START = "start"  # the evaluation before the first stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
  """A range of one metric at some points of a run."""

  metric: str = "greedy"  # of the whole task, named as in summary.json
  # (low, high) after a stage, by its name ("start": before the first), or by NAME:STEP after that
  # many of its steps. For runs: from the lowest to the highest end of their 95% intervals.
  points: Mapping[str, tuple[float, float]]
  source: str  # the runs and their hardware, or the publication, its model and method
  # The recipe, as in --config: a run with other settings is not compared. Empty: every run is.
  recipe: str = ""
  is_published: bool = False  # by others, not with this recipe
  num_problems: int = 0  # of the measurement: runs with another number are not compared; 0 = any
  problems_sha256: str = ""  # first digits of their digest, as in summary.json; empty = any

  def __post_init__(self):
    for name, (low, high) in self.points.items():
      if not low <= high or (is_share(self.metric) and not 0 <= low <= high <= 1):
        raise ValueError(f"points.{name}: got {(low, high)}, allowed: (low, high) with low <= high"
                         f"{', both in [0, 1]' if is_share(self.metric) else ''}")
    if self.num_problems < 0:
      raise ValueError(f"num_problems: got {self.num_problems}, allowed: 0 or more")
    if not re.fullmatch("[0-9a-f]*", self.problems_sha256):
      raise ValueError(
          f"problems_sha256: got {self.problems_sha256!r}, allowed: hexadecimal digits, or ''")


def place(
    config: Expected, stages: Sequence[str], stage: str, step: int | None,
    evaluation: Mapping[str, Mapping[str, Estimate]], differences: Sequence[str],
) -> dict[str, Any] | None:
  """Compares an evaluation with the expected range.

  Args:
    config: the expectations.
    stages: names of the run's stages, in their order.
    stage: the stage after or within which it was made.
    step: number of its steps before the evaluation; None: at its end.
    evaluation: of the run, the whole task first.
    differences: `field: before -> now` of differences that prevent a comparison.

  Returns:
    {metric, low, high, verdict, of, differences, source, is_published}: the verdict is "inside",
    "below", "above" or "other settings", and `of` the point, or the two points around the
    evaluation, whose ranges are then joined. None: nothing is expected there, or there is no value.
  """
  value = next(iter(evaluation.values()), {}).get(config.metric, {}).get("value")
  names = _points(config, stages, stage, step)
  if value is None or not names:
    return None
  low = min(config.points[name][0] for name in names)
  high = max(config.points[name][1] for name in names)
  verdict = "below" if value < low else "above" if value > high else "inside"
  return {
      "metric": config.metric, "low": low, "high": high,
      "verdict": "other settings" if differences else verdict, "of": names,
      "differences": list(differences), "source": config.source,
      "is_published": config.is_published}


def _points(
    config: Expected, stages: Sequence[str], stage: str, step: int | None) -> list[str]:
  """The name of an evaluation's point, or of the two around it, or none."""
  name = stage if step is None else f"{stage}:{step}"
  if name in config.points:
    return [name]
  if step is None or stage not in config.points:
    return []
  before = [START, *stages[:list(stages).index(stage)]]
  known = [(number, point) for point in config.points
           for prefix, _, number in [point.partition(":")] if prefix == stage and number]
  steps = sorted((int(number), point) for number, point in known)
  earlier = [other for other in before if other in config.points]
  earlier += [point for number, point in steps if number < step]
  later = [point for number, point in steps if number > step] + [stage]
  return [earlier[-1], later[0]] if earlier else []


def format_range(found: Mapping[str, Any]) -> str:
  """`26 to 45%`, or `12.1 to 14` if the metric is not a share."""
  if is_share(found["metric"]):
    return f"{100 * found['low']:.0f} to {100 * found['high']:.0f}%"
  return f"{found['low']:.3g} to {found['high']:.3g}"


def sentence(found: Mapping[str, Any], value: float) -> str:
  """The sentence shown after an evaluation."""
  shown = f"{100 * value:.1f}%" if is_share(found["metric"]) else f"{value:.3g}"
  which = "published" if found["is_published"] else "expected"
  between = f", between {found['of'][0]} and {found['of'][1]}" if len(found["of"]) > 1 else ""
  numbers = f"{which} {format_range(found)}{between}"
  head = f"{found['metric']} {shown}: "
  if found["verdict"] != "other settings":
    return f"{head}{found['verdict']} the {numbers} ({found['source']})"
  first, *others = found["differences"]
  more = f" and {len(others)} more" if others else ""
  return f"{head}not compared with the {numbers}, which is of other settings: {first}{more}"
