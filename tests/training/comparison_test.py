"""Runs beside each other; the runs are made up."""

import json

from matplotlib import image
import numpy as np
import pytest

import rlreason as rr
from rlreason import main
from rlreason.evaluation import metrics
from rlreason.training import comparison, comparison_plot
from rlreason.training import metrics as metrics_lib


def completion(problem, is_right, sample=None, prompt=None, length=10, task_name="easy"):
  return dict(
      problem=problem, sample=sample, task_name=task_name, prompt=prompt or f"p{problem}",
      gold="1", completion="", extracted="1", vote=int(is_right), score=float(is_right),
      length=length, truncated=False)


def write_run(folder, right, *, config=None, prompt="p", stage="rl", rewards=(), length=10):
  """A run of which the first problems are right: greedy, and one of two samples of each."""
  rows = []
  for i, is_right in enumerate(right):
    rows += [completion(i, is_right, None, f"{prompt}{i}", length),
             completion(i, is_right, 0, f"{prompt}{i}"), completion(i, False, 1, f"{prompt}{i}")]
  estimates = {
      "greedy": metrics.proportion(right), "avg@2": metrics.share([one / 2 for one in right]),
      "length": metrics.mean([length] * len(right))}
  summary = {"stages": [
      {"name": "start", "steps": 0, "seconds": 0.0, "tokens": 0, "evaluation": {}},
      {"name": stage, "steps": 3, "seconds": 1.0, "tokens": 9, "evaluation": {"toy": estimates}}]}
  folder.mkdir(parents=True)
  (folder / "summary.json").write_text(json.dumps(summary))
  (folder / "config.json").write_text(json.dumps(config or {"seed": 0, "lr": 0.1}))
  metrics_lib.write_lines(folder / "evaluation" / f"{stage}.jsonl", rows)
  metrics_lib.write_lines(folder / "metrics.jsonl", [
      {"step": i + 1, "stage": "rl", "reward/total/mean": value} for i, value in enumerate(rewards)
  ] + [{"step": len(rewards), "stage": "eval-rl", "eval/toy/greedy": float(np.mean(right))}])
  return str(folder)


def right(count, n=10):
  return [i < count for i in range(n)]


def test_a_difference_is_paired_over_the_problems(tmp_path):
  """Ten problems, of which the second run solves two more: as in metrics_test."""
  runs = [write_run(tmp_path / "a", right(3)),
          write_run(tmp_path / "b", right(5), config={"seed": 0, "lr": 0.2}, length=8)]
  found = rr.compare(runs)
  assert found["runs"] == [dict(name=run, stage="rl", seeds=1) for run in runs]
  greedy = found["tasks"]["toy"]["greedy"]
  assert greedy["values"] == [metrics.proportion(right(3)), metrics.proportion(right(5))]
  assert greedy["differences"][0] is None
  assert greedy["differences"][1] == pytest.approx(
      dict(value=0.2, low=-0.1461, high=0.4794, n=10), abs=1e-4)
  assert found["tasks"]["toy"]["avg@2"]["differences"][1]["value"] == pytest.approx(0.1)
  assert found["tasks"]["toy"]["length"]["differences"][1] == dict(
      value=-2.0, low=-2.0, high=-2.0, n=10)
  assert found["configs"] == [[], ["config.lr: 0.1 -> 0.2"]]


def test_configs_differ_by_the_paths_that_one_types(tmp_path):
  rl = lambda **changes: dict(name="rl", kind="rl", rewards=[
      dict(name="verifier", weight=1.0)], kl_coef=0.0) | changes
  sft = dict(name="sft", kind="sft", steps=3)
  configs = [dict(stages=[sft, rl()]), dict(stages=[rl(kl_coef=0.1)]),
             dict(stages=[sft, rl(rewards=[dict(name="verifier", weight=0.5)])])]
  found = rr.compare([write_run(tmp_path / str(i), right(3), config=config)
                      for i, config in enumerate(configs)])
  assert found["configs"] == [[], [
      "config.sft: only in the first", "config.stages: ['sft', 'rl'] -> ['rl']",
      "config.rl.kl_coef: 0.0 -> 0.1"], ["config.rl.rewards.verifier.weight: 1.0 -> 0.5"]]


