"""`rlreason recipes`."""

from absl import flags

from rlreason import recipe_files
from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del values, overrides, arguments  # there are none
  found = recipe_files.find_all()
  width = max(map(len, found), default=0)
  for name, file in found.items():
    print(f"{name:{width}}  {recipe_files.summary(file)}")


COMMAND = base.Command(
    "Lists the recipes that come with rlreason, which --config takes by their names.",
    "rlreason recipes", (), lambda values: None, _run)
