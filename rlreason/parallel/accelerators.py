"""Detects that JAX runs on the CPU of a machine that has an accelerator."""

from collections.abc import Mapping
import glob
import os
from typing import NamedTuple

import jax


class _Kind(NamedTuple):
  name: str
  files: str  # a pattern of its device files
  variables: tuple[str, ...]  # of the environment; each indicates one
  hidden_by: str  # a variable that hides it if it is "" or "-1"
  extra: str  # of JAX, with what it needs


_KINDS = (
    _Kind("NVIDIA GPU", "/dev/nvidia[0-9]*", (), "CUDA_VISIBLE_DEVICES", "cuda12"),
    _Kind("NVIDIA GPU", "/dev/dxg", (), "CUDA_VISIBLE_DEVICES", "cuda12"),  # in WSL
    _Kind("TPU", "/dev/accel[0-9]*", ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "COLAB_TPU_ADDR"), "",
          "tpu"),
    _Kind("AMD GPU", "/dev/kfd", (), "HIP_VISIBLE_DEVICES", "rocm7-local"),
)


def cpu_fallback() -> str:
  """A warning with advice; empty if JAX uses the accelerator, or was told not to.

  It is told by JAX_PLATFORMS, or by hidden devices (CUDA_VISIBLE_DEVICES="").
  """
  if jax.default_backend() != "cpu" or jax.config.jax_platforms:
    return ""
  kind = _find(os.environ)
  if kind is None:
    return ""
  return (f"JAX runs on the CPU, though this machine seems to have a {kind.name}: "
          f"pip install 'jax[{kind.extra}]=={jax.__version__}', or set JAX_PLATFORMS=cpu if that "
          "is meant")


def _find(environment: Mapping[str, str], root: str = "/") -> _Kind | None:
  """The first visible accelerator."""
  for kind in _KINDS:
    is_hidden = environment.get(kind.hidden_by) in ("", "-1")
    is_there = glob.glob(os.path.join(root, kind.files.lstrip("/"))) or any(
        environment.get(name) for name in kind.variables)
    if is_there and not is_hidden:
      return kind
  return None
