"""Resolves models named by their run to folders that every loader reads.

    runs/x                    the model of the last stage that trains and has ended
    runs/x@sft                that of a stage, a reward model too
    runs/x@rl:best            the best of a stage (`checkpoint.keep_best`)
    runs/x@rl:40              the checkpoint of step 40 of the run, which is one of that stage
    runs/x/checkpoints/40     the same

A step is one of the run, as in metrics.jsonl, the summary and the names of checkpoints. A
checkpoint is exported when it is requested: models/<stage>-step40/ of its run, next to
adapters/<stage>-step40/ if it has any, is a model folder like the others, and is reused from then
on. Anything else is a plain path, whose errors its reader reports.
"""

import dataclasses
import os
import pathlib
import shutil
from typing import Any, Literal

import jax
from orbax import checkpoint as ocp

from rlreason import config as config_lib, models, processes, weights
from rlreason.models import ModelConfig, lora
from rlreason.parallel import ParallelConfig, make_layout, on_writer
from rlreason.tokenizers import Tokenizer
from rlreason.training import checkpoint as checkpoint_lib
from rlreason.training.keys import init_key
from rlreason.training.settings.base import BEST, START, stage_of
from rlreason.training.settings.kinds import STAGES
from rlreason.training.settings.recipe import PretrainedModel, Recipe
from rlreason.training.setup import load_policy
from rlreason.types import Params

Part = Literal["models", "adapters"]  # folders of a run
_FIELDS = ("start", "critic_path", "reward_model", "process_model", "model", "teacher")  # of stages


def resolve(recipe: Recipe) -> Recipe:
  """A recipe whose models are all paths; names of runs are replaced by `find`.

  Raises:
    FileNotFoundError, ValueError: as `find`; names the field.
  """
  names = (*START, *(stage.name for stage in recipe.stages))

  def found(where: str, field: str, path: str) -> str:
    if not path or path in names or stage_of(path) is not None:
      return path
    is_adapters = field == "start" and recipe.lora is not None
    part = "adapters" if is_adapters else "models"
    return find(path, where=where, part=part, parallel=recipe.parallel)

  stages = []
  for stage in recipe.stages:
    old = {field: vars(stage)[field] for field in _FIELDS
           if isinstance(vars(stage).get(field), str)}
    new = {field: found(f"config.{stage.name}.{field}", field, path)
           for field, path in old.items()}
    stages.append(stage if new == old else dataclasses.replace(stage, **new))
  model = recipe.model
  if isinstance(model, PretrainedModel):
    model = dataclasses.replace(model, path=found("config.model.path", "path", model.path))
  return resolve_evaluation(dataclasses.replace(recipe, model=model, stages=tuple(stages)))


def resolve_evaluation(recipe: Recipe) -> Recipe:
  """A recipe whose evaluation names models by paths only; raises as `find`."""
  search = recipe.evaluation.search
  if search is None or not search.reads_model:
    return recipe
  scorer = find(search.scorer, where="config.evaluation.search.scorer", parallel=recipe.parallel)
  return dataclasses.replace(recipe, evaluation=dataclasses.replace(
      recipe.evaluation, search=dataclasses.replace(search, scorer=scorer)))


def find(
    path: str, *, where: str = "model", part: Part = "models",
    parallel: ParallelConfig = ParallelConfig(),
) -> str:
  """The folder of a model that is named by its run; any other path unchanged.

  Args:
    path: as above.
    where: its flag or field, for messages.
    part: whether to return the model or only its adapters.
    parallel: the devices of this process, if a checkpoint has to be read.

  Raises:
    FileNotFoundError: the run has no such stage or step; lists what it has.
    ValueError: there is no run, or the checkpoint holds no policy.
  """
  there = pathlib.Path(path)
  try:
    if os.path.lexists(there):
      run, name, step = there, "", ""
      if there.parent.name == checkpoint_lib.FOLDER and there.name.isdecimal():
        run, step = there.parent.parent, there.name
    else:
      typed, at, rest = path.rpartition("@")
      run, (name, _, step) = pathlib.Path(typed), rest.partition(":")
      if not at or not run.is_dir():
        return path
      if _read_stages(run) is None:
        raise ValueError(f"{where}: got {path!r}, but {typed!r} is not the folder of a run, "
                         "allowed: one, before @")
    stages = _read_stages(run)
    if stages is None or not (name or step or run == there):
      return path
    return str(_Run(run, stages, f"{where}: got {path!r}", parallel).find(name, step, part))
  except OSError as error:
    if error.filename is None:
      raise
    raise type(error)(error.errno, f"{where}: {error.strerror}", error.filename) from error


def _read_stages(run: pathlib.Path) -> list[dict[str, Any]] | None:
  """The stages in the config of a run; None: it is not a run."""
  try:
    record = checkpoint_lib.read_json(run / "config.json")
  except (OSError, ValueError):
    return None
  stages = record.get("stages")
  is_run = isinstance(stages, list) and all(
      isinstance(stage, dict) and stage.get("kind") in STAGES for stage in stages)
  return stages if is_run else None


