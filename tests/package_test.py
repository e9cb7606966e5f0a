"""What the package and its folders export: at run time, and to type checkers and editors."""

import ast
import importlib
import importlib.util
import pathlib
import subprocess
import sys

import pytest

import rlreason as rr
from rlreason import users

PACKAGE = pathlib.Path(rr.__file__).parent
FOLDERS = sorted(
    ".".join(("rlreason", *path.parent.relative_to(PACKAGE).parts))
    for path in PACKAGE.rglob("__init__.py"))

WITH_CODE = ("rlreason.commands", "rlreason.training.stages")  # which import for themselves


def tree_of(package):
  parts = package.split(".")[1:]
  return ast.parse(PACKAGE.joinpath(*parts, "__init__.py").read_text(encoding="utf-8"))


def imported_names(statements):
  """Names that statements import of rlreason, and those of blocks for type checkers."""
  for node in statements:
    if isinstance(node, ast.ImportFrom) and node.module.startswith("rlreason"):
      yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.If):
      yield from imported_names(node.body)


def is_lazy(tree):
  return any(isinstance(node, ast.If) for node in tree.body)


@pytest.mark.parametrize("package", FOLDERS)
def test_what_is_imported_is_exported_to_type_checkers(package):
  """A name that is not in a literal `__all__` is private to them, in a package with py.typed."""
  tree = tree_of(package)
  exported = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
              and ast.unparse(node.targets[0]) == "__all__"]
  assert len(exported) == 1, f"{package}: give it an __all__ of literal names"
  assert list(exported[0]) == sorted(exported[0])
  imported = set(imported_names(tree.body)) - ({"lazy"} if is_lazy(tree) else set())
  missing = imported - set(exported[0]) if package not in WITH_CODE else set()
  assert not missing, f"{package}: add {sorted(missing)} to __all__"
  module = importlib.import_module(package)
  for name in exported[0]:
    assert getattr(module, name) is not None


@pytest.mark.parametrize("package", [
    "data", "data.selections", "data.tasks", "evaluation", "training", "training.settings"])
def test_folders_without_names_list_and_reach_all_of_their_modules(package):
  folder = PACKAGE.joinpath(*package.split("."))
  modules = {path.stem for path in folder.glob("*.py")} | {
      path.parent.name for path in folder.glob("*/__init__.py")}
  module = importlib.import_module(f"rlreason.{package}")
  listed = f"{folder / '__init__.py'}: list its modules, in __all__ and in the imports"
  assert set(dir(module)) == modules - {"__init__"}, listed
  assert set(imported_names(tree_of(f"rlreason.{package}").body)) == {*dir(module), "lazy"}, listed
  with pytest.raises(AttributeError, match=f"'rlreason.{package}' has no attribute 'recipes'"):
    module.recipes  # pylint: disable=pointless-statement


@pytest.mark.parametrize("old, new", users.MOVED.items())
def test_a_module_that_has_moved_is_found_by_its_old_name(old, new):
  package, _, name = old.rpartition(".")
  assert importlib.util.find_spec(old) is None, f"{old} is there again: take it out of users.MOVED"
  with pytest.warns(FutureWarning, match=f"{old} is now {new}"):
    module = getattr(importlib.import_module(package), name)
  assert module is importlib.import_module(new)


def test_the_package_reaches_its_modules_without_an_import_of_them():
  program = ("import sys, rlreason as rr; assert 'jax' not in sys.modules; "
             "print(rr.training.settings.recipe.Recipe.__name__, rr.data.tasks.countdown.__name__, "
             "rr.__version__)")
  found = subprocess.run(
      [sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert found.stdout == f"Recipe rlreason.data.tasks.countdown {rr.__version__}\n"


def test_type_checkers_see_the_same_names_as_a_program():
  """And none beside: `__getattr__` is hidden from them, so that a misspelt name is an error."""
  tree = tree_of("rlreason")
  (block,) = [node for node in tree.body if isinstance(node, ast.If)]
  assert ast.unparse(block.test) == "typing.TYPE_CHECKING"
  assert {*imported_names(block.body), "__version__"} == set(dir(rr))
  assert "__getattr__" not in ast.unparse(block.body)
  for node in block.body:  # the module that a name is said to be in has it
    for alias in node.names:
      module = importlib.import_module(
          f"rlreason.{alias.name}" if node.module == "rlreason" else node.module)
      assert getattr(module, alias.name, module) is getattr(rr, alias.name)
  assert (PACKAGE / "py.typed").is_file()
