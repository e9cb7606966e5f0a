"""`rlreason data`."""

from absl import flags

from rlreason import hub
from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del overrides  # there are none: the command takes no config
  from rlreason.data import prepare

  name, *others = arguments
  if others:
    raise base.UsageError(f"NAME: got {others[0]!r} as well, allowed: one data set at a time")
  source = values["from"].value
  if source != prepare.GENERATED:
    source = hub.local_path("--from", source)
  destination = hub.local_path("--to", values.to or f"data/{name}")
  for copy in prepare.prepare(name, source, destination):
    against = f"published: {copy.published:,}" if copy.published else "made here"
    print(f"{copy.split:5}  {copy.rows:,} rows ({against})  sha256 {copy.digest[:16]}  "
          f"{copy.file}")


def _define(values: flags.FlagValues):
  flags.DEFINE_string(
      "from", None, "file or folder of the data set as it is published; or `generated`: word "
      "problems in GSM8K's layout, made by reasoning-gym, or problems of Countdown",
      flag_values=values)
  flags.DEFINE_string(
      "to", None, "folder for train.jsonl and test.jsonl; the default is data/NAME",
      flag_values=values)


COMMAND = base.Command(
    "Makes a local copy of a published data set: gsm8k, math, math500, deepscaler, aime24, aime25, "
    "countdown.",
    "rlreason data gsm8k --from=downloads/gsm8k", ("from",), _define, _run, "NAME")
