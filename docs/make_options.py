"""Writes docs/options.md: every field of a config, and every option of a function it may name.

    python docs/make_options.py

Names, types and defaults are of the signatures, ranges are what the classes themselves answer to a
value out of range, and what a field does is the comment beside it, or the docstring.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import functools
import inspect
import io
import pathlib
import re
import sys
import textwrap
import tokenize
import types
import typing
from typing import Annotated, Any, Literal, Union

from absl import flags

from rlreason import commands, main, slots
from rlreason.algorithms.policy_gradient import config as policy_gradient, presets
from rlreason.algorithms.preference import PAIRED, UNPAIRED
from rlreason.algorithms.process_reward import SCALAR, THREE_WAY
from rlreason.algorithms.reward_model import (
    PAIRED as PAIRED_SCORES, RANKED, UNPAIRED as UNPAIRED_SCORES)
from rlreason.config import AtMost, Path
from rlreason.data.selections import completions, pairs, problems, restarts
from rlreason.losses import (
    advantages, corrections, covariance, distill, entropy, policy, trust)
from rlreason.losses import preference as preference_losses
from rlreason.losses import process_reward as process_reward_losses
from rlreason.losses import reward_model as reward_model_losses
from rlreason.rewards import VERIFIERS, combine
from rlreason.rollout import step_labels
from rlreason.slots import Slot
from rlreason.training.settings import custom
from rlreason.training.settings.kinds import STAGES
from rlreason.training.settings.recipe import Recipe, from_config

DOCUMENT = pathlib.Path(__file__).with_name("options.md")
INTRO = """# Options

Every field of a config and every option of the functions that it may name, made from their
signatures by `python docs/make_options.py`. [usage.md](usage.md) says how they go together.

A field is set by its path on the command line, and so is an option of a slot, here those of a
stage `rl`:

    --config.rl.algorithm.kl_coef=0.01
    --config.rl.algorithm.policy_loss.function=rlreason.losses:gspo
    --config.rl.algorithm.policy_loss.options.clip_high=0.0004
    --config.rl.rewards.exploration.options.c=1000