def test_problems_are_paired_by_what_is_asked(tmp_path):
  """The second run has the same problems in another order, but for one of its own."""
  first = write_run(tmp_path / "a", right(3))
  second = write_run(tmp_path / "b", right(10))
  rows = [completion(i, is_right, None, f"p{9 - i}" if i else "another")
          for i, is_right in enumerate(reversed(right(5)))]
  metrics_lib.write_lines(tmp_path / "b" / "evaluation" / "rl.jsonl", rows)
  found = rr.compare([first, second])["tasks"]["toy"]
  # Of p0 to p8 the first has 0 to 2 right, the second 0 to 4.
  assert found["greedy"]["differences"][1]["n"] == 9
  assert found["greedy"]["differences"][1]["value"] == pytest.approx(2 / 9)
  assert found["avg@2"]["differences"][1] is None  # it has no samples


def test_other_prompts_of_the_same_problems_are_paired_by_their_index(tmp_path):
  runs = [write_run(tmp_path / "a", right(3)), write_run(tmp_path / "b", right(5), prompt="Q: p")]
  assert rr.compare(runs)["tasks"]["toy"]["greedy"]["differences"][1]["n"] == 10


def test_without_completions_there_is_no_paired_difference(tmp_path):
  runs = [write_run(tmp_path / "a", right(3)), write_run(tmp_path / "b", right(5))]
  (tmp_path / "b" / "evaluation" / "rl.jsonl").unlink()  # of an older version
  assert rr.compare(runs)["tasks"]["toy"]["greedy"]["differences"] == [None, None]


def test_runs_over_seeds_are_one_column(tmp_path):
  for seed, count in ((2, 2), (10, 6)):
    write_run(tmp_path / "a" / f"seed-{seed}", right(count), config={"seed": seed, "lr": 0.1})
  (tmp_path / "a" / "seed-notes").mkdir()
  write_run(tmp_path / "b", right(8))
  found = rr.compare([tmp_path / "a", tmp_path / "b"])
  assert [run["seeds"] for run in found["runs"]] == [2, 1]
  greedy = found["tasks"]["toy"]["greedy"]
  assert greedy["values"][0]["values"] == [0.2, 0.6] and greedy["values"][0]["value"] == 0.4
  # Two problems are right in both seeds, four in one, and the other run has eight: 0, 0.5 x 4,
  # 1 x 2 and 0 x 2.
  assert greedy["differences"][1]["value"] == pytest.approx((4 * 0.5 + 2) / 10)
  assert found["configs"] == [[], []]  # a seed is no difference of several


def test_a_stage_may_be_named_and_evaluations_are_read(tmp_path):
  run = write_run(tmp_path / "a", right(3))
  (tmp_path / "b.json").write_text(json.dumps(
      json.loads((tmp_path / "a" / "summary.json").read_text()) | {
          "provenance": {"seed": 0, "task": {"kind": "chain"}, "processes": []}}))
  (tmp_path / "b.jsonl").write_bytes((tmp_path / "a" / "evaluation" / "rl.jsonl").read_bytes())
  found = rr.compare([tmp_path / "b.json", tmp_path / "b.json"], stage="rl")
  assert found["tasks"]["toy"]["greedy"]["differences"][1]["value"] == 0
  assert comparison.read_group(tmp_path / "b.json").runs[0].record == {
      "seed": 0, "task": {"kind": "chain"}}
  assert comparison.read_group(f"{run}@rl").runs[0].stage == "rl"
  assert comparison.read_group(f"{run}@rl", "sft").name == f"{run}@rl"
  with pytest.raises(ValueError, match="stage: got 'x' of"):
    comparison.read_group(f"{run}@x")
  for stage in ("start", "sft"):
    with pytest.raises(ValueError, match=f"stage: got '{stage}' of .* with an evaluation .rl."):
      rr.compare([run, run], stage=stage)


