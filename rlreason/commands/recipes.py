"""`rlreason recipes`."""

import shutil
import sys
import textwrap

from absl import flags

from rlreason import recipe_files
from rlreason.commands import base

_LEAST = 30  # least columns of a recipe's summary


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del values, overrides, arguments  # there are none
  found = recipe_files.find_all()
  width = max(map(len, found), default=0)
  for name, file in found.items():
    line = f"{name:{width}}  {recipe_files.summary(file)}"
    print(_wrapped(line, width + 2) if sys.stdout.isatty() else line)  # else one line per recipe


def _wrapped(line: str, indent: int) -> str:
  columns = max(shutil.get_terminal_size().columns, indent + _LEAST)
  return textwrap.fill(line, columns, subsequent_indent=" " * indent, break_on_hyphens=False)


COMMAND = base.Command(
    "Lists the recipes that come with rlreason, which --config takes by their names.",
    "rlreason recipes", (), lambda values: None, _run)
