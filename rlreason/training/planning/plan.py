"""Plans a recipe: compiles its programs for a topology, and says what they take."""

from collections.abc import Collection, Mapping
import contextlib
import dataclasses
import re
import time
from typing import NamedTuple

import jax

from rlreason import config as config_lib, tracking
from rlreason.models import moe
from rlreason.parallel import chips, hlo, make_layout, memory, topology
from rlreason.parallel.chips import Chip, Seconds
from rlreason.training.planning import kinds
from rlreason.training.planning.placed import Planned
from rlreason.training.planning.programs import Program
from rlreason.training.planning.shapes import Shape, policy_shape
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.recipe import Recipe
from rlreason.training.setup import check_remat
from rlreason.training.stages.checks import check_split

NAMES = (  # of programs
    "sampling", "greedy", "rewards", "step_rewards", "scoring", "batch", "update")
# "Used 18.3G of 15.75G hbm", or "required for HLO temporaries (17.62G) exceeds available HBM
# (15.75G)".
_ROOM = re.compile(
    r"(?:Used |\()(?P<size>[\d.]+)(?P<unit>[KMG])\)? (?:of|exceeds available HBM) "
    r"\(?(?P<room>[\d.]+[KMG])")


class ProgramPlan(NamedTuple):
  """What one program takes, on each device."""

  name: str
  calls: float  # in a step
  memory: dict[str, float]  # kind -> bytes, with what the stage keeps beside the program
  own: dict[str, int]  # the program's own, of `memory.program_bytes`; empty if it was refused
  counts: hlo.Counts
  compile_seconds: float
  seconds: Seconds  # projected, of one call
  tokens: float  # of one call, over all devices
  flops: float  # that these need, over all devices
  refused: str = ""  # what the compiler said if it found no room for it

  @property
  def bytes(self) -> float:
    return sum(self.memory.values())


class StagePlan(NamedTuple):
  """The programs of a stage."""

  stage: StageConfig
  programs: list[ProgramPlan]  # none: nothing is known of it before it runs
  tokens: float  # of a step, prompts and completions
  notes: tuple[str, ...] = ()  # for the user

  @property
  def seconds(self) -> float:
    """Of a step."""
    return sum(program.calls * program.seconds.total for program in self.programs)


class Plan(NamedTuple):
  """What a recipe takes on some devices."""

  recipe: Recipe
  shape: Shape
  topology: str
  chip: Chip
  mesh: dict[str, int]  # axis -> devices
  stages: list[StagePlan]
  tokens: int | None  # of a completion that times are for; None: the longest
  left_out: tuple[str, ...] = ()  # programs that were not compiled

  @property
  def num_devices(self) -> int:
    total = 1
    for size in self.mesh.values():
      total *= size
    return total

  @property
  def hours(self) -> float:
    """Of the whole run, without what is not a program of a step."""
    return sum(part.stage.steps * part.seconds for part in self.stages if part.programs) / 3600

  def fits(self, program: ProgramPlan) -> bool:
    return not program.refused and program.bytes <= self.chip.memory

  def mfu(self, program: ProgramPlan) -> float | None:
    """The share of the devices' peak that the needed FLOPs take; None: it has none."""
    peak = self.num_devices * self.chip.peak * program.seconds.total
    return program.flops / peak if peak and program.flops else None


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What may be set of a projection; None: as the chip has it."""

  completion_tokens: int | None = None  # average; None: the longest
  chip: Mapping[str, float] = dataclasses.field(default_factory=dict)  # fields of `Chip`


def make_plan(
    recipe: Recipe, name: str = "", *, config_file: str | None = None,
    assumed: Assumptions = Assumptions(), only: Collection[str] = (),
) -> Plan:
  """Compiles the programs of a recipe for a topology; reads no weights and no data.

  Args:
    recipe: the recipe; its `parallel.mode` is jit.
    name: of the topology, as `topology.devices` takes it.
    config_file: a config.json with the shape of the policy, instead of its folder's.
    assumed: what times follow from.
    only: names of the programs to compile, of `NAMES`; empty: all.

  Raises:
    FileNotFoundError, ValueError: the recipe, its model or the topology are not as they have to be.
  """
  topology.check(name)
  unknown = [program for program in only if program not in NAMES]
  if unknown:
    raise ValueError(f"--programs: got {unknown[0]!r}, allowed: {', '.join(NAMES)}")
  if recipe.parallel.mode != "jit":
    raise ValueError(f"config.parallel.mode: got {recipe.parallel.mode!r}, allowed: 'jit', whose "
                     "programs can be compiled without their devices")
  shape = policy_shape(recipe, config_file)
  with topology.devices(name) as found:
    layout = make_layout(dataclasses.replace(recipe.parallel, cpu_devices=0))
    check_remat(recipe.model.remat, layout)
    chip = dataclasses.replace(found.chip, **assumed.chip)
    planned = Planned(recipe, shape, layout, assumed.completion_tokens)
    mesh = dict(layout.param_shardings(None).mesh.shape)
    for stage in recipe.stages:
      _check(stage, layout.num_shards)
    with _without_cache():
      stages = [_plan_stage(planned, chip, stage, only or NAMES) for stage in recipe.stages]
  left_out = tuple(name for name in NAMES if only and name not in only)
  return Plan(
      recipe, shape, found.name, chip, mesh, stages, assumed.completion_tokens, left_out)


def _check(stage: StageConfig, num_shards: int):
  try:
    check_split(stage, num_shards)
  except ValueError as error:
    raise ValueError(config_lib.at(
        f"config.{stage.name}", error, [field.name for field in dataclasses.fields(stage)]
    )) from error


@contextlib.contextmanager
def _without_cache():
  """Compiles anew: a program from the cache has no compile time, and perhaps no text."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)


