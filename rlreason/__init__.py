"""rlreason: reinforcement learning that turns language models into reasoning models, in JAX.

The names below are imported when they are first used (`lazy`). The block of imports is what type
checkers and editors see.
"""

import typing

from rlreason import lazy
from rlreason.version import VERSION as __version__

__all__ = [
    "Policy", "PolicyGradientConfig", "Recipe", "RewardSpec", "SFTConfig", "Samples",
    "SamplingOptions", "Task", "__version__", "algorithms", "compare", "convert", "data",
    "evaluate", "evaluation", "from_config", "load", "losses", "masks", "models", "parallel",
    "reduce_metrics", "replay", "report", "rewards", "sample", "sampling", "search", "tokenizers",
    "train", "training", "types", "weights"]
_NAMES = {
    "rlreason.api": (
        "Policy", "Samples", "compare", "convert", "evaluate", "load", "replay", "report", "sample",
        "search", "train"),
    "rlreason.algorithms": ("PolicyGradientConfig", "SFTConfig"),
    "rlreason.data.tasks.base": ("Task",),
    "rlreason.rewards": ("RewardSpec",),
    "rlreason.sampling": ("SamplingOptions",),
    "rlreason.training.metrics": ("reduce_metrics",),
    "rlreason.training.settings.recipe": ("Recipe", "from_config"),
}

if typing.TYPE_CHECKING:
  from rlreason import (
      algorithms, data, evaluation, losses, masks, models, parallel, rewards, sampling, tokenizers,
      training, types, weights)
  from rlreason.algorithms import PolicyGradientConfig, SFTConfig
  from rlreason.api import (
      Policy, Samples, compare, convert, evaluate, load, replay, report, sample, search,
      train)
  from rlreason.data.tasks.base import Task
  from rlreason.rewards import RewardSpec
  from rlreason.sampling import SamplingOptions
  from rlreason.training.metrics import reduce_metrics
  from rlreason.training.settings.recipe import Recipe, from_config
else:
  __getattr__, __dir__ = lazy.attributes(
      __name__, __all__, {name: module for module, names in _NAMES.items() for name in names})
