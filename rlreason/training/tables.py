"""Tables of results, at most as wide as the console, and the rows of a report.

Not here: the live display (progress.py), and the source of the rows (loop.py, evaluation/).
"""

from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

import rich.console
import rich.text

from rlreason import processes
from rlreason.evaluation import expected as expected_lib
from rlreason.evaluation.metrics import is_share
from rlreason.training import progress
from rlreason.training.checkpoint import FOLDER
from rlreason.training.progress import format_seconds, shortened
from rlreason.training.settings.base import BEST

_LEAST_NAME = 8  # columns of a name that is too long
_NARROW = 80  # columns of outputs without a width, such as a log

# (title, [(row name, a cell for each column)])
Sections = list[tuple[str, list[tuple[str, list[str]]]]]


def print_summary(
    summary: Mapping[str, Any],
    places: Mapping[str, str],
    console: rich.console.Console | None = None,
) -> None:
  """Prints the results of all stages, one column each, and the paths of the files.

  Args:
    summary: the content of summary.json.
    places: name -> path, such as checkpoint, metrics, samples, plots.
    console: where to print; standard output if None.
  """
  console = console or rich.console.Console(quiet=not processes.is_writer())
  lines = [("Summary, with 95% confidence intervals", "italic")]
  for table in summary_tables(summary, width_of(console)):
    lines += [("", ""), *((line, "bold" if is_title else "") for line, is_title in table)]
  longest = max(map(len, places), default=0)
  lines += [("", ""), *((f"{name:{longest}}  {path}", "") for name, path in places.items())]
  text = rich.text.Text("\n").join(rich.text.Text(line, style=style) for line, style in lines)
  progress.print_to(console, text, soft_wrap=True)


def run_places(
    workdir: pathlib.Path, summary: Mapping[str, Any], trained: Sequence[str]) -> dict[str, str]:
  """The paths of a run's files: name -> path.

  Args:
    workdir: of the run.
    summary: its results.
    trained: the stages that trained the policy, in their order.
  """
  paths = {"model": f"models/{trained[-1]}"} if trained else {}
  best = [stage["name"] for stage in summary["stages"] if "best" in stage]
  paths |= {"best model": f"models/{best[-1]}{BEST}"} if best else {}
  paths |= {
      "checkpoints": FOLDER, "metrics": "metrics.jsonl", "samples": "samples.jsonl",
      "plots": "plots", "report": "report.html"}
  return {name: str(workdir / path) for name, path in paths.items()}


def width_of(console: rich.console.Console) -> int:
  """The largest width of a table, in columns."""
  return console.width if console.is_terminal else max(console.width, _NARROW)


def summary_tables(summary: Mapping[str, Any], width: int) -> list[list[tuple[str, bool]]]:
  """A summary as tables of at most `width` columns, as from `lay_out`."""
  return lay_out([stage["name"] for stage in summary["stages"]], summary_rows(summary), width)


def lay_out(
    heads: Sequence[str], sections: Sections, width: int) -> list[list[tuple[str, bool]]]:
  """Columns of cells as tables of at most `width` columns.

  One table if all of them fit; else brackets go below their values, and there are as many tables as
  necessary. Names that are too long are cut.

  Args:
    heads: of the columns.
    sections: their rows; "-" is an empty cell.
    width: 30 or more.

  Returns:
    The lines of each table, and which of them are titles.
  """
  cells = [cell for _, rows in sections for _, texts in rows for cell in texts]
  widest = max((len(part) for cell in cells for part in _split(cell)), default=0)
  most = max(width - widest - 4, _LEAST_NAME)  # a number is not cut
  sections = [(title, [(shortened(name, most), cells) for name, cells in rows])
              for title, rows in sections]
  first = 2 + max((len(name) for _, rows in sections for name, _ in rows), default=0)
  heads = [shortened(head, width - first - 2) for head in heads]
  split = lambda cell: [cell]
  if sum(_column_sizes(heads, sections, split)) > width - first:
    split = _split
  sizes = _column_sizes(heads, sections, split)

  def row(name: str, cells: Sequence[str], columns: Sequence[int]) -> list[tuple[str, bool]]:
    parts = [split(cells[i]) for i in columns]
    lines = []
    for number in range(max(map(len, parts))):
      texts = [part[number] if number < len(part) else "" for part in parts]
      line = "".join(text.rjust(sizes[i]) for i, text in zip(columns, texts, strict=True))
      lines.append((f"{name if not number else '':{first}}{line}", False))
    return lines

  tables = []
  for columns in _in_lines(sizes, width - first):
    ((head, _),) = row("", heads, columns)
    table = [(head, True)]
    for title, rows in sections:
      known = [(name, cells) for name, cells in rows if any(cells[i] != "-" for i in columns)]
      table += [(shortened(title, width), True)] if known else []
      table += [line for name, cells in known for line in row(f"  {name}", cells, columns)]
    tables.append(table)
  return tables


