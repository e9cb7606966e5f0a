"""Raw rows of files and folders: JSON, JSON lines, CSV, parquet and the Arrow files of `datasets`.

A reader yields (line, raw): the line of the file, or the index of the row from 1 if a format has no
lines, and its content, or a ValueError. Not here: the meaning of the columns (`data/columns.py`).
"""

from collections.abc import Callable, Iterator, Mapping
import csv
import glob
import gzip
import io
import json
import os
import pathlib
import re
from typing import Any, BinaryIO
import zlib

from rlreason import hub
from rlreason.data import messages

_MAX_CELL = 2**31 - 1  # characters of a CSV cell
# Files next to the shards of a folder that hold no rows.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")

Raw = tuple[int, Any]


def find_files(path: str | pathlib.Path) -> list[pathlib.Path]:
  """The files of a data set: a file, all of a folder, or those of a pattern such as `train-*`.

  Raises:
    FileNotFoundError: there is none.
    ValueError: the format of a file is unknown, or a folder holds several splits or formats.
  """
  path = expanded(path)
  if path.is_dir():
    return _shards(path)
  found = matches(path)
  advice = hub.hint(path, "dataset")
  for file in found if not advice else ():  # an id may have a dot in it
    if _kind(file) not in _READERS and (file.suffix or file.exists()):  # else a folder was meant
      raise ValueError(f"{file}: got the ending {_kind(file)!r}, allowed: {KINDS}")
  if not found or not found[0].is_file():
    raise FileNotFoundError(f"{path}: no such file or folder{advice or '.'}")
  return found


def expanded(path: str | pathlib.Path) -> pathlib.Path:
  """The path, `~` replaced by the home folder if there is one."""
  return pathlib.Path(os.path.expanduser(path))


def matches(path: pathlib.Path) -> list[pathlib.Path]:
  """The files that match a pattern, in the order of their names; any other path itself."""
  if path.exists() or not glob.has_magic(str(path)):
    return [path]
  found = map(pathlib.Path, glob.glob(str(path), recursive=True))
  return sorted(file for file in found if file.is_file())


def read_rows(file: pathlib.Path) -> Iterator[Raw]:
  """Yields (line or index of the row, its content or a ValueError).

  Raises:
    ValueError: the file as a whole cannot be read.
  """
  try:
    yield from _READERS[_kind(file)](file)
  except (OSError, EOFError, zlib.error) as error:  # of the disk, and of damaged compression
    raise ValueError(f"{file}: cannot be read: {error}") from error


def _kind(file: pathlib.Path) -> str:
  """The suffix of a name that gives the format, without that of its compression."""
  name = file.name.lower()
  return pathlib.Path(name.removesuffix(".gz")).suffix


