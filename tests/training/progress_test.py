"""Tests of rlreason.training.progress."""

import io
import re
import sys
import types

import pytest
import rich.console

from rlreason import tracking
from rlreason.parallel import memory
from rlreason.training import progress as progress_lib

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


RL = {"reward/total/mean": -0.568, "rollout/accuracy": 0.125, "policy/kl": 2.66e-09,
      "policy/entropy": 3.7, "rollout/length/mean": 123.4, "optim/grad_norm": 0.0839}
STEPS = {  # some metrics of a step of each kind of stage
    "sft": {"loss/sft": 3.72, "policy/entropy": 3.71, "optim/grad_norm": 0.83},
    "rl": RL,
    "preference": {"loss/preference": 0.693, "preference/accuracy": 0.5, "optim/grad_norm": 1.5},
    "reward_model": {
        "loss/reward_model": 0.693, "reward_model/accuracy": 0.5, "optim/grad_norm": 1.5},
    "distill": {"loss/distill": 0.2, "rollout/length/mean": 90.0, "optim/grad_norm": 1.5},
    "sample": {"reward/total/mean": 0.5, "rollout/accuracy": 0.25, "rollout/length/mean": 90.0},
}


def _shown(width, name, total, step, metrics, **settings):
  """What a terminal of `width` columns showed of a stage of 3 s a step, line by line."""
  console, clock = rich.console.Console(
      file=io.StringIO(), force_terminal=True, width=width, **settings), _Clock()
  with progress_lib.Progress(console=console, clock=clock) as progress:
    progress.start_stage(name, total, step - 1)
    clock.seconds += 3.0
    progress.update(step, tokens=370370, metrics=metrics)
  plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
  return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("kind", STEPS)
def test_a_line_of_80_columns_has_count_time_left_and_two_metrics(kind):
  for name, total in ((kind, 400), ("a_stage_with_a_name_of_forty_characters_", 100_000)):
    line = _shown(80, name, total, 123, STEPS[kind])[-1]
    assert len(line) < 80
    assert f" 123/{total} " in line
    assert f"  {progress_lib.format_seconds(3 * (total - 123))} left" in line
    first, second = [f"{label} {STEPS[kind][metric]:.3g}"
                     for metric, label in progress_lib.LIVE_METRICS.items()
                     if metric in STEPS[kind]][:2]
    assert f"  {first}  {second}" in line


def test_more_is_shown_where_there_is_room():
  assert _shown(80, "rl", 400, 100, RL)[-1] == (
      "rl 100/400  ━━━━━━──────────────────  0:15:00 left  reward -0.568  right 0.125")
  assert _shown(80, "rl", 400, 100, {})[-1] == (
      "rl 100/400  ━━━━━━──────────────────  123,457 tokens/s  0:15:00 left")
  assert _shown(100, "rl", 400, 100, RL)[-1] == (
      "rl 100/400  ━━━━━━──────────────────  123,457 tokens/s  0:15:00 left  reward -0.568  "
      "right 0.125")
  assert _shown(160, "rl", 400, 100, RL)[-1] == (
      "rl 100/400  ━━━━━━──────────────────  123,457 tokens/s  0:15:00 left  reward -0.568  "
      "right 0.125  kl 2.66e-09  entropy 3.7  length 123  gradient 0.0839")
  assert _shown(50, "rl", 400, 100, RL)[-1] == "rl 100/400  0:15:00 left  reward -0.568  right 0."
  assert max(map(len, _shown(20, "rl", 400, 100, RL))) < 20


def test_a_log_has_whole_lines():
  console = rich.console.Console(file=io.StringIO(), force_terminal=False, width=80)
  clock = _Clock()
  with progress_lib.Progress(console=console, clock=clock) as progress:
    progress.start_stage("rl", 400, 99)
    clock.seconds += 3.0
    progress.update(100, tokens=370370, metrics=RL)
  assert console.file.getvalue() == (
      "rl 100/400  123,457 tokens/s  0:15:00 left  reward -0.568  right 0.125  kl 2.66e-09  "
      "entropy 3.7  length 123  gradient 0.0839\n")


def test_a_dumb_terminal_is_a_log():
  console = rich.console.Console(
      file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "dumb"})
  with progress_lib.Progress(console=console, clock=_Clock()) as progress:
    progress.start_stage("rl", 1)
    progress.update(1, metrics={"policy/kl": 0.5})
  assert console.file.getvalue() == "rl 1/1  0:00:00 left  kl 0.5\n"


