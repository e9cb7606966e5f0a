"""Tokenizers run by the `tokenizers` package, from the files of a Hugging Face folder.

The other modules of this folder (`gguf.py`, `sentencepiece.py`, `word.py`) build the same class
from other sources, so that every tokenizer is saved the same way. Not here: chat messages
(`chat.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import Any

import tokenizers

from rlreason import files
from rlreason.tokenizers.chat import with_turn_end

_TAG = re.compile(r"([<\[])/?(\w+)([>\]])")
_MAX_TEMPLATE_BYTES = 4_000_000
_DEFAULT_TEMPLATE = "default"  # the one used when a folder names several chat templates
_MAX_JSON_BYTES = 2**26  # of the files read as objects, which hold settings and names
_MAX_JSON_DEPTH = 100  # objects and lists within one another


@dataclasses.dataclass(frozen=True)
class HFTokenizer:
  """A `tokenizers.Tokenizer` with the further attributes of `base.Tokenizer`."""

  backend: tokenizers.Tokenizer
  eos_ids: tuple[int, ...]
  pad_id: int
  bos_id: int | None = None
  chat_template: str | None = None
  chat_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
  turn_end_id: int | None = None
  num_rows: int | None = None

  def __post_init__(self):
    if not self.eos_ids:
      raise ValueError("eos_ids: got none, allowed: at least one token that ends a completion")
    # A tokenizer.json may contain the truncation and padding of its training run.
    self.backend.no_truncation()
    self.backend.no_padding()
    for name, ids in (("eos_ids", self.eos_ids), ("pad_id", (self.pad_id,)),
                      ("bos_id", () if self.bos_id is None else (self.bos_id,))):
      unknown = [i for i in ids if not isinstance(i, int) or not 0 <= i < self.vocab_size
                 or self.backend.id_to_token(i) is None]
      if unknown:
        raise ValueError(f"{name}: got {unknown}, allowed: ids below {self.vocab_size}")

  @functools.cached_property  # walks the whole vocabulary
  def vocab_size(self) -> int:
    return max(self.get_vocab().values()) + 1

  def with_rows(self, count: int) -> "HFTokenizer":
    """The tokenizer of a model whose embedding has `count` rows, fewer than there are tokens.

    Raises:
      ValueError: no end token has a row.
    """
    eos_ids = tuple(i for i in self.eos_ids if i < count)
    if not eos_ids:
      raise ValueError(f"end tokens: got the ids {self.eos_ids}, allowed: one at least below "
                       f"{count}, the rows of the model's embedding")
    return dataclasses.replace(
        self, num_rows=count, eos_ids=eos_ids,
        pad_id=self.pad_id if self.pad_id < count else eos_ids[0])

  @functools.cached_property
  def _silent_ids(self) -> frozenset[int]:
    """Special tokens that are omitted from texts: all but tags, such as <think> and </think>."""
    added = self.backend.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    own = {self.backend.id_to_token(i) for i in (*self.eos_ids, self.pad_id)} | {
        None if self.bos_id is None else self.backend.id_to_token(self.bos_id)}

    def is_tag(word):
      found = _TAG.fullmatch(word)
      pair = found and {f"{found[1]}{slash}{found[2]}{found[3]}" for slash in ("", "/")}
      return found and pair <= special.keys() and not pair & own  # not <s> and </s>

    return frozenset(i for word, i in special.items() if not is_tag(word))

  def get_vocab(self) -> dict[str, int]:
    return self.backend.get_vocab(with_added_tokens=True)

  def encode(self, text: str, *, add_special: bool = False) -> list[int]:
    try:
      with no_panics():
        ids = self.backend.encode(text, add_special_tokens=add_special).ids
    except Exception as error:  # the package raises bare Exceptions
      raise ValueError(f"text: got {text[:80]!r}, which has no ids: {error}") from error
    if self.num_rows is not None and max(ids, default=0) >= self.num_rows:
      token = self.backend.id_to_token(max(ids))
      raise ValueError(
          f"text: got {text[:80]!r} with the token {token!r} (id {max(ids)}), allowed: tokens that "
          f"the model has an embedding for, ids below {self.num_rows}")
    return ids

  def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
    kept = [int(i) for i in ids if not skip_special or int(i) not in self._silent_ids]
    with no_panics():
      return self.backend.decode(kept, skip_special_tokens=False)

  def save(self, folder: str | os.PathLike) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    transformers loads them as a `PreTrainedTokenizerFast`.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = {"eos_token": self.eos_ids[0], "pad_token": self.pad_id, "bos_token": self.bos_id}
    special = {
        name: self.backend.id_to_token(i) for name, i in special.items() if i is not None}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Several end tokens; transformers reads them from generation_config.json instead.
        "eos_token_ids": list(self.eos_ids),
        **special,
    }
    if self.chat_template is not None:
      config["chat_template"] = self.chat_template
    # Read before tokenizer_config.json: one left from another model must not take precedence.
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    files.write_whole(folder / "tokenizer.json", self.backend.to_str(pretty=True))
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", special)


def load_hf(folder: str | os.PathLike, *, end_tokens: Iterable[str] = ()) -> HFTokenizer:
  """Reads tokenizer.json, and the files next to it for special tokens and the chat template.

  End tokens are those of tokenizer_config.json, then of generation_config.json, then config.json.

  Args:
    folder: a Hugging Face folder.
    end_tokens: further tokens that end a completion, put first: for a base model whose chat
      template ends a turn with another token than its texts.

  Raises:
    FileNotFoundError: no tokenizer.json.
    ValueError: a file is damaged, or no end token is known; names the file.
  """
  folder = pathlib.Path(folder)
  path = folder / "tokenizer.json"
  if not path.is_file():
    raise FileNotFoundError(f"{path} not found; a Hugging Face folder holds tokenizer.json")
  try:
    with no_panics():
      backend = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the package raises bare Exceptions
    message = " ".join(str(error).split())  # some quote the file, line breaks and all
    raise ValueError(f"{path}: not a tokenizer.json: {message}") from error
  config = read_json(folder / "special_tokens_map.json") | read_json(
      folder / "tokenizer_config.json")
  try:
    eos_ids = end_token_ids(backend, end_tokens, "tokenizer.json")
    eos_ids += folder_end_ids(folder, backend, config)
    if not eos_ids:
      raise ValueError(
          "end_tokens: got none, allowed: one or more, or eos_token in tokenizer_config.json, or "
          "eos_token_id in generation_config.json or config.json")
    pad_ids = _special_ids(backend, config, "pad_token")
    bos_ids = _special_ids(backend, config, "bos_token")
    return with_turn_end(HFTokenizer(
        backend=backend, eos_ids=tuple(dict.fromkeys(eos_ids)), pad_id=(pad_ids + eos_ids)[0],
        bos_id=bos_ids[0] if bos_ids else None, chat_template=read_chat_template(folder, config)))
  except (ValueError, TypeError) as error:  # a TypeError: one of another type among the ids
    raise ValueError(f"{folder}: {error}") from error


def folder_end_ids(
    folder: pathlib.Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any]
) -> list[int]:
  """The end tokens of tokenizer_config.json (`config`), generation_config.json and config.json."""
  ids = _special_ids(backend, config, "eos_token")
  found = [read_json(folder / name).get("eos_token_id")
           for name in ("generation_config.json", "config.json")]
  for source in (config.get("eos_token_ids"), *found):
    ids += source if isinstance(source, list) else [] if source is None else [source]
  return ids


def end_token_ids(
    backend: tokenizers.Tokenizer, end_tokens: Iterable[str], where: str
) -> list[int]:
  """The ids of `end_tokens`.

  Raises:
    ValueError: one is not a single token of this vocabulary.
  """
  ids = {token: backend.token_to_id(token) for token in end_tokens}
  unknown = [token for token, i in ids.items() if i is None]
  if unknown:
    raise ValueError(
        f"end_tokens: got {unknown}, allowed: single tokens of the vocabulary of {where}")
  return list(ids.values())


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file; empty when there is no file.

  Raises:
    ValueError: the file is not a JSON object.
  """
  if not path.is_file():
    return {}
  try:
    if path.stat().st_size > _MAX_JSON_BYTES:
      raise ValueError(f"got {path.stat().st_size} bytes, allowed: up to {_MAX_JSON_BYTES}")
    text = path.read_text(encoding="utf-8")
    value = json.loads(text)
    _check_depth(value)
    if "\\u" in text:  # a lone surrogate, "\\ud83d", cannot be shown or written
      json.dumps(value, ensure_ascii=False).encode()
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path}: not JSON: {error}") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path}: got a {type(value).__name__}, allowed: an object")
  return value


