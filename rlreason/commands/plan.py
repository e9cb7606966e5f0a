"""`rlreason plan`."""

import json
import os
import pathlib

from absl import flags

from rlreason import files, hub
from rlreason.commands import base

_UNITS = {  # flag -> (field of a chip, its unit, help)
    "clock": ("clock", 1e9, "GHz of the compiler's estimated cycles"),
    "peak": ("peak", 1e12, "TFLOP/s of bf16 products of a device"),
    "links": ("links", 1e9, "GB/s of all links of a device together"),
    "link_efficiency": ("link_efficiency", 1.0, "share of them that collectives reach"),
    "kernel_efficiency": (
        "kernel_efficiency", 1.0, "share of the peak that custom kernels reach; without estimated "
        "cycles, all products"),
    "memory": ("memory", 1e9, "GB of a device")}


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del arguments  # there are none
  config = base.load_config(values.config, overrides)
  if values.topology:  # another machine's devices: this one's accelerator is left alone
    os.environ["JAX_PLATFORMS"] = "cpu"
  from rlreason.training import planning, progress
  from rlreason.training.planning import table
  from rlreason.training.settings import recipe as recipe_lib

  output = values.output and pathlib.Path(hub.local_path("--output", values.output)).absolute()
  if output:  # checked now, not after minutes of work
    files.check_new_file("--output", output)
  chip = {field: values[flag].value * unit for flag, (field, unit, _) in _UNITS.items()
          if values[flag].value is not None}
  with progress.on_stderr():
    plan = planning.make_plan(
        recipe_lib.from_config(config), values.topology or "", config_file=values.model_config,
        assumed=planning.Assumptions(values.completion_tokens, chip), only=values.programs)
  print("\n".join(table.lines(plan)))
  if output:
    files.write_whole(output, json.dumps(table.record(plan), indent=2) + "\n")


def _define(values: flags.FlagValues):
  flags.DEFINE_string("config", None, base.CONFIG_HELP, flag_values=values)
  flags.DEFINE_string(
      "topology", None, "devices to plan for, which need not be there: cpu:8, or v5e:4x4, "
      "v5p:4x4x4, v6e:16x16 with the extra tpu; the default is this machine's",
      flag_values=values)
  flags.DEFINE_string(
      "model_config", None, "config.json with the shape of the model, instead of that in its "
      "folder", flag_values=values)
  flags.DEFINE_integer(
      "completion_tokens", None, "average length of the completions that times are for; the "
      "default is the longest", lower_bound=1, flag_values=values)
  for flag, (_, _, text) in _UNITS.items():
    flags.DEFINE_float(
        flag, None, f"assumed {text}; the default is the chip's", lower_bound=1e-9,
        flag_values=values)
  flags.DEFINE_list(
      "programs", [], "programs to compile, such as scoring,update; the default is all",
      flag_values=values)
  flags.DEFINE_string("output", None, "new JSON file for all of it", flag_values=values)


COMMAND = base.Command(
    "Compiles a recipe's programs for devices that need not be there: memory, time and cost.",
    f"rlreason plan --config={base.DEFAULT_CONFIG} --topology=cpu:8",
    ("config",), _define, _run)
