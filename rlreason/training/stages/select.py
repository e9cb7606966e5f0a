"""Select stages: they write a selection of the data of sample stages."""

import json
import pathlib

from rlreason import files
from rlreason.training import metrics
from rlreason.training.settings.select import SelectStage
from rlreason.training.stages import base
from rlreason.training.stages.base import Setup


def check(setup: Setup, stage: SelectStage):
  """Calls the selection without rows, so that it checks its options.

  Raises:
    ValueError: they are out of range.
  """
  stage.select(rows=[], encode=setup.tokenizer.encode)


def select(setup: Setup, stage: SelectStage, folder: pathlib.Path) -> int:
  """Writes the data of the stage atomically.

  Args:
    setup: of the run.
    stage: its settings.
    folder: of the run.

  Returns:
    The number of rows.

  Raises:
    ValueError: nothing is selected.
  """
  rows = []
  for name in stage.inputs:
    file = base.data_file(folder, name)
    if not file.exists():
      raise FileNotFoundError(
          f"config.{stage.name}.inputs: {str(file)!r} not found; stage {name!r} wrote it: put it "
          "back, or give a new workdir")
    rows.extend(metrics.read_lines(file))
  selected = stage.select(rows=rows, encode=setup.tokenizer.encode)
  if not selected:
    raise ValueError(
        f"config.{stage.name}.select: {stage.select.name} leaves none of {len(rows)} rows, "
        "allowed: a selection with at least one, or more samples")
  files.write_whole(base.data_file(folder, stage.name), "".join(
      json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in selected))
  return len(selected)
