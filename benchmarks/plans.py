r"""Plans of recipes on TPU meshes, which docs/scale.md shows. Needs libtpu, and no TPU.

    python benchmarks/plans.py --output=docs/plans.json

compiles them one after the other, which takes minutes, and replaces the tables of docs/scale.md.
`--only=weak` is one of them. The text around them is written by hand; check it against the new
numbers.
"""

import argparse
import json
import os
import pathlib
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# pylint: disable=wrong-import-position
from rlreason import version
from rlreason.commands import load_config
from rlreason.parallel import chips
from rlreason.training import planning, progress
from rlreason.training.planning import table
from rlreason.training.settings.recipe import from_config

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"

# Without the samplers, which take the compiler longer than all the rest.
_PROGRAMS = ("scoring", "batch", "update")
_QWEN = {
    "model.remat": "attention", "rl.num_prompts": "16", "rl.algorithm.minibatch_size": "128",
    "rl.algorithm.micro_batch_size": "128", "rl.algorithm.share_prompts": "False"}

_QWEN_64 = _QWEN | {
    "rl.num_prompts": "64", "rl.algorithm.minibatch_size": "512",
    "rl.algorithm.micro_batch_size": "128"}  # rows for 64 devices


def _qwen3moe(**axes):
  """The recipe of `qwen` with a mixture of experts."""
  axes = {f"parallel.{axis}": str(size) for axis, size in axes.items()}
  return "grpo_math", "v5p:4x4x4", ("update",), {
      "model.path": "models/Qwen3-30B-A3B"} | axes | _QWEN_64


# Name of the table -> (recipe, topology, programs, fields that are set).
PLANS = {
    "qwen": ("grpo_math", "v5e:4x4", _PROGRAMS, {"parallel.fsdp": "16"} | _QWEN),
    "llama": ("rlsp_llama31_8b", "v5p:4x4x4", _PROGRAMS, {
        "parallel.data": "4", "parallel.fsdp": "16", "model.remat": "attention",
        "rl.algorithm.micro_batch_size": "128"}),
    "qwen32": ("rlsp_qwen25_32b", "v5p:4x4x8", _PROGRAMS, {
        "parallel.data": "4", "parallel.fsdp": "32", "model.remat": "attention",
        "rl.algorithm.micro_batch_size": "128", "rl.rewards.judge.function": ""}),
    "long": ("grpo_math", "v5p:4x4x4", ("update",), {
        "model.path": "models/Llama-3.1-8B", "model.remat": "attention", "rl.num_prompts": "64",
        "rl.algorithm.minibatch_size": "64", "rl.sampling.max_new_tokens": "31744",
        "parallel.fsdp": "16", "parallel.sequence": "4", "rl.algorithm.micro_batch_size": "16"}),
    "llama70b": ("grpo_math", "v5p:4x4x8", ("update",), {
        "model.path": "models/Llama-3.1-70B", "parallel.data": "4", "parallel.fsdp": "32"} |
                 _QWEN_64 | {"rl.num_prompts": "128"}),
}


def _weak(topology, data):
  """The recipe of `qwen` with as many rows for each device on more of them."""
  rows = str(128 * data)
  recipe, _, _, fields = PLANS["qwen"]
  return recipe, topology, ("update",), fields | {
      "parallel.data": str(data), "rl.num_prompts": str(16 * data),
      "rl.algorithm.minibatch_size": rows, "rl.algorithm.micro_batch_size": rows}


# Name of the table -> name of a row -> the same.
SERIES = {
    "weak": {f"{16 * data} x v5e": _weak(topology, data) for topology, data in (
        ("v5e:4x4", 1), ("v5e:8x8", 4), ("v5e:16x16", 16))},
    "qwen3moe": {
        " ".join(f"{axis}={size}" for axis, size in axes.items()): _qwen3moe(**axes)
        for axes in (dict(fsdp=16, expert=4), dict(data=4, fsdp=16))},
}


def command(plan):
  """What prints the same table."""
  recipe, topology, programs, fields = plan
  flags = [f"--config={recipe}", f"--topology={topology}",
           f"--programs={','.join(programs)}",
           *(f"--config.{field}={value}" for field, value in fields.items())]
  lines = ["rlreason plan"]
  for flag in flags:
    if len(lines[-1]) + len(flag) > 90:
      lines.append("   ")
    lines[-1] += f" {flag}"
  return " \\\n".join(lines)


def make(plan):
  recipe, topology, programs, fields = plan
  with progress.on_stderr():
    return planning.make_plan(
        from_config(load_config(recipe, list(fields.items()))), topology, only=programs)


def with_table(page, name, lines):
  """The page with the table between its two marks replaced."""
  marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
  text = "\n".join([marks[0], "", "```text", *lines, "```", "", marks[1]])
  found = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
  if not found.search(page):
    raise ValueError(f"{PAGE}: got no {marks[0]} ... {marks[1]}, allowed: both marks")
  return found.sub(lambda _: text, page)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--only", choices=(*PLANS, *SERIES), help="one of them")
  parser.add_argument("--output", default=str(ROOT / "docs" / "plans.json"))
  arguments = parser.parse_args()
  file = pathlib.Path(arguments.output)
  found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
  for name in [arguments.only] if arguments.only else (*PLANS, *SERIES):
    for record, lines in single(name) if name in PLANS else series(name):
      found[name] = record
      file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
      if PAGE.exists():
        PAGE.write_text(
            with_table(PAGE.read_text(encoding="utf-8"), name, lines), encoding="utf-8")
    print("\n".join(lines), flush=True)


def single(name):
  """Yields the record and the lines of a plan."""
  plan = make(PLANS[name])
  yield recorded(plan), ["$ " + command(PLANS[name]), *table.lines(plan)]


def series(name):
  """Yields the same of several plans, a line each, after every one of them."""
  records, lines = {}, [
      f"$ python benchmarks/plans.py --only={name}",
      f"{'GB a device':24}" + "".join(f"{title:>{size}}" for title, size in (
          ("params", 7), ("moments", 8), ("grads", 6), ("activ.", 7), ("all", 7), ("links", 7),
          ("time s", 7), ("MFU", 7)))]
  for row, entry in SERIES[name].items():
    plan = make(entry)
    records[row] = recorded(plan)
    lines.append(line(row, plan))
    print(lines[-1], flush=True)
    yield records, lines


def recorded(plan):
  return table.record(plan) | {"version": version.describe()}


def line(row, plan):
  """A line of a series, of the one program of its plans."""
  program = next(program for part in plan.stages for program in part.programs)
  sizes = [program.memory.get(kind, 0) / 1e9 for kind in (
      "parameters", "moments", "gradients", "activations")] + [program.bytes / 1e9]
  text = f"{row:24}" + "".join(
      f"{size:{width}.2f}" for size, width in zip(sizes, (7, 8, 6, 7, 7), strict=True))
  if not plan.fits(program):
    return f"{text}  too large for {plan.chip.memory / 1e9:.1f}"
  sent = sum(chips.sent_bytes(kind, devices, one)
             for (kind, devices), one in program.counts.collectives.items())
  return f"{text}{sent / 1e9:7.1f}{program.seconds.total:7.2f}{plan.mfu(program):7.1%}"


if __name__ == "__main__":
  main()
