"""Our verifier and Math-Verify on pairs of a gold answer and a completion with known verdicts.

Writes the tables of docs/verifier.md, or compares with them and exits with 1 if they differ:

  JAX_PLATFORMS=cpu .venv/bin/python benchmarks/verifier.py --math_verify_tests=FOLDER
  JAX_PLATFORMS=cpu .venv/bin/python benchmarks/verifier.py --math_verify_tests=FOLDER --check

FOLDER holds the tests of Math-Verify, see math_verify_tests.py; without it only the tables of our
own pairs (verifier_pairs.jsonl) are made. Their labels follow mathematics and the decisions of
docs/verifier.md, never the output of a program.
"""

import argparse
import json
import pathlib
import sys
from typing import Iterable, NamedTuple, Sequence

import math_verify_tests
from rlreason.rewards import verifier as verifiers
from rlreason.rewards import worker
from rlreason.workers import pool as pools

FOLDER = pathlib.Path(__file__).parent
PAIRS = FOLDER / "verifier_pairs.jsonl"
PAGE = FOLDER.parent / "docs" / "verifier.md"
TIMEOUT_SECONDS = 6.0  # for one of our comparisons; most take 0.01 s, some never end
_THEIR_SECONDS = 20.0  # Math-Verify has its own limits, 5 s a step


class Pair(NamedTuple):
  """A gold answer, a completion, and whether the completion is right.

  Attributes:
    form: the row of the table.
    key: identifies a wrong verdict in the lists.
    prediction: the input of Math-Verify instead of `completion`.
  """

  form: str
  key: tuple[str, ...]
  gold: str
  completion: str
  prediction: str
  is_right: bool


class Verdicts(NamedTuple):
  """Scores of a list of pairs; None without a verdict."""

  ours: list[float | None]
  theirs: list[float | None]


def read_pairs(path: pathlib.Path) -> list[Pair]:
  r"""Our own pairs; `answer` is short for a completion that is one box, `\boxed{answer}`."""
  pairs = []
  for line in path.read_text("utf-8").splitlines():
    row = json.loads(line)
    text = row["completion"] if "completion" in row else rf"\boxed{{{row['answer']}}}"
    key = (row["gold"], row.get("answer", text))
    pairs.append(Pair(row["form"], key, row["gold"], text, text, row["is_right"]))
  return pairs


def read_tests(folder: pathlib.Path) -> list[Pair]:
  """The pairs of Math-Verify's tests, with their labels except for `math_verify_tests.POLICY`."""
  rows = math_verify_tests.read(folder)
  policy = {name: rule.is_right for rule in math_verify_tests.POLICY for name in rule.tests}
  unknown = policy.keys() - {row.name for row in rows}
  if unknown:
    raise ValueError(f"{folder}: other tests than those of Math-Verify 0.9.0, without {unknown}")
  return [
      Pair(row.name.partition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " "),
           (row.name,), row.gold, row.completion, row.prediction,
           policy.get(row.name, row.is_right))
      for row in rows]


def judge_ours(pairs: Sequence[Pair], pool: pools.WorkerPool) -> list[float | None]:
  """Scores; also 0 if the gold answer is refused."""
  taken = [pair for pair in pairs if not _is_refused(pair.gold)]
  scores = verifiers.verify(
      [pair.completion for pair in taken], [pair.gold for pair in taken], pool=pool)
  scores = dict(zip(taken, scores, strict=True))
  return [scores.get(pair, 0.0) for pair in pairs]


def _is_refused(gold: str) -> bool:
  try:
    verifiers.verify(["no box"], [gold])
  except ValueError:
    return True
  return False


def judge_theirs(pairs: Sequence[Pair], pool: pools.WorkerPool) -> list[float | None]:
  requests = [
      dict(prompt="", completion=pair.prediction, columns=dict(gold=pair.gold), options={})
      for pair in pairs]
  return [reply.value for reply in pool.map(
      worker.row_target("math_verify_judge:judge"), requests)]


