"""`rlreason completion`: scripts that complete commands, flags and recipes in a shell."""

from collections.abc import Mapping
import functools

from absl import flags

from rlreason import recipe_files
from rlreason.commands import base

# The word before the cursor is cut from the line, because bash breaks words at "=".
_BASH = """\
# eval "$(rlreason completion bash)"
_rlreason() {{
  local line=${{COMP_LINE:0:COMP_POINT}} word command choices=""
  word=${{line##* }} command=${{line#* }} command=${{command%% *}}
  case "$line" in
    "${{line%% *}} $word") choices="{commands}" ;;
    *) case "$command $word" in
{values}
      *=*) ;;
{flags}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$choices" -- "${{word#*=}}"))
  case "$word" in --config=*) COMPREPLY+=($(compgen -f -- "${{word#*=}}")) ;; esac
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o default -F _rlreason rlreason"""

_ZSH = """\
# eval "$(rlreason completion zsh)", after compinit
_rlreason() {{
  if (( CURRENT == 2 )); then compadd -- {commands}; return; fi
  local word=$PREFIX
  [[ $word == *=* ]] && compset -P '*='
  case "$words[2] $word" in
{values}
    *=*) _files; return ;;
{flags}
  esac
  [[ $word == --config=* ]] && _files
}}
compdef _rlreason rlreason"""

_SHELLS = {
    "bash": (_BASH, '      "{key}"*) choices="{choices}" ;;'),
    "zsh": (_ZSH, '    "{key}"*) compadd {options}-- {choices} ;;')}


def command(commands: Mapping[str, base.Command]) -> base.Command:
  """The command, which needs the list of all others."""
  return base.Command(
      "Prints a script that completes commands, flags and recipes, for the shell to eval.",
      "rlreason completion bash", (), lambda values: None,
      functools.partial(_run, commands), "bash|zsh")


def _run(
    commands: Mapping[str, base.Command], values: flags.FlagValues, overrides: base.Overrides,
    arguments: list[str]):
  del values, overrides  # there are none
  if len(arguments) != 1 or arguments[0] not in _SHELLS:
    raise base.UsageError(
        f"completion: got {' '.join(arguments)!r}, allowed: {', '.join(_SHELLS)}")
  print(make_script(arguments[0], commands))


def make_script(shell: str, commands: Mapping[str, base.Command]) -> str:
  """A script for bash or zsh that completes the names of commands, their flags and some values."""
  template, case = _SHELLS[shell]
  values, names = [], []
  for name, found in commands.items():
    defined = flags.FlagValues()
    found.define(defined)
    for flag in _flags(defined):
      choices = _choices(flag)
      if choices:
        values.append(case.format(
            key=f"{name} --{flag.name}=", choices=" ".join(choices), options=""))
    words = found.arguments.split("|") if "|" in found.arguments else []
    words += [text for flag in _flags(defined) for text in _written(flag)]
    names.append(case.format(key=f"{name} ", choices=" ".join(words), options="-S '' "))
  return template.format(
      commands=" ".join(commands), values="\n".join(values), flags="\n".join(names))


def _flags(defined: flags.FlagValues) -> list[flags.Flag]:
  return [flag for found in defined.flags_by_module_dict().values() for flag in found]


def _choices(flag: flags.Flag) -> list[str]:
  if flag.name == "config":
    found = recipe_files.find_all()
    return [*found, *(name.rpartition("/")[2] for name in found if "/" in name)]
  return list(getattr(flag.parser, "enum_values", None) or ())


def _written(flag: flags.Flag) -> list[str]:
  return [f"--{flag.name}", f"--no{flag.name}"] if flag.boolean else [f"--{flag.name}="]
