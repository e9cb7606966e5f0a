"""The loop: the only hub of a run. It owns the state, the checkpoints, the writers and the clock.

    workdir/config.json, inputs.json  what was asked for, and checksums of what is read
    workdir/checkpoints/     everything a resume needs
    workdir/models/<stage>/  the policy at the end of each stage, a Hugging Face folder
    workdir/adapters/<stage>/  its adapters, if it trained any, as PEFT writes them
    workdir/data/<stage>.jsonl  what a stage sampled or selected
    workdir/evaluation/<stage>.jsonl  every completion of an evaluation
    workdir/metrics.jsonl, samples.jsonl, summary.json, tensorboard/, plots/, report.html

A run of the same workdir goes on where it stopped. Each checkpoint holds the train state and the
host's side: stage, step, data position, cursors of the written files, results so far. What is
evaluated, the end of a stage or a step within it, is saved before; the host's side after that is
`checkpoints/evaluated.json`. Keys are folded from the seed and the step, never stored.
"""

import contextlib
import os
import pathlib
import time
from typing import Any

import jax

from rlreason import hub, models, tracking, weights
from rlreason.algorithms import TrainState
from rlreason.algorithms.base import trained_part, with_frozen
from rlreason.models import lora
from rlreason.parallel import memory
from rlreason.rewards import WorkerPool
from rlreason.training import (
    checkpoint as checkpoint_lib, curves, header, metrics as metrics_lib, model_paths, preflight,
    profiling, provenance)
from rlreason.training import expectations, progress as progress_lib, report as report_lib, tables
from rlreason.training import wandb_log, workdir as workdir_lib
from rlreason.training.entry import enter
from rlreason.training.recipe import BEST, Recipe
from rlreason.training.setup import (
    Setup, check_same_shape, evaluation_key, init_key, load_policy, places, preflight_key)
from rlreason.training.signals import stop_signals
from rlreason.training.stage_configs import (
    RLStage, SelectStage, start_of, trains, writes_data)
from rlreason.training.stages import (
    Stage, StepOutput, data_file, make_stage, model_folder, select)
from rlreason.types import Params

_EVALUATED = "evaluated.json"  # among the checkpoints
_HOST_FIELDS = {"stage", "step", "global_step", "tokens", "seconds", "summary", "cursors"}


class Interrupted(Exception):
  """The run was asked to stop, has saved itself, and can be resumed."""


def train(
    recipe: Recipe, workdir: str | os.PathLike, *, allow_changed_inputs: bool = False,
    profile: str | int | None = None, wandb: str | None = None,
) -> dict[str, Any]:
  """Runs a recipe from start to end, or from where an earlier run in `workdir` stopped.

  Args:
    recipe: what to do.
    workdir: the folder of the run, made if missing.
    allow_changed_inputs: go on with a run also where files that it reads (data, models) are not
      those that it was started with.
    profile: steps to trace, as `profiling.read_steps` reads them, into `workdir/profile`.
    wandb: the project of Weights & Biases that gets the metrics too; None: none.

  Returns:
    The summary, as in summary.json.

  Raises:
    ValueError, FileNotFoundError: the recipe cannot be run, or not here: another process or other
      files are in the folder; nothing has been computed.
    FloatingPointError: too many non-finite updates in a row; names the step.
    OSError: the disk is full, or the like; names the file. What was saved is intact.
    Interrupted: SIGTERM, SIGINT or SIGHUP; the state is saved.
  """
  if wandb is not None:
    wandb_log.check()
  # Absolute: code of the user's may change to another folder.
  workdir = pathlib.Path(hub.local_path("workdir", os.fspath(workdir))).absolute()
  profiled = None if profile is None else profiling.read_steps(str(profile), recipe)
  with contextlib.ExitStack() as stack:
    progress = stack.enter_context(progress_lib.Progress())
    setup, policy = enter(recipe, workdir, allow_changed_inputs, stack)
    progress.messages(header.run_header(setup, workdir))
    with contextlib.ExitStack() as inner:
      also = None if wandb is None else wandb_log.WandbLog(workdir, wandb)
      run = _Run(setup, policy, workdir, inner, also)
      run.profiler = profiling.Profiler(profiled, workdir)
      inner.callback(run.profiler.close)
      del policy  # the run lets go of it where no stage has it as its reference
      summary = run.go()
    checkpoint_lib.write_json(workdir / "summary.json", summary)
    with tracking.work("plots and report"):
      report_lib.make_report(workdir)
  trained = [stage.name for stage in recipe.stages if trains(stage)]
  tables.print_summary(summary, tables.run_places(run.workdir, summary, trained))
  return summary


