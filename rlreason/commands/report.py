"""`rlreason report`."""

from absl import flags

from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del values, overrides  # there are none
  from rlreason import api

  for run in arguments:
    for page in api.report(run):
      print(page)


COMMAND = base.Command(
    "Makes report.html and the plots of a run again, also while it is running.",
    "rlreason report runs/a", (), lambda values: None, _run, "RUN ...")
