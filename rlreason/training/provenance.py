"""How a result was made, as summary.json and `evaluate --output` hold it under "provenance".

    seed, data, task, template, sampling, grader   what makes the result again
    problems                                       how many, their digest, the first prompt as read
    processes                                      command, versions, commit and devices

All but `processes` are the same wherever a config and its files are run. A process that goes on
with a run on something else has an entry of its own, from the step at which it began.

Not here: every field of a run, which is in config.json, and the files' checksums (workdir.py).
"""

import functools
import hashlib
from importlib import metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

from rlreason import config as config_lib, rollout
from rlreason.data.tasks.load import verifier_of
from rlreason.evaluation import completions as completions_lib
from rlreason.evaluation.completions import Completions
from rlreason.tokenizers import Tokenizer
from rlreason.training.settings.recipe import Recipe

PACKAGES = ("rlreason", "jax", "jaxlib", "flax", "optax", "numpy")
_GRADING = ("which_box", "verifier_options")  # fields of an evaluation that say how it grades
# When it is measured, and what is said of it, and not how.
_TIMES = ("every_stage", "every_steps", "stop_after", "expected")
_GIT_SECONDS = 10.0

Provenance = dict[str, Any]


def describe(recipe: Recipe, tokenizer: Tokenizer, inputs: dict[str, dict[str, str]]) -> Provenance:
  """What makes a result again; the same on every machine.

  Args:
    recipe: of the run or the evaluation.
    tokenizer: of the policy.
    inputs: checksums of the files that are read, as of `workdir.read_inputs`.
  """
  record = config_lib.with_defaults(config_lib.to_dict(recipe), recipe)
  evaluation = record["evaluation"]
  template = tokenizer.chat_template
  return {
      "seed": recipe.seed,
      "data": inputs,
      "task": record["task"],
      "template": {
          "sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
          "options": dict(tokenizer.chat_options),
          "end_tokens": [tokenizer.decode([i], skip_special=False) for i in tokenizer.eos_ids]},
      "sampling": {name: value for name, value in evaluation.items()
                   if name not in (*_GRADING, *_TIMES)},
      "grader": {
          "verifier": config_lib.to_dict(verifier_of(recipe.task)),
          "function": config_lib.to_dict(recipe.grading.function),
          "options": evaluation["verifier_options"] | {"which_box": evaluation["which_box"]},
          "timeout_seconds": recipe.reward_timeout},
  }


def of_problems(tokenizer: Tokenizer, completions: Completions) -> dict[str, Any]:
  """What was asked: the number of problems, their digest, and the first as the model reads it."""
  if not completions:
    return {"count": 0, "sha256": completions_lib.digest([]), "first_prompt": None}
  ids = rollout.encode_prompt(tokenizer, {"prompt": completions[0]["prompt"]})
  return {
      "count": len({row["problem"] for row in completions}),
      "sha256": completions_lib.digest(completions),
      "first_prompt": tokenizer.decode(ids, skip_special=False)}


def this_process() -> dict[str, Any]:
  """What this process is, and what it runs on."""
  devices = jax.devices()
  return {
      "command": _command(),
      "versions": {"python": platform.python_version(), **{name: _version(name)
                                                           for name in PACKAGES}},
      "commit": _commit(),
      "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind,
                  "count": len(devices)},
  }


def note_process(provenance: Provenance, step: int) -> None:
  """Adds this process, which begins after that many steps, unless the one before was as it is."""
  processes = provenance.setdefault("processes", [])
  now = this_process()
  if not processes or processes[-1] != {"from_step": processes[-1]["from_step"], **now}:
    processes.append({"from_step": step, **now})


def rows(provenance: Provenance) -> list[tuple[str, Any]]:
  """(name, value) of what a reader wants to see, for a table."""
  found = [(name, value) for name, value in provenance.items() if name != "processes"]
  for process in provenance.get("processes", ()):
    begin = f"from step {process['from_step']}: " if process["from_step"] else ""
    found += [(begin + name, value) for name, value in process.items() if name != "from_step"]
  return found


def _command() -> str:
  """What was typed; the program by its name alone."""
  program, *arguments = sys.argv or [""]
  path = pathlib.Path(program)
  ours = path.parent.name == "rlreason" and path.name in ("main.py", "__main__.py")
  return shlex.join(["rlreason" if ours else path.name, *arguments])


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


@functools.cache
def _commit() -> str | None:
  """The commit of this code, with "-dirty" where files differ from it; None: no git checkout."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / ".git").exists():  # installed, maybe below a repository of somebody
    return None
  commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "-uno")
  return commit and commit + ("-dirty" if changes else "")


def _git(root: pathlib.Path, *arguments: str) -> str | None:
  try:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True,
        timeout=_GIT_SECONDS)
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()
