"""Optimiser, checkpoints, metrics, stages and the training loop."""

import typing

from rlreason import lazy

__all__ = [
    "checkpoint", "comparison", "comparison_plot", "curves", "entry", "expectations", "experience",
    "header", "inputs", "keys", "loop", "memory", "memory_table", "metrics", "model_paths",
    "optimizer", "planning", "preflight", "process", "profiling", "progress", "provenance",
    "replay", "replay_rows", "report", "run", "seeds", "settings", "setup", "signals", "stages",
    "tables", "wandb_log", "workdir"]

if typing.TYPE_CHECKING:
  from rlreason.training import (
      checkpoint, comparison, comparison_plot, curves, entry, expectations, experience, header,
      inputs, keys, loop, memory, memory_table, metrics, model_paths, optimizer, planning,
      preflight, process, profiling, progress, provenance, replay, replay_rows, report, run, seeds,
      settings, setup, signals, stages, tables, wandb_log, workdir)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