class _Run:
  """The contents of a run's folder; `got` is the start of messages."""

  def __init__(
      self, folder: pathlib.Path, stages: list[dict[str, Any]], got: str,
      parallel: ParallelConfig):
    self._folder, self._stages, self._got, self._parallel = folder, stages, got, parallel

  def find(self, name: str, step: str, part: Part) -> pathlib.Path:
    """The folder of a stage ("": the last), of its end ("") or a step; see `find` above."""
    if step and step != "best":
      return self._of_step(name, step, part)
    ended = [stage["name"] for stage in self._stages if self._has(stage["name"])]
    if not name:
      name = next((stage["name"] for stage in reversed(self._stages)
                   if stage["name"] in ended and STAGES[stage["kind"]].trains), "")
    found = name + (BEST if step else "")
    if not name or name not in [stage["name"] for stage in self._stages] or not self._has(found):
      raise FileNotFoundError(f"{self._got}, allowed: {self._offer()}")
    return self._folder / part / found

  def _has(self, name: str) -> bool:
    return any((self._folder / "models" / name).glob("*.safetensors"))

  def _offer(self) -> str:
    """The names that are available."""
    names = [stage["name"] for stage in self._stages]
    ends = [f"@{name}" for name in names if self._has(name)]
    ends += [f"@{name}:best" for name in names if self._has(name + BEST)]
    steps = [f"@{name}:{step}" for step, name in self._checkpoints().items()]
    offers = [f"{self._folder}{end}" for end in (*ends, *steps)]
    return ", ".join(offers) or "a run with a model or a checkpoint (this one has none)"

  def _checkpoints(self) -> dict[int, str]:
    """Step -> stage of the checkpoints that hold a policy."""
    found = {}
    for folder in (self._folder / checkpoint_lib.FOLDER).glob("*"):
      try:
        number = checkpoint_lib.read_json(folder / "host" / "metadata")["stage"]
        stage = self._stages[number]
      except (OSError, ValueError, KeyError, IndexError, TypeError):
        continue
      if folder.name.isdecimal() and STAGES[stage["kind"]].trains:
        found[int(folder.name)] = stage["name"]
    return dict(sorted(found.items()))

  def _of_step(self, name: str, step: str, part: Part) -> pathlib.Path:
    stage = self._checkpoints().get(int(step)) if step.isdecimal() else None
    written = self._folder / part / f"{name or stage}-step{step}"
    if step.isdecimal() and written.is_dir():  # its checkpoint may have been removed
      return written
    if stage is None or name not in ("", stage):
      raise FileNotFoundError(
          f"{self._got}, allowed (steps are those of metrics.jsonl): {self._offer()}")
    if processes.count() > 1:
      raise ValueError(f"{self._got} in {processes.count()} processes, allowed: a folder that "
                       f"`rlreason convert` writes of it in one")
    _write_checkpoint(self._folder, stage, int(step), self._parallel)
    return written


def _write_checkpoint(run: pathlib.Path, stage: str, step: int, parallel: ParallelConfig):
  """Writes the policy of a checkpoint as a model folder, atomically."""
  folder = run / checkpoint_lib.FOLDER / str(step)
  reason = checkpoint_lib.find_damage(folder)
  if reason is not None:
    raise ValueError(f"{str(folder)!r} is damaged ({reason}), allowed: another checkpoint")
  recipe = config_lib.build(Recipe, checkpoint_lib.read_json(run / "config.json"))
  layout = make_layout(parallel)
  model, params, tokenizer = load_policy(recipe, layout, init_key(recipe.seed))
  model = dataclasses.replace(model, lora=recipe.lora)
  policy = _restore(folder / "state", model)
  if recipe.lora is not None:
    boxed = lora.split(models.abstract_boxed_params(model))[0]
    policy = lora.join(params, layout.put_params(policy, boxed))
  del params
  name = f"{stage}-step{step}"
  temporary = f".{name}-{os.getpid()}"
  try:
    write_policy(run, temporary, recipe, (model, policy, tokenizer))
    for part in ("adapters", "models"):  # the model last: it marks both as complete
      if (run / part / temporary).is_dir():
        os.replace(run / part / temporary, run / part / name)
  finally:
    for part in ("adapters", "models"):
      shutil.rmtree(run / part / temporary, ignore_errors=True)


def _restore(folder: pathlib.Path, model: ModelConfig) -> Params:
  """Only the trained parameters of the policy in a checkpoint."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  trained = lora.split(models.abstract_params(model))[0]
  item = {"params": {"policy": jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), trained)}}
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    restored = reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(
        item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True))
  return restored["params"]["policy"]


def write_policy(
    run: pathlib.Path, name: str, recipe: Recipe, policy: tuple[ModelConfig, Params, Tokenizer]):
  """Writes models/<name>/ of a run, and adapters/<name>/ if the policy has any.

  All processes have to call it; one of them writes.
  """
  model, params, tokenizer = policy
  params = on_writer(params)
  if not processes.is_writer():
    return
  if model.lora is not None:
    base = recipe.model.path if isinstance(recipe.model, PretrainedModel) else ""
    weights.save_adapters(run / "adapters" / name, model, lora.split(params)[0], base=base)
    params = lora.merged_view(model, params)
  weights.save_model(
      run / "models" / name, dataclasses.replace(model, lora=None), params, tokenizer)
