"""Imports of rlreason go down its layers, never up, and never in a circle.

Reads the syntax trees, so that imports inside functions count as well and nothing is run.
"""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "rlreason"

# The first name below rlreason -> its layer. A module may import from its own layer or below.
LAYERS = {
    "boxes": 0, "config": 0, "config_files": 0, "files": 0, "hub": 0, "lazy": 0, "last_words": 0,
    "masks": 0, "processes": 0, "recipe_files": 0, "records": 0, "slots": 0, "steps": 0,
    "tracking": 0, "types": 0, "users": 0, "version": 0, "workers": 0,
    "losses": 1, "parallel": 1,
    "models": 2, "tokenizers": 2,
    "weights": 3, "rewards": 3, "sampling": 3,
    "data": 4, "searching": 4,
    "rollout": 5,
    "algorithms": 6, "evaluation": 6,
    "training": 7,
    "api": 8, "commands": 8, "main": 8,
    "__init__": 9, "__main__": 9,
}

# What a folder must not see although it lies below or beside it.
FORBIDDEN = {
    "models": {"tokenizers"},  # a model takes ids
    "losses": {"models", "config"},  # pure array maths
    "algorithms": {"tokenizers", "data", "rewards"},  # arrays only: no strings, no files
    "rewards": {"models", "sampling", "weights"},  # text in, floats out
}

# Modules and attributes that only these folders may name.
ONLY_IN = {
    "pmap": ("parallel",),
    "shard_map": ("parallel",),
    "Mesh": ("parallel",),
    "ml_collections": ("config", "config_files"),
    "pickle": (),
    "torch": (),
    "tensorflow": (),
}


def module_name(path):
  """`rlreason/losses/kl.py` -> `rlreason.losses.kl`; an `__init__.py` -> its folder's name."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_name(module):
  """The first name below rlreason: `rlreason.losses.kl` -> `losses`."""
  return module.split(".")[1] if "." in module else "__init__"


def imported_modules(tree, module, is_package, modules):
  """Yields the rlreason modules that a syntax tree imports.

  `from rlreason.losses import kl` counts as an import of `rlreason.losses.kl` where that is a
  module, and of `rlreason.losses` where `kl` is one of its names.
  """
  package = module.split(".") if is_package else module.split(".")[:-1]
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom):
      base = [] if not node.level else package[:len(package) - node.level + 1]
      source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
      for alias in node.names:
        full = f"{source}.{alias.name}"
        if full in modules:
          yield full
        elif source in modules:
          yield source


def read_trees():
  """Returns {path: syntax tree} of the package."""
  return {path: ast.parse(path.read_text(encoding="utf-8"), str(path))
          for path in sorted(PACKAGE.rglob("*.py"))}


def read_imports(trees):
  """Returns {module: set of rlreason modules it imports}."""
  modules = {module_name(path) for path in trees}
  imports = {}
  for path, tree in trees.items():
    name = module_name(path)
    found = imported_modules(tree, name, path.name == "__init__.py", modules)
    imports[name] = set(found) - {name}
  return imports


TREES = read_trees()
IMPORTS = read_imports(TREES)


def test_every_module_has_a_layer():
  unknown = sorted({top_name(module) for module in IMPORTS} - set(LAYERS))
  assert not unknown, f"give {unknown} a layer in LAYERS and in the design"


def behind(module):
  """Modules of rlreason that an import of this one brings along by its own imports and theirs."""
  found, left = set(), {module}
  while left:
    found |= left
    left = {target for name in left for target in IMPORTS[name]} - found
  return found - {module}


@pytest.mark.parametrize("module, most", [("rlreason.algorithms.policy_gradient", 35)])
def test_a_module_stands_on_few_others(module, most):
  found = sorted(behind(module))
  assert len(found) <= most, f"{len(found)} modules behind {module}, at most {most}: {found}"


def test_imports_go_down():
  up = [f"{module} (layer {LAYERS[top_name(module)]}) imports {target} "
        f"(layer {LAYERS[top_name(target)]})"
        for module, targets in IMPORTS.items() for target in sorted(targets)
        if LAYERS[top_name(target)] > LAYERS[top_name(module)]]
  assert not up, "\n".join(up)


def test_no_module_imports_in_a_circle():
  graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError with the circle


def test_no_folder_imports_in_a_circle():
  folders = {}
  for module, targets in IMPORTS.items():
    seen = folders.setdefault(top_name(module), set())
    seen |= {top_name(target) for target in targets} - {top_name(module)}
  graphlib.TopologicalSorter(folders).prepare()


def test_folders_do_not_see_what_they_must_not():
  seen = [f"{module} imports {target}" for module, targets in IMPORTS.items()
          for target in sorted(targets) if top_name(target) in FORBIDDEN.get(top_name(module), ())]
  assert not seen, "\n".join(seen)


def names_used(tree):
  """Names of imported modules and of attributes, anywhere in a syntax tree."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (part for alias in node.names for part in alias.name.split("."))
    elif isinstance(node, ast.ImportFrom):
      yield from (node.module or "").split(".")
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Attribute):
      yield node.attr


