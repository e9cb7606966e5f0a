"""Tests of rlreason.training.progress."""

import io

import rich.console

from rlreason.training import progress as progress_lib

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


class _Clock:
  """A clock that a test moves."""

  def __init__(self):
    self.seconds = 100.0

  def __call__(self):
    return self.seconds


def _plain_console():
  return rich.console.Console(file=io.StringIO(), force_terminal=False, width=60)


def test_plain_lines_come_every_interval_and_at_the_end():
  console, clock = _plain_console(), _Clock()
  with progress_lib.Progress(interval=10.0, console=console, clock=clock) as progress:
    progress.start_stage("rl", 12)
    for step in range(1, 13):
      clock.seconds += 4.0
      metrics = {"policy/kl": 0.01234, "unknown": 1.0, "reward/total/mean": None}
      progress.update(step, tokens=1000, metrics=metrics)
  lines = console.file.getvalue().splitlines()
  assert lines == [
      f"rl {step}/12  250 tokens/s  0:00:{4 * (12 - step):02d} left  kl 0.0123"
      for step in (1, 4, 7, 10, 12)
  ]


def test_rates_forget_the_first_step():
  clock = _Clock()
  progress = progress_lib.Progress(console=_plain_console(), clock=clock)
  progress.start_stage("sft", 100, done_steps=10)
  assert progress.tokens_per_second() is None
  assert progress.seconds_left() is None
  clock.seconds += 60.0  # compiling
  progress.update(11, tokens=500)
  assert progress.seconds_left() == 60.0 * 89
  for step in range(12, 52):
    clock.seconds += 0.5
    progress.update(step, tokens=500)
  assert progress.tokens_per_second() == 1000.0
  assert progress.seconds_left() == 0.5 * 49
  progress.start_stage("rl", 5)
  assert progress.tokens_per_second() is None


def test_terminal_shows_a_bar_and_messages():
  console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=120)
  clock = _Clock()
  with progress_lib.Progress(console=console, clock=clock) as progress:
    progress.start_stage("rl", 4)
    clock.seconds += 2.0
    progress.update(2, tokens=100, metrics={"policy/kl": 0.5, "a/b": 0.7})
    progress.message("saved [bold]checkpoint")
  output = console.file.getvalue()
  for part in ("rl", "2/4", "50 tokens/s", "0:00:02 left", "kl 0.5", "saved [bold]checkpoint"):
    assert part in output
  assert "0.7" not in output


def test_format_result():
  share = {"value": 0.4204, "low": 0.3772, "high": None, "n": 3}
  assert progress_lib.format_result("greedy", share) == "42.0% [37.7, ?]"
  assert progress_lib.format_result("truncated_fraction", share) == "42.0% [37.7, ?]"
  assert progress_lib.format_result("backtracks", share) == "0.42 [0.38, ?]"
  long = {"value": 1234.4, "low": 1200, "high": 1300.6, "n": 3}
  assert progress_lib.format_result("reasoning_length", long) == "1,234 [1,200, 1,301]"
  none = {"value": None, "low": None, "high": None, "n": 0}
  assert progress_lib.format_result("length_right", none) == "-"


def test_summary_rows():
  assert progress_lib.summary_rows(SUMMARY) == [
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
  progress_lib.print_summary(SUMMARY, {"checkpoint": long_path, "plots": "runs/a[b]"}, console)
  output = console.file.getvalue()
  assert "42.0% [37.7, 46.4]" in output
  assert f"checkpoint  {long_path}\n" in output
  assert "plots       runs/a[b]\n" in output
  assert "start" in output and "rl" in output
