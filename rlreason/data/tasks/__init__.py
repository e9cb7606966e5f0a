"""Tasks: problems with verifiable answers, each of which names its verifier."""

import typing

from rlreason import lazy

__all__ = [
    "arithmetic", "base", "chain", "countdown", "load", "own", "workings"]

if typing.TYPE_CHECKING:
  from rlreason.data.tasks import (
      arithmetic, base, chain, countdown, load, own, workings)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
