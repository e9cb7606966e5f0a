"""rlreason: reinforcement learning that turns language models into reasoning models, in JAX.

The names below are imported when they are first used, so that `import rlreason` takes no time and
a worker process that needs one module loads only that.
"""

import importlib

_MODULES = (
    "algorithms", "data", "evaluation", "losses", "masks", "models", "parallel", "rewards",
    "sampling", "tokenizers", "training", "types", "weights")
_NAMES = {
    "rlreason.api": (
        "Policy", "Samples", "compare", "convert", "evaluate", "load", "replay", "report", "sample",
        "train"),
    "rlreason.algorithms": ("PolicyGradientConfig", "SFTConfig"),
    "rlreason.rewards": ("RewardSpec",),
    "rlreason.sampling": ("SamplingOptions",),
    "rlreason.training.recipe": ("Recipe", "from_config"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_MODULES, *_HOMES])


def __getattr__(name: str):
  if name in _MODULES:
    return importlib.import_module(f"rlreason.{name}")
  if name in _HOMES:
    return getattr(importlib.import_module(_HOMES[name]), name)
  raise AttributeError(f"module 'rlreason' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
  return __all__
