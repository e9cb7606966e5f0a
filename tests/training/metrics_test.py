"""Tests of rlreason.training.metrics."""

import errno
import hashlib
import json
import math
import os
import pathlib
import signal
import sys

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from rlreason.training import metrics as metrics_lib
from tests import waiting
from tests.files_test import file_limit

ROOT = pathlib.Path(__file__).parents[2]

# Writes five steps; says where step 3 ended, writes half a line and is killed.
KILLED = """
import os, signal, sys, time
from rlreason.training import metrics
writer, samples = metrics.MetricsWriter(sys.argv[1]), metrics.SamplesWriter(sys.argv[1])
for step in range(1, 6):
  writer.write(step, "rl", {"loss/policy": step / 7, "time/step": time.perf_counter()})
  samples.write(step, "rl", [{"completion": str(step)}])
  if step == 3:
    cursors = writer.cursor(), samples.cursor()
writer._lines._file.write(b'{"step": 6, "sta')
writer._lines._file.flush()
print(*cursors, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_reduce_metrics_by_hand():
  metrics = {
      "loss/policy": (jnp.asarray(6.0), jnp.asarray(4)),
      # Two minibatches, of 1 and 3 tokens: 8 / 4, and not the mean of 2 / 1 and 6 / 3.
      "policy/kl": (jnp.asarray([5.0, 3.0]), jnp.asarray([1.0, 3.0])),
      "rollout/length_right": (jnp.asarray(0.0), jnp.asarray(0.0)),
      "loss/value": (np.float32(np.nan), np.float32(1)),
  }
  values = metrics_lib.reduce_metrics(metrics)
  assert values.pop("loss/value") != values.get("loss/value")  # NaN is kept
  assert values == {"loss/policy": 1.5, "policy/kl": 2.0}
  assert all(type(value) is float for value in values.values())


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=1, max_size=8))
def test_reduce_metrics_does_not_depend_on_the_split(pairs):
  sums = np.asarray([numerator for numerator, _ in pairs], np.float32)
  counts = np.asarray([count for _, count in pairs], np.float32)
  split = metrics_lib.reduce_metrics({"x": (sums, counts)})
  whole = metrics_lib.reduce_metrics({"x": (sums.sum(), counts.sum())})
  assert split == whole


def test_metrics_are_lines_in_a_stable_order(tmp_path):
  writer = metrics_lib.MetricsWriter(tmp_path)
  writer.write(
      1,
      "sft",
      {"time/step": 0.5, "value/loss": jnp.asarray(1, jnp.int32), "loss/policy": np.float32(0.1)},
  )
  writer.write(np.int64(2), "rl", {"system/compilations": 3, "a": 0.1 + 0.2, "b": 1e-300})
  writer.close()
  assert (tmp_path / "metrics.jsonl").read_text() == (
      '{"step": 1, "stage": "sft", "loss/policy": 0.10000000149011612, "value/loss": 1,'
      ' "time/step": 0.5}\n'
      '{"step": 2, "stage": "rl", "a": 0.30000000000000004, "b": 1e-300,'
      ' "system/compilations": 3}\n'
  )
  first = metrics_lib.read_lines(tmp_path / "metrics.jsonl")[0]
  assert [name for name in first if metrics_lib.is_reproducible(name)] == [
      "step", "stage", "loss/policy", "value/loss",
  ]  # fmt: skip


def test_not_finite_is_null_and_counted(tmp_path, caplog):
  writer = metrics_lib.MetricsWriter(tmp_path)
  with caplog.at_level("WARNING"):
    writer.write(1, "rl", {"a": math.nan, "b": jnp.inf, "c": 1.0})
    writer.write(2, "rl", {"a": np.float32(-np.inf)})
  writer.close()
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

  def refuse(constant):
    raise ValueError(constant)

  assert json.loads(lines[0], parse_constant=refuse) == {
      "step": 1, "stage": "rl", "a": None, "b": None, "c": 1.0,
  }  # fmt: skip
  assert json.loads(lines[1], parse_constant=refuse)["a"] is None
  assert sum("written as null" in record.getMessage() for record in caplog.records) == 2


def test_resume_gives_the_file_of_an_uninterrupted_run(tmp_path):
  def write(folder, steps):
    writer = metrics_lib.MetricsWriter(folder)
    for step in steps:
      writer.write(step, "rl", {"loss/policy": step / 7})
    return writer

  whole = write(tmp_path / "whole", range(1, 8))
  whole.close()
  first = write(tmp_path / "parts", range(1, 5))
  cursor = first.cursor()
  first.write(5, "rl", {"loss/policy": -1.0})
  first.close()
  with open(tmp_path / "parts" / "metrics.jsonl", "ab") as file:
    file.write(b'{"step": 6, "st')
  second = metrics_lib.MetricsWriter(tmp_path / "parts")
  second.truncate_to(cursor)
  assert second.cursor() == cursor
  for step in range(5, 8):
    second.write(step, "rl", {"loss/policy": step / 7})
  second.close()
  name = "metrics.jsonl"
  assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_pipe_in_the_place_of_a_file_is_refused(tmp_path):
  os.mkfifo(tmp_path / "a.jsonl")
  with pytest.raises(ValueError, match="a.jsonl' is no file"):
    metrics_lib.JsonLines(tmp_path / "a.jsonl")


@pytest.mark.parametrize("digest", [True, False])
def test_lines_that_are_not_what_was_written_are_found(tmp_path, digest):
  lines = metrics_lib.JsonLines(tmp_path / "a.jsonl")
  lines.append({"a": 1})
  lines.truncate_to(lines.cursor(), lines.digest())
  lines.append({"a": 22})
  cursor, found = lines.cursor(), lines.digest()
  lines.append({"a": 3})
  again = metrics_lib.JsonLines(tmp_path / "a.jsonl")
  again.truncate_to(cursor, found)
  again.append({"a": 3})
  assert again.digest() == lines.digest()
  assert found == hashlib.sha256(b'{"a": 1}\n{"a": 22}\n').hexdigest()
  (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": 23}\n{"a": 3}\n')
  if not digest:  # of an older version
    metrics_lib.JsonLines(tmp_path / "a.jsonl").truncate_to(cursor)
    return
  with pytest.raises(ValueError, match="a.jsonl' does not hold what was written there; it is dama"):
    metrics_lib.JsonLines(tmp_path / "a.jsonl").truncate_to(cursor, found)
  assert (tmp_path / "a.jsonl").read_bytes().endswith(b'{"a": 3}\n')


def test_sigkill_loses_no_line_before_the_cursor(tmp_path):
  ended = waiting.run(
      [sys.executable, "-c", KILLED, str(tmp_path)], env=dict(os.environ, PYTHONPATH=str(ROOT)))
  assert ended.returncode == -signal.SIGKILL, ended.stderr
  cursors = [int(word) for word in ended.stdout.split()]
  # A reader in between sees whole lines only.
  assert [line["step"] for line in metrics_lib.read_lines(tmp_path / "metrics.jsonl")] == [
      1, 2, 3, 4, 5,
  ]  # fmt: skip
  writer, samples = metrics_lib.MetricsWriter(tmp_path), metrics_lib.SamplesWriter(tmp_path)
  writer.truncate_to(cursors[0])
  samples.truncate_to(cursors[1])
  writer.write(4, "rl", {"loss/policy": 4 / 7})
  samples.write(4, "rl", [{"completion": "four"}])
  writer.close()
  samples.close()
  lines = metrics_lib.read_lines(tmp_path / "metrics.jsonl")
  assert [line["loss/policy"] for line in lines] == [step / 7 for step in range(1, 5)]
  lines = metrics_lib.read_lines(tmp_path / "samples.jsonl")
  assert [line["completion"] for line in lines] == ["1", "2", "3", "four"]


def test_truncate_errors(tmp_path):
  writer = metrics_lib.MetricsWriter(tmp_path)
  writer.write(1, "rl", {"a": 1.0})
  with pytest.raises(ValueError, match="has 37 bytes, but the checkpoint was saved when it had 99"):
    writer.truncate_to(99)
  writer.truncate_to(0)
  writer.close()
  assert metrics_lib.read_lines(tmp_path / "metrics.jsonl") == []
  assert metrics_lib.read_lines(tmp_path / "missing.jsonl") == []


@given(st.text(st.characters()), st.floats(allow_nan=True, allow_infinity=True))
def test_any_sample_is_one_line_of_json(tmp_path_factory, text, reward):
  folder = tmp_path_factory.mktemp("samples")
  writer = metrics_lib.SamplesWriter(folder)
  sample = {"prompt": text + "\ud800\u2028\n", "rewards": {"total": reward, "judge": None}}
  writer.write(3, "rl", [sample, sample])
  writer.close()
  lines = metrics_lib.read_lines(folder / "samples.jsonl")
  assert len(lines) == 2
  assert lines[0]["step"] == 3
  assert lines[0]["prompt"] == sample["prompt"]
  assert lines[0]["rewards"] == {
      "total": reward if math.isfinite(reward) else None, "judge": None,
  }  # fmt: skip


def _tensorboard_events(folder):
  """Yields the events of all files, read as TensorBoard does: length, checksum, data, checksum."""
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:
      length = int.from_bytes(data[:8], "little")
      yield event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]


def test_tensorboard_gets_the_same_numbers(tmp_path):
  writer = metrics_lib.MetricsWriter(tmp_path)
  writer.write(5, "rl", {"loss/policy": 0.25, "a": math.nan})
  writer.close()
  events = list(_tensorboard_events(tmp_path / "tensorboard"))
  scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
  assert scalars == [(5, "loss/policy", 0.25)]
  # What an earlier process wrote from step 5 on is to be hidden.
  assert [e.step for e in events if e.HasField("session_log")] == [5]


def test_tensorboard_gets_the_config_and_a_few_completions(tmp_path):
  (tmp_path / "config.json").write_text('{\n  "seed": 3\n}\n')
  writer = metrics_lib.MetricsWriter(tmp_path)
  sample = {"prompt": "1 + 1\n?", "answer": "2", "rewards": {"verifier": 1.0},
            "completion": "\ud800" + "x" * 9000}
  writer.write_samples(0, "eval-start", [sample])  # before there is anything to show it beside
  writer.write(5, "eval-rl", {"a": 0.25})
  writer.write_samples(5, "eval-rl", [sample] * 9)
  writer.close()
  texts = {value.tag: (event.step, value.tensor.string_val[0].decode())
           for event in _tensorboard_events(tmp_path / "tensorboard")
           for value in event.summary.value if value.tensor.string_val}
  assert texts.pop("config/text_summary") == (5, '    {\n      "seed": 3\n    }')
  step, text = texts.pop("samples/eval-rl/text_summary")
  assert not texts and step == 5 and text.count("answer 2; verifier 1.0\n\n    1 + 1\n    ?") == 4
  assert "    \\ud800xxx" in text and "x" * 8000 not in text


def test_compilations_are_counted():
  counter = metrics_lib.CompilationCounter()
  function = jax.jit(lambda x: x * 3 - 1)
  inputs = [jnp.ones(shape) for shape in (3, 3, 4)]
  counts = []
  for x in inputs:
    before = counter.count
    function(x).block_until_ready()
    counts.append(counter.count - before)
  assert counts == [1, 0, 1]
  counter.close()
  total = counter.count
  function(jnp.ones(5)).block_until_ready()
  assert counter.count == total


def test_peak_memory_is_at_least_what_was_used():
  block = np.ones(40_000_000)
  peak = metrics_lib.peak_memory()
  assert peak["system/peak_host_memory"] >= block.nbytes
  assert not any(metrics_lib.is_reproducible(name) for name in peak)


# A full disk.


def test_a_line_that_does_not_fit_names_its_file_and_is_cut_away(tmp_path):
  lines = metrics_lib.JsonLines(tmp_path / "a.jsonl")
  lines.append({"step": 1})
  cursor = lines.cursor()
  with file_limit(cursor + 5), pytest.raises(OSError) as error:
    lines.append({"step": 2, "text": "long"})
  assert error.value.errno == errno.EFBIG
  assert error.value.filename == str(tmp_path / "a.jsonl")
  lines.close()  # tries nothing again
  assert (tmp_path / "a.jsonl").stat().st_size == cursor + 5
  again = metrics_lib.JsonLines(tmp_path / "a.jsonl")
  again.truncate_to(cursor)
  again.append({"step": 2})
  assert metrics_lib.read_lines(tmp_path / "a.jsonl") == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("moment", ["made", "write", "flush", "close", "text"])
def test_tensorboard_on_a_full_disk_is_one_warning(tmp_path, monkeypatch, caplog, moment):
  writer = metrics_lib.MetricsWriter(tmp_path)

  def fail(*unused_args):
    raise OSError(errno.ENOSPC, "No space left on device")

  if moment == "made":
    (tmp_path / "tensorboard").write_text("in the way")  # no folder can be made
  else:
    writer.write(1, "rl", {"a": 1.0})
    monkeypatch.setattr(
        record_writer.RecordWriter, "write" if moment == "text" else moment, fail)
    monkeypatch.setattr(metrics_lib, "_FLUSH_SECONDS", -1.0)
  if moment == "text":
    writer.write_samples(1, "rl", [{"completion": "a"}])
  for step in range(2, 40):  # more than a queue of another thread would take
    writer.write(step, "rl", {"a": 1.0, "b": 2.0})
  writer.close()
  steps = [line["step"] for line in metrics_lib.read_lines(tmp_path / "metrics.jsonl")]
  assert steps[-38:] == list(range(2, 40))
  (warning,) = [record.getMessage() for record in caplog.records]
  reason = "File exists" if moment == "made" else "No space left on device"
  assert warning == (
      f"{tmp_path / 'tensorboard'}: {reason}; TensorBoard gets nothing more of this run, "
      "metrics.jsonl has it all")


def test_a_damaged_line_is_named(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"st\x00\n{"half')
  with pytest.raises(ValueError, match="a.jsonl:2: damaged, not a line of JSON"):
    metrics_lib.read_lines(tmp_path / "a.jsonl")
