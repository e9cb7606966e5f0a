"""The training loop of a run. It owns the state, the checkpoints, the writers and the clock.

    workdir/config.json, inputs.json  the config, and checksums of the inputs
    workdir/checkpoints/     everything a resume needs
    workdir/models/<stage>/  the policy at the end of each stage, a Hugging Face folder
    workdir/adapters/<stage>/  its adapters, if it trained any, as PEFT writes them
    workdir/data/<stage>.jsonl  what a stage sampled or selected
    workdir/evaluation/<stage>.jsonl  every completion of an evaluation
    workdir/metrics.jsonl, samples.jsonl, summary.json, tensorboard/, plots/, report.html

A run with the same workdir resumes where it stopped. Each checkpoint holds the train state and the
host's state: stage, step, data position, cursors of the written files, results so far. A checkpoint
is saved before each evaluation; the host's state after it is `checkpoints/evaluated.json`. Keys are
folded from the seed and the step, never stored.
"""

import contextlib
import pathlib
import time
from typing import Any, Callable, NamedTuple

import jax

from rlreason import processes, tracking
from rlreason.algorithms.base import TrainState, trained_part, with_frozen
from rlreason.models import lora
from rlreason.parallel import memory
from rlreason.training import (
    checkpoint as checkpoint_lib, curves, metrics as metrics_lib, process, profiling,
    progress as progress_lib, workdir as workdir_lib)
from rlreason.training.experience import Draws
from rlreason.training.keys import evaluation_key, preflight_key
from rlreason.training.settings.base import BEST, StageConfig
from rlreason.training.settings.graph import start_of
from rlreason.training.signals import stop_signals
from rlreason.training.stages.base import Setup, Stage, StepOutput, data_file, model_folder
from rlreason.types import Key, Params
from rlreason.workers import WorkerPool

_EVALUATED = "evaluated.json"  # among the checkpoints
_HOST_FIELDS = {"stage", "step", "global_step", "tokens", "seconds", "summary", "cursors"}


class Interrupted(Exception):
  """The run was asked to stop, has saved itself, and can be resumed."""


class Parts(NamedTuple):
  """Functions passed to the loop, so that it is independent of stages, models and weights."""

  # Of `stages.kinds`: (setup, settings, policy, seed, pool, folder of the run) -> Stage.
  make_stage: Callable[..., Stage]
  # Runs a stage without steps: (setup, settings, folder of the run) -> rows written.
  select: Callable[[Setup, StageConfig, pathlib.Path], int]
  # The policy of a stage or folder, None: the initial one; with adapters, the base with those:
  # (setup, what it is called, its folder or None, base or None) -> parameters.
  load_policy: Callable[[Setup, str | None, pathlib.Path | None, Params | None], Params]
  # Its folders in the run: (folder of the run, name, setup, parameters).
  write_policy: Callable[[pathlib.Path, str, Setup, Params], None]
  # (metrics of a step, settings) -> reasons why nothing can be learned, by name.
  signs: Callable[[dict[str, float], StageConfig], dict[str, str]]
  # (tokenizer, completions of an evaluation) -> its problems, for the provenance.
  of_problems: Callable[..., dict[str, Any]]
  # What the recipe expects of an evaluation, and a line about it: (recipe, stage, step within it or
  # None, evaluation, its problems) -> both, or None.
  expect: Callable[..., tuple[dict[str, Any], str] | None]