def _shards(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a folder in order: those that its `state.json` names, or all readable ones."""
  state = folder / "state.json"  # of `Dataset.save_to_disk`
  if state.is_file():
    try:
      names = [str(file["filename"]) for file in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
      raise ValueError(f"{state}: names no data files: {error!r}") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
      raise FileNotFoundError(f"{state}: no such data files: {missing}")
    return [folder / name for name in names]
  files = files_below(folder)
  splits = sorted({split for name in files for split in split_of(name)})
  if len(splits) > 1:
    raise ValueError(f"{folder}: holds the splits {', '.join(splits)}, allowed: the folder or the "
                     f"files of one, such as {folder / splits[0]} or '{folder / splits[0]}-*'")
  kinds = sorted({_kind(file) for file in files.values()})
  if len(kinds) > 1:
    raise ValueError(f"{folder}: holds files of several kinds ({', '.join(kinds)}), allowed: one")
  return list(files.values())


def files_below(folder: pathlib.Path) -> dict[pathlib.Path, pathlib.Path]:
  """Relative name -> file, for all readable files with rows.

  Raises:
    FileNotFoundError: there is none.
  """
  files = {}
  for file in sorted(folder.rglob("*")):
    name = file.relative_to(folder)
    is_hidden = any(part.startswith(".") for part in name.parts)
    if (_kind(file) in _READERS and not is_hidden and file.name not in _DESCRIPTIONS
        and file.is_file()):
      files[name] = file
  if not files:
    raise FileNotFoundError(f"{folder}: no file in it ends in {KINDS}.")
  return files


def split_of(name: pathlib.Path) -> set[str]:
  """The split that a name states first, if any: `train` of `train/a.json` or `math_train-0.csv`."""
  words = re.split(r"[^a-z]+", str(name).lower())
  return set([word for word in words if word in _SPLITS][:1])


def _open(file: pathlib.Path) -> BinaryIO:
  return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")


def _parse(text: str) -> Any:
  """The value of a JSON text, or a ValueError; NaN and infinities are accepted."""
  try:
    return json.loads(text)
  except ValueError as error:  # of JSON, and of absurdly long integers
    return ValueError(str(error))
  except RecursionError:
    return ValueError("nested too deeply")


def _read_lines(file: pathlib.Path) -> Iterator[Raw]:
  """JSON lines; blank ones are skipped."""
  with _open(file) as lines:
    for number, line in enumerate(lines, 1):
      line = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
      if line:
        try:
          text = line.decode("utf-8")
        except ValueError as error:
          yield number, ValueError(str(error))
        else:
          yield number, _parse(text)


def _read_json(file: pathlib.Path) -> Iterator[Raw]:
  """A list of rows, an object with one, one row, or JSON lines under another name."""
  with _open(file) as whole:
    try:
      text = whole.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
      text = ""
  value = _parse(text)
  if isinstance(value, ValueError):
    if not text.startswith("["):
      yield from _read_lines(file)
      return
    value = [_parse(entry) for entry in _entries(text)]  # one bad row must not lose all
  yield from enumerate(_rows_of(value), 1)


def _rows_of(value: Any) -> list[Any]:
  if isinstance(value, Mapping):
    lists = [entry for name, entry in value.items() if name not in messages.COLUMNS
             and isinstance(entry, list) and entry and isinstance(entry[0], Mapping)]
    return lists[0] if len(lists) == 1 else [value]
  return value if isinstance(value, list) else [value]


def _entries(text: str) -> Iterator[str]:
  """The texts between the outermost commas of a JSON list that cannot be parsed as a whole."""
  depth, start = 0, 1
  for token in re.finditer(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]|,', text, re.DOTALL):
    kind = token.group()
    depth += (kind in "[{") - (kind in "]}")
    if (depth == 1 and kind == ",") or depth == 0:
      yield text[start:token.start()]
      start = token.end()
    if depth == 0:
      return
  yield text[start:]  # the list does not end


def _read_csv(file: pathlib.Path) -> Iterator[Raw]:
  """Rows of text under the names of the first line; yields the line on which a row begins."""
  delimiter = "\t" if _kind(file) == ".tsv" else ","
  limit = csv.field_size_limit(_MAX_CELL)  # of the whole process
  try:
    # Bytes that are not UTF-8 become surrogates: that row is refused, not the file.
    with io.TextIOWrapper(_open(file), encoding="utf-8-sig", errors="surrogateescape",
                          newline="") as lines:
      reader = csv.reader(lines, delimiter=delimiter, strict=True)
      names = None
      while True:
        line = reader.line_num + 1
        try:
          cells = next(reader, None)
        except csv.Error as error:
          yield line, ValueError(str(error))
          continue
        if cells is None:
          return
        if not cells:  # a blank line
          continue
        if names is None:
          names = cells
        elif len(cells) != len(names):
          yield line, ValueError(f"got {len(cells)} cells, allowed: {len(names)}, as in the first "
                                 "line")
        else:
          yield line, dict(zip(names, cells))
  finally:
    csv.field_size_limit(limit)


def _read_parquet(file: pathlib.Path) -> Iterator[Raw]:
  import pyarrow  # slow to import, and not needed by other formats
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(file) as table:
      yield from _numbered(table.iter_batches())
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f"{file}: not a readable parquet file: {error}") from error


def _read_arrow(file: pathlib.Path) -> Iterator[Raw]:
  """A stream, as `datasets` writes and caches it, or a file of the same format."""
  import pyarrow

  try:
    with pyarrow.memory_map(str(file)) as source:
      is_file = source.read(6) == b"ARROW1"
      source.seek(0)
      if is_file:
        reader = pyarrow.ipc.open_file(source)
        batches = map(reader.get_batch, range(reader.num_record_batches))
      else:
        batches = pyarrow.ipc.open_stream(source)
      yield from _numbered(batches)
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f"{file}: not a readable Arrow file: {error}") from error


def _numbered(batches: Iterator[Any]) -> Iterator[Raw]:
  number = 0
  for batch in batches:
    rows = _values(batch)
    if isinstance(rows, ValueError):  # of one row of many, most likely
      rows = [_values(batch.slice(i, 1)) for i in range(batch.num_rows)]
      rows = [row if isinstance(row, ValueError) else row[0] for row in rows]
    for row in rows:
      number += 1
      yield number, row


def _values(batch: Any) -> list[Any] | ValueError:
  """The rows of a batch, or the error: text that is not UTF-8, dates beyond Python's, ..."""
  try:
    batch.validate(full=True)  # damaged offsets would read beyond the end of the memory
    return _plain_types(batch).to_pylist()
  except (ValueError, OverflowError) as error:
    return ValueError(str(error))


def _plain_types(batch: Any) -> Any:
  """Times as text, and floats of 32 bits as the shortest number: 0.1, not 0.10000000149011612."""
  import pyarrow

  columns = []
  for column in batch.columns:
    kind = column.type
    try:
      for float_type in (pyarrow.string(), pyarrow.float64()):
        column = column.cast(_changed_type(kind, float_type))
    except pyarrow.ArrowException:  # a type without a text form is unchanged
      pass
    columns.append(column)
  return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _changed_type(kind: Any, float_type: Any) -> Any:
  from pyarrow import types
  import pyarrow

  if types.is_float16(kind) or types.is_float32(kind):
    return float_type
  if types.is_temporal(kind):
    return pyarrow.string()
  if types.is_struct(kind):
    return pyarrow.struct([part.with_type(_changed_type(part.type, float_type)) for part in kind])
  if types.is_list(kind):
    return pyarrow.list_(_changed_type(kind.value_type, float_type))
  return kind


_READERS: dict[str, Callable[[pathlib.Path], Iterator[Raw]]] = {
    ".jsonl": _read_lines, ".ndjson": _read_lines, ".json": _read_json, ".csv": _read_csv,
    ".tsv": _read_csv, ".parquet": _read_parquet, ".arrow": _read_arrow}
KINDS = ", ".join(_READERS)