def test_what_is_no_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no result in .*nowhere"):
    comparison.read_group(tmp_path / "nowhere")
  (tmp_path / "summary.json").write_text("{")
  with pytest.raises(ValueError, match="summary.json' is damaged"):
    comparison.read_group(tmp_path)
  (tmp_path / "summary.json").write_text("{}")
  with pytest.raises(ValueError, match="is no summary of a run"):
    comparison.read_group(tmp_path)
  with pytest.raises(ValueError, match="allowed: a list of two or more"):
    rr.compare("runs/a")


def test_a_band_is_of_the_steps_that_all_seeds_have():
  steps, values = comparison_plot.band([{1: 1.0, 2: 2.0, 3: 3.0}, {2: 4.0, 3: 6.0, 4: 0.0}])
  assert steps.tolist() == [2, 3] and values.tolist() == [[2.0, 3.0], [4.0, 6.0]]
  # 40 steps: each value is a mean of two.
  _, values = comparison_plot.band([dict(enumerate(range(40)))])
  assert values[0, :4].tolist() == [0.0, 0.5, 1.5, 2.5]
  assert comparison_plot.band([{}])[0].size == 0


def test_steps_are_counted_from_where_the_compared_stage_begins():
  lines = [{"step": 0, "stage": "eval-start", "a": 1}, {"step": 1, "stage": "sft", "a": 2},
           {"step": 2, "stage": "sft", "b": 3}, {"step": 2, "stage": "eval-sft", "a": None},
           {"step": 3, "stage": "rl", "a": 4}, {"step": 4, "stage": "rl", "a": 5}]
  assert comparison_plot.curve(lines, "a", "rl") == {-2: 1, -1: 2, 1: 4, 2: 5}
  assert comparison_plot.curve(lines, "a", "sft") == {0: 1, 1: 2, 3: 4, 4: 5}
  assert comparison_plot.curve(lines, "b", "start") == {2: 3}


def test_a_curve_has_the_name_that_tells_it_apart(tmp_path):
  assert comparison_plot.short_names(["/r/a/grpo", "/r/b/rloo@rl"]) == ["a/grpo", "b/rloo@rl"]
  assert comparison_plot.short_names(["runs/a", "runs/a"]) == ["a", "a"]
  run = write_run(tmp_path / "a", right(3), rewards=[0.1])
  with open(tmp_path / "a" / "metrics.jsonl", "a", encoding="utf-8") as file:
    file.write(json.dumps({"step": 1, "stage": "eval-rl", "eval/toy-2/greedy": 0.5}) + "\n")
  assert rr.compare([run, run], tmp_path / "both")["curves"] == [
      "reward/total/mean", "eval/toy/greedy"]


def test_the_command_prints_tables_and_draws_curves(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for seed in (0, 1):
    write_run(tmp_path / "a" / f"seed-{seed}", right(2 + seed), rewards=[0.1, 0.2 + seed, 0.3])
  write_run(tmp_path / "b", right(5), config={"seed": 0, "lr": 0.2}, rewards=[0.5, 0.6, 0.7])
  assert main.main(["compare", "a", "b", "--output=both"]) == 0
  out = capsys.readouterr().out
  assert "A  a (rl, 2 seeds)" in out and "B  b (rl)" in out
  assert "+25.0 [" in out and "B - A of 10" in out and "50.0% [23.7, 76.3]" in out
  assert max(map(len, out.splitlines())) <= 80
  assert "config.lr: 0.1 -> 0.2" in out
  found = json.loads((tmp_path / "both" / "comparison.json").read_text())
  assert found["curves"] == ["reward/total/mean", "eval/toy/greedy"]
  assert found["tasks"]["toy"]["greedy"]["differences"][1]["value"] == pytest.approx(0.25)
  pixels = image.imread(tmp_path / "both" / "comparison.png")[..., :3]
  for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
    assert (np.abs(pixels - np.asarray(colour) / 255).max(axis=-1) < 0.02).sum() > 100
  assert main.main(["compare", "a", "b", "--output=both"]) == 0  # its own files are made again
  capsys.readouterr()
  for arguments, message in (
      (["a"], "got 'a' alone, allowed: two runs or more"), ([], "RUN RUN ... is missing"),
      (["a", "c"], "no result in 'c'"), (["a", "b", "--output=b/summary.json"], "is no folder")):
    assert main.main(["compare", *arguments]) == main.EXIT_USER
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
