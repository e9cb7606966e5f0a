"""Optimiser, checkpoints, metrics, stages and the loop that joins them."""

import typing

from rlreason import lazy

__all__ = [
    "checkpoint", "checks", "group_plans", "loop", "memory", "metrics", "optimizer", "preflight",
    "profiling", "progress", "recipe", "report", "rl_metrics", "setup", "stage_configs", "stages",
    "workdir"]

if typing.TYPE_CHECKING:
  from rlreason.training import (
      checkpoint, checks, group_plans, loop, memory, metrics, optimizer, preflight, profiling,
      progress, recipe, report, rl_metrics, setup, stage_configs, stages, workdir)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
