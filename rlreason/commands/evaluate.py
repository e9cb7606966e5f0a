"""`rlreason evaluate`."""

import json
import pathlib

from absl import flags

from rlreason import files
from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del arguments  # there are none
  config = base.load_config(values.config, overrides)
  from rlreason import api
  from rlreason.parallel import make_layout
  from rlreason.training import header, progress, recipe as recipe_lib

  recipe = recipe_lib.from_config(config)
  make_layout(recipe.parallel)  # before the weights start JAX: it may set the number of CPU devices
  output = values.output and pathlib.Path(files.local_path("--output", values.output)).absolute()
  if output:  # found out now, not after minutes of work
    files.check_new_file("--output", output)
  own = recipe.model if isinstance(recipe.model, recipe_lib.PretrainedModel) else None
  name = pathlib.Path(values.model).name
  with progress.on_stderr() as shown:
    policy = api.load(
        values.model, dtype=recipe.model.param_dtype, compute_dtype=recipe.model.dtype,
        adapters=values.adapters, end_tokens=values.end_tokens or (own.end_tokens if own else ()),
        chat_options=own and own.chat_options)
    shown.messages(header.model_header(policy.config, values.model, recipe.parallel))
    summary = api.evaluate(policy, recipe, split=values.split, name=name)
  places = {"model": values.model}
  try:
    if output:
      files.write_whole(output, json.dumps(summary, indent=2) + "\n")
      places["results"] = values.output
  finally:  # also where the disk is full
    progress.print_summary(summary, places)


def _define(values: flags.FlagValues):
  flags.DEFINE_string("config", None, base.CONFIG_HELP, flag_values=values)
  flags.DEFINE_string("model", None, base.MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, base.ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_multi_string("end_tokens", None, base.END_TOKENS_HELP, flag_values=values)
  flags.DEFINE_enum(
      "split", None, ["validation", "test"], "problems; the default is the config's",
      flag_values=values)
  flags.DEFINE_string(
      "output", None, "new JSON file for the results, laid out as summary.json of a run",
      flag_values=values)


COMMAND = base.Command(
    "Evaluates a model on the task of an experiment.",
    f"rlreason evaluate --config={base.DEFAULT_CONFIG} --model=runs/a/models/rl --output=rl.json",
    ("config", "model"), _define, _run)
