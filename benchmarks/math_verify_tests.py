"""Pairs of a gold answer and a completion, read from the tests of Math-Verify.

The tests come with its source distribution; none of them is included here:

  pip download --no-deps --no-binary :all: math-verify==0.9.0
  tar xzf math_verify-0.9.0.tar.gz          # the folder is math_verify-0.9.0/tests

Every table of `pytest.mark.parametrize` with a gold answer, a prediction and a verdict is used; the
files are parsed, never run. Math-Verify finds answers in free text, ours in boxes: Math-Verify gets
the prediction unchanged, ours gets its last formula in a box if it has none.
"""

import ast
import pathlib
import re
from typing import Any, Iterator, NamedTuple

_NAMES = ({"gold"}, {"pred"}, {"expected", "result"})  # of a table's columns
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$((?:\\\$|[^$])+?)(?<!\\)\$", re.DOTALL)
_CUE = re.compile(r"(?:answer is|solution is)\s*:?\s*(.+?)(?:\.\s|\.?$)", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(
    r"(?:(?<=\s)|^)([-+]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?\s?(?:%|[$€]|m²)?)(?![\w{])")
_SHORT = re.compile(r"[-+\d.\\$]\S*(?: \d+)*(?: [a-z%]+)?|\S+")


class Row(NamedTuple):
  """One row of a table: `name` is file::function[row]; `prediction` is what Math-Verify reads."""

  name: str
  gold: str
  prediction: str
  completion: str  # with a box
  is_right: bool


class Rule(NamedTuple):
  """A decision of docs/verifier.md by which `tests` get the label `is_right` instead of their own.
  """

  reason: str
  is_right: bool
  tests: tuple[str, ...]


def _names(table: str, *rows: int) -> tuple[str, ...]:
  return tuple(f"test_{table}[{row}]" for row in rows)


POLICY = (
    Rule("the last box counts; boxes that a comma or \"and\" joins are one answer, others are not",
         False, (*_names("all.py::test_math_extraction_additional_cases", 17, 27),
                 *_names("boxed.py::test_boxed", 0),
                 *_names("open_thoughts.py::test_open_thoughts", 14, 27))),
    Rule("a box that is never closed does not count", False,
         _names("numina_cases.py::test_numina_cases", 24)),
    Rule("numbers must be exactly equal, not rounded", False,
         _names("all.py::test_complex_math_expressions", 0, 7, 13)),
    Rule("a gold answer that is a plain number requires a plain number", False,
         _names("all.py::test_latex_notation", 4)),
    Rule("a comma in a gold answer is never a decimal point", False,
         _names("all.py::test_number_extraction", 6, 17)),
    Rule("contradicts itself: 1/2 = 10/9, 1 = 0", False, (
        *_names("all.py::test_latex_notation", 9), *_names("all.py::test_relations_math", 21))),
    Rule("the names of variables matter (there an option)", False,
         _names("strict.py::test_strict_variable_comparison", 1)),
    Rule("labelled right by mistake: 1 + 1/e is not 1 - 1/e", False,
         _names("yujianll.py::test_string_extraction", 9)),
    Rule("about finding a formula over several lines of text; ours gets it in a box", True,
         _names("all.py::test_latex_notation", 5, 6)),
    Rule("an interval and the equivalent inequality are equal (there an option)", True,
         _names("all.py::test_set_rel_assymetry", 3)),
)


def read(folder: pathlib.Path) -> list[Row]:
  """All pairs of the test files in `folder`.

  Raises:
    ValueError: there are none.
  """
  rows = [row for path in sorted(folder.glob("test_*.py")) for row in _read_file(path)]
  if not rows:
    raise ValueError(f"no tests of Math-Verify with pairs in {folder}")
  return rows


def _read_file(path: pathlib.Path) -> Iterator[Row]:
  for function in ast.walk(ast.parse(path.read_text("utf-8"))):
    if not isinstance(function, ast.FunctionDef):
      continue
    for decorator in function.decorator_list:
      for i, values in enumerate(_read_table(decorator)):
        gold, prediction, verdict = values
        yield Row(f"{path.name}::{function.name}[{i}]", gold, prediction, in_box(prediction),
                  bool(verdict))


def _read_table(decorator: ast.expr) -> list[list[Any]]:
  """[gold, prediction, verdict] of each literal row; computed rows are left out."""
  if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("parametrize"):
    return []
  columns = [name.strip() for name in str(ast.literal_eval(decorator.args[0])).split(",")]
  chosen = [i for names in _NAMES for i, column in enumerate(columns) if column in names]
  if len(chosen) != len(_NAMES):
    return []
  rows = []
  for row in decorator.args[1].elts:
    try:
      values = ast.literal_eval(row)
    except ValueError:
      continue
    rows.append([values[i] for i in chosen])
  return rows


def in_box(prediction: str) -> str:
  r"""`prediction`, or `\boxed{}` of its last formula or number, or that after "answer is"."""
  if _BOX.search(prediction):
    return prediction
  cues = _CUE.findall(prediction)
  text = cues[-1] if cues else prediction
  found = [(match.end(), _content(match)) for match in _FORMULA.finditer(text)]
  if not found and not cues and _SHORT.fullmatch(text):
    return rf"\boxed{{{text}}}"
  between = _FORMULA.sub(lambda match: "#" * len(match.group()), text)
  found += [(match.end(), match.group()) for match in _NUMBER.finditer(between)]
  if found:
    end, text = max(found)
    rest = between[end:].strip()
    text = f"{text} {rest}" if re.fullmatch(r"%|percent|pct", rest) else text
  return rf"\boxed{{{text.strip()}}}"


def _content(formula: re.Match) -> str:
  return next(group for group in formula.groups() if group)
