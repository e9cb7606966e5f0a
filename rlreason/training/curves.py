"""Evaluations within a stage: finds the best, and decides whether the stage ends early.

A curve is a list of points {"step": the step of the run, "evaluation": as in summary.json}. All
functions are pure functions of the curve, so that a resumed run decides like the original.
"""

from collections.abc import Sequence
from typing import Any

from rlreason.training.settings.base import RunConfig

Curve = Sequence[dict[str, Any]]


def is_due(recipe: RunConfig, done: int, steps: int) -> bool:
  """Whether a stage of `steps` steps is evaluated after `done` of them; its end is not counted."""
  every = recipe.evaluation.every_steps
  return bool(every) and 0 < done < steps and done % every == 0


def value_at(point: dict[str, Any], metric: str) -> float | None:
  """The value of `eval/<task>/<metric>` at a point; None: there is none."""
  task, _, name = metric.removeprefix("eval/").rpartition("/")
  return point["evaluation"].get(task, {}).get(name, {}).get("value")


def best_point(curve: Curve, config: Any) -> dict[str, Any] | None:
  """The first point with the best value, by a `CheckpointConfig`; None if no point has a value."""
  sign = -1 if config.best_is == "lowest" else 1
  points = [point for point in curve if value_at(point, config.keep_best) is not None]
  return max(points, key=lambda point: sign * value_at(point, config.keep_best), default=None)


def why_over(curve: Curve, recipe: RunConfig) -> str | None:
  """The reason why the stage ends before its last step; None: it continues."""
  most, config = recipe.evaluation.stop_after, recipe.checkpoint
  if not most:
    return None
  best = best_point(curve, config)
  since = [point for point in curve if best is None or point["step"] > best["step"]]
  if len(since) < most:
    return None
  than = "" if best is None else (
      f" than {value_at(best, config.keep_best):.4g} of step {best['step']}")
  return (f"{config.keep_best} was not better{than} in {most} evaluations: ended at step "
          f"{curve[-1]['step']}")


def of_summary(curve: Curve, recipe: RunConfig) -> dict[str, Any]:
  """The entries for the curve in the summary of a stage."""
  if not curve:
    return {}
  best = best_point(curve, recipe.checkpoint) if recipe.checkpoint.keep_best else None
  found = {"evaluations": list(curve)}
  if best is not None:
    metric = recipe.checkpoint.keep_best
    found["best"] = {"metric": metric, "step": best["step"], "value": value_at(best, metric)}
  return found