def test_names_are_used_only_where_allowed():
  outside = [f"{name} in {module_name(path)}, allowed in {ONLY_IN[name]}"
             for path, tree in TREES.items() for name in set(names_used(tree)) & ONLY_IN.keys()
             if top_name(module_name(path)) not in ONLY_IN[name]]
  assert not outside, "\n".join(outside)


# A part of a folder -> the modules that it may import, by the beginning of names.
ROOMS = {
    "workers": (),
    "data.selections": ("data.selections", "data.messages", "data.tasks.base", "lazy"),
    "training.settings": (  # what a run is to do, and nothing that does it
        "training.settings", "training.optimizer", "algorithms", "config", "data.tasks",
        "evaluation", "lazy", "losses", "models", "parallel", "rewards", "sampling", "slots"),
    "training.stages.base": (  # the contract of a stage
        "training.settings.base", "algorithms.base", "data.pipeline", "data.tasks.base",
        "models.config", "parallel", "tokenizers.base", "types"),
}
# Of a module: how many others may stand behind it, by whatever way.
MOST_BEHIND = {"training.loop": 60}


def behind(module):
  """The modules that a module imports, that those import, and so on."""
  found, todo = set(), [module]
  while todo:
    new = IMPORTS[todo.pop()] - found
    found |= new
    todo.extend(new)
  return found


def is_in(module, room):
  return f"{module}.".startswith(f"rlreason.{room}.")


def test_rooms_import_only_what_they_may():
  modules = {room: [name for name in IMPORTS if is_in(name, room)] for room in ROOMS}
  assert all(modules.values()), f"no such room: {modules}"
  seen = [f"{module} imports {target}" for room, names in modules.items() for module in names
          for target in sorted(IMPORTS[module])
          if not any(is_in(target, allowed) for allowed in (room, *ROOMS[room]))]
  assert not seen, "\n".join(seen)


def test_the_loop_knows_no_kind_of_stage():
  """It receives them as arguments: it imports only the interface of stages (`stages/base.py`)."""
  seen = [target for target in sorted(behind("rlreason.training.loop"))
          if is_in(target, "training.stages") or is_in(target, "training.settings")]
  assert seen == ["rlreason.training.settings.base", "rlreason.training.settings.graph",
                  "rlreason.training.stages.base"]


def test_few_modules_stand_behind_a_hub():
  counts = {module: len(behind(f"rlreason.{module}")) for module in MOST_BEHIND}
  over = [f"{module}: {count} modules behind it, at most {MOST_BEHIND[module]}"
          for module, count in counts.items() if count > MOST_BEHIND[module]]
  assert not over, "\n".join(over)


def test_an_import_is_resolved_to_its_module():
  modules = {"rlreason", "rlreason.losses", "rlreason.losses.kl", "rlreason.masks"}
  tree = ast.parse(
      "import jax\nfrom rlreason import masks\n"
      "def f():\n  from rlreason.losses import kl, gae\n"
      "from . import kl\nfrom ..masks import mean\n")
  found = list(imported_modules(tree, "rlreason.losses.policy", False, modules))
  assert sorted(found) == ["rlreason.losses", "rlreason.losses.kl", "rlreason.losses.kl",
                           "rlreason.masks", "rlreason.masks"]
