"""Optimiser, checkpoints, metrics, stages and the loop that joins them."""

import typing

from rlreason import lazy

__all__ = [
    "checkpoint", "checks", "comparison", "comparison_plot", "curves", "custom_stage", "entry",
    "group_plans", "header", "loop", "memory", "metrics", "model_paths", "optimizer", "preflight",
    "profiling", "progress", "provenance", "recipe", "replay", "replay_rows", "report",
    "rl_metrics", "seeds", "setup", "signals", "stage_configs", "stages", "wandb_log", "workdir"]

if typing.TYPE_CHECKING:
  from rlreason.training import (
      checkpoint, checks, comparison, comparison_plot, curves, custom_stage, entry, group_plans,
      header, loop, memory, metrics, model_paths, optimizer, preflight, profiling, progress,
      provenance, recipe, replay, replay_rows, report, rl_metrics, seeds, setup, signals,
      stage_configs, stages, wandb_log, workdir)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
