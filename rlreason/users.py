"""Runs the user's code in this process: configs and reward functions.

Its exceptions pass through, and their file and line are noted for the command line. It cannot end
the process: an exit code of 0 would mean that the run finished. Its warnings are shown, those of
other code are not. Workers load this file without the package, so it imports nothing of it.
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import pathlib
import sys
import sysconfig
import traceback
import warnings

# Modules that have moved -> their new names. For one release the old name remains an attribute of
# its package, and configs may name functions by it.
MOVED = {
    "rlreason.data.completions": "rlreason.data.selections.completions",
    "rlreason.data.groups": "rlreason.data.group_packing",
    "rlreason.data.pairs": "rlreason.data.selections.pairs",
    "rlreason.data.prompts": "rlreason.data.fitting",
    "rlreason.data.restarts": "rlreason.data.selections.restarts",
    "rlreason.data.sampled": "rlreason.data.selections.rows",
    "rlreason.data.selection": "rlreason.data.selections.problems",
    "rlreason.forcing": "rlreason.rollout.forcing",
    "rlreason.training.checks": "rlreason.training.settings.checks",
    "rlreason.training.custom_stage": "rlreason.training.settings.custom",
    "rlreason.training.group_plans": "rlreason.training.stages.rl",
    "rlreason.training.recipe": "rlreason.training.settings.recipe",
    "rlreason.training.rl_metrics": "rlreason.training.stages.rl_metrics",
    "rlreason.training.stage_configs": "rlreason.training.settings.kinds",
    "rlreason.training.stages.draw": "rlreason.training.stages.rl",
    "rlreason.training.stages.group_plans": "rlreason.training.stages.rl",
}
_OTHERS = (pathlib.Path(__file__).parent, *(
    pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
_named: set[pathlib.Path] = set()  # files and folders of modules that a config names
_show_warning = warnings.showwarning


@contextlib.contextmanager
def contained(what: str) -> Iterator[None]:
  """Turns a request to end this process (sys.exit, os._exit) into an error.

  Args:
    what: the code is, for the message.

  Raises:
    ValueError: the code made such a request.
  """
  leave, process = os._exit, os.getpid()

  def on_exit(status):
    if os.getpid() != process:  # a copy of the process, which may end
      leave(status)
    raise SystemExit(status)

  os._exit = on_exit
  try:
    yield
  except SystemExit as error:
    if os.getpid() != process:
      raise
    raise ValueError(
        f"{what} asked the process to end (SystemExit: {error}), allowed: to return or to raise an "
        "error") from error
  except Exception as error:
    error.line_of_user = _line_of(error)
    raise
  finally:
    os._exit = leave


def line_of(error: Exception) -> str | None:
  """The last `file:line` of the user's code in an error that `contained` let through, if any."""
  return getattr(error, "line_of_user", None)


def current_name(function: str) -> str:
  """A function "package.module:function" under the current name of its module."""
  module, colon, name = function.partition(":")
  return f"{MOVED.get(module, module)}{colon}{name}"


def name_module(name: str) -> None:
  """Treats a module, and the package it is in, as the user's, wherever it is installed."""
  top = name.partition(".")[0]
  with contextlib.suppress(ImportError, ValueError):  # reported where it is imported
    spec = importlib.util.find_spec(top)
    if spec is not None and spec.origin and top != "rlreason":
      origin = pathlib.Path(spec.origin)
      _named.add(origin.parent if origin.name == "__init__.py" else origin)


def is_of_user(file: str) -> bool:
  """Whether a file is neither Python's, nor this package's, nor of another installed package."""
  is_in = pathlib.Path(file).is_relative_to
  return os.path.isfile(file) and (any(map(is_in, _named)) or not any(map(is_in, _OTHERS)))


def is_of_installed(file: str) -> bool:
  """Whether a file is Python's, or of an installed package."""
  return (os.path.isfile(file) and not is_of_user(file)
          and not pathlib.Path(file).is_relative_to(_OTHERS[0]))


def hide_warnings_of_others() -> None:
  """Shows only warnings of the user's code, unless Python was told which to show."""
  if not sys.warnoptions:
    warnings.showwarning = _show_warning_of_user


def _show_warning_of_user(message, category, filename, lineno, file=None, line=None):
  if is_of_user(filename):
    _show_warning(message, category, filename, lineno, file, line)


def _line_of(error: Exception) -> str | None:
  lines = [f"{frame.f_code.co_filename}:{line}"
           for frame, line in traceback.walk_tb(error.__traceback__)
           if is_of_user(frame.f_code.co_filename)]
  return lines[-1] if lines else None