def _split(cell: str) -> list[str]:
  """The text before brackets, and the brackets."""
  return cell.replace(" [", "\n[").split("\n")


def _column_sizes(
    heads: Sequence[str], sections: Sections, split: Callable[[str], list[str]]) -> list[int]:
  """The width of each column, with the space before it."""
  cells = [[head] for head in heads]
  for _, rows in sections:
    for _, texts in rows:
      for column, text in zip(cells, texts, strict=True):
        column += split(text)
  return [2 + max(map(len, column)) for column in cells]


def _in_lines(sizes: Sequence[int], width: int) -> list[list[int]]:
  """Splits the indices of `sizes` into lines of at most `width`, with at least one each."""
  lines, used = [], width
  for i, size in enumerate(sizes):
    if used + size > width:
      lines.append([])
      used = 0
    lines[-1].append(i)
    used += size
  return lines


def summary_rows(summary: Mapping[str, Any]) -> Sections:
  """Lays out a summary as sections of rows with one text per stage; "-" where there is nothing.

  Returns:
    (title, [(row name, cells)]): first the effort of the stages, then one section per task.
    Redundant metrics (`shown_metrics`) are omitted.
  """
  stages = summary["stages"]
  effort = [
      ("steps", [f"{stage['steps']:,}" for stage in stages]),
      ("tokens", [f"{stage['tokens']:,}" for stage in stages]),
      ("time", [format_seconds(stage["seconds"]) for stage in stages]),
      *_choice_rows(stages)]
  sections = [("training", effort)]
  tasks = _names(stage["evaluation"] for stage in stages)
  for task in tasks:
    results = [stage["evaluation"].get(task, {}) for stage in stages]
    rows = []
    for name in shown_metrics(_names(results)):
      rows.append((name, [format_result(name, result[name]) if name in result else "-"
                          for result in results]))
      rows += _expected_rows(stages, name) if task == tasks[0] else []
    counts = {entry["n"] for result in results for entry in result.values()}
    problems = f" ({max(counts)} problems)" if counts else ""
    sections.append((f"{task}{problems}", rows))
  return sections


def shown_metrics(names: Sequence[str]) -> list[str]:
  """Drops pass@1 and maj@1, a vote of one, if avg@n states how often one sample is right."""
  has_average = any(name.startswith("avg@") for name in names)
  return [name for name in names if not (has_average and name in ("pass@1", "maj@1"))]


def _choice_rows(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
  """The best of the evaluations within each stage, and which stages ended early."""
  rows = []
  metrics = dict.fromkeys(stage["best"]["metric"] for stage in stages if "best" in stage)
  for metric in metrics:
    name = metric.rpartition("/")[2]
    best = [stage.get("best", {}) for stage in stages]
    rows.append((f"best {name}", [
        f"{_value(name, one['value'])} at {one['step']:,}" if one.get("metric") == metric else "-"
        for one in best]))
  if any("ended_early" in stage for stage in stages):
    rows.append(("ended early", ["yes" if "ended_early" in stage else "-" for stage in stages]))
  return rows


def _expected_rows(
    stages: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[str, list[str]]]:
  """Rows below a metric: the expected range, and how the stages compare."""
  found = [stage.get("expected") for stage in stages]
  found = [one if one and one["metric"] == metric else None for one in found]
  if not any(found):
    return []
  name = "  published" if any(one and one["is_published"] for one in found) else "  expected"
  return [(name, [f"{expected_lib.format_range(one)} [{one['verdict']}]" if one else "-"
                  for one in found])]


def _value(name: str, value: float) -> str:
  return f"{100 * value:.1f}%" if is_share(name) else f"{value:.4g}"


def format_result(name: str, entry: Mapping[str, Any]) -> str:
  """Formats {value, low, high}: `42.0% [38.1, 46.0]`, or `1.90 [1.75, 2.05]` if not a share.

  Of several seeds with their standard deviation: `42.0% ±1.2 [38.1, 46.0]`.
  """
  values = [entry["value"], entry["low"], entry["high"]]
  if values[0] is None:
    return "-"
  if is_share(name):
    texts = ["?" if value is None else f"{100 * value:.1f}" for value in values]
    spread = f" ±{100 * entry['std']:.1f}" if "std" in entry else ""
    return f"{texts[0]}%{spread} [{texts[1]}, {texts[2]}]"
  digits = 2 if abs(values[0]) < 100 else 0
  texts = ["?" if value is None else f"{value:,.{digits}f}" for value in values]
  spread = f" ±{entry['std']:,.{digits}f}" if "std" in entry else ""
  return f"{texts[0]}{spread} [{texts[1]}, {texts[2]}]"


def _names(mappings) -> list[str]:
  """The keys of all mappings, in the order they first appear."""
  return list(dict.fromkeys(name for mapping in mappings for name in mapping))
