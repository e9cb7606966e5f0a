"""Picks the tokenizer that the files of a folder call for."""

from collections.abc import Iterable
import os
import pathlib

from rlreason.tokenizers.gguf import open_gguf, read_metadata, tokenizer_from_gguf
from rlreason.tokenizers.hf import HFTokenizer, load_hf, read_chat_template, read_json
from rlreason.tokenizers.sentencepiece import load_sentencepiece

SENTENCEPIECE_NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# Of the files that a model brings with its weights; they are read, and some copied as they are.
_TEXTS = (".jinja", ".json", ".model", ".txt")


def check_links(folder: pathlib.Path) -> None:
  """Refuses a folder whose texts are links to files elsewhere.

  A folder comes from others: a chat template that is a link to a private file would be read, and
  written into every model that is made of it. The links of a Hugging Face cache, from
  `models--NAME/snapshots/REVISION/` to `models--NAME/blobs/`, are what they should be; and weights
  may lie anywhere.

  Raises:
    ValueError: a link leads out of the folder; names it.
  """
  inside = folder.resolve()
  for path in folder.iterdir() if folder.is_dir() else ():
    target = path.resolve() if path.is_symlink() and path.suffix in _TEXTS else None
    if target is None or target.is_relative_to(inside):
      continue
    store = target.parent
    if not (store.name == "blobs" and store.parent.name.startswith("models--")):
      raise ValueError(f"{path}: a link to {target}, allowed: files, and links within the folder "
                       "or into a Hugging Face cache; copy the file if it belongs to the model")


def load_tokenizer(path: str | os.PathLike, *, end_tokens: Iterable[str] = ()) -> HFTokenizer:
  """Loads a tokenizer from a Hugging Face folder, a sentencepiece `.model` or a `.gguf` file.

  In a folder tokenizer.json is preferred to a sentencepiece model.

  Args:
    path: the folder or file.
    end_tokens: further tokens that end a completion, put first.

  Raises:
    FileNotFoundError: nothing there; lists the files looked for.
    ValueError: a file is damaged or of a kind that is not supported.
  """
  path = pathlib.Path(path)
  check_links(path)
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
      config = read_json(path / "tokenizer_config.json")
      return load_sentencepiece(
          path / name, chat_template=read_chat_template(path, config), end_tokens=end_tokens,
          add_begin=config.get("add_bos_token", True))
  raise FileNotFoundError(
      f"no tokenizer in {path}; looked for tokenizer.json, {', '.join(SENTENCEPIECE_NAMES)}")
