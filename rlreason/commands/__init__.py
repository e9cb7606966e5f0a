"""The commands of the command line, with their flags."""

from rlreason.commands import (
    compare, completion, convert, data, evaluate, plan, recipes, replay, report, sample, train)
from rlreason.commands.base import Command, Overrides, UsageError, load_config

__all__ = ["COMMANDS", "Command", "Overrides", "UsageError", "load_config"]

COMMANDS = {
    "train": train.COMMAND, "evaluate": evaluate.COMMAND, "sample": sample.COMMAND,
    "data": data.COMMAND, "convert": convert.COMMAND, "plan": plan.COMMAND,
    "recipes": recipes.COMMAND,
    "compare": compare.COMMAND, "report": report.COMMAND, "replay": replay.COMMAND}
COMMANDS["completion"] = completion.command(COMMANDS)
