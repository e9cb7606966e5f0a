"""`rlreason evaluate`."""

import dataclasses
import json
import pathlib
from typing import Any

from absl import flags

from rlreason import files, hub, processes
from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del arguments  # there are none
  config = base.load_config(values.config, overrides)
  base.join_processes(values)
  with processes.ending_together():
    _evaluate(values, config)


def _evaluate(values: flags.FlagValues, config: Any):
  from rlreason import api
  from rlreason.parallel import make_layout
  from rlreason.training import expectations, header, inputs, metrics, progress, tables
  from rlreason.training.settings import recipe as recipe_lib

  recipe = recipe_lib.from_config(config)
  if values.split:
    recipe = dataclasses.replace(
        recipe, evaluation=dataclasses.replace(recipe.evaluation, split=values.split))
  make_layout(recipe.parallel)  # before the weights start JAX: it may set the number of CPU devices
  output = values.output and pathlib.Path(hub.local_path("--output", values.output)).absolute()
  completions = output and output.with_suffix(".jsonl")
  if output:  # checked now, not after minutes of work
    if completions == output:
      raise base.UsageError(
          f"--output: got {values.output!r}, allowed: another ending than .jsonl, which the "
          "completions get that are written beside")
    for file in (output, completions):
      processes.from_writer(lambda file=file: files.check_new_file("--output", file))
  own = recipe.model if isinstance(recipe.model, recipe_lib.PretrainedModel) else None
  name = pathlib.Path(values.model).name
  with progress.on_stderr() as shown:
    policy = api.load(
        values.model, dtype=recipe.model.param_dtype, compute_dtype=recipe.model.dtype,
        adapters=values.adapters, end_tokens=values.end_tokens or (own.end_tokens if own else ()),
        chat_options=own and own.chat_options)
    shown.messages(header.model_header(policy.config, values.model, recipe.parallel))
    summary, rows = api.evaluate_with_completions(policy, recipe, name=name)
  summary["provenance"]["data"] |= inputs.read_model_inputs(
      {"--model": values.model, "--adapters": values.adapters})
  paths, (stage,) = {"model": values.model}, summary["stages"]
  found = None if values.adapters else expectations.of_model(
      recipe, values.model, stage["evaluation"], summary["provenance"]["problems"])
  if found:
    stage["expected"] = found
    shown.message(expectations.line(found, stage["evaluation"]))
  try:
    if output and processes.is_writer():
      files.write_whole(output, json.dumps(summary, indent=2) + "\n")
      metrics.write_lines(completions, rows)
      paths |= {"results": values.output, "completions": str(completions)}
  finally:  # even if the disk is full
    tables.print_summary(summary, paths)


def _define(values: flags.FlagValues):
  flags.DEFINE_string("config", None, base.CONFIG_HELP, flag_values=values)
  flags.DEFINE_string("model", None, base.MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, base.ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_multi_string("end_tokens", None, base.END_TOKENS_HELP, flag_values=values)
  flags.DEFINE_enum(
      "split", None, ["validation", "test"], "problems; the default is the config's",
      flag_values=values)
  flags.DEFINE_string(
      "output", None, "new JSON file for the results, laid out as summary.json of a run; every "
      "completion is written beside it, to a file of that name that ends in .jsonl",
      flag_values=values)
  base.define_processes(values)


COMMAND = base.Command(
    "Evaluates a model on the task of an experiment.",
    f"rlreason evaluate --config={base.DEFAULT_CONFIG} --model=runs/a/models/rl --output=rl.json",
    ("config", "model"), _define, _run)
