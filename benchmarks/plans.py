r"""Plans of three recipes on TPU meshes, which docs/scale.md shows. Needs libtpu, and no TPU.

    python benchmarks/plans.py --output=docs/plans.json

compiles them one after the other, which takes minutes, and replaces the tables of docs/scale.md.
The text around them is written by hand; check it against the new numbers.
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
from rlreason.training import planning, progress
from rlreason.training.planning import table
from rlreason.training.settings.recipe import from_config

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"

# Without the samplers, which take the compiler longer than all the rest.
_PROGRAMS = ("scoring", "batch", "update")
# Name of the table -> (recipe, topology, programs, fields that are set).
PLANS = {
    "qwen": ("grpo_math", "v5e:4x4", _PROGRAMS, {
        "parallel.fsdp": "16", "model.remat": "attention", "rl.num_prompts": "16",
        "rl.algorithm.minibatch_size": "128", "rl.algorithm.micro_batch_size": "128",
        "rl.algorithm.share_prompts": "False"}),
    "llama": ("rlsp_llama31_8b", "v5p:4x4x4", _PROGRAMS, {
        "parallel.data": "4", "parallel.fsdp": "16", "model.remat": "attention",
        "rl.algorithm.micro_batch_size": "128"}),
    "qwen32": ("rlsp_qwen25_32b", "v5p:4x4x8", _PROGRAMS, {
        "parallel.data": "4", "parallel.fsdp": "32", "model.remat": "attention",
        "rl.algorithm.micro_batch_size": "128", "rl.rewards.judge.function": ""}),
}


def command(name):
  """What prints the same table."""
  recipe, topology, programs, fields = PLANS[name]
  flags = [f"--config={recipe}", f"--topology={topology}",
           f"--programs={','.join(programs)}",
           *(f"--config.{field}={value}" for field, value in fields.items())]
  lines = ["rlreason plan"]
  for flag in flags:
    if len(lines[-1]) + len(flag) > 90:
      lines.append("   ")
    lines[-1] += f" {flag}"
  return " \\\n".join(lines)


def make(name):
  recipe, topology, programs, fields = PLANS[name]
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
  parser.add_argument("--only", choices=PLANS, help="one of them")
  parser.add_argument("--output", default=str(ROOT / "docs" / "plans.json"))
  arguments = parser.parse_args()
  file = pathlib.Path(arguments.output)
  found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
  for name in [arguments.only] if arguments.only else PLANS:
    plan = make(name)
    lines = ["$ " + command(name), *table.lines(plan)]
    print("\n".join(lines), flush=True)
    found[name] = table.record(plan) | {"version": version.describe()}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if PAGE.exists():
      PAGE.write_text(
          with_table(PAGE.read_text(encoding="utf-8"), name, lines), encoding="utf-8")


if __name__ == "__main__":
  main()
