"""Where prompts and examples come from: tasks, sources, packing and resumable iterators."""

import typing

from rlreason import lazy

__all__ = [
    "choices", "columns", "completions", "files", "fitting", "groups", "messages", "packing",
    "pairs", "pipeline", "prepare", "prompts", "question_prompts", "restarts", "sampled",
    "selection", "sources", "tasks", "values"]

if typing.TYPE_CHECKING:
  from rlreason.data import (
      choices, columns, completions, files, fitting, groups, messages, packing, pairs, pipeline,
      prepare, prompts, question_prompts, restarts, sampled, selection, sources, tasks, values)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