In a path, STAGE is the name of a stage in `config.stages`, and NAME that of a reward. A default of
— means that the field must be given.
"""
# The slots of a config: where they stand, the modules with their functions, the arrays that these
# may take, and the one without which a function is of another slot.
SLOTS = (
    ("config.STAGE.algorithm.advantage", (advantages,), policy_gradient.ADVANTAGE_ARRAYS,
     "is_kept"),
    ("config.STAGE.algorithm.policy_loss", (policy, trust, covariance, entropy),
     policy_gradient.LOSS_ARRAYS, "log_probs"),
    ("config.STAGE.algorithm.selection", (covariance, entropy), policy_gradient.SELECTION_ARRAYS,
     "mask"),
    ("config.STAGE.algorithm.correction", (corrections,), policy_gradient.CORRECTION_ARRAYS,
     "mask"),
    ("config.STAGE.preference.loss", (preference_losses,), (*PAIRED, *UNPAIRED), ""),
    ("config.STAGE.reward_model.loss", (reward_model_losses,),
     (*PAIRED_SCORES, *UNPAIRED_SCORES, *RANKED), ""),
    ("config.STAGE.process_reward.loss", (process_reward_losses,), (*SCALAR, *THREE_WAY), ""),
    ("config.STAGE.search", (step_labels,), ("solution",), "solution"),
    ("config.STAGE.distill.divergence", (distill,), ("student", "teacher"), "teacher"),
    ("config.STAGE.select", (completions, pairs, restarts, problems), ("rows", "encode"), "rows"),
    ("config.STAGE.make", (), custom.OFFERED, ""))
# Recipes that together have an instance of every class with ranges.
EXAMPLES = (
    "rlsp_countdown", "rlsp_smollm2", "grpo_gsm8k", "methods/r1", "methods/ppo_rlhf",
    "methods/preference:dpo", "methods/distill_on_policy:TEACHER",
    "methods/process_reward")
HEADER = "| {} | type and range | default | what it does |\n| --- | --- | --- | --- |\n"


def document() -> str:
  """The whole page."""
  return "\n".join([
      INTRO, "## Fields of a config\n", *class_sections(),
      "## Functions of slots\n", *slot_sections(),
      "## Rewards\n", "Options of the reward NAME, `config.STAGE.rewards.NAME.options`.\n",
      *reward_sections(),
      "## Presets\n",
      "Functions of `rlreason.algorithms.presets`, which fill `config.STAGE.algorithm` for the "
      "methods of [algorithms.md](algorithms.md).\nEach takes any field of "
      "[PolicyGradientConfig](#policygradientconfig) beside its own options.\n", preset_table(),
      "## Flags\n", *flag_sections()])


def write():
  DOCUMENT.write_text(document(), encoding="utf-8")


# Fields of dataclasses.


def class_sections() -> Iterator[str]:
  """A section for each dataclass that a config holds."""
  for cls, paths in classes().items():
    kind = ', `kind="{}"`'.format(*typing.get_args(typing.get_type_hints(cls)["kind"])) if (
        "kind" in typing.get_type_hints(cls)) else ""
    rows = [field_row(cls, paths[0], *field) for field in fields(cls) if field[0].name != "kind"]
    yield section(f"### {cls.__name__}", f"`{'`, `'.join(paths)}`{kind}", summary(cls),
                  table("field", rows))


def field_row(
    cls: type, path: str, field: dataclasses.Field, hint: Any, meaning: str
) -> tuple[str, ...]:
  """The cells of a field; one that holds a section says what that is, in the words of its class."""
  kind = show_type(hint).replace("slot", f"[slot](#{slot_anchor(f'{path}.{field.name}')})")
  inner = list(dataclasses_in(hint))
  allowed = allowed_of(cls, field.name, hint)
  return (field.name, f"{kind}: {cell(allowed)}" if allowed else kind, show_default(field),
          meaning or (inspect.getdoc(inner[0]).split("\n")[0] if len(inner) == 1 else ""))


def slot_anchor(path: str) -> str:
  return f"slot-{path.removeprefix('config.STAGE.').replace('.', '')}"


@functools.cache
def classes() -> dict[type, list[str]]:
  """Dataclass -> the paths at which a config has it, from the top down."""
  found: dict[type, list[str]] = {}

  def visit(cls, path):
    if path not in found.setdefault(cls, []):
      found[cls].append(path)
      for field, hint, _ in fields(cls):
        for inner in dataclasses_in(hint):
          visit(inner, inner_path(path, field.name))

  visit(Recipe, "config")
  return found


def inner_path(path: str, name: str) -> str:
  """Sections of stages and rewards stand under their own names, which the user chooses."""
  return {"stages": f"{path}.STAGE", "rewards": f"{path}.rewards.NAME"}.get(name, f"{path}.{name}")


def dataclasses_in(hint: Any) -> Iterator[type]:
  """Those that an annotation names; a slot is none, as it is documented by its functions."""
  if dataclasses.is_dataclass(hint) and hint is not Slot:
    yield hint
  for argument in typing.get_args(hint):
    yield from dataclasses_in(argument)


def fields(cls: type) -> list[tuple[dataclasses.Field, Any, str]]:
  """(field, its annotation, what it does) of a dataclass, without what a reader cannot choose."""
  hints = typing.get_type_hints(cls, include_extras=True)
  said = comments(inspect.getsource(cls)) | arguments(inspect.getdoc(cls) or "", "Attributes")
  skipped = {"pool"} | ({"name"} if cls in STAGES.values() or cls is combine.RewardSpec else set())
  return [(field, hints[field.name], said.get(field.name, ""))
          for field in dataclasses.fields(cls) if field.init and field.name not in skipped]


def comments(source: str) -> dict[str, str]:
  """Field -> the comment behind it, or else above it; one above stands for the fields that follow.

  An empty line or a comment behind a field ends what the comment above is about.

  Args:
    source: of a class.
  """
  source = textwrap.dedent(source)
  found, above, name, depth = {}, "", "", 0
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.string, 0)
    if token.type == tokenize.COMMENT:
      text = token.string.lstrip("# ")
      if token.line.lstrip().startswith("#"):
        above = text if name else f"{above} {text}".strip()
        name = ""
      else:
        found[name], above = text, ""
    elif token.type == tokenize.NL and not token.line.strip():
      above = ""
    elif token.type == tokenize.NAME and depth == 0 and re.match(
        rf"  {token.string}: ", token.line) and token.start[1] == 2:
      name = token.string
      found[name] = above
    elif token.type == tokenize.NAME and token.string == "def":
      break
  return {name: text for name, text in found.items() if text}


def allowed_of(cls: type, name: str, hint: Any) -> str:
  """What the class itself says is allowed when it is given -1; empty where it takes that."""
  example = instances().get(cls)
  if example is None or not is_number(hint):
    return ""
  try:
    dataclasses.replace(example, **{name: -1})
  except ValueError as error:
    said = re.search(rf"^{name}: got .*?, allowed: (.*)$", str(error))
    # Without what is of the example alone.
    return re.sub(r"=\d+| \(\d+\)", "", said[1]) if said else ""
  return ""


def is_number(hint: Any) -> bool:
  """Whether an annotation is of a number, or of one that may be left out."""
  if typing.get_origin(hint) in (Annotated, Union, types.UnionType):
    return any(map(is_number, typing.get_args(hint)))
  return hint in (int, float)


@functools.cache
def instances() -> dict[type, Any]:
  """Dataclass -> one of it, of `EXAMPLES`."""
  found: dict[type, Any] = {}

  def visit(value):
    if isinstance(value, tuple):
      for part in value:
        visit(part)
    elif dataclasses.is_dataclass(value):
      found.setdefault(type(value), value)
      for field in dataclasses.fields(value):
        visit(getattr(value, field.name))

  for name in EXAMPLES:
    visit(from_config(commands.load_config(name)))
  return found


# Options of functions.


def slot_sections() -> Iterator[str]:
  for path, modules, arrays, needed in SLOTS:
    yield section(f"### Slot {path.removeprefix('config.STAGE.')}",
                  f"`{path}`. Arrays that it may take: `{'`, `'.join(arrays)}`.")
    for module in modules:
      for function in functions_of(module, arrays, needed):
        yield section(
            f"#### {function.__name__}", f"`{public_module(function)}:{function.__name__}`",
            summary(function), option_table(function))


def functions_of(module: types.ModuleType, arrays: tuple[str, ...], needed: str) -> list[Callable]:
  """The public functions of a module that a slot with these arrays may hold."""
  found = []
  for name, function in vars(module).items():
    if inspect.isfunction(function) and function.__module__ == module.__name__:
      taken = {p.name for p in inspect.signature(function).parameters.values()
               if p.kind == p.POSITIONAL_OR_KEYWORD}
      if not name.startswith("_") and taken <= set(arrays) and needed in (*taken, ""):
        found.append(function)
  return found


def public_module(function: Callable) -> str:
  package = function.__module__.rpartition(".")[0]
  return package if hasattr(sys.modules[package], function.__name__) else function.__module__


def reward_sections() -> Iterator[str]:
  for name, function in sorted(combine.BUILT_IN.items()):
    options = slots.option_names(function, combine.READ_COLUMNS)
    yield section(f"### Reward {name}", summary(function), option_table(function, options))
  for name, cls in VERIFIERS.items():
    rows = [(field.name, show_type(hint), show_default(field), meaning)
            for field, hint, meaning in fields(cls)]
    yield section(
        f"### Verifier {name}", "Options of the reward `verifier`, where the task's verifier is "
        f'`"{name}"`.', summary(cls), table("option", rows))


def preset_table() -> str:
  """The options of presets, beside the fields of the config."""
  rows = []
  for name, preset in vars(presets).items():
    if inspect.isfunction(preset) and not name.startswith("_") and (
        preset.__module__ == presets.__name__):
      rows += [(f"{name}({option[0]})", *option[1:]) for option in options_of(preset)]
  return table("preset (option)", rows)


def option_table(function: Callable, names: Collection[str] | None = None) -> str:
  return table("option", options_of(function, names)) if options_of(function, names) else (
      "No options.\n")


def options_of(function: Callable, names: Collection[str] | None = None) -> list[tuple[str, ...]]:
  """(name, type, default, meaning) of the keyword-only parameters."""
  said = arguments(inspect.getdoc(function) or "", "Args")
  hints = typing.get_type_hints(function, include_extras=True)
  parameters = inspect.signature(function).parameters.values()
  return [(p.name, show_type(hints[p.name]), show_value(p.default), said.get(p.name, ""))
          for p in parameters if p.kind == p.KEYWORD_ONLY or (
              function.__module__ == presets.__name__ and p.kind == p.POSITIONAL_OR_KEYWORD)
          if names is None or p.name in names]


def flag_sections() -> Iterator[str]:
  for name, command in main.COMMANDS.items():
    values = flags.FlagValues()
    command.define(values)
    rows = [(f"--{flag}", values[flag].flag_type().replace("string", "text"),
             "—" if flag in command.required else show_value(values[flag].default),
             values[flag].help.partition(";\n")[0]) for flag in sorted(values)]
    yield section(f"### rlreason {name}", command.summary, table("flag", rows) if rows else "")


# Text.


def arguments(docstring: str, heading: str) -> dict[str, str]:
  """Name -> what a docstring says of it under `Args:` or `Attributes:`."""
  _, found, rest = f"\n{docstring}".partition(f"\n{heading}:\n")
  block = re.split(r"\n(?=\S)", rest, maxsplit=1)[0] if found else ""
  entries = re.split(r"(?m)^  (?=[\w*])", block)[1:]
  said = {}
  for entry in entries:
    names, _, text = " ".join(entry.split()).partition(": ")
    for name in names.split(", "):
      said[name.lstrip("*")] = text
  return said


def summary(thing: Any) -> str:
  """The first paragraph of a docstring."""
  return cell((inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " "))


def section(*parts: str) -> str:
  return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def table(first: str, rows: list[tuple[str, ...]]) -> str:
  return HEADER.format(first) + "".join(
      f"| `{name}` | {kind} | {default} | {cell(meaning)} |\n"
      for name, kind, default, meaning in rows)


def cell(text: str) -> str:
  """Text as Markdown shows it as it is; what stands in backticks stays code."""
  parts = " ".join(text.split()).split("`")
  parts[::2] = [part.replace("<", "&lt;").replace("*", r"\*") for part in parts[::2]]
  return "`".join(parts).replace("|", r"\|")


def show_type(hint: Any) -> str:
  """An annotation in words."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    limits = [f", at most {note.limit:,}" for note in inner[1:] if isinstance(note, AtMost)]
    return show_type(inner[0]) + "".join(limits)
  if origin is Literal:
    return ", ".join(f"`{choice!r}`" for choice in inner)
  if origin in (Union, types.UnionType):
    return " or ".join(map(show_type, inner))
  if hint is Slot:
    return "slot"
  if dataclasses.is_dataclass(hint):
    return f"[{hint.__name__}](#{hint.__name__.lower()})"
  if origin is tuple:
    parts = ", ".join(show_type(part) for part in inner if part is not Ellipsis)
    return f"tuple of {parts}" if Ellipsis in inner else f"({parts})"
  if len(inner) == 2 and issubclass(origin, Mapping):
    return f"mapping of {show_type(inner[0])} to {show_type(inner[1])}"
  plain = {
      Path: "path", type(None): "None", typing.Any: "anything", object: "anything", str: "text"}
  if hint in plain:
    return plain[hint]
  if origin is Callable or hint is Callable:
    return "function"
  return getattr(hint, "__name__", str(hint))


def show_default(field: dataclasses.Field) -> str:
  if field.default_factory is not dataclasses.MISSING:
    return show_value(field.default_factory())
  return show_value(field.default)


def show_value(value: Any) -> str:
  if value is dataclasses.MISSING or value is inspect.Parameter.empty:
    return "—"
  if isinstance(value, Slot):
    return f"[`{value.name}`](#{value.name})"
  if dataclasses.is_dataclass(value):
    return "its defaults"
  text = repr(value)
  return f"`{text}`" if "`" not in text else cell(text)


if __name__ == "__main__":
  DOCUMENT.write_text(document(), encoding="utf-8")
  print(f"wrote {DOCUMENT}")