class Loop:
  """The files and counters of a run in progress."""

  def __init__(
      self, setup: Setup, policy: Params, workdir: pathlib.Path, stack: contextlib.ExitStack,
      parts: Parts, also: Any = None):
    """Opens the files of the run.

    Args:
      setup: of the run.
      policy: the initial parameters, sharded as in the layout.
      workdir: the folder of the run.
      stack: closes the files opened here.
      parts: the functions of the loop.
      also: another writer of metrics, as `metrics.MetricsWriter` takes it; None: there is none.
    """
    recipe = setup.recipe
    self.setup, self.workdir, self.parts = setup, workdir, parts
    # The policy from which the next stage starts; with adapters, the base without these.
    self.policy, self.policy_of = policy, None  # its stage; None: the initial one
    self.state: TrainState | None = None  # the only reference: an update donates it
    self.checkpoints = stack.enter_context(checkpoint_lib.Checkpointer(
        str(workdir), max_to_keep=recipe.checkpoint.max_to_keep))
    self.metrics = metrics_lib.MetricsWriter(workdir, also)
    self.samples = metrics_lib.SamplesWriter(workdir)
    self.data: metrics_lib.JsonLines | None = None  # of the current stage, if it writes any
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
    # The host's state in a checkpoint, besides the data position and the cursors.
    self.host = {"stage": 0, "step": 0, "global_step": 0, "tokens": 0, "seconds": 0.0,
                 "summary": {"stages": []}}

  def go(self, provenance: dict[str, Any]) -> dict[str, Any]:
    """Runs all stages; returns the summary, with its provenance except the processes."""
    self.provenance = provenance
    latest = processes.from_writer(self.checkpoints.latest_step)
    for step, reason in self.checkpoints.damaged:
      self.progress.message(
          f"the checkpoint of step {step} is damaged ({reason}); it is now "
          f"{step}.damaged, and the run resumes from that of step {latest}")
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
        processes.from_writer(
            lambda: workdir_lib.check_files(self.workdir, self.host.get("files", {})))
        self._note_process()
      self.progress.message(f"resuming at step {latest} of {str(self.workdir)!r}")
    stages = self.setup.recipe.stages
    for number in range(self.host["stage"], len(stages)):
      if stages[number].has_steps:
        self._make_and_run(number, latest, ends[2])
      else:
        self._select(stages[number], number)
    self._say(self.profiler.close())
    return self.host["summary"]

  def _note_process(self):
    """Records this process in the summary."""
    # It does not exist in a new run, or in one of an older version.
    made = self.host["summary"].setdefault("provenance", self.provenance)
    process.note_process(made, self.host["global_step"])

  def _make_and_run(self, number: int, latest: int | None, data_end: tuple[int, str | None]):
    config = self.setup.recipe.stages[number]
    policy = self._start_policy(start_of(self.setup.recipe.stages, number))
    if config.writes_data:
      self.data = metrics_lib.JsonLines(data_file(self.workdir, config.name))
      self.data.truncate_to(*(data_end if self.host["step"] else (0,)))
    stage = self.parts.make_stage(
        self.setup, config, policy, self.setup.recipe.seed + number, self.pool, self.workdir)
    if stage.trains:
      self.policy = None  # the stage keeps it only if it is its reference
    del policy
    self.progress.hold(stage.held())
    self.state, stage = stage.state, stage._replace(state=None)
    self._run_stage(stage, number, latest)
    if self.data is not None:
      self.data.close()
      self.data = None

  def _select(self, config: StageConfig, number: int):
    """Runs a stage without steps; a run that is resumed before its end repeats it."""
    count = processes.from_writer(
        lambda: self.parts.select(self.setup, config, self.workdir))
    self.progress.message(f"{config.name}: {count} rows in {data_file(self.workdir, config.name)}")
    self.host["summary"]["stages"].append({
        "name": config.name, "steps": 0, "seconds": 0.0, "tokens": 0, "evaluation": {},
        "rows": count})
    self.host |= {"stage": number + 1}
    self._note_files(config.name)

  def _start_policy(self, source: str | None) -> Params:
    """The exact final policy of a stage, or of the run with this folder; None: the initial one."""
    has_adapters = self.setup.model.lora is not None
    if self.policy is not None and source == (None if has_adapters else self.policy_of):
      return self.policy
    folder = None if source is None else self._folder_of(source)
    if has_adapters:
      return self.parts.load_policy(self.setup, source, folder, self.policy)
    self.policy = None  # frees memory
    self.policy = self.parts.load_policy(self.setup, source, folder, None)
    self.policy_of = source
    return self.policy

  def _folder_of(self, source: str) -> pathlib.Path:
    """The folder of a policy from which a stage may start: of a stage of this run, or a path."""
    if source not in [stage.name for stage in self.setup.recipe.stages]:
      return pathlib.Path(source)
    part = "models" if self.setup.model.lora is None else "adapters"
    return self.workdir / part / source

  def _run_stage(self, stage: Stage, number: int, latest: int | None):
    key = jax.random.fold_in(self.key, number)
    self.draws = Draws(stage, key)
    if self.host["step"]:
      kept = self._restore(stage, latest)
      self.draws.begin(self.host["step"], self.state.params, kept)
    else:
      self._try_and_begin(stage, number)
    with contextlib.closing(self.draws):
      self._run_steps(stage, key)
    self._end_stage(stage, number)

  def _try_and_begin(self, stage: Stage, number: int):
    """Before the first step of a stage."""
    recipe = self.setup.recipe
    if recipe.preflight and stage.steps and number == next(
        (i for i, config in enumerate(recipe.stages) if config.has_preflight), None):
      self._preflight(stage)
    self.draws.begin(0, self.state.params)

  def _run_steps(self, stage: Stage, key: Key):
    recipe = self.setup.recipe
    self.progress.start_stage(stage.name, stage.steps, self.host["step"])
    self.started = time.monotonic()
    pending = None
    for step in range(self.host["step"], stage.steps):
      if stage.trains and self._is_over(stage, step):
        break
      at = self.host["global_step"] + (pending is not None) + 1
      self._say(self.profiler.before_step(stage.name, step, at, self.state))
      drawn = self.draws.next(step, self.state.params)
      output = stage.learn(self.state, step, drawn, jax.random.fold_in(key, step))
      if stage.draws_ahead:
        output.host_metrics["time/waiting"] = self.draws.seconds_waited
      self.state, output = output.state, output._replace(state=None)
      if pending is not None:
        self._write(stage, *pending)  # of the previous step, while the device runs this one
      pending = (step, output)
      is_last = step + 1 == stage.steps
      is_asked = self._is_asked()  # once: a signal may come between any two lines
      is_evaluated = stage.trains and curves.is_due(recipe, step + 1, stage.steps)
      is_due = is_evaluated or (step + 1) % recipe.checkpoint.every_steps == 0
      if is_asked or is_due or is_last:
        self._write(stage, *pending)
        pending = None
        # While updates are being skipped, an earlier good checkpoint must not be removed.
        if is_asked or is_last or not self.is_skipping:
          self._save(stage)
        if is_asked:
          self._leave()
    self._say(self.profiler.end(self.state))
    if self.host["step"] == 0 or self.host["step"] < stage.steps:
      self._save(stage)

  def _end_stage(self, stage: Stage, number: int):
    if stage.finish is not None:
      stage.finish(
          self.setup.layout.get_state(self.state.params), self._model_folder(stage.name))
    policy = self.setup.layout.get_state(self.state.params["policy"]) if stage.trains else None
    self.state = None  # frees the memory of the moments and a critic
    if stage.trains:
      self.checkpoints.wait()  # two writers on a full disk would fail unpredictably
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
    """Whether a stage ends after `done` steps, with a message; evaluates it if that is due."""
    recipe, curve = self.setup.recipe, self.host.get("curve", [])
    is_new = not curve or curve[-1]["step"] < self.host["global_step"]
    if is_new and curves.is_due(recipe, done, stage.steps):
      self.checkpoints.wait()  # the record below belongs to this one
      self.draws.wait()  # the worker processes serve one user at a time
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
    """Adds an evaluation to the curve of its stage, and keeps its model if it is the best.

    It was made after `done` steps of the stage, or at its end.
    """
    point = {"step": self.host["global_step"], "evaluation": evaluation,
             **({} if done is None else self._expect(name, done, evaluation))}
    self.host["curve"] = [*self.host.get("curve", []), point]
    config = self.setup.recipe.checkpoint
    if config.keep_best and curves.best_point(self.host["curve"], config) is point:
      self._write_model(name + BEST, policy)
    self._keep_best()

  def _keep_best(self):
    """Keeps the checkpoints of the best evaluations of this and the previous stages."""
    config = self.setup.recipe.checkpoint
    best = [stage["best"] for stage in self.host["summary"]["stages"] if "best" in stage]
    best += [curves.best_point(self.host.get("curve", []), config)] if config.keep_best else []
    self.checkpoints.keep([point["step"] for point in best if point])

  def _record_evaluation(self):
    """Saves the host's state after an evaluation, which follows the checkpoint of this step."""
    checkpoint_lib.write_sealed(self.checkpoints.folder / _EVALUATED, self.host | self._ends())

  def _preflight(self, stage: Stage):
    """Reports problems found on a few prompts before the first step; the run is not affected."""
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
    """Warns why nothing can be learned, once per reason; returns whether there is a new one."""
    config = next(stage for stage in self.setup.recipe.stages if stage.name == name)
    said = self.host["summary"].get("warnings", {})
    new = {f"{name}: {sign}": line for sign, line in self.parts.signs(values, config).items()
           if f"{name}: {sign}" not in said}
    for line in new.values():
      self.progress.message(f"warning: {name}: {line}")
    if new:
      self.host["summary"]["warnings"] = said | new
    return bool(new)

  def _write_model(self, stage: str, policy: Params):
    """The model folder of a stage, and that of its adapters, if it has any."""
    self.parts.write_policy(self.workdir, stage, self.setup, policy)

  def _is_asked(self) -> bool:
    """Whether a signal asked this process, or another, to stop."""
    return processes.any_process(self.stop.is_set())

  def _leave_if_asked(self):
    if self._is_asked():
      self._leave()

  def _leave(self):
    """Raises Interrupted; the saved state is complete then."""
    self.checkpoints.wait()
    raise Interrupted(
        f"stopped on request after step {self.host['global_step']}; the same command with "
        f"--workdir={self.workdir} resumes from there")

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
    last = next((stage.name for stage in reversed(recipe.stages) if stage.trains), "start")
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
    self.host["summary"]["provenance"]["problems"] = self.parts.of_problems(
        self.setup.tokenizer, completions)
    self.samples.write(self.host["global_step"], f"eval-{name}", samples[:20])
    flat = {f"eval/{task}/{metric}": estimate["value"]
            for task, estimates in evaluation.items() for metric, estimate in estimates.items()}
    self.metrics.write(self.host["global_step"], f"eval-{name}", flat)
    self.metrics.write_samples(self.host["global_step"], f"eval-{name}", samples[:20])
    return evaluation

  def _expect(self, name: str, step: int | None, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Compares an evaluation, after a stage or `step` steps of it, with expectations; prints it."""
    said = self.parts.expect(
        self.setup.recipe, name, step, evaluation, self.host["summary"]["provenance"]["problems"])
    if said is None:
      return {}
    found, line = said
    self.progress.message(line)
    return {"expected": found}

  def _stop_clock(self):
    """Adds the time since the last call to the time of the stage."""
    now = time.monotonic()
    self.host["seconds"] += now - self.started
    self.started = now

  def _save(self, stage: Stage):
    self._stop_clock()
    saved = self.setup.layout.get_state(trained_part(self.state))
    if stage.draws_ahead:
      saved = {"state": saved, "drawn_with": self.setup.layout.get_state(self.draws.kept_params())}
    self.progress.copies(memory.tree_bytes(saved))
    self.checkpoints.save(
        self.host["global_step"], saved,
        self.host | {"data": self.draws.position()} | self._ends())

  def _ends(self) -> dict[str, Any]:
    """The ends of the written files, and the digests of their content."""
    written = (self.metrics, self.samples, self.data)
    return {"cursors": [0 if file is None else file.cursor() for file in written],
            "digests": [None if file is None else file.digest() for file in written]}

  def _restore_host(self, latest: int) -> dict[str, Any]:
    """The host's state of the latest checkpoint, or of the evaluation after it."""
    # If it is damaged, the stage is evaluated again, with the same results.
    file = self.checkpoints.folder / _EVALUATED
    evaluated = processes.from_writer(lambda: checkpoint_lib.read_sealed(file)) or {}
    has_grown = workdir_lib.has_grown(self.setup.recipe.stages, evaluated)
    is_after = evaluated.get("global_step") == latest and not has_grown
    if not is_after and processes.is_writer():  # its end will be reached again, with another file
      file.unlink(missing_ok=True)
    host = evaluated if is_after else self.checkpoints.restore_host(latest)
    if not _HOST_FIELDS <= host.keys():
      raise ValueError(
          f"the checkpoint of step {latest} in {str(self.checkpoints.folder)!r} is damaged: it "
          f"lacks {sorted(_HOST_FIELDS - host.keys())}; put it back, or give a new workdir")
    return host

  def _note_files(self, stage: str):
    """Keeps the checksums of files that a stage wrote for later ones."""
    self.host["files"] = self.host.get("files", {}) | processes.from_writer(
        lambda: workdir_lib.stage_files(self.workdir, stage))

  def _restore(self, stage: Stage, latest: int) -> list[Params] | None:
    """Replaces the stage's state by a checkpoint's; returns the parameters of started samplings."""
    layout, saved = self.setup.layout, trained_part(self.state)
    if stage.draws_ahead:
      saved = {"state": saved, "drawn_with": self.draws.shaped_as_kept(self.state.params)}
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        layout.get_state(saved))
    frozen = lora.split(self.state.params)[1]
    self.state = None  # it gave the shapes; frees its memory
    restored, host = self.checkpoints.restore(latest, template)
    if stage.data is not None:
      stage.data.set_state(host["data"])
    restored = layout.put_state(restored)
    state, kept = ((restored["state"], restored["drawn_with"]) if stage.draws_ahead
                   else (restored, None))
    self.state = with_frozen(state, frozen)
    return kept

  def _model_folder(self, stage: str) -> pathlib.Path:
    return model_folder(self.workdir, stage)
