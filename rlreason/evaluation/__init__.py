"""Accuracy of a model with confidence intervals, and behaviours of its reasoning."""

import typing

from rlreason import lazy

__all__ = [
    "behaviours", "completions", "config", "evaluator", "expected", "metrics", "reading", "search",
    "step_metrics"]

if typing.TYPE_CHECKING:
  from rlreason.evaluation import (
      behaviours, completions, config, evaluator, expected, metrics, reading, search, step_metrics)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