def _plan_stage(
    planned: Planned, chip: Chip, stage: StageConfig, only: Collection[str]) -> StagePlan:
  found = kinds.programs_of(planned, stage)
  if found is None:
    return StagePlan(stage, [], 0.0)
  held = {kind: memory.device_bytes_of(tree) for kind, tree in found.held.items()}
  made = []
  for program in found.programs:
    if program.name not in only:
      continue
    with tracking.work(f"compiling {stage.name} {program.name}"):
      made.append(_plan_program(program, chip, held))
  return StagePlan(stage, made, found.tokens, found.notes)


def _plan_program(program: Program, chip: Chip, held: Mapping[str, int]) -> ProgramPlan:
  started = time.perf_counter()
  try:
    compiled = program.call.lower(*program.args).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return _refused(program, str(error), held, time.perf_counter() - started)
  took = time.perf_counter() - started
  own = memory.program_bytes(compiled)
  by_kind = memory.program_kinds(own, program.args, program.cache, program.is_model_first)
  counts = hlo.count(  # the load of experts is taken to be even
      hlo.parse(compiled.as_text()), {moe.CHUNKS: 1.0} | program.turns)
  # With what the stage keeps while the program runs, which does not read all of it.
  return ProgramPlan(
      program.name, program.calls, by_kind | held, own, counts, took,
      chips.project(counts, chip), program.tokens, program.flops)


def _refused(
    program: Program, message: str, held: Mapping[str, int], took: float) -> ProgramPlan:
  """Of a program for which the compiler found no room: what it says that it would take."""
  found = _ROOM.search(message)
  given = memory.device_bytes_of(program.args)
  size = 0 if found is None else round(
      float(found["size"]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found["unit"]])
  if found is not None and "temporaries" in message:
    size += given
  own = {"in": given, "out": 0, "temp": max(0, size - given)}
  by_kind = memory.program_kinds(own, program.args, program.cache, program.is_model_first)
  said = ("the compiler finds no room" if found is None else
          f"{size / 2**30:.2f} GiB by itself, and the compiler has {found['room']}iB")
  return ProgramPlan(
      program.name, program.calls, by_kind | held, {}, hlo.NOTHING, took, Seconds(0.0, 0.0, 0.0),
      program.tokens, program.flops, said)
