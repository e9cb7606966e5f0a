"""Runs over seeds, which are made up but for their folders."""

import dataclasses
import json

import pytest

import rlreason as rr
from rlreason import main
from rlreason.training import loop, metrics as metrics_lib, run, seeds
from tests.settings import bases

RECIPE = bases.make_recipe(seed=4, stages=())


def summary_of(seed, greedy):
  estimate = dict(value=greedy, low=greedy - 0.1, high=greedy + 0.1, n=50)
  found = {"greedy": estimate} | ({"tokens_per_right": dict(
      value=9.0, low=8.0, high=None, n=50)} if greedy else {})
  return {"stages": [{"name": "start", "steps": 2, "seconds": 1.5, "tokens": 7,
                      "evaluation": {"toy": found}}],
          "provenance": {"seed": seed, "grader": "math", "processes": []}}


@pytest.fixture(autouse=True, name="trained")
def trained_fixture(monkeypatch):
  """Seed and folder of each run."""
  calls = []

  def train(recipe, workdir, *, allow_changed_inputs, profile, wandb):
    assert profile is None and wandb is None
    calls.append((recipe.seed, workdir.name, allow_changed_inputs))
    assert dataclasses.replace(recipe, seed=4) == RECIPE
    workdir.mkdir(parents=True, exist_ok=True)
    return summary_of(recipe.seed, (recipe.seed - 4) / 10)

  monkeypatch.setattr(run, "train", train)
  return calls


def test_each_seed_has_its_folder_and_the_summary_is_over_them(tmp_path, trained, capsys):
  summary = rr.train(RECIPE, tmp_path / "runs", seeds=3, allow_changed_inputs=True)
  assert trained == [(4, "seed-4", True), (5, "seed-5", True), (6, "seed-6", True)]
  assert json.loads((tmp_path / "runs" / "summary.json").read_text()) == summary
  assert summary["seeds"] == [4, 5, 6]
  assert summary["provenance"] == {"grader": "math", "processes": []}
  (stage,) = summary["stages"]
  assert (stage["steps"], stage["seconds"], stage["tokens"]) == (6, 4.5, 21)
  greedy = stage["evaluation"]["toy"]["greedy"]
  assert greedy["values"] == [0.0, 0.1, 0.2] and greedy["std"] == pytest.approx(0.1)
  assert greedy["value"] == pytest.approx(0.1) and greedy["low"] == 0.0
  assert greedy["high"] == pytest.approx(0.1 + 4.302653 * 0.1 / 3**0.5)
  # Of one seed there is none: nothing was right.
  assert stage["evaluation"]["toy"]["tokens_per_right"]["values"] == [9.0, 9.0]
  out = capsys.readouterr().out
  assert "seed 5, 2 of 3" in out and "10.0% ±10.0 [0.0, 34.8]" in out


def test_the_same_command_goes_on_and_more_seeds_are_added(tmp_path, trained):
  rr.train(RECIPE, tmp_path, seeds=1)
  rr.train(RECIPE, tmp_path, seeds=2)
  assert [seed for seed, *_ in trained] == [4, 4, 5]
  assert len(json.loads((tmp_path / "summary.json").read_text())["seeds"]) == 2


def test_a_stop_names_the_folder_of_all(tmp_path, monkeypatch):
  def stop(recipe, workdir, **unused):
    raise loop.Interrupted(f"stopped on request after step 3; --workdir={workdir}")

  monkeypatch.setattr(run, "train", stop)
  with pytest.raises(loop.Interrupted, match=f"at seed 4; .* --workdir={tmp_path} resumes"):
    rr.train(RECIPE, tmp_path, seeds=2)


@pytest.mark.parametrize("name", ["config.json", "checkpoints", "summary.json"])
def test_the_folder_of_a_single_run_is_refused(name, tmp_path, trained):
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f"holds '{name}', which is not of runs over seeds"):
    rr.train(RECIPE, tmp_path, seeds=2)
  assert not trained


def test_a_number_of_seeds_is_checked(tmp_path):
  for recipe, count in ((RECIPE, 0), (dataclasses.replace(RECIPE, seed=2**31 - 1), 2)):
    with pytest.raises(ValueError, match=f"seeds: got {count} from {recipe.seed} on, allowed: 1"):
      rr.train(recipe, tmp_path, seeds=count)


def test_pages_of_runs_are_made_again(tmp_path, capsys):
  for folder in ("a", "b/seed-0", "b/seed-1"):
    metrics_lib.write_lines(tmp_path / folder / "metrics.jsonl", [
        {"step": 1, "stage": "rl", "loss/policy": 0.5}])
  assert main.main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
  pages = [tmp_path / folder / "report.html" for folder in ("a", "b/seed-0", "b/seed-1")]
  assert capsys.readouterr().out.split() == list(map(str, pages))
  assert all("How it was made" not in page.read_text() for page in pages)  # no summary says it
  assert (tmp_path / "a" / "plots" / "loss.png").exists()
  assert main.main(["report", str(tmp_path / "c")]) == main.EXIT_USER
  assert "no metrics.jsonl in" in capsys.readouterr().err
