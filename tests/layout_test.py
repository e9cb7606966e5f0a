"""Budgets of size: the long tail of functions and files is what makes code hard to read.

And one form of messages: what is wrong is read, and matched, in the same place of each.
"""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("rlreason", "benchmarks", "docs", "experiments")

MAX_FUNCTION_LINES = 60
MAX_LOOP_LINES = 120  # training/loop.py is the hub and may be read in one piece
MAX_ARGUMENTS = 8
MAX_FILE_LINES = 500
MAX_COLUMNS = 100


def sources(folders=FOLDERS):
  for folder in folders:
    for path in sorted((ROOT / folder).rglob("*.py")):
      yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def functions(text):
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      yield node


def count_arguments(function):
  """Arguments a caller may pass; `self` and `cls` are not among them."""
  names = [argument.arg for argument in
           (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
  return len([name for name in names if name not in ("self", "cls")])


def test_functions_are_short():
  long = []
  for path, text in sources():
    limit = MAX_LOOP_LINES if path.match("rlreason/training/loop.py") else MAX_FUNCTION_LINES
    for function in functions(text):
      lines = function.end_lineno - function.lineno + 1
      if lines > limit:
        long.append(f"{path}:{function.lineno} {function.name}: {lines} lines, at most {limit}")
  assert not long, "\n".join(long)


def test_functions_take_few_arguments():
  wide = [f"{path}:{function.lineno} {function.name}: {count_arguments(function)} arguments"
          for path, text in sources() for function in functions(text)
          if count_arguments(function) > MAX_ARGUMENTS]
  assert not wide, "\n".join(wide)


def test_files_are_short():
  long = [f"{path}: {len(text.splitlines())} lines" for path, text in sources()
          if len(text.splitlines()) > MAX_FILE_LINES]
  assert not long, "\n".join(long)


def test_lines_are_short():
  long = [f"{path}:{number}" for path, text in sources((*FOLDERS, "tests"))
          for number, line in enumerate(text.splitlines(), 1) if len(line) > MAX_COLUMNS]
  assert not long, "\n".join(long)


def shown(node):
  """The text of a string in the code, each value put into it as {}."""
  return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


def test_messages_say_what_was_got_and_what_is_allowed():
  """`name: got X, allowed: Y` everywhere, not `name must be Y. Got: X`."""
  old = []
  for path, text in sources(("rlreason",)):
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.JoinedStr) or (
          isinstance(node, ast.Constant) and isinstance(node.value, str)):
        message = node.value if isinstance(node, ast.Constant) else shown(node)
        if re.search(r"\bGot:|\bmust\b.*\bGot\b", message, re.DOTALL):
          old.append(f"{path}:{node.lineno} {message}")
  assert not old, "\n".join(old)
