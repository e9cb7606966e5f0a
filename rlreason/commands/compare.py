"""`rlreason compare`."""

from collections.abc import Mapping
import string
from typing import Any

from absl import flags

from rlreason import hub
from rlreason.commands import base

_MAX_LINES = 20  # of differences of configs that are printed


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del overrides  # there are none: the command takes no config
  if len(arguments) < 2:
    raise base.UsageError(f"RUN RUN ...: got {arguments[0]!r} alone, allowed: two runs or more")
  output = hub.local_path("--output", values.output)
  from rlreason import api

  comparison = api.compare(arguments, output, stage=values.stage or "")
  _print(comparison)
  print(f"all of it  {output}/comparison.json")
  if comparison["curves"]:
    print(f"curves     {output}/comparison.png")


def _letter(i: int) -> str:
  return string.ascii_uppercase[i] if i < 26 else f"R{i + 1}"


def _print(comparison: Mapping[str, Any]) -> None:
  """Prints the tables."""
  import rich.console
  import rich.text

  from rlreason.training import tables

  console, runs = rich.console.Console(), comparison["runs"]
  width = tables.width_of(console)
  say = lambda text: console.print(rich.text.Text(text), soft_wrap=True)
  for i, run in enumerate(runs):
    seeds = f", {run['seeds']} seeds" if run["seeds"] > 1 else ""
    say(f"{_letter(i)}  {run['name']} ({run['stage']}{seeds})")
  if comparison["tasks"]:
    say("With 95% intervals; differences are paired, of the problems that both have.")
  for task, found in comparison["tasks"].items():
    counts = [_count(found, i) for i in range(1, len(runs))]
    heads = [_letter(i) for i in range(len(runs))]
    heads += [f"{letter} - A{f' of {count}' if count else ''}"
              for letter, count in zip(heads[1:], counts, strict=True)]
    rows = []
    for name in tables.shown_metrics(list(found)):
      entry = found[name]
      cells = [tables.format_result(name, value) if value else "-" for value in entry["values"]]
      cells += [_difference(name, one, count)
                for one, count in zip(entry["differences"][1:], counts, strict=True)]
      rows.append((name, cells))
    for table in tables.lay_out(heads, [(task, rows)], width):
      say("\n".join(["", *(line for line, _ in table)]))
  say("")
  if not comparison["tasks"]:
    say("no task was evaluated in all of them")
  for i, lines in enumerate(comparison["configs"][1:], 1):
    say(f"What differs in the configs, A -> {_letter(i)}:" if lines else
        f"The configs of A and {_letter(i)} are the same.")
    for line in lines[:_MAX_LINES]:  # values may be long; comparison.json has them whole
      say(f"  {line if len(line) <= width - 2 else f'{line[:width - 6]} ...'}")
    if len(lines) > _MAX_LINES:
      say(f"  and {len(lines) - _MAX_LINES} more")


def _count(found: Mapping[str, Any], i: int) -> int:
  """Number of problems that run i and the first share; 0: none."""
  differences = [entry["differences"][i] for entry in found.values()]
  return max((estimate["n"] for estimate in differences if estimate), default=0)


def _difference(name: str, estimate: Mapping[str, Any] | None, count: int) -> str:
  """`+4.0 [-1.2, 9.2]`: points if the metric is a share; "-" without common problems.

  With ` of 12` after it if their number differs from `count`.
  """
  if estimate is None or estimate["value"] is None:
    return "-"
  from rlreason.evaluation import metrics

  scale, digits = (100, 1) if metrics.is_share(name) else (1, 2)
  value, low, high = (scale * estimate[key] for key in ("value", "low", "high"))
  number = "" if estimate["n"] == count else f" of {estimate['n']}"
  return f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{number}"


def _define(values: flags.FlagValues):
  flags.DEFINE_string(
      "output", "comparison", "folder for comparison.json and comparison.png, which are replaced",
      flag_values=values)
  flags.DEFINE_string(
      "stage", None, "whose evaluation is compared; the default is the last of each run",
      flag_values=values)


COMMAND = base.Command(
    "Compares runs: results, paired differences over the same problems, curves, configs.",
    "rlreason compare runs/grpo runs/dapo", (), _define, _run, "RUN RUN ...")
