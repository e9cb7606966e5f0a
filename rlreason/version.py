"""The version of rlreason."""

import importlib.metadata
import pathlib
import platform
import subprocess

VERSION = "0.1.0"  # defined only here: setup.py reads it


def commit() -> str | None:
  """The commit of a checkout, with a + if tracked files were changed since.

  Returns:
    None if the package is installed without its repository, or git fails.
  """
  root = pathlib.Path(__file__).parents[1]
  if not (root / ".git").exists():
    return None
  git = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=12"]
  try:
    return subprocess.run(
        git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def describe() -> str:
  """Version, commit, JAX and Python in a line; JAX is not imported."""
  found = commit()
  parts = [f"rlreason {VERSION}" + (f" (commit {found})" if found else "")]
  try:
    parts.append(f"jax {importlib.metadata.version('jax')}")
  except importlib.metadata.PackageNotFoundError:
    pass
  return ", ".join([*parts, f"Python {platform.python_version()}"])
