"""A page for each method, made of its recipe: what it sets, how it is run, what was measured.

Not here: how the pages come into the site (hooks.py), and the tables of all methods
(experiments/methods/table.py, whose rows these pages spell out).
"""

import ast
from collections.abc import Iterator
import dataclasses
import inspect
import json
import pathlib
import re
import sys
from typing import Any, NamedTuple

from make_options import cell, section, show_value

from rlreason.algorithms import PolicyGradientConfig, presets
from rlreason.rewards import combine
from rlreason.slots import Slot
from rlreason.training.settings.recipe import Recipe

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "experiments" / "methods")]
import miniatures  # noqa: E402  of experiments/, which is no package
import table  # noqa: E402

# Of the test bed or the machine, and not of the method.
_SIZES = ("minibatch_size", "micro_batch_size", "share_prompts")
_TEACHER = "TEACHER"  # where a recipe's argument is the folder of a model


class Method(NamedTuple):
  """A row of the tables of methods.

  Attributes:
    file: of experiments/methods/, with its argument.
    name: as it is known.
    source: arXiv number and place.
    equation: what makes it; empty for an order of stages.
  """

  file: str
  name: str
  source: str
  equation: str

  @property
  def page(self) -> str:
    file, _, argument = self.file.partition(":")
    argument = argument.replace(_TEACHER, "")
    stem = f"{pathlib.Path(file).stem}_{argument}" if argument else pathlib.Path(file).stem
    return f"methods/{stem.removeprefix('variants_')}.md"


def methods() -> list[Method]:
  """RLSP, the policy gradients, and what is an order of stages and not among these."""
  found = {"../rlsp_countdown.py": (
      "RLSP", "2502.06773", "r = right - c / length of the reasoning")} | table.POLICY_GRADIENTS
  found |= {file: (*row, "") for file, row in table.PIPELINES.items() if file not in found}
  return [Method(file, *row) for file, row in found.items()]


def page(method: Method) -> str:
  """The page as Markdown."""
  recipe = table.load(method.file)
  parts = [f"# {method.name}", *headline(method), *described(method), *run(method)]
  if recipe.stages[-1].kind == "rl":
    parts += differences(method, recipe)
  if len(recipe.stages) > 2 or recipe.stages[-1].kind != "rl":
    parts += ["## Stages", "\n".join(
        f"{number}. {cell(table.describe(stage))}"
        for number, stage in enumerate(recipe.stages, start=1))]
  return section(*parts, *functions(recipe), *measured(method), *written(method))


def headline(method: Method) -> Iterator[str]:
  if method.source:
    yield f"Source: {table.source_link(method.source)}"
  if method.equation:
    yield f"    {method.equation}"


def described(method: Method) -> Iterator[str]:
  """What the presets of the recipe say of themselves."""
  for name in preset_names(method):
    yield f"`presets.{name}`: {prose(vars(presets)[name])}"


def preset_names(method: Method) -> list[str]:
  """The functions of `presets` that a recipe names, for its argument where it has a table of them.
  """
  file, _, argument = method.file.partition(":")
  tree = ast.parse((table.FOLDER / file).read_text(encoding="utf-8"))
  for node in ast.walk(tree):
    if isinstance(node, ast.Dict):
      for key, value in zip(node.keys, node.values, strict=True):
        if argument and isinstance(key, ast.Constant) and key.value == argument:
          tree = value
  names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
           and isinstance(node.value, ast.Name) and node.value.id == "presets"]
  return list(dict.fromkeys(names))


def run(method: Method) -> Iterator[str]:
  yield "## Run it"
  path = (pathlib.Path("experiments/methods") / method.file).as_posix()
  path = path.replace("methods/../", "")
  name = pathlib.Path(method.page).stem
  yield f"    rlreason train --config={path} --workdir=runs/{name}"
  file = path.partition(":")[0]
  teacher = " TEACHER is the folder of the larger model." if _TEACHER in path else ""
  yield f"The recipe is [{file}](../../{file}).{teacher}"