def test_a_log_hears_of_work_that_takes_long():
  console, clock = _plain_console(), _Clock()
  with progress_lib.Progress(interval=10.0, console=console, clock=clock):
    for seconds in (1.0, 6.0):
      with tracking.work("loading model", 4e9, "B") as done:
        for _ in range(4):
          clock.seconds += seconds
          done(1e9)
    with tracking.work("evaluation, greedy", 5) as done:
      for count in (2, 2, 1):
        clock.seconds += 8.0
        done(count, {"rollout/accuracy": 0.5})
  assert console.file.getvalue().splitlines() == [
      "loading model 2.0/4.0 GB  0:00:12 left", "loading model 4.0/4.0 GB  0:00:00 left",
      "evaluation, greedy 4/5  0:00:04 left  right 0.5",
      "evaluation, greedy 5/5  0:00:00 left  right 0.5"]


def test_work_has_a_line_of_its_own_on_a_terminal():
  console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80)
  clock = _Clock()
  with progress_lib.Progress(console=console, clock=clock) as progress:
    progress.start_stage("rl", 4)
    with tracking.work("evaluation, 8 samples", 500) as done:
      clock.seconds += 20.0
      done(100, {"rollout/accuracy": 0.25})
      progress._bar.refresh()  # as it does ten times a second
    with tracking.work("compiling update"):
      clock.seconds += 90.0
      progress._bar.refresh()
  output = console.file.getvalue()
  for part in (
      "evaluation, 8 samples 100/500", "0:01:20 left  right 0.25", "compiling update 0:01:30"):
    assert part in output


def test_nothing_is_told_where_nobody_shows_it():
  with tracking.work("loading", 10) as done:
    done(5)
  tracking.program("update", {"in": 1})
  assert tracking.display() is None


def test_a_notebook_has_one_line_that_changes(monkeypatch):
  shown, handles = [], []

  def display(content, *, raw, display_id):
    assert raw and display_id
    handles.append(types.SimpleNamespace(update=lambda content, raw: shown.append(content)))
    shown.append(content)
    return handles[-1]

  monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(
      display=types.SimpleNamespace(display=display)))
  console = rich.console.Console(
      file=io.StringIO(), force_jupyter=True, force_terminal=False, width=80)
  clock = _Clock()
  with progress_lib.Progress(console=console, clock=clock) as progress:
    with tracking.work("loading model", 10) as done:
      clock.seconds += 0.1
      done(10)  # too soon after the last
    progress.start_stage("rl", 3)
    for step in (1, 2, 3):
      clock.seconds += 2.0
      progress.update(step, metrics=RL)
  assert len(handles) == 1
  assert [content["text/plain"] for content in shown] == [
      "loading model 0/10", "loading model 10/10  0:00:00 left",
      *(f"rl {step}/3  0:00:0{2 * (3 - step)} left  reward -0.568  right 0.125  kl 2.66e-09  "
        "entropy 3.7" for step in (1, 2, 3, 3))]


def test_memory_of_programs_is_said_when_it_grows(monkeypatch):
  monkeypatch.setattr(memory, "share_bytes", lambda: 80e9)
  console = _plain_console()
  with progress_lib.Progress(console=console) as progress:
    with tracking.work("evaluation, greedy", 10), tracking.work("compiling sampling"):
      tracking.program("sampling", {"parameters": 1.5e9, "rows": 0.1e9, "activations": 0.4e9})
    progress.hold({"parameters": 7e6, "moments": 14e6})
    progress.start_stage("rl", 10)
    tracking.program("update", {"parameters": 4e6, "moments": 8e6, "activations": 2e6})
    tracking.program("update", {"parameters": 4e6, "moments": 8e6, "activations": 1e6})
    tracking.program("update", {"parameters": 4e6, "moments": 8e6, "activations": 90e9})
    tracking.program("scoring", {})  # the backend does not say
    progress.copies(12_000_000)
    progress.copies(12_000_000)
    progress.update(10)
    tracking.program("sampling", {"parameters": 1e6, "cache": 1e6})
  lines = console.file.getvalue().splitlines()
  assert max(map(len, lines)) <= 80
  assert [line for line in lines if "left" not in line] == [
      "GB a device    params moments   grads   cache  activ.    rows     all  of 80.0",
      "eval sampling    1.50    0.00    0.00    0.00    0.40    0.10    2.00    2%",
      "MB a device    params moments   grads   cache  activ.    rows     all  of 80,000",
      "rl update        7.00   14.00    0.00    0.00    2.00    0.00   23.00    0%",
      "GB a device    params moments   grads   cache  activ.    rows     all  of 80.0",
      "rl update        0.01    0.01    0.00    0.00   90.00    0.00   90.02  113% NO",
      "memory: a checkpoint is first copied to the host: 12.0 MB",
      "MB a device    params moments   grads   cache  activ.    rows     all  of 80,000",
      "rl sampling      1.00    0.00    0.00    1.00    0.00    0.00    2.00    0%"]
