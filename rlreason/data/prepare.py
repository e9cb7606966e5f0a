"""Local copies of common data sets, one file of JSON lines for each split.

The rows and columns are those of the published files; the report on a copy (its rows and the
published ones, a digest) shows whether two people have the same data.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import re
from typing import Any, NamedTuple

from rlreason import files
from rlreason.data import columns
from rlreason.data.files import expanded, files_below, find_files, read_rows, split_of
from rlreason.data.sources import BadRows, digest
from rlreason.data.tasks import arithmetic, countdown

GENERATED = "generated"  # a source: generated rows in the layout of the data set
_GENERATED_ROWS = {"test": 200, "train": 2000}
_DRAWN = {"test": 6_000, "validation": 1, "train": 50_000}  # of which about 1 in 15 is easy
_LARGEST = 50  # number in an easy problem and its solution
_HELD_OUT = 1024  # problems of Countdown, which is published without a test split
_ORDER = " Give the result as your final answer. Do not include units."


def check_question(row: Any):
  """Raises ValueError unless a row holds a question and its answer."""
  columns.make_row(row, None, ("prompt", "answer"))


def check_countdown(row: Any):
  """Raises ValueError unless a row is {target, nums}, whole numbers."""
  nums, target = ((row.get("nums"), row.get("target")) if isinstance(row, Mapping) else (0, 0))
  if not isinstance(nums, list) or not nums or not all(
      type(number) is int for number in [*nums, target]):
    raise ValueError(
        f"got {row!r}, allowed: a whole number 'target' and a list of them, 'nums'")


class DataSet(NamedTuple):
  """A published data set.

  Attributes:
    home: where it is published.
    rows: split -> published rows.
    folder: of its files, if the publication contains others.
    generate: makes rows of the same layout: split -> rows.
    divide: splits the only published split into train and test; None: splits are unchanged.
    check: raises ValueError for a row that cannot be used.
  """

  home: str
  rows: Mapping[str, int]
  folder: str = ""
  generate: Callable[[], dict[str, list[dict[str, Any]]]] | None = None
  divide: Callable[[list[dict[str, Any]]], dict[str, list[dict[str, Any]]]] | None = None
  check: Callable[[Any], None] = check_question

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits that are written."""
    return tuple(self.rows) if self.divide is None else ("train", "test")


class Copy(NamedTuple):
  """A split that was written."""

  split: str
  file: pathlib.Path
  rows: int
  published: int | None  # rows; None: a generated split
  digest: str  # SHA-256 of the file


def word_problems() -> dict[str, list[dict[str, Any]]]:
  """Easy word problems in GSM8K's layout, `{question, answer}`, of reasoning-gym's gsm_symbolic.

  They have whole numbers up to 50 and no percentages or fractions, so that a small model solves
  some, which RL requires.

  Splits share no question, but templates and numbers: 116 of 200 test problems have the numbers of
  a training solution. They show that a run works, but do not measure new arithmetic.
  """
  drawn = arithmetic.draw_splits("gsm_symbolic", {}, _DRAWN, 0)
  rows = {split: [{"question": item["question"].removesuffix(_ORDER),
                   "answer": item["metadata"]["answer_cot"].rpartition("####")[0]
                             + f"#### {item['answer'].strip()}"} for item in drawn[split]]
          for split in ("train", "test")}
  return {split: list(filter(_is_easy, rows[split]))[:_GENERATED_ROWS[split]] for split in rows}


def _is_easy(row: Mapping[str, str]) -> bool:
  text = f"{row['question']} {row['answer']}"
  numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))]
  return (max(numbers) <= _LARGEST and all(map(float.is_integer, numbers))
          and not re.search("[%/]", text))


def countdown_row(numbers: Sequence[int], target: int) -> dict[str, Any]:
  """A problem in words, with the columns that the verifier `countdown` reads."""
  return {
      "question": f"Using the numbers {', '.join(map(str, numbers))}, write an expression that "
                  f"equals {target}. Use only + - * / and parentheses, and each number exactly "
                  "once.",
      "numbers": list(map(int, numbers)), "target": int(target), "answer": str(target)}


