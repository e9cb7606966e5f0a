"""The header of a run: devices, model, work of each stage, and files."""

import os
import pathlib
from typing import Any

import jax

from rlreason import models, processes
from rlreason.algorithms import init_rl_params
from rlreason.data.tasks.base import Task
from rlreason.data.tasks.own import OwnTask
from rlreason.models import ModelConfig, lora
from rlreason.parallel import ParallelConfig, memory
from rlreason.parallel.mesh import mesh_devices
from rlreason.training.progress import format_bytes
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.recipe import PretrainedModel, Recipe
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages.base import Setup

_ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/kfd", "/dev/vfio/0")  # GPUs and TPUs


def run_header(setup: Setup, workdir: pathlib.Path) -> list[str]:
  """The header lines of a training run."""
  recipe = setup.recipe
  source = recipe.model.path if isinstance(recipe.model, PretrainedModel) else "new"
  trained, frozen = map(format_count, _policy_counts(setup.model))
  lines = model_header(setup.model, source, recipe.parallel)
  lines.append(_line("", f"{trained} parameters trained, {frozen} frozen"))
  if isinstance(recipe.task, OwnTask):
    lines.append(_line("task", _own_problems(setup.tasks)))
  for stage in recipe.stages:
    lines.append(_line(stage.name, stage.work(max(recipe.prompt_buckets))))
    lines += [_line("", part) for part in _critic(setup.model, stage)]
  return [*lines, _line("files in", str(workdir))]


def model_header(model: ModelConfig, source: str, parallel: ParallelConfig) -> list[str]:
  """The header lines of any command that runs a model: devices, JAX, and the model.

  Args:
    model: the policy.
    source: its origin.
    parallel: how it is distributed.
  """
  return [
      _line("devices", f"{_devices(parallel)}; JAX {jax.__version__}"),
      *[_line("", hint) for hint in _unused_accelerator()],
      _line("model", source),
      _line("", f"{format_count(sum(_policy_counts(model)))} parameters, {model.num_layers} "
            f"layer{'s' if model.num_layers > 1 else ''} of width {model.width}, "
            f"{model.param_dtype}")]


def _own_problems(tasks: dict[str, Task]) -> str:
  """The numbers of custom problems; a part of a single list is the test split."""
  train, test = tasks["train"], tasks["test"]
  return f"{train.name}: {len(train.rows):,} problems to train on, {len(test.rows):,} of the test"


def format_count(count: int) -> str:
  """`1,234`, `0.93M`, `134.5M` or `8.03B`."""
  if count < 100_000:
    return f"{count:,}"
  size, unit = (1e9, "B") if count >= 1e9 else (1e6, "M")
  return f"{count / size:.1f}{unit}" if count >= 10 * size else f"{count / size:.2f}{unit}"


def _line(name: str, text: str) -> str:
  return f"{name:10}  {text}"


def _devices(parallel: ParallelConfig) -> str:
  devices, sizes = mesh_devices(parallel)
  kind = devices[0].device_kind
  kind = "CPU" if kind == "cpu" else kind
  count = kind if len(devices) == 1 else f"{len(devices)} x {kind}"
  axes = [f"{name} {size}" for name, size in sizes.items() if size > 1]
  spread = f" ({parallel.mode}, {', '.join(axes)})" if axes else ""
  spread += f" in {processes.count()} processes" if processes.count() > 1 else ""
  if devices[0].platform == "cpu":  # they share the machine's, and products of f32 are in f32
    return f"{count}{spread}, {os.cpu_count()} cores, {format_bytes(memory.device_bytes())}"
  each = "" if len(devices) == 1 else " each"
  return (f"{count}{spread}, {format_bytes(memory.share_bytes())}{each}, f32 products in "
          f"{parallel.precision}")


def _unused_accelerator() -> list[str]:
  """A warning if this runs on the CPU of a machine with a GPU or TPU."""
  found = [path for path in _ACCELERATORS if os.path.exists(path)]
  if jax.default_backend() != "cpu" or not found:
    return []
  platforms = os.environ.get("JAX_PLATFORMS", "")
  reason = f"JAX_PLATFORMS={platforms}" if platforms else "JAX has no plugin for it"
  return [f"runs on the CPU, although there is {found[0]}: {reason}"]


def _policy_counts(model: ModelConfig) -> tuple[int, int]:
  """The numbers of trained and of frozen parameters of a policy."""
  params = models.abstract_params(model)
  if model.lora is None:
    return _size(params), 0
  return tuple(map(_size, lora.split(params)))


def _critic(model: ModelConfig, stage: StageConfig) -> list[str]:
  """The critic that a stage trains besides the policy."""
  if not isinstance(stage, RLStage) or not stage.algorithm.has_critic:
    return []
  if stage.critic_path:
    return [f"trains a critic too, from {stage.critic_path}"]
  params = jax.eval_shape(
      lambda policy: init_rl_params(stage.algorithm, model, policy), models.abstract_params(model))
  del params["policy"]
  return [f"trains {format_count(_size(params))} parameters of a critic too"]


def _size(params: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(params))
