"""`rlreason replay`."""

from absl import flags

from rlreason import hub
from rlreason.commands import base

_FIRST = ("loss/total", "optim/grad_norm")


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  rows, *others = arguments
  if others:
    raise base.UsageError(f"ROWS: got {others[0]!r} as well, allowed: one file of rows at a time")
  config = base.load_config(values.config, overrides)
  from rlreason import api

  found = api.replay(
      config, hub.local_path("ROWS", rows), stage=values.stage or "", model=values.model or "")
  counts = {name: found.pop(name) for name in ("rows", "tokens")}
  print(f"{counts['rows']:.0f} rows of {counts['tokens']:.0f} tokens, as one minibatch")
  parts = sorted(name for name in found if name.startswith("loss/") and name not in _FIRST)
  rest = sorted(name for name in found if name not in (*_FIRST, *parts)
                and not name.startswith("optim/skipped"))
  width = max(map(len, found))
  for name in (_FIRST[0], *parts, _FIRST[1], *rest):
    value = found.get(name)
    print(f"{name:{width}}  {'not finite' if value is None else f'{value:.8g}'}")


def _define(values: flags.FlagValues):
  flags.DEFINE_string("config", None, base.CONFIG_HELP, flag_values=values)
  flags.DEFINE_string(
      "model", None, f"the weights that the rows belong to, instead of the config's: "
      f"{base.MODEL_HELP}", flag_values=values)
  flags.DEFINE_string(
      "stage", None, "an RL stage, whose algorithm is used; the default is the only one",
      flag_values=values)


COMMAND = base.Command(
    "Takes another trainer's rows and prints our loss, its parts and the gradient's norm.",
    "rlreason replay rows.jsonl --config=experiments/methods/grpo.py --model=weights/step_10",
    ("config",), _define, _run, "ROWS.jsonl")