def differences(method: Method, recipe: Recipe) -> Iterator[str]:
  """Slots beside GRPO's, and settings beside the defaults."""
  cells, base = (table.cells_of(shown) for shown in (recipe, table.load("grpo.py")))
  rows = [(name, base[name], value) for name, value in cells.items() if value != base[name]]
  yield "## What differs"
  if rows:
    yield "Of what fills the slots, beside [GRPO](grpo.md):"
    yield "\n".join(table.row(row) for row in (
        ("slot", "GRPO", method.name), ("---",) * 3, *rows))
  algorithm = [stage for stage in recipe.stages if stage.kind == "rl"][-1].algorithm
  settings = [(f"`{field.name}`", show(field.default), show(getattr(algorithm, field.name)))
              for field in dataclasses.fields(PolicyGradientConfig)
              if field.name not in _SIZES and getattr(algorithm, field.name) != field.default]
  if settings:
    yield ("Of the settings, beside the defaults, which are PPO's "
           "([all fields](../options.md#policygradientconfig)):")
    yield "\n".join(table.row(row) for row in (
        ("field", "default", "here"), ("---",) * 3, *settings))


def show(value: Any) -> str:
  return f"`{table.slot(value)}`" if isinstance(value, Slot) else show_value(value)


def functions(recipe: Recipe) -> Iterator[str]:
  """What the docstrings of the functions in the slots, and of the rewards, say: the formulas."""
  found = {slot.name: slot.function for slot in slots_in(recipe.stages)}
  found |= {f"Reward {spec.name}": combine.BUILT_IN[spec.name] for stage in recipe.stages
            for spec in vars(stage).get("rewards", ())
            if spec.weight and spec.function is None and spec.name in combine.BUILT_IN}
  if found:
    yield "## Formulas"
  for name, function in found.items():
    yield f"### {name}"
    yield prose(function)
    yield f"[Its options](../options.md#{name.lower().replace(' ', '-')})"


def slots_in(value: Any) -> Iterator[Slot]:
  if isinstance(value, Slot):
    yield value
  elif isinstance(value, tuple):
    for part in value:
      yield from slots_in(part)
  elif dataclasses.is_dataclass(value):
    for field in dataclasses.fields(value):
      yield from slots_in(getattr(value, field.name))


def prose(function: Any) -> str:
  """A docstring without its lists of arguments."""
  text = re.split(r"\n(?=(?:Args|Returns|Raises):\n)", inspect.getdoc(function) or "")[0]
  return "\n\n".join(map(cell, text.split("\n\n")))


def measured(method: Method) -> Iterator[str]:
  """The rows of docs/miniatures.json that are of this recipe, and the claims about them."""
  record = json.loads(miniatures.RECORD.read_text(encoding="utf-8"))
  files = {name: file for name, (file, _) in miniatures.RUNS.items()
           if re.split(r"[:,]\{", file)[0] == method.file.removesuffix(f":{_TEACHER}")}
  before = ["no training"] if any("{start}" in file for file in files.values()) else []
  names = list(files)
  runs = {name: record["runs"][name] for name in (*before, *names) if name in record["runs"]}
  claims = {key: value for key, value in record["claims"].items()
            if key.partition(": ")[0] in names}
  yield "## Measured"
  if not set(runs) & set(names):
    yield "Not run on the small test bed; [results.md](../results.md) has what was."
    return
  yield ("On chains of arithmetic, a model of 0.4M parameters, mean [by seed]; "
         "[results.md](../results.md#the-methods-in-miniature) has the others and what they mean.")
  yield "\n".join(miniatures.table(record | {"runs": runs}))
  lines = miniatures.directions(record | {"claims": claims})
  if len(lines) > 2:
    yield "\n".join(lines)


def written(method: Method) -> Iterator[str]:
  """What the recipe says of the paper's settings and of what to expect.

  Of a recipe for several methods that is its first line and the paragraphs that name this one.
  """
  file, _, argument = method.file.partition(":")
  text = ast.get_docstring(ast.parse((table.FOLDER / file).read_text(encoding="utf-8")))
  first, *others = text.split("\n\n")
  if [other.file.partition(":")[0] for other in methods()].count(file) > 1:
    others = [part for part in others if re.search(rf"\b{argument}\b", part)]
  yield "## What the recipe says"
  yield "\n\n".join(part if part.startswith("    ") else part.replace("<", "&lt;")
                    for part in (first, *others))