def judge(pairs: Sequence[Pair]) -> Verdicts:
  with pools.WorkerPool(2, TIMEOUT_SECONDS) as pool:
    ours = judge_ours(pairs, pool)
  with pools.WorkerPool(2, _THEIR_SECONDS) as pool:  # separate: ours patches SymPy in its processes
    return Verdicts(ours, judge_theirs(pairs, pool))


def render_table(pairs: Sequence[Pair], verdicts: Verdicts) -> str:
  """False rejects and false accepts of each form, in order of appearance."""
  lines = ["| form | false rejects: ours / Math-Verify's, of n "
           "| false accepts: ours / Math-Verify's, of n |", "| --- | --- | --- |"]
  for form in [*dict.fromkeys(pair.form for pair in pairs), None]:
    chosen = [i for i, pair in enumerate(pairs) if form in (pair.form, None)]
    cells = []
    for is_right in (True, False):
      kind = [i for i in chosen if pairs[i].is_right == is_right]
      counts = [sum((scores[i] == 1.0) != is_right for i in kind) for scores in verdicts]
      cells.append(f"{counts[0]} / {counts[1]} of {len(kind)}" if kind else "")
    name = "**all**" if form is None else form
    lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
  return "\n".join(lines)


def render_wrong(pairs: Sequence[Pair], scores: Iterable[float | None]) -> str:
  """One JSON line for each pair that `scores` has wrong, or has no verdict for."""
  names = {1.0: "accepted", 0.0: "rejected", None: "no verdict"}
  lines = [
      json.dumps([pair.form, *pair.key, names[score]], ensure_ascii=False)
      for pair, score in zip(pairs, scores, strict=True) if score != float(pair.is_right)]
  return "\n".join(["```", *lines, "```"]) if lines else "None."


def render_policy() -> str:
  """The pairs of Math-Verify's tests that our decisions label differently."""
  lines = ["| tests | there | here | why |", "| --- | --- | --- | --- |"]
  words = ("wrong", "right")
  for rule in math_verify_tests.POLICY:
    tests = "<br>".join(f"`{name}`" for name in rule.tests)
    lines.append(
        f"| {tests} | {words[not rule.is_right]} | {words[rule.is_right]} | {rule.reason} |")
  return "\n".join(lines)


def section(page: str, name: str) -> str:
  """The text of `page` between its marks `<!-- NAME: verifier.py -->` and `<!-- end of NAME -->`.

  Raises:
    ValueError: a mark is missing.
  """
  start, end = f"<!-- {name}: verifier.py -->\n", f"\n<!-- end of {name} -->"
  _, found, after = page.partition(start)
  if not found or end not in after:
    raise ValueError(f"{PAGE}: no {start.strip()} with its {end.strip()}")
  return after[: after.index(end)]


def fill(page: str, sections: dict[str, str]) -> str:
  """`page` with the sections of these names replaced."""
  for name, text in sections.items():
    start = f"<!-- {name}: verifier.py -->\n"
    page = page.replace(f"{start}{section(page, name)}\n", f"{start}{text}\n")
  return page


def make_sections(tests: pathlib.Path | None) -> dict[str, str]:
  """Name of a section -> its text; prints the verdicts."""
  sections = {}
  for name, pairs in (("own", read_pairs(PAIRS)), ("tests", read_tests(tests) if tests else [])):
    if not pairs:
      continue
    verdicts = judge(pairs)
    sections[f"{name} table"] = render_table(pairs, verdicts)
    sections[f"{name} wrong"] = render_wrong(pairs, verdicts.ours)
    print(sections[f"{name} table"], sections[f"{name} wrong"], sep="\n\n", end="\n\n")
  if tests:
    sections["policy"] = render_policy()
  return sections


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--math_verify_tests", type=pathlib.Path, help="folder of its tests")
  parser.add_argument("--check", action="store_true", help="only compare with docs/verifier.md")
  arguments = parser.parse_args()
  page = PAGE.read_text("utf-8")
  filled = fill(page, make_sections(arguments.math_verify_tests))
  if not arguments.check:
    PAGE.write_text(filled, "utf-8")
  elif filled != page:
    sys.exit(f"{PAGE} is not what the programs say: run without --check")


if __name__ == "__main__":
  main()
