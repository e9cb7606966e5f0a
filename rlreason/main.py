"""The command line, `rlreason COMMAND`: dispatches commands and turns errors into one line.

The commands are in `commands/`. Each is a thin wrapper over a function of the library, which it
imports when it runs, so that help and errors in flags are fast.

`--config.FIELD=VALUE` sets a field of the experiment, as config_flags of ml_collections does, but
accepts any existing field: that package accepts only fields that the file itself sets, with the
type that the file gives them. The dataclasses alone (`config.build`) decide which fields exist and
which values they allow.
"""

from collections.abc import Sequence
import contextlib
import difflib
import itertools
import logging
import os
import pathlib
import sys
from typing import Any

from absl import flags

from rlreason import files, processes, users, version
from rlreason.commands import COMMANDS, Command, Overrides, UsageError

EXIT_STOPPED = 1  # the run gave up: updates were not finite, or the disk is full
EXIT_USER = 2  # nothing was done; the message says what to change
EXIT_INTERRUPTED = 143  # 128 + SIGTERM; the run is saved
EXIT_PIPE = 141  # 128 + SIGPIPE: the reader of the output has gone

_MAX_MESSAGE = 4000  # characters
_LESS_MEMORY = "take smaller batches and shorter rows, remat, bfloat16, or more devices"
_EXTRAS = {"reasoning_gym": "real", "wandb": "wandb"}  # module -> the extra that brings it


class _Warnings(logging.Handler):
  """Prints `warning: ...` lines, each once: a file may be read for the checks and for a stage.

  With a lower level it also prints `info: ...` lines, of this package alone, or of all.
  """

  def __init__(self):
    super().__init__(logging.WARNING)
    self._said = set()

  def emit(self, record: logging.LogRecord):
    if record.levelno <= logging.WARNING and not processes.is_writer():
      return  # the process that writes says the same
    is_own = pathlib.Path(record.pathname).is_relative_to(pathlib.Path(__file__).parent)
    if self.level == logging.INFO and record.levelno < logging.WARNING and not is_own:
      return
    if record.levelno == logging.WARNING and users.is_of_installed(record.pathname):
      return  # a dependency's, which the user cannot change
    line = f"{record.levelname.lower()}: {self.format(record)}"
    if line not in self._said:
      self._said.add(line)
      print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: what follows the program's name; None for that of this process.

  Returns:
    The exit code: 0, or one of the above.
  """
  if argv is None:
    _use_utf8()
  argv = list(sys.argv[1:] if argv is None else argv)
  try:
    _set_environment()
    _dispatch(argv)
  except KeyboardInterrupt:
    return _fail("interrupted; what was saved before is kept", 130)
  except SystemExit as error:  # of other code: whatever its code, the command did not finish
    if isinstance(error.__context__, BrokenPipeError):
      return _leave_pipe()
    return _fail(f"something asked the process to end (SystemExit: {error})", EXIT_STOPPED)
  except BrokenPipeError:
    return _leave_pipe()
  except Exception as error:
    told = _explain(error)
    if told is None:
      raise
    processes.fail(error)
    code = _fail(*told)
    if code != EXIT_INTERRUPTED:
      processes.leave(code)
    return code
  return 0


def _leave_pipe() -> int:
  """Ends when the reader of the output has gone, as with `| head`."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  return EXIT_PIPE


def _explain(error: Exception) -> tuple[str, int] | None:
  """The message of an error, and the exit code; None: it is a bug, so show the traceback."""
  if isinstance(error, (UsageError, flags.Error)):
    return str(error), EXIT_USER
  if isinstance(error, FloatingPointError):
    return str(error), EXIT_STOPPED
  if isinstance(error, SyntaxError):
    return f"{error.filename}:{error.lineno}: {error.msg}", EXIT_USER
  if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
    return f"{error.name} is not installed: pip install -e '.[{_EXTRAS[error.name]}]'", EXIT_USER
  if isinstance(error, OSError) and error.errno in files.DISK_ERRORS:
    return (f"{error}; what was saved before is kept: free disk space, and run it again",
            EXIT_STOPPED)
  if isinstance(error, (OSError, ValueError)) and _is_for_user(error):
    return str(error), EXIT_USER
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return f"out of memory ({error}): what was saved before is kept; {_LESS_MEMORY}", EXIT_STOPPED
  if type(error).__name__ == "Interrupted":  # its module has many imports
    return str(error), EXIT_INTERRUPTED
  line = users.line_of(error)
  return line and (f"{line}: {type(error).__name__}: {error}", EXIT_USER)


def _dispatch(argv: list[str]):
  loud = [argument for argument in argv[:1] if argument in ("-v", "-vv")]
  name, *rest = [*argv[len(loud):], *loud] or [""]
  if name in ("", "-h", "--help", "help", *loud):
    print(_overview())
    return
  if name == "--version":
    print(version.describe())
    return
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ","
    raise UsageError(
        f"command: got {name!r}{hint} allowed: {', '.join(COMMANDS)} (see rlreason --help)")
  command = COMMANDS[name]
  values = flags.FlagValues()
  command.define(values)
  flags.DEFINE_bool("verbose", None, "say more of what is done", short_name="v", flag_values=values)
  flags.DEFINE_bool(
      "debug", None, "say all that libraries say, too", short_name="vv", flag_values=values)
  if {"-h", "--help"} & set(rest):
    print(_help(name, command, values))
    return
  overrides, rest = _split_overrides(rest)
  arguments = values([f"rlreason {name}", *map(_underscored, rest)])[1:]
  if arguments and not command.arguments:
    raise UsageError(f"arguments: got {arguments[0]!r}, allowed: flags, written --name=value")
  if command.arguments and not arguments:
    raise UsageError(f"{command.arguments} is missing; for example: {command.example}")
  if overrides and "config" not in values:
    raise UsageError(f"--config.{overrides[0][0]}: {name} takes no config")
  for flag in command.required:
    if not values[flag].value:
      raise UsageError(f"--{flag} is missing; for example: {command.example}")
  _set_verbosity(values)
  command.run(values, overrides, arguments)