def _check_depth(value: Any) -> None:
  """Raises ValueError for a value nested so deeply that other code would fail."""
  level = [value]
  for _ in range(_MAX_JSON_DEPTH):
    level = [child for node in level if isinstance(node, (dict, list))
             for child in (node.values() if isinstance(node, dict) else node)]
    if not level:
      return
  raise ValueError(f"nested more than {_MAX_JSON_DEPTH} deep")


def read_chat_template(folder: pathlib.Path, config: Mapping[str, Any]) -> str | None:
  """The template from its own file, as in newer folders, or from tokenizer_config.json.

  Raises:
    ValueError: it is not a text, or none of several is the default.
  """
  path = folder / "chat_template.jinja"
  if path.is_file():
    try:
      if path.stat().st_size > _MAX_TEMPLATE_BYTES:
        raise ValueError(f"{path}: got {path.stat().st_size} bytes, allowed: "
                         f"{_MAX_TEMPLATE_BYTES}")
      return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(f"{path}: not a text: {error}") from error
  template = config.get("chat_template")
  if isinstance(template, list):
    named = {entry.get("name"): entry.get("template") for entry in template
             if isinstance(entry, dict)}
    if _DEFAULT_TEMPLATE not in named:
      raise ValueError(f"chat_template: got the names {list(named)}, allowed: with "
                       f"{_DEFAULT_TEMPLATE!r} among them")
    template = named[_DEFAULT_TEMPLATE]
  if not isinstance(template, str | None):
    raise ValueError(f"chat_template: got {repr(template)[:200]}, allowed: a text")
  return template


def _special_ids(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], name: str
) -> list[int]:
  """The id of a special token, as a list of none or one."""
  token = config.get(name)
  token = token.get("content") if isinstance(token, dict) else token
  if token is None:
    return []
  if not isinstance(token, str):
    raise ValueError(f"tokenizer_config.json {name}: got {repr(token)[:200]}, allowed: a text")
  return end_token_ids(backend, [token], f"tokenizer.json (as {name})")


@contextlib.contextmanager
def no_panics() -> Iterator[None]:
  """Converts a panic of the tokenizers package, which is not an Exception, to a ValueError."""
  try:
    yield
  except BaseException as error:
    if type(error).__name__ != "PanicException":
      raise
    raise ValueError(f"the tokenizers package gave up: {error}") from error


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  files.write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
