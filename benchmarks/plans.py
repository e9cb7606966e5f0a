r"""Plans of recipes on TPU meshes, which docs/scale.md shows. Needs libtpu, and no TPU.

    python benchmarks/plans.py --output=docs/plans.json

compiles them one after the other, which takes minutes, and replaces the tables of docs/scale.md.
`--only=weak` is one of them, and `--only=levers --row=muon` one line. The text around them is
written by hand; check it against the new numbers.
"""

import argparse
import json
import math
import os
import pathlib
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# pylint: disable=wrong-import-position
from rlreason import version
from rlreason.commands import load_config
from rlreason.parallel import chips, hlo, make_layout, memory, topology
from rlreason.training import planning, progress
from rlreason.training.planning import kinds, placed, shapes, table
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
    "sampling": ("grpo_math", "v5e:2x2", ("sampling",), {
        "prompt_buckets": "(1024,)", "rl.num_prompts": "64", "rl.group_size": "8",
        "rl.sampling.max_new_tokens": "1024", "rl.length_buckets": "(512,)",
        "rl.algorithm.minibatch_size": "512", "rl.algorithm.micro_batch_size": "64"}),
    "long": ("grpo_math", "v5p:4x4x4", ("update",), {
        "model.path": "models/Llama-3.1-8B", "model.remat": "attention", "rl.num_prompts": "64",
        "rl.algorithm.minibatch_size": "64", "rl.sampling.max_new_tokens": "31744",
        "parallel.fsdp": "16", "parallel.sequence": "4", "rl.algorithm.micro_batch_size": "16"}),
    "llama70b": ("grpo_math", "v5p:4x4x8", ("update",), {
        "model.path": "models/Llama-3.1-70B", "parallel.data": "4", "parallel.fsdp": "32"} |
                 _QWEN_64 | {"rl.num_prompts": "128", "rl.algorithm.minibatch_size": "1024"}),
}


def _weak(devices, data):
  """The recipe of `qwen` with as many rows for each device on more of them."""
  rows = str(128 * data)
  recipe, _, _, fields = PLANS["qwen"]
  return recipe, devices, ("update",), fields | {
      "parallel.data": str(data), "rl.num_prompts": str(16 * data),
      "rl.algorithm.minibatch_size": rows, "rl.algorithm.micro_batch_size": rows}


def _lever(**fields):
  """The update of `llama` with other settings."""
  recipe, devices, _, others = PLANS["llama"]
  return recipe, devices, ("update",), others | {
      name.replace("__", "."): value for name, value in fields.items()}


# Name of the table -> name of a row -> the same.
SERIES = {
    "weak": {f"{16 * data} x v5e": _weak(devices, data) for devices, data in (
        ("v5e:4x4", 1), ("v5e:8x8", 4), ("v5e:16x16", 16))},
    "qwen3moe": {
        " ".join(f"{axis}={size}" for axis, size in axes.items()): _qwen3moe(**axes)
        for axes in (dict(fsdp=16, expert=4), dict(data=4, fsdp=16))},
    "levers": {
        "as above": _lever(),
        "remat=none": _lever(model__remat="none"),
        "remat=dots": _lever(model__remat="dots"),
        "remat=full": _lever(model__remat="full"),
        "remat=offload": _lever(model__remat="offload"),
        "micro_batch_size=64": _lever(rl__algorithm__micro_batch_size="64"),
        "param_dtype=bfloat16": _lever(model__param_dtype="bfloat16"),
        "and master_weights": _lever(
            model__param_dtype="bfloat16", optimizer__master_weights="True"),
        "mu_dtype=bfloat16": _lever(optimizer__mu_dtype="bfloat16"),
        "adafactor, b1=0": _lever(optimizer__kind="adafactor", optimizer__b1="0.0"),
        "muon": _lever(optimizer__kind="muon"),
        "lora.rank=16": _lever(lora__rank="16")},
}


