"""Runs a recipe: connects the loop with its parts.

This module passes the kinds of stages, the models and the weights to the loop (loop.py).
"""

import contextlib
import os
import pathlib
from typing import Any

from rlreason import hub, models, processes, tracking, weights
from rlreason.models import lora
from rlreason.training import (
    checkpoint as checkpoint_lib, expectations, header, loop, model_paths, preflight, profiling,
    progress as progress_lib, provenance, report as report_lib, tables, wandb_log,
    workdir as workdir_lib)
from rlreason.training.entry import enter
from rlreason.training.keys import init_key
from rlreason.training.settings.recipe import Recipe
from rlreason.training.setup import check_same_shape, load_policy, param_shardings
from rlreason.training.stages.base import Setup
from rlreason.training.stages.kinds import make_stage
from rlreason.training.stages.select import select
from rlreason.types import Params


def train(
    recipe: Recipe, workdir: str | os.PathLike, *, allow_changed_inputs: bool = False,
    profile: str | int | None = None, wandb: str | None = None,
) -> dict[str, Any]:
  """Runs a recipe, or resumes an earlier run in `workdir`.

  Args:
    recipe: the recipe.
    workdir: the folder of the run, made if missing.
    allow_changed_inputs: resume a run even if files that it reads (data, models) have changed since
      it started.
    profile: steps to trace, as `profiling.read_steps` reads them, into `workdir/profile`.
    wandb: the project of Weights & Biases that gets the metrics too; None: none.

  Returns:
    The summary, as in summary.json.

  Raises:
    ValueError, FileNotFoundError: the recipe cannot be run, or not here: another process or other
      files are in the folder; nothing has been computed.
    FloatingPointError: too many non-finite updates in a row; names the step.
    OSError: the disk is full, or the like; names the file. Saved files are intact.
    loop.Interrupted: SIGTERM, SIGINT or SIGHUP; the state is saved.
  """
  if wandb is not None and processes.is_writer():
    wandb_log.check()
  # Absolute: the user's code may change the current folder.
  workdir = pathlib.Path(hub.local_path("workdir", os.fspath(workdir))).absolute()
  profiled = None if profile is None else profiling.read_steps(str(profile), recipe)
  with contextlib.ExitStack() as stack:
    stack.enter_context(processes.ending_together())
    progress = stack.enter_context(progress_lib.Progress())
    setup, policy = enter(recipe, workdir, allow_changed_inputs, stack)
    progress.messages(header.run_header(setup, workdir))
    file = workdir / workdir_lib.INPUTS
    read = processes.from_writer(lambda: checkpoint_lib.read_json(file))
    made = provenance.describe(setup.recipe, setup.tokenizer, read)
    with contextlib.ExitStack() as inner:
      is_sent = wandb is not None and processes.is_writer()
      also = wandb_log.WandbLog(workdir, wandb) if is_sent else None
      run = loop.Loop(setup, policy, workdir, inner, PARTS, also)
      run.profiler = profiling.Profiler(profiled if processes.is_writer() else None, workdir)
      inner.callback(run.profiler.close)
      del policy  # freed unless a stage has it as its reference
      summary = run.go(made)
    checkpoint_lib.write_json(workdir / "summary.json", summary)
    with tracking.work("plots and report"):
      processes.from_writer(lambda: report_lib.make_report(workdir) and None)
  trained = [stage.name for stage in recipe.stages if stage.trains]
  tables.print_summary(summary, tables.run_places(run.workdir, summary, trained))
  return summary


def load_start(
    setup: Setup, source: str | None, folder: pathlib.Path | None, base: Params | None
) -> Params:
  """The exact final policy of a stage, or of the run with this folder; None: the initial policy.

  Args:
    setup: of the run.
    source: the stage or the folder, as the settings name it.
    folder: its folder.
    base: with adapters, the parameters to which these belong.
  """
  if base is not None:
    _, adapters = weights.load_adapters(folder, setup.model)
    boxed = lora.split(models.abstract_boxed_params(setup.model))[0]
    return lora.join(base, setup.layout.put_params(adapters, boxed))
  if source is None:
    return load_policy(setup.recipe, setup.layout, init_key(setup.recipe.seed))[1]
  model, policy, _ = weights.load_model(
      folder, dtype=setup.model.param_dtype, sharding=param_shardings(setup.layout))
  check_same_shape(source, model, setup.model)
  return policy


def _write_policy(workdir: pathlib.Path, name: str, setup: Setup, policy: Params):
  model_paths.write_policy(workdir, name, setup.recipe, (setup.model, policy, setup.tokenizer))


def _expect(
    recipe: Recipe, stage: str, step: int | None, evaluation: dict[str, Any],
    problems: dict[str, Any],
) -> tuple[dict[str, Any], str] | None:
  found = expectations.of_evaluation(recipe, stage, step, evaluation, problems)
  return None if found is None else (found, expectations.line(found, evaluation))


PARTS = loop.Parts(
    make_stage=make_stage, select=select, load_policy=load_start, write_policy=_write_policy,
    signs=preflight.signs, of_problems=provenance.of_problems, expect=_expect)
