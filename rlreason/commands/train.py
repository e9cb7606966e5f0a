"""`rlreason train`."""

from absl import flags

from rlreason.commands import base

DEFAULT_PROJECT = "rlreason"  # of Weights & Biases


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del arguments  # there are none
  config = base.load_config(values.config, overrides)
  if values.preflight is not None:
    config.preflight = values.preflight
  base.join_processes(values)
  from rlreason import api

  options = {name: values[name].value for name in ("seeds", "profile", "wandb")
             if values[name].value is not None}
  api.train(
      config, values.workdir, allow_changed_inputs=values.allow_changed_inputs, **options)


class _Project(flags.ArgumentParser):
  """`--wandb`, `--wandb=PROJECT`, `--nowandb`: the flag counts as boolean, so that it may stand
  alone, and is then "true" or "false"."""

  def parse(self, argument: str | None) -> str | None:
    if not argument and argument is not None:
      raise ValueError("write --wandb or --wandb=PROJECT")
    return {"true": DEFAULT_PROJECT, "false": None}.get(argument, argument)


def _define(values: flags.FlagValues):
  flags.DEFINE_string("config", None, base.CONFIG_HELP, flag_values=values)
  flags.DEFINE_string(
      "workdir", None, "folder of the run, made if missing; the same folder again resumes the run",
      flag_values=values)
  flags.DEFINE_integer(
      "seeds", None, "runs that differ in their seed, config.seed and the following, one after the "
      "other, in folders seed-0, seed-1, ... of the workdir, with a summary over them",
      lower_bound=1, flag_values=values)
  flags.DEFINE_bool(
      "preflight", None, "before the first RL step, sample and score 8 "
      "problems and say what keeps the run from learning; the default is the config's, which is on",
      flag_values=values)
  flags.DEFINE_bool(
      "allow_changed_inputs", False,
      "resume a run although files that it reads (data, models) have changed since it started",
      flag_values=values)
  flags.DEFINE_string(
      "profile", None, "steps to trace into WORKDIR/profile, whose slowest programs are named: 3 "
      "(after the first, which compiles), 10:13, or of a stage rl:3", flag_values=values)
  flags.DEFINE_flag(flags.Flag(
      _Project(), None, "wandb", None, "send metrics, config and samples to Weights & Biases too: "
      f"--wandb, to the project {DEFAULT_PROJECT}, or --wandb=PROJECT; WANDB_MODE=offline keeps "
      "them here", boolean=True), flag_values=values)
  base.define_processes(values)


COMMAND = base.Command(
    "Runs an experiment, or resumes it where it stopped.",
    f"rlreason train --config={base.DEFAULT_CONFIG} --workdir=runs/a --config.seed=1",
    ("config", "workdir"), _define, _run)