def command(plan):
  """What prints the same table."""
  recipe, devices, programs, fields = plan
  flags = [f"--config={recipe}", f"--topology={devices}",
           f"--programs={','.join(programs)}",
           *(f"--config.{field}={value}" for field, value in fields.items())]
  lines = ["rlreason plan"]
  for flag in flags:
    if len(lines[-1]) + len(flag) > 90:
      lines.append("   ")
    lines[-1] += f" {flag}"
  return " \\\n".join(lines)


def make(plan):
  recipe, devices, programs, fields = plan
  with progress.on_stderr():
    return planning.make_plan(
        from_config(load_config(recipe, list(fields.items()))), devices, only=programs)


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
  parser.add_argument("--row", help="the line of a table of several plans to compile; others stay")
  parser.add_argument("--output", default=str(ROOT / "docs" / "plans.json"))
  arguments = parser.parse_args()
  file = pathlib.Path(arguments.output)
  found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
  for name in [arguments.only] if arguments.only else (*PLANS, *SERIES):
    for record, lines in (single(name) if name in PLANS else
                          series(name, found.get(name, {}), arguments.row)):
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


def series(name, records, only=None):
  """Yields the same of several plans, a line each, after every one of them.

  Rows that have no record yet show what shapes say.
  """
  entries = SERIES[name]
  missing = {} if only is None else {
      row: state_of(entry) for row, entry in entries.items() if row not in {only, *records}}
  for row in entries if only is None else [only]:
    records[row] = recorded(make(entries[row]))
    print(line(row, records[row]), flush=True)
    yield ({row: records[row] for row in entries if row in records},
           series_lines(name, records, missing))


def series_lines(name, records, states):
  """The lines of a table of several plans; `states` are those of rows without a record."""
  lines = [f"$ python benchmarks/plans.py --only={name}",
           f"{'GB a device':24}" + "".join(f"{title:>{size}}" for title, size in (
               ("params", 7), ("moments", 8), ("grads", 6), ("activ.", 7), ("all", 7), ("links", 7),
               ("time s", 7), ("MFU", 7)))]
  for row in SERIES[name]:
    if row in records:
      lines.append(line(row, records[row]))
    elif row in states:
      lines.append(state_line(row, states[row]))
  return lines


def state_of(entry):
  """{kind: bytes} on a device of an update's state and gradients: of shapes, without a compiler."""
  recipe, devices, (program,), fields = entry
  recipe = from_config(load_config(recipe, list(fields.items())))
  count = math.prod(map(int, devices.partition(":")[2].split("x")))
  with topology.devices(f"cpu:{count}"):
    planned = placed.Planned(
        recipe, shapes.policy_shape(recipe), make_layout(recipe.parallel), None)
    found = kinds.programs_of(planned, recipe.stages[0])
  args = next(one.args for one in found.programs if one.name == program)
  any_size = {"in": 0, "out": 0, "temp": 2**62}
  return memory.program_kinds(any_size, args) | {
      kind: memory.device_bytes_of(tree) for kind, tree in found.held.items()}


def recorded(plan):
  return table.record(plan) | {"version": version.describe()}


def state_line(row, sizes):
  """The first columns of a line."""
  return f"{row:24}" + "".join(
      f"{sizes.get(kind, 0) / 1e9:{width}.2f}" for kind, width in (
          ("parameters", 7), ("moments", 8), ("gradients", 6)))


def line(row, record):
  """A line of a series, of the one program of its plans."""
  program = next(program for stage in record["stages"] for program in stage["programs"])
  text = state_line(row, program["memory"]) + "".join(
      f"{size / 1e9:7.2f}" for size in (program["memory"].get("activations", 0), program["bytes"]))
  if not program["fits"]:
    return f"{text}  too large for {record['assumed']['memory'] / 1e9:.1f}"
  sent = sum(chips.sent_bytes(
      one["kind"], one["devices"], hlo.Collective(one["count"], one["bytes"]))
             for one in program["collectives"])
  return f"{text}{sent / 1e9:7.1f}{program['seconds']['total']:7.2f}{program['mfu']:7.1%}"


if __name__ == "__main__":
  main()
