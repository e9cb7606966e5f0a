"""Description of a process and its machine: the part "processes" of a provenance."""

import functools
from importlib import metadata
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

from rlreason import processes

PACKAGES = ("rlreason", "jax", "jaxlib", "flax", "optax", "numpy")
_GIT_SECONDS = 10.0


def this_process() -> dict[str, Any]:
  """What this process is, and what it runs on."""
  devices = jax.devices()
  return {
      "command": _command(),
      "versions": {"python": platform.python_version(), **{name: _version(name)
                                                           for name in PACKAGES}},
      "commit": _commit(),
      "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind,
                  "count": len(devices),
                  **({"processes": processes.count()} if processes.count() > 1 else {})},
  }


def note_process(provenance: dict[str, Any], step: int) -> None:
  """Adds this process, which starts after `step` steps, unless it equals the previous one."""
  noted = provenance.setdefault("processes", [])
  now = this_process()
  if not noted or noted[-1] != {"from_step": noted[-1]["from_step"], **now}:
    noted.append({"from_step": step, **now})


def _command() -> str:
  """The command line, with only the name of the program."""
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
  """The commit of this code, with "-dirty" if files differ from it; None: no git checkout."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / ".git").exists():  # installed, maybe within another repository
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
