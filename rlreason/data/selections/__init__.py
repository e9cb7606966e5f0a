"""Selections from rows written by stages: completions, pairs, restarts and problems."""

import typing

from rlreason import lazy

__all__ = ["completions", "pairs", "problems", "restarts", "rows"]

if typing.TYPE_CHECKING:
  from rlreason.data.selections import completions, pairs, problems, restarts, rows
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
