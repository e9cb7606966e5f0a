"""`rlreason train`."""

from absl import flags

from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del arguments  # there are none
  config = base.load_config(values.config, overrides)
  if values.preflight is not None:
    config.preflight = values.preflight
  from rlreason import api

  settings = {} if values.seeds is None else {"seeds": values.seeds}
  api.train(
      config, values.workdir, allow_changed_inputs=values.allow_changed_inputs, **settings)


def _define(values: flags.FlagValues):
  flags.DEFINE_string("config", None, base.CONFIG_HELP, flag_values=values)
  flags.DEFINE_string(
      "workdir", None, "folder of the run, made if missing; the same again goes on with the run",
      flag_values=values)
  flags.DEFINE_integer(
      "seeds", None, "runs that differ in their seed, config.seed and the following, one after the "
      "other, in folders seed-0, seed-1, ... of the workdir, with a summary over them",
      lower_bound=1, flag_values=values)
  flags.DEFINE_bool(
      "preflight", None, "before the first step of reinforcement learning, sample and score 8 "
      "problems and say what keeps the run from learning; the default is the config's, which is on",
      flag_values=values)
  flags.DEFINE_bool(
      "allow_changed_inputs", False,
      "go on with a run although files that it reads (data, models) have changed since it started",
      flag_values=values)


COMMAND = base.Command(
    "Runs an experiment, or goes on with it where it stopped.",
    f"rlreason train --config={base.DEFAULT_CONFIG} --workdir=runs/a --config.seed=1",
    ("config", "workdir"), _define, _run)
