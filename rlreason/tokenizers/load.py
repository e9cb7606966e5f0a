"""Chooses the tokenizer for the files of a folder."""

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
from typing import Any

import tokenizers

from rlreason import hub
from rlreason.tokenizers.gguf import open_gguf, read_metadata, tokenizer_from_gguf
from rlreason.tokenizers.hf import (
    HFTokenizer, folder_end_ids, load_hf, read_chat_template, read_json)
from rlreason.tokenizers.sentencepiece import load_sentencepiece

SENTENCEPIECE_NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# Size limits, in bytes, of the files next to a model's weights, which are read or copied.
_TEXTS = {".jinja": 2**22, ".json": 2**28, ".model": 2**28, ".txt": 2**28}


def check_texts(folder: pathlib.Path) -> None:
  """Raises if the text files of a folder are links to files elsewhere, or too large.

  A folder is untrusted: a chat template that is a link to a private file would be read, and written
  into every model made from it. The links of a Hugging Face cache, from
  `models--NAME/snapshots/REVISION/` to `models--NAME/blobs/`, are allowed; and weights may be
  anywhere.

  Raises:
    ValueError: names the file.
  """
  inside = folder.resolve()
  for path in folder.iterdir() if folder.is_dir() else ():
    if path.suffix not in _TEXTS or not path.is_file():
      continue
    size = path.stat().st_size
    if size > _TEXTS[path.suffix]:  # a sparse file may have none of them on disk
      raise ValueError(f"{path}: got {size} bytes, allowed: up to {_TEXTS[path.suffix]}")
    target = path.resolve()
    store = target.parent
    is_cached = store.name == "blobs" and store.parent.name.startswith("models--")
    if path.is_symlink() and not is_cached and not target.is_relative_to(inside):
      raise ValueError(f"{path}: a link to {target}, allowed: files, and links within the folder "
                       "or into a Hugging Face cache; copy the file if it belongs to the model")


def load_tokenizer(path: str | os.PathLike, *, end_tokens: Iterable[str] = ()) -> HFTokenizer:
  """Loads a tokenizer from a Hugging Face folder, a sentencepiece `.model` or a `.gguf` file.

  In a folder tokenizer.json is preferred to a sentencepiece model.

  Args:
    path: the folder or file.
    end_tokens: further tokens that end a completion, put first.

  Raises:
    FileNotFoundError: nothing was found; lists the expected files.
    ValueError: a file is damaged or has an unsupported format.
  """
  path = pathlib.Path(path)
  check_texts(path)
  if path.suffix == ".model":
    return load_sentencepiece(path, end_tokens=end_tokens)
  if path.suffix == ".gguf":
    reader = open_gguf(path)
    try:
      return tokenizer_from_gguf(read_metadata(reader), end_tokens=end_tokens)
    except ValueError as error:
      raise ValueError(f"{path}: {error}") from error
  if (path / "tokenizer.json").is_file():
    return load_hf(path, end_tokens=end_tokens)
  for name in SENTENCEPIECE_NAMES:
    if (path / name).is_file():
      return _load_sentencepiece_folder(path, name, end_tokens)
  raise FileNotFoundError(
      f"no tokenizer in {path}; looked for tokenizer.json, {', '.join(SENTENCEPIECE_NAMES)}"
      f"{hub.hint(path)}")


def _load_sentencepiece_folder(
    folder: pathlib.Path, name: str, end_tokens: Iterable[str]
) -> HFTokenizer:
  """The model file, with the tokens and the template from the files next to it."""
  config = read_json(folder / "tokenizer_config.json")
  tokenizer = load_sentencepiece(
      folder / name, chat_template=read_chat_template(folder, config), end_tokens=end_tokens,
      add_begin=config.get("add_bos_token", True), added=_added_tokens(folder, config))
  try:
    eos_ids = [*tokenizer.eos_ids, *folder_end_ids(folder, tokenizer.backend, config)]
    return dataclasses.replace(tokenizer, eos_ids=tuple(dict.fromkeys(eos_ids)))
  except (ValueError, TypeError) as error:  # a TypeError: one of another type among the ids
    raise ValueError(f"{folder}: {error}") from error


def _added_tokens(
    folder: pathlib.Path, config: Mapping[str, Any]
) -> dict[int, tokenizers.AddedToken]:
  """Id -> token, from added_tokens.json (older folders) and tokenizer_config.json."""
  try:
    found = {i: {"content": token} for token, i in read_json(folder / "added_tokens.json").items()}
    found |= {int(i): token for i, token in config.get("added_tokens_decoder", {}).items()}
    return {i: tokenizers.AddedToken(
        token["content"], special=bool(token.get("special")), normalized=False)
            for i, token in found.items()}
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(f"{folder}: not a list of added tokens: {error!r}") from error
