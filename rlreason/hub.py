"""Paths as users write them, and ids of the Hugging Face Hub given instead of a path.

A message states how to download what such an id names; nothing is downloaded here.
"""

import os
import pathlib
import re

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ADDRESS = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(datasets/)?"
    r"([\w.-]+/[\w.-]+)(?:/.*)?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILES = (".gguf", ".json", ".jsonl", ".csv", ".parquet", ".arrow", ".gz", ".txt", ".py", ".model")
_FOLDERS = {"model": "models", "dataset": "data"}  # kind -> the folder used in examples


def hint(path: str | os.PathLike, kind: str = "model") -> str:
  """How to download a missing path, if it may be an id or an address of the Hub.

  Args:
    path: as it was given; it does not exist.
    kind: model or dataset.

  Returns:
    The end of a message, from its semicolon on; empty if it looks like a path of this machine: a
    file, or below an existing folder.
  """
  text = str(path)
  address = _ADDRESS.fullmatch(text)
  if address:
    kind, name = ("dataset" if address[1] else "model"), address[2]
  elif _ID.fullmatch(text) and not text.endswith(_FILES) and not pathlib.Path(text).parent.exists():
    name = text
  else:
    return ""
  folder = f"{_FOLDERS[kind]}/{name.rpartition('/')[2]}"
  of_kind = " --repo-type dataset" if kind == "dataset" else ""
  return (f"; if it is an id of the Hugging Face Hub, `hf download {name}{of_kind} --local-dir "
          f"{folder}` makes {folder}, which can be given")


def local_path(name: str, path: str) -> str:
  """A path as a user writes it, with `~` expanded.

  Args:
    name: that of the field it is the value of, for the message.
    path: of this machine.

  Raises:
    ValueError: it is an address (gs://, s3://), has a NUL or is not UTF-8, or there is no home for
      its `~`.
  """
  if _URL.match(path):
    raise ValueError(
        f"{name}: got {path!r}, allowed: a path of this machine (mount the bucket, or copy it)"
        f"{hint(path)}")
  if "\0" in path or not _is_text(path):
    raise ValueError(f"{name}: got {path!r}, allowed: a path in UTF-8, without NUL")
  expanded = os.path.expanduser(path)
  if path.startswith("~") and expanded == path and not os.path.lexists(path):
    raise ValueError(f"{name}: got {path!r}, allowed: a path of a user who has a home directory")
  return expanded


def _is_text(path: str) -> bool:
  try:
    path.encode("utf-8")
  except UnicodeEncodeError:  # bytes of another encoding
    return False
  return True
