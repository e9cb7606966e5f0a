"""A plan as text of 80 columns, and as JSON."""

from collections.abc import Iterator
import dataclasses
import textwrap
from typing import Any

from rlreason.parallel import chips
from rlreason.training import memory_table
from rlreason.training.planning.advice import advise
from rlreason.training.planning.plan import Plan, ProgramPlan, StagePlan
from rlreason.training.progress import format_bytes

_WIDTH = 80
_INDENT = 12


def lines(plan: Plan) -> list[str]:
  """The plan for a terminal."""
  return [*_header(plan), "", *_memory(plan), "", *_work(plan), "", *_collectives(plan), "",
          *_steps(plan), *_problems(plan)]


def _line(name: str, text: str) -> list[str]:
  return textwrap.wrap(
      text, _WIDTH, initial_indent=f"{name:{_INDENT - 1}} ", subsequent_indent=" " * _INDENT,
      break_long_words=False, break_on_hyphens=False)


def _header(plan: Plan) -> Iterator[str]:
  chip, axes = plan.chip, [f"{name} {size}" for name, size in plan.mesh.items() if size > 1]
  spread = f" ({', '.join(axes)})" if axes else ""
  yield from _line("devices", f"{plan.num_devices} x {chip.name}{spread}, "
                   f"{format_bytes(chip.memory)} each; compiled for {plan.topology}, not run")
  yield from _line("model", plan.shape.source)
  yield from _line("assumed", _assumed(plan))


def _assumed(plan: Plan) -> str:
  chip = plan.chip
  compute = (f"clock {chip.clock / 1e9:.2f} GHz of the compiler's cycles" if chip.clock else
             f"products at {chip.kernel_efficiency:.0%} of the peak (the compiler estimates no "
             "cycles)")
  tokens = "as long as they may be" if plan.tokens is None else f"of {plan.tokens} tokens"
  return (f"{compute}; peak {chip.peak / 1e12:g} TFLOP/s; custom kernels at "
          f"{chip.kernel_efficiency:.0%} of it; links {chip.links / 1e9:g} GB/s a device, "
          f"collectives at {chip.link_efficiency:.0%} of it; none of these overlap; prompts of "
          f"{max(plan.recipe.prompt_buckets)} tokens, completions {tokens}")


def _rows(plan: Plan) -> Iterator[tuple[StagePlan, ProgramPlan]]:
  for part in plan.stages:
    for program in part.programs:
      yield part, program


def _name_width(plan: Plan) -> int:
  """Columns of the programs' names; longer ones are cut."""
  longest = max((len(_name(part, program)) for part, program in _rows(plan)), default=0)
  return max(longest, memory_table.LEAST_NAME)


def _name(part: StagePlan, program: ProgramPlan) -> str:
  return memory_table.name_of(part.stage.name, program.name)


def _memory(plan: Plan) -> Iterator[str]:
  width = _name_width(plan)
  largest = max((program.bytes for _, program in _rows(plan)), default=0)
  unit = memory_table.unit_of(largest)
  yield memory_table.head(unit, plan.chip.memory, width)
  for part, program in _rows(plan):
    yield memory_table.row(_name(part, program), program.memory, unit, plan.chip.memory,
                           fits=plan.fits(program), width=width)


def _work(plan: Plan) -> Iterator[str]:
  width = _name_width(plan)
  titles = (("TFLOP", 9), ("link GB", 9), ("compile", 9), ("time s", 9), ("MFU", 6),
            ("tokens/s", 12))
  yield f"{'a device':{width}}" + "".join(f"{title:>{size}}" for title, size in titles)
  for part, program in _rows(plan):
    if program.refused:
      yield f"{_name(part, program):{width}}  {program.refused}"
      continue
    sent = sum(chips.sent_bytes(kind, devices, found)
               for (kind, devices), found in program.counts.collectives.items())
    mfu, total = plan.mfu(program), program.seconds.total
    speed = f"{program.tokens / total:12,.0f}" if program.tokens and total else f"{'':12}"
    yield (f"{_name(part, program):{width}}"
           + _number(program.counts.total_flops / 1e12, 9) + _number(sent / 1e9, 9)
           + f"{program.compile_seconds:8.1f}s" + _number(total, 9)
           + (f"{mfu:6.1%}" if mfu else f"{'':6}") + speed).rstrip()


def _number(value: float, width: int) -> str:
  """Three digits that count, without a power of ten where it fits."""
  digits = 0 if value >= 1000 else 2 if value >= 1 else 4
  return f"{value:{width},.{digits}f}"


