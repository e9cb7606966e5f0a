"""Converts a model in any supported format to a Hugging Face folder."""

from collections.abc import Iterator
import os
import pathlib
import shutil

import numpy as np

from rlreason import files
from rlreason.tokenizers.base import Tokenizer
from rlreason.tokenizers.hf import read_json
from rlreason.tokenizers.load import SENTENCEPIECE_NAMES
from rlreason.weights import load, safetensors, stream

# Optional files of a folder that are copied unchanged.
_COPIED = (
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "generation_config.json", *SENTENCEPIECE_NAMES)
_CODE = "auto_map"  # names Python files of the source, which are neither run nor copied


def convert(
    source: str | os.PathLike, destination: str | os.PathLike, *, dtype: str | None = None,
    max_shard_bytes: int = load.MAX_SHARD_BYTES,
) -> None:
  """Reads a model in any supported format and writes it as a Hugging Face folder.

  A folder is copied tensor by tensor, so that without a `dtype` every tensor stays bitwise the
  same, even if types differ; config.json and the tokenizer's files are unchanged, except for
  references to Python code.

  Args:
    source: a folder or a `.gguf` file.
    destination: the folder to write, new or empty.
    dtype: float32, bfloat16 or float16; None keeps the type of each tensor of a folder, and makes
      those of a GGUF file float32.
    max_shard_bytes: most bytes of tensors in one file.

  Raises:
    FileNotFoundError, ValueError: as `load_model`, before anything is written; or a value does not
      fit float16.
  """
  source, destination = pathlib.Path(source), pathlib.Path(destination)
  check_destination(source, destination, dtype)
  if source.suffix == ".gguf" or not source.is_dir():
    held = "bfloat16" if dtype == "bfloat16" else "float32"
    model = load.load_model(source, dtype=held)
    with files.filling(destination):
      load.save_model(destination, *model, dtype=dtype, max_shard_bytes=max_shard_bytes)
    return
  _, _, checkpoint, tokenizer = load.open_folder(source)
  with checkpoint, files.filling(destination):
    _copy(source, destination, checkpoint, tokenizer, dtype, max_shard_bytes)


def _copy(
    source: pathlib.Path, destination: pathlib.Path, checkpoint: safetensors.Checkpoint,
    tokenizer: Tokenizer, dtype: str | None, max_shard_bytes: int,
) -> None:
  for name in checkpoint.names:  # tensors that are not parameters are copied as well
    safetensors.check_kind(checkpoint.stored_type(name), name, str(source))
    if not checkpoint.shape(name):
      raise ValueError(f"{source}: {name}: got the shape (), allowed: one axis or more")
  destination.mkdir(parents=True, exist_ok=True)
  (destination / "config.json").unlink(missing_ok=True)
  tensors = {name: safetensors.Stored(
      safetensors.KINDS[dtype] if dtype else checkpoint.stored_type(name), checkpoint.shape(name))
             for name in checkpoint.names}
  with load.writing(destination, tensors) as counted:
    safetensors.write(
        destination, tensors, lambda name: counted(name, _read_pieces(checkpoint, name)),
        max_shard_bytes=max_shard_bytes)
  load.save_tokenizer(destination, tokenizer)
  _copy_files(source, destination)
  fields = read_json(source / "config.json")
  if dtype:
    fields = {name: value for name, value in fields.items() if name != "dtype"}
    fields["torch_dtype"] = dtype
  fields.pop(_CODE, None)
  load.write_json(destination / "config.json", fields)


def check_destination(
    source: str | os.PathLike, destination: str | os.PathLike, dtype: str | None
) -> None:
  """Checks, before any work, that a model can be written.

  Raises:
    ValueError: the destination is the source or not empty, and is never replaced; or no folder can
      hold that type.
  """
  load.check_stored_dtype(dtype)
  destination = pathlib.Path(destination)
  if pathlib.Path(source).resolve() == destination.resolve():
    raise ValueError(f"destination: got the source {str(source)!r}, allowed: another folder")
  files.check_writable("destination", destination)
  there = next(destination.iterdir(), None) if destination.exists() else None
  if there is not None:
    raise ValueError(
        f"destination: {str(there)!r} is there already, allowed: a new or empty folder")


def _read_pieces(checkpoint: safetensors.Checkpoint, name: str) -> Iterator[np.ndarray]:
  length, *row = checkpoint.shape(name)
  step = max(1, stream.PIECE_ELEMENTS // max(1, int(np.prod(row))))
  for low in range(0, length, step):
    yield checkpoint.read(name, slice(low, min(low + step, length)))


def _copy_files(source: pathlib.Path, destination: pathlib.Path) -> None:
  """Copies the tokenizer's files of the source over the generated ones."""
  for name in _COPIED:
    if (source / name).is_file():
      shutil.copyfile(source / name, destination / name)
  config = read_json(source / "tokenizer_config.json")
  if config:
    config.pop(_CODE, None)
    load.write_json(destination / "tokenizer_config.json", config)