def divide_countdown(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
  """Rows {target, nums}: the last 1,024 are the test split; their problems are not in training."""
  key = lambda row: (tuple(sorted(row["nums"])), row["target"])
  test = rows[-_HELD_OUT:] if len(rows) > 2 * _HELD_OUT else rows[-1:]
  held_out = set(map(key, test))
  train = [row for row in rows if key(row) not in held_out]
  return {split: [countdown_row(row["nums"], row["target"]) for row in part]
          for split, part in (("train", train), ("test", test))}


def countdown_problems() -> dict[str, list[dict[str, Any]]]:
  """Problems of this package's own Countdown task."""
  made = {split: countdown.CountdownRows(countdown.CountdownConfig(), split)
          for split in ("train", "test")}
  return {split: [countdown_row(rows[i]["numbers"], rows[i]["target"])
                  for i in range(min(len(rows), _GENERATED_ROWS[split]))]
          for split, rows in made.items()}


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
    "countdown": DataSet("https://huggingface.co/datasets/Jiayi-Pan/Countdown-Tasks-3to4",
                         {"train": 490_364}, generate=countdown_problems, divide=divide_countdown,
                         check=check_countdown),
}


def prepare(name: str, source: str, destination: str) -> list[Copy]:
  """Writes <destination>/<split>.jsonl for each split of a data set.

  Args:
    name: one of `DATA_SETS`.
    source: a file, or the folder of its files as published; or `GENERATED`.
    destination: a folder, made if missing; other files in it are kept.

  Raises:
    ValueError: the name is unknown, rows cannot be read or made, or a file already exists.
    FileNotFoundError: there is no such source, or a split is missing in it.
  """
  if name not in DATA_SETS:
    raise ValueError(f"data set: got {name!r}, allowed: {', '.join(DATA_SETS)}")
  data_set, folder = DATA_SETS[name], expanded(destination)
  taken = [str(folder / f"{split}.jsonl") for split in data_set.splits
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
    published = None if is_made else data_set.rows.get(split)
    copies.append(Copy(split, file, len(rows), published, digest(file)))
  return copies


def _read(name: str, data_set: DataSet, source: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  """Split -> rows, from the published files of a data set."""
  if source.is_dir():
    source = source / data_set.folder if (source / data_set.folder).is_dir() else source
    found = files_below(source)
  else:
    found = {pathlib.Path(file.name): file for file in find_files(source)}
  splits = {}
  for path, file in found.items():
    split = next(iter(split_of(path)), None)
    splits.setdefault(split, []).append(file)
  if len(data_set.rows) == 1 and not splits.keys() & data_set.rows.keys():
    splits = {next(iter(data_set.rows)): list(found.values())}  # its files do not name the split
  missing = [split for split in data_set.rows if split not in splits]
  if missing and (source.is_dir() or len(missing) == len(data_set.rows)):
    raise FileNotFoundError(
        f"{source}: no file of the split {missing[0]!r} of {name} (one with {missing[0]!r} in its "
        f"name or in that of a folder); it is published at {data_set.home}")
  read = {split: _usable_rows(f"{source} ({split})", splits[split], data_set.check)
          for split in data_set.rows if split in splits}
  return read if data_set.divide is None else data_set.divide(*read.values())


def _usable_rows(
    source: str, listed: Sequence[pathlib.Path], check: Callable[[Any], None]
) -> list[dict[str, Any]]:
  """The rows with a problem and its answer, unchanged; others are logged and counted."""
  rows, bad_rows, names = [], BadRows(source), ()
  for file in listed:
    for line, raw in read_rows(file):
      try:
        if isinstance(raw, ValueError):
          raise raw
        names = names or (tuple(map(str, raw)) if isinstance(raw, Mapping) else ())
        check(raw)
        rows.append(raw)
      except ValueError as error:
        bad_rows.add(f"{file.name}:{line}", error)
  bad_rows.finish(len(bad_rows) + len(rows), names)
  return rows
