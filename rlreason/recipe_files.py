"""The recipes that come with the package, and the file that `--config` names.

In a checkout they are `experiments/` beside the package; a wheel has that folder in the package. A
recipe is a Python file there that defines `get_config`; its name is its path without `.py`.
"""

import ast
import difflib
import os
import pathlib

from rlreason import hub

_PACKAGE = pathlib.Path(__file__).parent
_NAME = "experiments"
FOLDER = _PACKAGE / _NAME if (_PACKAGE / _NAME).is_dir() else _PACKAGE.parent / _NAME


def find_all() -> dict[str, pathlib.Path]:
  """Name -> file of every recipe, such as `rlsp_countdown` or `methods/dapo`, in their order."""
  found = {file.relative_to(FOLDER).with_suffix("").as_posix(): file
           for file in FOLDER.rglob("*.py")
           if "\ndef get_config(" in file.read_text(encoding="utf-8")}
  return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


def summary(file: pathlib.Path) -> str:
  """The first line of a recipe's docstring."""
  return (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]


def locate(path: str) -> tuple[str, str]:
  """The file and the argument that a user's `--config` names.

  Args:
    path: `FILE.py`, or a name: of a file here without its `.py`, else of a recipe that comes with
      the package, whose folder may be left out (`dapo` is `methods/dapo`). Each may end in
      `:ARGUMENT`.

  Returns:
    The path of an existing file, and the argument or "".

  Raises:
    FileNotFoundError: there is no such file and no such recipe.
    ValueError: it is not a path, or a file that is not Python.
  """
  path = hub.local_path("config", path)
  file, colon, argument = path.partition(".py:")
  file += ".py" if colon else ""
  if os.path.isfile(file):
    if not file.endswith(".py"):
      raise ValueError(
          f"config: got {file!r}, allowed: a Python file (.py) that defines get_config()")
    return file, argument
  name = file if colon else path.partition(":")[0]
  argument = argument if colon else path.partition(":")[2]
  if name and os.path.isfile(f"{name}.py"):
    return f"{name}.py", argument
  recipes = find_all()
  found = _find(name, recipes) if not name.endswith(".py") else None
  if found is None:
    raise FileNotFoundError(f"config file {path!r} not found; {_advice(name, recipes)}")
  return str(recipes[found]), argument


def _find(name: str, recipes: dict[str, pathlib.Path]) -> str | None:
  """The recipe of a name, with or without its folder; of two, the one higher up."""
  return next((full for full in recipes if name in (full, full.rpartition("/")[2])), None)


def _advice(name: str, recipes: dict[str, pathlib.Path]) -> str:
  wanted = name.removeprefix("./").removeprefix(f"{_NAME}/").removesuffix(".py")
  stems = {full.rpartition("/")[2]: full for full in reversed(recipes)}
  close = _find(wanted, recipes) or next(iter(difflib.get_close_matches(
      wanted, [*recipes, *stems], n=1)), None)
  if close:
    return f"did you mean {close}? It comes with rlreason, as do those of `rlreason recipes`"
  return ("give a Python file that defines get_config(), such as experiments/rlsp_countdown.py, or "
          "a name of `rlreason recipes`")
