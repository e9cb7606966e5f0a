"""Local copies of data sets that people train and test on, one file of JSON lines for each split.

The rows are those of the files that a data set is published as, with their columns; what is said of
a copy (rows against those published, a digest) says whether two people have the same data.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
from typing import Any, NamedTuple

from rlreason import files
from rlreason.data import columns
from rlreason.data.files import expanded, files_below, find_files, read_rows, split_of
from rlreason.data.sources import BadRows, digest
from rlreason.data.tasks import arithmetic

GENERATED = "generated"  # a source: made up, in the layout of the data set
_GENERATED_ROWS = {"test": 500, "validation": 1, "train": 5000}
_ORDER = " Give the result as your final answer. Do not include units."


class DataSet(NamedTuple):
  """A published data set.

  Attributes:
    home: where it is published.
    rows: split -> published rows.
    folder: of its files inside what is published, where there are others.
    generate: makes rows of the same layout: split -> rows.
  """

  home: str
  rows: Mapping[str, int]
  folder: str = ""
  generate: Callable[[], dict[str, list[dict[str, Any]]]] | None = None


class Copy(NamedTuple):
  """A split that was written."""

  split: str
  file: pathlib.Path
  rows: int
  published: int | None  # rows; None: a split that was made up
  digest: str  # SHA-256 of the file


def word_problems() -> dict[str, list[dict[str, Any]]]:
  """Word problems in GSM8K's layout, `{question, answer}`, of reasoning-gym's gsm_symbolic."""
  drawn = arithmetic.draw_splits("gsm_symbolic", {}, _GENERATED_ROWS, 0)
  return {split: [{"question": item["question"].removesuffix(_ORDER),
                   "answer": item["metadata"]["answer_cot"].rpartition("####")[0]
                             + f"#### {item['answer'].strip()}"} for item in drawn[split]]
          for split in ("train", "test")}


DATA_SETS = {
    "gsm8k": DataSet("https://huggingface.co/datasets/openai/gsm8k",
                     {"train": 7473, "test": 1319}, "main", word_problems),
    "math": DataSet("https://huggingface.co/datasets/EleutherAI/hendrycks_math",
                    {"train": 7500, "test": 5000}),
    "math500": DataSet("https://huggingface.co/datasets/HuggingFaceH4/MATH-500", {"test": 500}),
    "deepscaler": DataSet(
        "https://huggingface.co/datasets/agentica-org/DeepScaleR-Preview-Dataset",
        {"train": 40315}),
    "aime24": DataSet("https://huggingface.co/datasets/HuggingFaceH4/aime_2024", {"test": 30}),
    "aime25": DataSet("https://huggingface.co/datasets/math-ai/aime25", {"test": 30}),
}


def prepare(name: str, source: str, destination: str) -> list[Copy]:
  """Writes <destination>/<split>.jsonl for each split of a data set.

  Args:
    name: one of `DATA_SETS`.
    source: a file, or the folder of its files as published; or `GENERATED`.
    destination: a folder, made if missing; what is in it stays.

  Raises:
    ValueError: the name is unknown, rows cannot be read or made, or a file is there already.
    FileNotFoundError: there is no such source, or a split is missing in it.
  """
  if name not in DATA_SETS:
    raise ValueError(f"data set: got {name!r}, allowed: {', '.join(DATA_SETS)}")
  data_set, folder = DATA_SETS[name], expanded(destination)
  taken = [str(folder / f"{split}.jsonl") for split in data_set.rows
           if (folder / f"{split}.jsonl").exists()]
  if taken:
    raise ValueError(f"{taken[0]!r} is there already, allowed: another folder")
  is_made = source == GENERATED
  if is_made and data_set.generate is None:
    able = [known for known, other in DATA_SETS.items() if other.generate is not None]
    raise ValueError(f"--from: got {source!r} for {name}, allowed: a file or a folder ({source} "
                     f"rows: {', '.join(able)})")
  splits = data_set.generate() if is_made else _read(name, data_set, expanded(source))
  copies = []
  for split, rows in splits.items():
    file = folder / f"{split}.jsonl"
    lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    files.write_whole(file, "".join(lines))
    copies.append(Copy(
        split, file, len(rows), None if is_made else data_set.rows[split], digest(file)))
  return copies


def _read(name: str, data_set: DataSet, source: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  """Split -> rows, of the files that a data set is published as."""
  if source.is_dir():
    source = source / data_set.folder if (source / data_set.folder).is_dir() else source
    found = files_below(source)
  else:
    found = {pathlib.Path(file.name): file for file in find_files(source)}
  splits = {}
  for place, file in found.items():
    split = next(iter(split_of(place)), None)
    splits.setdefault(split, []).append(file)
  if len(data_set.rows) == 1 and not splits.keys() & data_set.rows.keys():
    splits = {next(iter(data_set.rows)): list(found.values())}  # its files do not say which
  missing = [split for split in data_set.rows if split not in splits]
  if missing and (source.is_dir() or len(missing) == len(data_set.rows)):
    raise FileNotFoundError(
        f"{source}: no file of the split {missing[0]!r} of {name} (one with {missing[0]!r} in its "
        f"name or in that of a folder); it is published at {data_set.home}")
  return {split: _usable_rows(f"{source} ({split})", splits[split])
          for split in data_set.rows if split in splits}


def _usable_rows(source: str, listed: Sequence[pathlib.Path]) -> list[dict[str, Any]]:
  """The rows as they are that hold a problem and its answer; others are logged and counted."""
  rows, bad_rows, names = [], BadRows(source), ()
  for file in listed:
    for line, raw in read_rows(file):
      try:
        if isinstance(raw, ValueError):
          raise raw
        names = names or (tuple(map(str, raw)) if isinstance(raw, Mapping) else ())
        columns.make_row(raw, None, ("prompt", "answer"))
        rows.append(raw)
      except ValueError as error:
        bad_rows.add(f"{file.name}:{line}", error)
  bad_rows.finish(len(bad_rows) + len(rows), names)
  return rows
