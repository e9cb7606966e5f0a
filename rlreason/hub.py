"""Ids of the Hugging Face Hub given where a path stands: how to have what they name on the disk.

Nothing is downloaded here.
"""

import os
import pathlib
import re

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ADDRESS = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(datasets/)?"
    r"([\w.-]+/[\w.-]+)(?:/.*)?")
_FILES = (".gguf", ".json", ".jsonl", ".csv", ".parquet", ".arrow", ".gz", ".txt", ".py", ".model")
_FOLDERS = {"model": "models", "dataset": "data"}  # kind -> where examples put it


def hint(path: str | os.PathLike, kind: str = "model") -> str:
  """How to download what is not found, where it may be an id or an address of the Hub.

  Args:
    path: as it was given; nothing is there.
    kind: model or dataset.

  Returns:
    The end of a message, from its semicolon on; empty where it looks like a path of this machine: a
    file, or below a folder that is there.
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
