"""Code of the user's in this process: configs and reward functions.

What it raises goes through, with its place noted for the command line. It cannot end the process:
an exit code of 0 would say that the run came to its end.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import sysconfig
import traceback

_OTHERS = (pathlib.Path(__file__).parent, *(
    pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))


@contextlib.contextmanager
def contained(what: str) -> Iterator[None]:
  """Runs code that asks this process to end (sys.exit, os._exit) as code that fails.

  Args:
    what: the code is, for the message.

  Raises:
    ValueError: it asked for that.
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
  """The last `file:line` of the user's in an error that `contained` let through, if any."""
  return getattr(error, "line_of_user", None)


def _line_of(error: Exception) -> str | None:
  lines = [f"{frame.f_code.co_filename}:{line}"
           for frame, line in traceback.walk_tb(error.__traceback__)
           if os.path.isfile(frame.f_code.co_filename)
           and not any(map(pathlib.Path(frame.f_code.co_filename).is_relative_to, _OTHERS))]
  return lines[-1] if lines else None
