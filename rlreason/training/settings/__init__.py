"""The settings of a run: the recipe and, one file per kind, the settings of its stages."""

import typing

from rlreason import lazy

__all__ = [
    "base", "checks", "custom", "distill", "graph", "kinds", "label_steps", "preference",
    "process_reward", "recipe", "reward_model", "rl", "sample", "select", "sft"]

if typing.TYPE_CHECKING:
  from rlreason.training.settings import (
      base, checks, custom, distill, graph, kinds, label_steps, preference,
      process_reward, recipe, reward_model, rl, sample, select, sft)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
