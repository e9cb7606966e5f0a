"""Complete runs: their files, and that a killed one resumes as if nothing had happened."""

import json
import os
import pathlib
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rlreason import weights
from rlreason.algorithms import base
from rlreason.evaluation import completions
from rlreason.training import checkpoint, metrics, model_paths, run as run_lib, signals
from rlreason.training.settings.recipe import from_config
from tests.training import tiny_run
from tests.training.processes import reproducible_lines, run_process, run_processes

STEPS = tiny_run.STEPS


def files_of(folder):
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in sorted(folder.rglob("*")) if path.is_file()}


def without_seconds(summary):
  return [stage | {"seconds": None} for stage in summary["stages"]]


def at_ends(lines):
  """The lines but for those of evaluations within a stage."""
  return [line for line in lines if not line["stage"].startswith("eval-") or line["step"] == (
      {"eval-start": 0} | {f"eval-{name}": end for name, end in tiny_run.ENDS.items()})[
          line["stage"]]]


def read_summary(workdir):
  return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module", name="cache")
def cache_fixture(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", name="uninterrupted")
def uninterrupted_fixture(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  process = run_process(workdir, "end", cache, "report")
  assert process.returncode == 0, process.stderr[-2000:]
  return workdir


# Each costs a start of jax and the tracing of every program. A checkpoint that is being written in
# the first stage and a step after one in the second are moments of the run of adapters, below.
MOMENTS = [
    ("step 1", -9),  # before the first checkpoint
    ("save 5", -9),  # while the end of a stage is being written
    ("eval sft", -9),  # after its evaluation, before that is on record
    ("step 6", -9),  # in the second stage, before its first checkpoint
    ("stop 6", 3),  # a request to stop
    ("save 9", -9),  # while a checkpoint is being written
    ("term 10", 3),  # a request to stop at the end of the last stage, before its evaluation
    ("eval rl", -9),
    ("end", 0),
]


def test_a_run_that_is_killed_again_and_again_is_the_same_run(
    uninterrupted, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("killed")
  names = [moment for moment, _ in MOMENTS]
  stopped = names.index("stop 6")
  *ended, again = run_processes(
      workdir, [*names[:stopped + 1], "copy", *names[stopped + 1:], "copy", "end"], cache,
      "evaluated")
  assert [process.returncode for process in ended] == [code for _, code in MOMENTS], (
      ended[-1].stderr[-2000:])
  # It saved itself, with its current step, and states how to resume.
  assert "stopped on request after step 7" in ended[stopped].stdout
  assert f"--workdir={workdir} resumes from there" in ended[stopped].stdout
  assert checkpoint.Checkpointer(f"{workdir}-1", read_only=True).latest_step() == 7
  # And the other was not evaluated on its way, which changes nothing.
  assert at_ends(reproducible_lines(workdir)) == reproducible_lines(uninterrupted)
  samples, others = (metrics.read_lines(folder / "samples.jsonl")
                     for folder in (workdir, uninterrupted))
  assert at_ends(samples) == others
  for stage in ("sft", "rl"):
    assert files_of(workdir / "models" / stage) == files_of(uninterrupted / "models" / stage)
  stages = without_seconds(read_summary(workdir))
  assert [stage | {"evaluations": None, "best": None} for stage in stages[1:]] == [
      stage | {"evaluations": None, "best": None}
      for stage in without_seconds(read_summary(uninterrupted))[1:]]
  assert stages[0] == without_seconds(read_summary(uninterrupted))[0]
  assert files_of(workdir / "evaluation") == files_of(uninterrupted / "evaluation")
  made, expected = (read_summary(run)["provenance"] for run in (workdir, uninterrupted))
  processes = made.pop("processes"), expected.pop("processes")
  assert made == expected
  # One entry, for all of its processes run the same command on the same machine.
  assert [[process["from_step"] for process in run] for run in processes] == [[0], [0]]
  # What has ended is shown again and not done again.
  assert again.returncode == 0 and "evaluating" not in again.stdout
  for name in ("metrics.jsonl", "samples.jsonl", "summary.json"):
    assert (workdir / name).read_bytes() == pathlib.Path(f"{workdir}-2", name).read_bytes()


@pytest.mark.parametrize("options", [
    ("ahead",), ("partial",), ("ahead", "partial"), ("adapters", "ahead", "evaluated")])
def test_a_run_that_draws_ahead_and_is_killed_is_the_same_run(options, cache, tmp_path):
  one, killed = tmp_path / "run-1", tmp_path / "run"
  ended = run_processes(
      killed, ["end", "move", "step 6", "save 7", "stop 8", "end"], cache, *options)
  assert [process.returncode for process in ended] == [0, -9, -9, 3, 0], (
      ended[-1].stderr[-2000:])
  lines = reproducible_lines(one)
  if "evaluated" in options:  # a run that stopped at an evaluation makes it when it resumes
    assert at_ends(reproducible_lines(killed)) == at_ends(lines)
  else:
    assert reproducible_lines(killed) == lines
  assert (killed / "samples.jsonl").read_bytes() == (one / "samples.jsonl").read_bytes()
  assert files_of(killed / "models") == files_of(one / "models")
  lines = [line for line in metrics.read_lines(one / "metrics.jsonl") if line["stage"] == "rl"]
  assert all(("time/waiting" in line) == ("ahead" in options) for line in lines)
  assert any(line.get("rollout/age/max", 0) > 0 for line in lines) == ("partial" in options)


def test_a_run_of_adapters_that_is_killed_is_the_same_run(cache, tmp_path):
  one, killed = tmp_path / "run-1", tmp_path / "run"
  ended = run_processes(
      killed, ["end", "move", "save 4", "eval sft 4", "step 8", "end"], cache, "adapters",
      "evaluated")
  assert [process.returncode for process in ended] == [0, -9, -9, -9, 0], (
      ended[-1].stderr[-2000:])
  assert reproducible_lines(killed) == reproducible_lines(one)
  assert [line["step"] for line in lines_of(one, "eval-sft") + lines_of(one, "eval-rl")] == [
      2, 4, 5, 7, 9, 10]
  assert (killed / "samples.jsonl").read_bytes() == (one / "samples.jsonl").read_bytes()
  assert files_of(killed / "models") == files_of(one / "models")
  assert without_seconds(read_summary(killed)) == without_seconds(read_summary(one))
  check_best(one)
  # A checkpoint is a model: that of the best step is the model that was kept of it.
  best = {stage["name"]: stage["best"]["step"] for stage in read_summary(one)["stages"][1:]}
  found = pathlib.Path(model_paths.find(f"{one}@rl:{best['rl']}"))
  assert found == one / "models" / f"rl-step{best['rl']}"
  assert files_of(found) == files_of(one / "models" / "rl-best")
  found = pathlib.Path(model_paths.find(f"{one}@rl:{best['rl']}", part="adapters"))
  assert files_of(found) == files_of(one / "adapters" / "rl-best")
  for stage in ("sft", "rl"):
    tensors = f"adapters/{stage}/adapter_model.safetensors"
    assert (killed / tensors).read_bytes() == (one / tensors).read_bytes()
  assert sorted(path.name for path in (one / "adapters").iterdir()) == sorted(
      ["rl", "rl-best", found.name, "sft", "sft-best"])
  # The second stage continues with the adapters of the first, on the same base.
  sft, rl = (safetensors_numpy.load_file(one / "adapters" / stage / "adapter_model.safetensors")
             for stage in ("sft", "rl"))
  moved = {name: np.abs(rl[name] - sft[name]).max() for name in sft}
  assert 0 < max(moved.values()) < 0.03
  assert max(np.abs(sft[name]).max() for name in sft if "lora_B" in name) > 0.02
  # The first checkpoint of each stage finds the policy where it started.
  kl = [line["policy/kl"] for line in reproducible_lines(one) if line["stage"] == "rl"]
  assert abs(kl[0]) < 1e-6 and abs(kl[-1]) > 1e-6
  with checkpoint.Checkpointer(str(one), read_only=True) as saved:
    names = saved.layout(saved.latest_step())
  parameters = {name.split("/")[-1] for name in names if name.startswith("params/policy")}
  assert parameters == {"lora_a", "lora_b"}
  assert not any("embed" in name for name in names)


def check_best(workdir):
  """The points of a curve are the lines of the metrics, and the best of them is there."""
  metric = "reasoning_length"
  for stage in read_summary(workdir)["stages"][1:]:
    lines = lines_of(workdir, f"eval-{stage['name']}")
    values = [line[f"eval/countdown/{metric}"] for line in lines]
    assert values == [point["evaluation"]["countdown"][metric]["value"]
                      for point in stage["evaluations"]]
    best = lines[values.index(max(values))]["step"]
    assert stage["best"] == {
        "metric": f"eval/countdown/{metric}", "step": best, "value": max(values)}
    assert (workdir / "checkpoints" / str(best)).is_dir()
    tensors = [files_of(workdir / "models" / name)["model.safetensors"]
               for name in (stage["name"], f"{stage['name']}-best")]
    assert (tensors[0] == tensors[1]) == (best == lines[-1]["step"])


# What a run writes.


def lines_of(workdir, stage):
  return [line for line in reproducible_lines(workdir) if line["stage"] == stage]


def test_metrics_of_every_step(uninterrupted):
  lines = metrics.read_lines(uninterrupted / "metrics.jsonl")
  stages = ["eval-start"] + ["sft"] * STEPS + ["eval-sft"] + ["rl"] * STEPS + ["eval-rl"]
  assert [line["stage"] for line in lines] == stages
  assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
  for line in lines:
    assert None not in line.values()


SFT_METRICS = [
    "loss/sft", "loss/total", "policy/entropy", "optim/lr", "optim/grad_norm",
    "optim/skipped_updates", "optim/skipped_total", "optim/skipped_in_a_row",
    "rollout/padding_waste", "rollout/dropped_examples", "time/tokens_per_second",
    "system/compilations", "system/peak_host_memory"]
RL_METRICS = [
    "reward/total/mean", "reward/total/std", "reward/verifier/mean", "reward/exploration/mean",
    "reward/random/mean", "rollout/zero_variance_groups", "reward/unscored", "reward/timeouts",
    "reward/crashes", "reward/errors", "policy/kl", "policy/kl_k3", "policy/kl_per_sequence",
    "policy/kl_coef", "policy/entropy", "policy/clip_fraction_low", "policy/clip_fraction_high",
    "policy/kl_from_old", "policy/ratio_error", "value/explained_variance", "value/mean",
    "value/returns/mean", "loss/policy", "loss/value", "loss/total", "rollout/length/mean",
    "rollout/length/max", "rollout/length_wrong/mean", "rollout/truncated_fraction",
    "rollout/padding_waste", "rollout/dropped_prompts", "optim/lr",
    "optim/grad_norm", "optim/skipped_updates", "optim/skipped_in_a_row",
    "time/tokens_per_second", "time/sampling", "time/rewards", "system/compilations",
    "system/peak_host_memory"]


def test_names_of_metrics(uninterrupted):
  for line in metrics.read_lines(uninterrupted / "metrics.jsonl"):
    expected = {"sft": SFT_METRICS, "rl": RL_METRICS}.get(line["stage"], ["eval/countdown/greedy"])
    assert not set(expected) - set(line), (line["step"], set(expected) - set(line))


def test_a_first_minibatch_has_ratio_one_at_every_step(uninterrupted):
  assert max(line["policy/ratio_error"] for line in lines_of(uninterrupted, "rl")) < 1e-5


def test_the_model_learns_and_coefficients_move(uninterrupted):
  losses = [line["loss/sft"] for line in lines_of(uninterrupted, "sft")]
  assert losses[-1] < losses[0]
  coefficients = [line["policy/kl_coef"] for line in lines_of(uninterrupted, "rl")]
  assert coefficients[0] == pytest.approx(0.05) and len(set(coefficients)) > 2


def test_steps_of_one_shape_compile_once(uninterrupted):
  for stage in ("sft", "rl"):
    counts = [line["system/compilations"] for line in
              metrics.read_lines(uninterrupted / "metrics.jsonl") if line["stage"] == stage]
    assert counts[-1] == counts[1], counts  # a checkpoint compiles nothing either


def test_summary(uninterrupted):
  stages = read_summary(uninterrupted)["stages"]
  assert [stage["name"] for stage in stages] == ["start", "sft", "rl"]
  assert [stage["steps"] for stage in stages] == [0, STEPS, STEPS]
  assert stages[0]["tokens"] == 0 and stages[0]["seconds"] == 0.0
  assert stages[1]["tokens"] == STEPS * 8 * 48  # batches of packed rows
  assert stages[2]["tokens"] > 0 and stages[2]["seconds"] > 0
  for stage in stages:
    assert set(stage) == {"name", "steps", "seconds", "tokens", "evaluation"}
    estimates = stage["evaluation"]["countdown"]
    assert {"greedy", "pass@2", "maj@2", "reasoning_length", "backtracks", "checks"} <= set(
        estimates)
    for estimate in estimates.values():
      assert set(estimate) == {"value", "low", "high", "n"}
      assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert estimates["greedy"]["n"] == 12


def test_the_summary_says_how_it_was_made(uninterrupted):
  made = read_summary(uninterrupted)["provenance"]
  assert set(made) == {"seed", "data", "task", "template", "sampling", "grader", "problems",
                       "processes"}
  assert made["seed"] == 3 and made["data"] == {}
  assert made["task"]["kind"] == "countdown" and made["task"]["problems"]["max_number"] == 6
  assert made["template"] == {"sha256": None, "options": {}, "end_tokens": ["<eos>"]}
  assert made["sampling"]["num_samples"] == 2 and made["sampling"]["temperature"] == 1.0
  # As the part "verifier" of the training says.
  assert made["grader"]["verifier"] == "countdown" and made["grader"]["function"] is None
  assert made["grader"]["options"]["which_box"] == "first"
  assert made["grader"]["options"]["no_box_score"] == -0.5
  assert made["problems"]["count"] == 12 and made["problems"]["first_prompt"].endswith(" :")
  (process,) = made["processes"]
  assert process["command"].startswith("tiny_run.py ") and process["from_step"] == 0
  assert process["versions"]["jax"] == jax.__version__
  assert set(process["versions"]) == {
      "python", "rlreason", "jax", "jaxlib", "flax", "optax", "numpy"}
  assert process["devices"] == {"platform": "cpu", "kind": "cpu", "count": 1}


def test_every_completion_of_an_evaluation_is_written(uninterrupted):
  folder = uninterrupted / "evaluation"
  assert sorted(path.name for path in folder.iterdir()) == ["rl.jsonl", "sft.jsonl", "start.jsonl"]
  summary = read_summary(uninterrupted)
  rows = metrics.read_lines(folder / "rl.jsonl")
  assert len(rows) == 12 * 3  # a greedy one and two samples
  estimates = summary["stages"][-1]["evaluation"]["countdown"]
  for metric in ("greedy", "avg@2", "pass@1", "pass@2", "maj@1", "maj@2"):
    values = completions.per_problem(rows, metric).values()
    assert sum(values) / len(values) == pytest.approx(estimates[metric]["value"])
  assert completions.digest(rows) == summary["provenance"]["problems"]["sha256"]


def test_samples_have_prompt_completion_answer_and_rewards(uninterrupted):
  samples = metrics.read_lines(uninterrupted / "samples.jsonl")
  training = [sample for sample in samples if sample["stage"] == "rl"]
  assert len(training) == 2 * STEPS  # samples_per_step
  for sample in training:
    assert set(sample["rewards"]) == {"total", "verifier", "exploration", "random"}
    assert sample["prompt"] and sample["answer"] and isinstance(sample["completion"], str)
  evaluated = [sample for sample in samples if sample["stage"] == "eval-rl"]
  assert len(evaluated) == 12 and set(evaluated[0]["rewards"]) == {"verifier"}


def test_other_files(uninterrupted):
  names = {path.name for path in uninterrupted.iterdir()}
  assert {"config.json", "checkpoints", "models", "metrics.jsonl", "samples.jsonl", "summary.json",
          "tensorboard", "plots", "report.html"} <= names
  assert any((uninterrupted / "plots").glob("*.png"))
  model, params, tokenizer = weights.load_model(uninterrupted / "models" / "rl")
  assert model.width == 16 and tokenizer.eos_ids == (1,)
  before = weights.load_model(uninterrupted / "models" / "sft")[1]
  assert np.any(params["embed"]["embedding"] != before["embed"]["embedding"])


# Runs in this process, on eight devices.


@pytest.fixture(scope="module", autouse=True)
def no_report_fixture():
  """That of `uninterrupted` is looked at, which a process of its own makes."""
  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(run_lib.report_lib, "make_report", lambda workdir: workdir / "report.html")
    yield


def make_recipe(**changes):
  config = tiny_run.make_config()
  config.update_from_flattened_dict(changes)
  return from_config(config)


def test_a_finished_run_is_not_run_again(uninterrupted, tmp_path):
  copy = tmp_path / "copy"
  subprocess.run(["cp", "-r", str(uninterrupted), str(copy)], check=True)
  summary = run_lib.train(make_recipe(**{"parallel.data": 1}), copy)
  assert summary == read_summary(uninterrupted)
  assert (copy / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


def test_another_config_in_the_same_workdir_is_refused(uninterrupted):
  before = files_of(uninterrupted)
  with pytest.raises(ValueError, match="config.stages.1..algorithm.discount: 1.0 -> 0.9.*new work"):
    run_lib.train(make_recipe(**{"rl.algorithm.discount": 0.9}), uninterrupted)
  assert files_of(uninterrupted) == before


@pytest.fixture(scope="module", name="sharded")
def sharded_fixture(tmp_path_factory):
  """A run under jit over four by two devices."""
  workdir = tmp_path_factory.mktemp("sharded")
  run_lib.train(make_recipe(**{"parallel.fsdp": 2}), workdir)
  return workdir


def assert_same_metrics(workdir, expected_workdir):
  lines, expected_lines = reproducible_lines(workdir), reproducible_lines(expected_workdir)
  assert [line["step"] for line in lines] == [line["step"] for line in expected_lines]
  for line, expected in zip(lines, expected_lines):
    assert line.pop("stage") == expected.pop("stage")
    assert line == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_mesh_and_one_device_give_the_same_metrics(sharded, uninterrupted):
  assert_same_metrics(sharded, uninterrupted)


def test_a_mesh_whose_devices_split_tokens_too(uninterrupted, tmp_path):
  run_lib.train(make_recipe(**{"parallel.fsdp": 2, "parallel.sequence": 2}), tmp_path)
  assert_same_metrics(tmp_path, uninterrupted)


def break_updates(monkeypatch, after):
  """The loss of every update of a stage after its first `after` is not finite."""
  apply_gradients = base.apply_gradients

  def broken(state, gradients, loss, optimizer):
    return apply_gradients(
        state, gradients, jnp.where(state.step >= after, jnp.nan, loss), optimizer)

  monkeypatch.setattr(base, "apply_gradients", broken)


def test_a_run_that_fails_stops_with_its_last_good_checkpoint_and_goes_on_under_pmap(
    sharded, tmp_path, monkeypatch):
  """Three non-finite updates in a row end it; without them, it resumes, also in another layout."""
  with monkeypatch.context() as patched:
    break_updates(patched, after=2)
    with pytest.raises(FloatingPointError) as error:
      run_lib.train(make_recipe(**{"parallel.fsdp": 2}), tmp_path)
  message = str(error.value)
  assert message.startswith("step 5 (sft 5): 3 updates in a row had a loss or gradient that is not")
  assert "last good checkpoint: 2." in message
  # Step 4 was due for a checkpoint, but came in the middle of the trouble.
  assert checkpoint.Checkpointer(str(tmp_path), read_only=True).all_steps() == [2]
  skipped = [line["optim/skipped_in_a_row"] for line in lines_of(tmp_path, "sft")]
  assert skipped == [0.0, 0.0, 1.0, 2.0, 3.0]
  run_lib.train(make_recipe(**{"parallel.mode": "pmap"}), tmp_path)
  assert_same_metrics(tmp_path, sharded)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_stop_a_run(number):
  before = signal.getsignal(number)
  with signals.stop_signals() as stop:
    os.kill(os.getpid(), number)
    assert stop.wait(10)
    assert signal.getsignal(number) == before  # a second one ends the process
  assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_so():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
  try:
    with signals.stop_signals() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and not stop.is_set()
  finally:
    signal.signal(signal.SIGHUP, before)