def _collectives(plan: Plan) -> Iterator[str]:
  yield "collectives a device: times, and GB of their arrays"
  for part, program in _rows(plan):
    found = sorted(program.counts.collectives.items(), key=lambda item: -item[1].bytes)
    if found:
      text = ", ".join(f"{kind} of {devices} {one.count:,.0f} x, {one.bytes / 1e9:,.3g} GB"
                       for (kind, devices), one in found)
      yield from textwrap.wrap(
          f"{part.stage.name} {program.name}: {text}", _WIDTH, subsequent_indent="  ",
          break_on_hyphens=False)


def _steps(plan: Plan) -> Iterator[str]:
  for part in plan.stages:
    stage = part.stage
    if not part.programs:
      reason = ("no steps" if not stage.has_steps else "none of its programs is asked for"
                if plan.left_out else "known only when it runs")
      yield from _line(stage.name, f"not planned: {reason}")
      continue
    if any(program.refused for program in part.programs):
      yield from _line(stage.name, "no time: a program does not fit")
      continue
    split = ", ".join(
        f"{program.name} {program.calls * program.seconds.total / part.seconds:.0%}"
        for program in part.programs if program.seconds.total)
    speed = f"; {part.tokens / part.seconds:,.0f} tokens/s" if part.seconds else ""
    hours = stage.steps * part.seconds / 3600
    yield from _line(stage.name, f"a step of {part.seconds:.4g} s: {split}{speed}; {stage.steps:,}"
                     f" steps of it {hours:.3g} h")
    for note in part.notes:
      yield from _line("", note)
    unknown = sorted({loop for program in part.programs
                      for loop in program.counts.unknown_loops})
    if unknown:
      yield from _line("", f"{len(unknown)} loops of unknown length count once: {unknown[0]}")
  if plan.left_out:
    yield from _line("", f"not compiled: {', '.join(plan.left_out)}; times are without them")
  if all(not program.refused for _, program in _rows(plan)):
    yield from _line("run", f"{plan.hours:.3g} h, {plan.hours * plan.num_devices:.3g} chip-hours, "
                     "without evaluations, checkpoints, and rewards on the host")


def _problems(plan: Plan) -> Iterator[str]:
  for part, program in _rows(plan):
    if not plan.fits(program):
      yield from _line(
          "too large", f"{part.stage.name} {program.name}: {format_bytes(program.bytes)} of "
          f"{format_bytes(plan.chip.memory)} a device; {advise(plan, part, program)}")


def record(plan: Plan) -> dict[str, Any]:
  """The plan as JSON."""
  return {
      "topology": plan.topology, "left_out": plan.left_out,
      "devices": plan.num_devices, "mesh": plan.mesh,
      "assumed": dataclasses.asdict(plan.chip) | {"completion_tokens": plan.tokens},
      "model": {"source": plan.shape.source, **_model(plan)},
      "hours": plan.hours, "chip_hours": plan.hours * plan.num_devices,
      "fits": all(plan.fits(program) for _, program in _rows(plan)),
      "stages": [{
          "name": part.stage.name, "steps": getattr(part.stage, "steps", 0),
          "seconds": part.seconds, "tokens": part.tokens,
          "programs": [_program(plan, part, program) for program in part.programs]}
                 for part in plan.stages]}


def _model(plan: Plan) -> dict[str, Any]:
  model = plan.shape.model
  return {name: getattr(model, name) for name in (
      "family", "vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "head_dim",
      "mlp_width", "dtype", "param_dtype", "remat", "attention")}


def _program(plan: Plan, part: StagePlan, program: ProgramPlan) -> dict[str, Any]:
  counts = program.counts
  return {
      "name": program.name, "calls": program.calls, "memory": program.memory,
      "bytes": program.bytes, "own": program.own, "fits": plan.fits(program),
      "refused": program.refused,
      "advice": "" if plan.fits(program) else advise(plan, part, program),
      "flops": counts.flops, "cycles": counts.cycles, "needed_flops": program.flops,
      "collectives": [{"kind": kind, "devices": devices, "count": one.count, "bytes": one.bytes}
                      for (kind, devices), one in counts.collectives.items()],
      "kernels": [{"name": name, "calls": calls, "flops": flops}
                  for name, (calls, flops) in counts.kernels.items()],
      "unknown_loops": sorted(counts.unknown_loops),
      "compile_seconds": program.compile_seconds,
      "seconds": dataclasses.asdict(program.seconds) | {"total": program.seconds.total},
      "mfu": plan.mfu(program), "tokens": program.tokens}
