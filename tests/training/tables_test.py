"""Tests of rlreason.training.tables."""

import io
import pathlib

import pytest
import rich.console

from rlreason.training import tables

SUMMARY = {
    "stages": [
        {
            "name": "start", "steps": 0, "seconds": 0.0, "tokens": 0,
            "evaluation": {
                "countdown": {"greedy": {"value": 0.02, "low": 0.01, "high": 0.036, "n": 500}}
            },
        },
        {
            "name": "rl", "steps": 100, "seconds": 125.4, "tokens": 1234567,
            "evaluation": {
                "countdown": {
                    "greedy": {"value": 0.42, "low": 0.3772, "high": 0.4637, "n": 500},
                    "backtracks": {"value": 1.9, "low": 1.75, "high": 2.05, "n": 500},
                    "reasoning_length": {"value": 1234.4, "low": 1200.0, "high": 1300.0, "n": 500},
                },
                "gcd": {"pass@8": {"value": 1.0, "low": 0.98, "high": 1.0, "n": 200}},
            },
        },
    ]
}  # fmt: skip


def _plain_console():
  return rich.console.Console(file=io.StringIO(), force_terminal=False, width=60)


def test_format_result():
  share = {"value": 0.4204, "low": 0.3772, "high": None, "n": 3}
  assert tables.format_result("greedy", share) == "42.0% [37.7, ?]"
  assert tables.format_result("truncated_fraction", share) == "42.0% [37.7, ?]"
  assert tables.format_result("backtracks", share) == "0.42 [0.38, ?]"
  long = {"value": 1234.4, "low": 1200, "high": 1300.6, "n": 3}
  assert tables.format_result("reasoning_length", long) == "1,234 [1,200, 1,301]"
  none = {"value": None, "low": None, "high": None, "n": 0}
  assert tables.format_result("length_right", none) == "-"


def test_summary_rows():
  assert tables.summary_rows(SUMMARY) == [
      (
          "training",
          [
              ("steps", ["0", "100"]),
              ("tokens", ["0", "1,234,567"]),
              ("time", ["0:00:00", "0:02:05"]),
          ],
      ),
      (
          "countdown (500 problems)",
          [
              ("greedy", ["2.0% [1.0, 3.6]", "42.0% [37.7, 46.4]"]),
              ("backtracks", ["-", "1.90 [1.75, 2.05]"]),
              ("reasoning_length", ["-", "1,234 [1,200, 1,300]"]),
          ],
      ),
      ("gcd (200 problems)", [("pass@8", ["-", "100.0% [98.0, 100.0]"])]),
  ]


def test_print_summary_says_where_everything_is():
  console = _plain_console()
  long_path = "runs/" + "x" * 80
  tables.print_summary(SUMMARY, {"checkpoint": long_path, "plots": "runs/a[b]"}, console)
  output = console.file.getvalue()
  assert "42.0% [37.7, 46.4]" in output
  assert f"checkpoint  {long_path}\n" in output
  assert "plots       runs/a[b]\n" in output
  assert "start" in output and "rl" in output


def _stages(count):
  names = ("start", "sft", "rl", "rejection_sampling", "a_second_stage_of_a_long_name", "b", "c")
  return {"stages": [SUMMARY["stages"][bool(i)] | {"name": names[i]} for i in range(count)]}


@pytest.mark.parametrize("count, number", [(1, 1), (2, 1), (3, 1), (7, 3)])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_tables_fit_80_columns(count, number, is_terminal):
  console = rich.console.Console(
      file=io.StringIO(), force_terminal=is_terminal, color_system=None, width=80)
  tables.print_summary(_stages(count), {"model": "m"}, console)
  lines = console.file.getvalue().splitlines()
  assert max(map(len, lines)) <= 80
  assert sum("training" in line for line in lines) == number
  assert sum(line.count("42.0%") for line in lines) == count - 1
  for stage in _stages(count)["stages"]:
    assert sum(stage["name"] in line.split() for line in lines) == 1


def test_intervals_stand_below_where_the_columns_are_narrow():
  (table,) = tables.summary_tables(_stages(3), 66)
  assert [line for line, _ in table] == [
      "                         start             sft              rl",
      "training",
      "  steps                      0             100             100",
      "  tokens                     0       1,234,567       1,234,567",
      "  time                 0:00:00         0:02:05         0:02:05",
      "countdown (500 problems)",
      "  greedy                  2.0%           42.0%           42.0%",
      "                    [1.0, 3.6]    [37.7, 46.4]    [37.7, 46.4]",
      "  backtracks                 -            1.90            1.90",
      "                                  [1.75, 2.05]    [1.75, 2.05]",
      "  reasoning_length           -           1,234           1,234",
      "                                [1,200, 1,300]  [1,200, 1,300]",
      "gcd (200 problems)",
      "  pass@8                     -          100.0%          100.0%",
      "                                 [98.0, 100.0]   [98.0, 100.0]"]


LONG = "a_metric_with_a_name_of_many_words_that_somebody_chose_in_a_verifier_of_his_own"


@pytest.mark.parametrize("columns", [1, 2, 9])
@pytest.mark.parametrize("width", [80, 44])
def test_no_line_is_wider_whatever_the_names_are(columns, width):
  cell = "12,345,678.91 ±1.25 [12,345,678.90, 12,345,679.25]"
  found = tables.lay_out(
      [f"{LONG}-{i}" for i in range(columns)],
      [(LONG * 2, [(LONG, [cell] * columns), ("short", ["1.0% [0.5, 1.5]"] * columns)])], width)
  lines = [line for table in found for line, _ in table]
  assert max(map(len, lines)) <= width
  assert sum(line.count("12,345,678.91 ±1.25") for line in lines) == columns  # no number is cut
  assert sum(line.count("[12,345,678.90, 12,345,679.25]") for line in lines) == columns
  assert any(line.startswith("  a_metric") and "…" in line for line in lines)


def test_what_another_metric_says_is_not_shown_twice():
  assert tables.shown_metrics(["greedy", "avg@4", "pass@1", "pass@4", "maj@1", "maj@4"]) == [
      "greedy", "avg@4", "pass@4", "maj@4"]
  assert tables.shown_metrics(["pass@1", "maj@1"]) == ["pass@1", "maj@1"]


def test_the_summary_says_what_was_best_expected_and_ended_early():
  start, rl = (dict(stage) for stage in SUMMARY["stages"])
  expected = {"metric": "greedy", "low": 0.0, "high": 0.0076, "verdict": "above",
              "is_published": False}
  start["expected"] = expected
  rl |= {
      "expected": expected | {"low": 0.356, "high": 0.53, "verdict": "inside"},
      "best": {"metric": "eval/countdown/greedy", "step": 1040, "value": 0.512},
      "ended_early": "eval/countdown/greedy was not better"}
  sections = tables.summary_rows({"stages": [start, rl]})
  assert sections[0][1][3:] == [
      ("best greedy", ["-", "51.2% at 1,040"]), ("ended early", ["-", "yes"])]
  assert sections[1][1][:2] == [
      ("greedy", ["2.0% [1.0, 3.6]", "42.0% [37.7, 46.4]"]),
      ("  expected", ["0 to 1% [above]", "36 to 53% [inside]"])]
  assert tables.run_places(pathlib.Path("r"), {"stages": [start, rl]}, ["sft", "rl"]) == {
      "model": "r/models/rl", "best model": "r/models/rl-best", "checkpoints": "r/checkpoints",
      "metrics": "r/metrics.jsonl", "samples": "r/samples.jsonl", "plots": "r/plots",
      "report": "r/report.html"}