def _split_overrides(argv: Sequence[str]) -> tuple[Overrides, list[str]]:
  """Takes `--config.a.b=value` and `--config.a.b value` out of the arguments."""
  overrides, rest = [], []
  arguments = iter(argv)
  for argument in arguments:
    name, equals, text = argument.partition("=")
    if not name.startswith(("--config.", "-config.")):
      rest.append(argument)
      continue
    field = name.partition(".")[2]
    text = text if equals else next(arguments, "--")
    if not all(field.split(".")) or (not equals and text.startswith("--")):
      raise UsageError(f"{argument}: write --config.FIELD=VALUE, such as --config.seed=1")
    overrides.append((field, text))
  return overrides, rest


def _underscored(argument: str) -> str:
  """`--max-new-tokens=8` -> `--max_new_tokens=8`; everything else as it is."""
  name, equals, value = argument.partition("=")
  return (f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name) + equals + value


def _overview() -> str:
  width = max(map(len, COMMANDS))
  lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
  return "\n".join([
      "rlreason: reinforcement learning that turns language models into reasoning models.", "",
      "usage: rlreason COMMAND [FLAGS]; rlreason COMMAND --help lists the flags;",
      "       rlreason --version", "", *lines, "",
      "example:", f"  {COMMANDS['train'].example}"])


def _help(name: str, command: Command, values: flags.FlagValues) -> str:
  usage = " ".join(filter(None, ("usage: rlreason", name, command.arguments, "[FLAGS]")))
  lines = [usage, "", command.summary, "", "flags:"]
  for flag in itertools.chain(*values.flags_by_module_dict().values()):  # in their order
    needed = " (required)" if flag.name in command.required else ""
    default = "" if flag.default is None else f" (default: {flag.default})"
    label = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    label = f"-{flag.short_name}" if flag.short_name else label
    lines.append(f"  {label:18} {' '.join(flag.help.split())}{needed}{default}")
  return "\n".join([*lines, "", "example:", f"  {command.example}"])


def _set_environment():
  """Quiets XLA and names a folder for compiled programs, before JAX is imported."""
  try:
    here = os.getcwd()
  except FileNotFoundError:
    raise UsageError("the folder that this was started in is gone: start it in another") from None
  if here not in sys.path:
    sys.path.append(here)  # where a user's reward functions are: "my_rewards:brevity"
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  users.hide_warnings_of_others()
  root = logging.getLogger()
  root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Warnings)]
  root.addHandler(_Warnings())
  # That there may be a GPU: `parallel.cpu_fallback` reports it too, and what to do.
  logging.getLogger("jax._src.xla_bridge").addFilter(_is_not_of_gpu)
  # That its cache is a temporary one where there is no home.
  logging.getLogger("matplotlib").setLevel(logging.ERROR)
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  try:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "rlreason" / "jax"
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):
    return  # no folder of the user's: programs are compiled anew each time
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  # There are many small programs here; JAX's limit of one second would exclude most of them.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _is_not_of_gpu(record: logging.LogRecord) -> bool:
  return "NVIDIA GPU may be present" not in record.getMessage()


def _set_verbosity(values: flags.FlagValues):
  """Shows the log levels that the flags ask for; without them, warnings."""
  if not (values.verbose or values.debug):
    return
  root = logging.getLogger()
  handlers = [handler for handler in root.handlers if isinstance(handler, _Warnings)]
  for filtering in (root, logging.getLogger("absl"), *handlers):
    filtering.setLevel(logging.DEBUG if values.debug else logging.INFO)


def _use_utf8():
  """Starts Python again in its UTF-8 mode where the locale is another, such as C in containers.

  Names of files would otherwise be read in one encoding and written in another, by libraries that
  know UTF-8 only.
  """
  if sys.getfilesystemencoding().lower() != "utf-8":
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # a model's texts may hold lone surrogates
      stream.reconfigure(errors="backslashreplace")


def _is_for_user(error: ValueError | OSError) -> bool:
  """Whether an error is a message to the user; others are bugs, shown with a traceback.

  Messages are raised by this package itself, or by the operating system about a file.
  """
  if isinstance(error, OSError) and error.filename is not None:
    return True
  trace = error.__traceback__
  while trace.tb_next is not None:
    trace = trace.tb_next
  source = pathlib.Path(trace.tb_frame.f_code.co_filename)
  return source.is_relative_to(pathlib.Path(__file__).parent)


def _fail(error: Any, exit_code: int) -> int:
  text = " ".join(str(error).split())
  if len(text) > _MAX_MESSAGE:  # a very long value
    text = f"{text[:_MAX_MESSAGE // 2]} ... {text[-_MAX_MESSAGE // 2:]}"
  with contextlib.suppress(OSError):  # the terminal is gone
    who = "" if processes.is_writer() else f" {processes.describe(processes.index())}:"
    print(f"rlreason:{who} {text}", file=sys.stderr, flush=True)
  return exit_code


if __name__ == "__main__":
  sys.exit(main())