class _Run:
  """The files and counters of a run in progress."""

  def __init__(
      self, setup: Setup, policy: Params, workdir: pathlib.Path, stack: contextlib.ExitStack,
      also: wandb_log.WandbLog | None = None):
    recipe = setup.recipe
    self.setup, self.workdir = setup, workdir
    # What the next stage starts from; with adapters, the base without these.
    self.policy, self.policy_of = policy, None  # and whose it is: of a stage; None: the initial one
    self.state: TrainState | None = None  # nobody else holds it: an update donates it
    self.checkpoints = stack.enter_context(checkpoint_lib.Checkpointer(
        str(workdir), max_to_keep=recipe.checkpoint.max_to_keep))
    self.metrics = metrics_lib.MetricsWriter(workdir, also)
    self.samples = metrics_lib.SamplesWriter(workdir)
    self.data: metrics_lib.JsonLines | None = None  # of the stage at hand, if it writes any
    self.compilations = metrics_lib.CompilationCounter()
    for closing in (self.metrics, self.samples, self.compilations):
      stack.callback(closing.close)
    self.profiler = profiling.Profiler(None, workdir)
    # That of `train`, if it is there already.
    self.progress = tracking.display() or stack.enter_context(progress_lib.Progress())
    self.pool = stack.enter_context(WorkerPool(
        num_workers=recipe.reward_workers, timeout_seconds=recipe.reward_timeout))
    self.stop = stack.enter_context(stop_signals())
    self.key = jax.random.key(recipe.seed)
    self.started = time.monotonic()
    self.is_skipping = False  # whether the last update was not finite
    # What a checkpoint keeps of the host's side, beside the data position and the cursors.
    self.host = {"stage": 0, "step": 0, "global_step": 0, "tokens": 0, "seconds": 0.0,
                 "summary": {"stages": []}}

  def go(self) -> dict[str, Any]:
    """All stages; returns the summary."""
    latest = self.checkpoints.latest_step()
    for step, reason in self.checkpoints.damaged:
      self.progress.message(
          f"the checkpoint of step {step} is damaged ({reason}); it is now "
          f"{step}.damaged, and the run goes on from that of step {latest}")
    saved = None if latest is None else self._restore_host(latest)
    ends = [(0, None)] * 3  # of the files: cursor and digest
    if saved is not None:
      ends = list(zip(saved.pop("cursors"), saved.pop("digests", [None] * 3)))
    self.metrics.truncate_to(*ends[0])
    self.samples.truncate_to(*ends[1])
    if saved is None:
      self._note_process()
      self._finish_stage("start", self.policy, 0)
    else:
      self.host = saved
      self._keep_best()
      if self.host["stage"] < len(self.setup.recipe.stages):
        workdir_lib.check_files(self.workdir, self.host.get("files", {}))
        self._note_process()
      self.progress.message(f"resuming at step {latest} of {str(self.workdir)!r}")
    stages = self.setup.recipe.stages
    for number in range(self.host["stage"], len(stages)):
      if isinstance(stages[number], SelectStage):
        self._select(stages[number], number)
      else:
        self._make_and_run(number, latest, ends[2])
    self._say(self.profiler.close())
    return self.host["summary"]

  def _note_process(self):
    """Says in the summary how what follows is made."""
    summary, setup = self.host["summary"], self.setup
    if "provenance" not in summary:  # new, or begun by an older version
      file = self.workdir / workdir_lib.INPUTS
      inputs = checkpoint_lib.read_json(file) if file.exists() else {}
      summary["provenance"] = provenance.describe(setup.recipe, setup.tokenizer, inputs)
    provenance.note_process(summary["provenance"], self.host["global_step"])

  def _make_and_run(self, number: int, latest: int | None, data_end: tuple[int, str | None]):
    config = self.setup.recipe.stages[number]
    policy = self._start_policy(start_of(self.setup.recipe.stages, number))
    if writes_data(config):
      self.data = metrics_lib.JsonLines(data_file(self.workdir, config.name))
      self.data.truncate_to(*(data_end if self.host["step"] else (0,)))
    stage = make_stage(
        self.setup, config, policy, self.setup.recipe.seed + number, self.pool, self.workdir)
    if stage.trains:
      self.policy = None  # the stage keeps it only if it is its reference
    del policy
    self.state, stage = stage.state, stage._replace(state=None)
    self._run_stage(stage, number, latest)
    if self.data is not None:
      self.data.close()
      self.data = None

  def _select(self, config: SelectStage, number: int):
    """A stage without steps: done again where a run goes on before its end."""
    count = select(self.setup, config, self.workdir)
    self.progress.message(f"{config.name}: {count} rows in {data_file(self.workdir, config.name)}")
    self.host["summary"]["stages"].append({
        "name": config.name, "steps": 0, "seconds": 0.0, "tokens": 0, "evaluation": {},
        "rows": count})
    self.host |= {"stage": number + 1}
    self._note_files(config.name)

  def _start_policy(self, source: str | None) -> Params:
    """To the bit what a stage, or the run whose folder it is, ended with; None: the initial one."""
    setup = self.setup
    if setup.model.lora is not None:
      if source is None:
        return self.policy
      folder = self._adapters_folder(source) if self._is_stage(source) else pathlib.Path(source)
      _, adapters = weights.load_adapters(folder, setup.model)
      boxed = lora.split(models.abstract_boxed_params(setup.model))[0]
      return lora.join(self.policy, setup.layout.put_params(adapters, boxed))
    if self.policy is not None and source == self.policy_of:
      return self.policy
    self.policy = None  # makes room
    if source is None:
      _, self.policy, _ = load_policy(setup.recipe, setup.layout, init_key(setup.recipe.seed))
    else:
      folder = self._model_folder(source) if self._is_stage(source) else pathlib.Path(source)
      model, self.policy, _ = weights.load_model(
          folder, dtype=setup.model.param_dtype, sharding=places(setup.layout))
      check_same_shape(source, model, setup.model)
    self.policy_of = source
    return self.policy

  def _is_stage(self, source: str) -> bool:
    return source in [stage.name for stage in self.setup.recipe.stages]

  def _run_stage(self, stage: Stage, number: int, latest: int | None):
    recipe = self.setup.recipe
    if self.host["step"]:
      self._restore(stage, latest)
    elif recipe.preflight and stage.steps and number == next(
        (i for i, config in enumerate(recipe.stages) if isinstance(config, RLStage)), None):
      self._preflight(stage)
    key = jax.random.fold_in(self.key, number)
    self.progress.start_stage(stage.name, stage.steps, self.host["step"])
    self.started = time.monotonic()
    pending = None
    for step in range(self.host["step"], stage.steps):
      if stage.trains and self._is_over(stage, step):
        break
      at = self.host["global_step"] + (pending is not None) + 1
      self._say(self.profiler.before_step(stage.name, step, at, self.state))
      output = stage.step(self.state, step, stage.data, jax.random.fold_in(key, step))
      self.state, output = output.state, output._replace(state=None)
      if pending is not None:
        self._write(stage, *pending)  # of the step before, while the device works on this one
      pending = (step, output)
      is_last = step + 1 == stage.steps
      is_asked = self.stop.is_set()  # read once: a signal may come between any two lines
      is_evaluated = stage.trains and curves.is_due(recipe, step + 1, stage.steps)
      is_due = is_evaluated or (step + 1) % recipe.checkpoint.every_steps == 0
      if is_asked or is_due or is_last:
        self._write(stage, *pending)
        pending = None
        # While updates are being skipped, an earlier and good checkpoint must not make room.
        if is_asked or is_last or not self.is_skipping:
          self._save(stage)
        if is_asked:
          self._leave_if_asked()
    self._say(self.profiler.end(self.state))
    if self.host["step"] == 0 or self.host["step"] < stage.steps:
      self._save(stage)
    if stage.finish is not None:
      stage.finish(
          self.setup.layout.get_state(self.state.params), self._model_folder(stage.name))
    policy = self.setup.layout.get_state(self.state.params["policy"]) if stage.trains else None
    self.state = None  # the moments and a critic make room
    if stage.trains:
      self.checkpoints.wait()  # of a full disk the two would not know who has the rest
      self._write_model(stage.name, policy)
    self._finish_stage(stage.name, policy, self.host["step"])
    self.host |= {"stage": number + 1, "step": 0, "tokens": 0, "seconds": 0.0, "curve": []}
    self._note_files(stage.name)
    self._record_evaluation()
    if stage.trains:
      self.policy = lora.base(policy) if self.setup.model.lora is not None else None

  def _say(self, lines: list[str]):
    for line in lines:
      self.progress.message(line)

  def _is_over(self, stage: Stage, done: int) -> bool:
    """Whether a stage ends after `done` steps, which is said; evaluates it then, if that is due."""
    recipe, curve = self.setup.recipe, self.host.get("curve", [])
    is_new = not curve or curve[-1]["step"] < self.host["global_step"]
    if is_new and curves.is_due(recipe, done, stage.steps):
      self.checkpoints.wait()  # what is on record below is of this one
      self._stop_clock()
      policy = self.setup.layout.get_state(self.state.params["policy"])
      evaluation = self._evaluate(stage.name, policy, f"{stage.name} after step {done}")
      self._add_to_curve(stage.name, policy, evaluation, done)
      self._record_evaluation()
      self.started = time.monotonic()
    reason = curves.why_over(self.host.get("curve", []), recipe)
    if reason is not None:
      self.progress.message(f"{stage.name}: {reason}")
    return reason is not None

  def _add_to_curve(
      self, name: str, policy: Params, evaluation: dict[str, Any], done: int | None = None):
    """Adds an evaluation to those of its stage, and keeps its model if it is the best of them.

    It is within the stage, after `done` steps, or at its end.
    """
    point = {"step": self.host["global_step"], "evaluation": evaluation,
             **({} if done is None else self._expect(name, done, evaluation))}
    self.host["curve"] = [*self.host.get("curve", []), point]
    config = self.setup.recipe.checkpoint
    if config.keep_best and curves.best_point(self.host["curve"], config) is point:
      self._write_model(name + BEST, policy)
    self._keep_best()

  def _keep_best(self):
    """Keeps the checkpoints of the best evaluations: of the stages before, and of this one."""
    config = self.setup.recipe.checkpoint
    best = [stage["best"] for stage in self.host["summary"]["stages"] if "best" in stage]
    best += [curves.best_point(self.host.get("curve", []), config)] if config.keep_best else []
    self.checkpoints.keep([point["step"] for point in best if point])

  def _record_evaluation(self):
    """Keeps the host's side after an evaluation, which the checkpoint of this step comes before."""
    checkpoint_lib.write_sealed(self.checkpoints.folder / _EVALUATED, self.host | self._ends())

  def _preflight(self, stage: Stage):
    """Says before the first step what a few problems say; the run goes on as if it had not."""
    with tracking.work(f"{stage.name}, preflight"):
      values, samples = stage.preflight(
          self.state.params, preflight_key(self.setup.recipe.seed))
    if self._warn(stage.name, values):
      name = f"preflight-{stage.name}"
      self.samples.write(self.host["global_step"], name, samples)
      self.metrics.write(
          self.host["global_step"], name,
          {f"preflight/{metric}": value for metric, value in values.items()})

  def _warn(self, name: str, values: dict[str, float]) -> bool:
    """Says why nothing can be learned, each reason once; returns whether there is a new one."""
    config = next(stage for stage in self.setup.recipe.stages if stage.name == name)
    said = self.host["summary"].get("warnings", {})
    new = {f"{name}: {sign}": line for sign, line in preflight.signs(values, config).items()
           if f"{name}: {sign}" not in said}
    for line in new.values():
      self.progress.message(f"warning: {name}: {line}")
    if new:
      self.host["summary"]["warnings"] = said | new
    return bool(new)

  def _write_model(self, stage: str, policy: Params):
    """The model folder of a stage, and that of its adapters, if it has any."""
    model_paths.write_policy(self.workdir, stage, self.setup.recipe, (
        self.setup.model, policy, self.setup.tokenizer))

  def _leave_if_asked(self):
    """Raises Interrupted after a signal; what is saved is complete then."""
    if self.stop.is_set():
      self.checkpoints.wait()
      raise Interrupted(
          f"stopped on request after step {self.host['global_step']}; the same command with "
          f"--workdir={self.workdir} goes on from there")

  def _write(self, stage: Stage, step: int, output: StepOutput):
    """Writes one step's metrics and samples; waits for the device to have them."""
    values = metrics_lib.reduce_metrics(output.device_metrics) | output.host_metrics
    self.host["step"] = step + 1
    self.host["global_step"] += 1
    self.host["tokens"] += output.tokens
    self.progress.update(step + 1, tokens=output.tokens, metrics=values)
    values |= {"system/compilations": self.compilations.count} | metrics_lib.peak_memory()
    rate = self.progress.tokens_per_second()
    if rate is not None:
      values["time/tokens_per_second"] = rate
    if step == 0:
      self._warn(stage.name, values)
    self.metrics.write(self.host["global_step"], stage.name, values)
    self.samples.write(self.host["global_step"], stage.name, output.samples)
    for row in output.rows:
      self.data.append(row)
    skipped = values.get("optim/skipped_in_a_row", 0)
    self.is_skipping = skipped > 0
    if skipped >= self.setup.recipe.max_skipped_in_a_row:
      self.checkpoints.wait()
      raise FloatingPointError(
          f"step {self.host['global_step']} ({stage.name} {step + 1}): {skipped:.0f} updates in a "
          "row had a loss or gradient that is not finite; last good checkpoint: "
          f"{self.checkpoints.latest_step()}. Lower the learning rate or max_grad_norm, or look at "
          "samples.jsonl")

  def _finish_stage(self, name: str, policy: Params | None, steps: int):
    """Evaluates the policy, if there is a new one, and adds the stage to the summary."""
    seconds = self.host["seconds"] + time.monotonic() - self.started
    recipe = self.setup.recipe
    last = next((stage.name for stage in reversed(recipe.stages) if trains(stage)), "start")
    is_wanted = policy is not None and (recipe.evaluation.every_stage or name == last)
    curve = self.host.get("curve", [])
    reason = curves.why_over(curve, recipe)
    if curve and curve[-1]["step"] == self.host["global_step"]:  # it ended with an evaluation
      evaluation = curve[-1]["evaluation"]
      expected = {key: curve[-1][key] for key in ("expected",) if key in curve[-1]}
    else:
      what = f"after {name}" if steps else f"the {name}"
      evaluation = self._evaluate(name, policy, what) if is_wanted else {}
      if is_wanted and curve:
        self._add_to_curve(name, policy, evaluation)
      expected = self._expect(name, None, evaluation) if evaluation else {}
    self.host["summary"]["stages"].append({
        "name": name, "steps": steps, "seconds": round(seconds, 1) if steps else 0.0,
        "tokens": self.host["tokens"], "evaluation": evaluation,
        **expected, **curves.of_summary(self.host.get("curve", []), recipe),
        **({} if reason is None else {"ended_early": reason})})
    checkpoint_lib.write_json(self.workdir / "summary.json", self.host["summary"])

  def _evaluate(self, name: str, policy: Params, what: str) -> dict[str, Any]:
    self.progress.message(f"evaluating {what}")
    params = self.setup.layout.put_state({"policy": policy})
    key = evaluation_key(self.setup.recipe.seed)
    evaluation, samples, completions = self.setup.evaluate(
        params, key, self.pool, self._leave_if_asked)
    metrics_lib.write_lines(self.workdir / "evaluation" / f"{name}.jsonl", completions)
    self.host["summary"]["provenance"]["problems"] = provenance.of_problems(
        self.setup.tokenizer, completions)
    self.samples.write(self.host["global_step"], f"eval-{name}", samples[:20])
    flat = {f"eval/{task}/{metric}": estimate["value"]
            for task, estimates in evaluation.items() for metric, estimate in estimates.items()}
    self.metrics.write(self.host["global_step"], f"eval-{name}", flat)
    self.metrics.write_samples(self.host["global_step"], f"eval-{name}", samples[:20])
    return evaluation

  def _expect(self, name: str, step: int | None, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What the recipe expects of an evaluation, after a stage or `step` steps of it; it is said."""
    found = expectations.of_evaluation(
        self.setup.recipe, name, step, evaluation, self.host["summary"]["provenance"]["problems"])
    if found is None:
      return {}
    self.progress.message(expectations.line(found, evaluation))
    return {"expected": found}

  def _stop_clock(self):
    """Adds the time since the last call to that of the stage."""
    now = time.monotonic()
    self.host["seconds"] += now - self.started
    self.started = now

  def _save(self, stage: Stage):
    self._stop_clock()
    saved = self.setup.layout.get_state(trained_part(self.state))
    tracking.program("saving", {"host copy": memory.tree_bytes(saved)})
    self.checkpoints.save(
        self.host["global_step"], saved,
        self.host | {"data": stage.data.get_state()} | self._ends())

  def _ends(self) -> dict[str, Any]:
    """Where the written files end, and what is in them up to there."""
    written = (self.metrics, self.samples, self.data)
    return {"cursors": [0 if file is None else file.cursor() for file in written],
            "digests": [None if file is None else file.digest() for file in written]}

  def _restore_host(self, latest: int) -> dict[str, Any]:
    """The host's side of the latest checkpoint, or of the evaluation that came after it."""
    # Where it is damaged, the end of the stage is evaluated again, to the same numbers.
    evaluated = checkpoint_lib.read_sealed(self.checkpoints.folder / _EVALUATED) or {}
    is_after = evaluated.get("global_step") == latest and not self._has_grown(evaluated)
    if not is_after:  # of an end that will come again, and be another file's
      (self.checkpoints.folder / _EVALUATED).unlink(missing_ok=True)
    host = evaluated if is_after else self.checkpoints.restore_host(latest)
    if not _HOST_FIELDS <= host.keys():
      raise ValueError(
          f"the checkpoint of step {latest} in {str(self.checkpoints.folder)!r} is damaged: it "
          f"lacks {sorted(_HOST_FIELDS - host.keys())}; put it back, or give a new workdir")
    return host

  def _has_grown(self, host: dict[str, Any]) -> bool:
    """Whether a run ended with fewer steps of its last stage than it has now."""
    stages = self.setup.recipe.stages
    if host.get("stage") != len(stages) or isinstance(stages[-1], SelectStage):
      return False
    last = host["summary"]["stages"][-1]
    return last["steps"] < stages[-1].steps and "ended_early" not in last

  def _note_files(self, stage: str):
    """Keeps the checksums of what a stage wrote for those after it."""
    self.host["files"] = self.host.get("files", {}) | workdir_lib.stage_files(self.workdir, stage)

  def _restore(self, stage: Stage, latest: int):
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        self.setup.layout.get_state(trained_part(self.state)))
    frozen = lora.split(self.state.params)[1]
    self.state = None  # it gave the shapes, and makes room
    restored, host = self.checkpoints.restore(latest, template)
    stage.data.set_state(host["data"])
    self.state = with_frozen(self.setup.layout.put_state(restored), frozen)

  def _model_folder(self, stage: str) -> pathlib.Path:
    return model_folder(self.workdir, stage)

  def _adapters_folder(self, stage: str) -> pathlib.Path:
    return self.workdir / "adapters" / stage
