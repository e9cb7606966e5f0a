"""Prompts and examples: tasks, sources, packing and resumable iterators."""

import typing

from rlreason import lazy

__all__ = [
    "choices", "columns", "files", "fitting", "group_packing", "messages", "packing", "pipeline",
    "prepare", "question_prompts", "row_packing", "selections", "sources", "step_labels", "tasks",
    "values"]

if typing.TYPE_CHECKING:
  from rlreason.data import (
      choices, columns, files, fitting, group_packing, messages, packing, pipeline, prepare,
      question_prompts, row_packing, selections, sources, step_labels, tasks, values)
else:
  __getattr__, __dir__ = lazy.attributes(__name__, __all__)
