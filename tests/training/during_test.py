"""What happens during a run: evaluations within a stage, the best of them, an early end, growth."""

import dataclasses
import json

import pytest

from rlreason.training import curves, metrics, workdir
from rlreason.training.settings.recipe import CheckpointConfig
from tests.settings import bases, fakes, of_runs

GREEDY = "eval/toy/greedy"


def make_recipe(*, steps=8, stop_after=0, best_is="highest", stages=None, schedule="constant"):
  optimizer = dataclasses.replace(bases.OPTIMIZER, schedule=schedule)
  stage = dataclasses.replace(of_runs.SFT, steps=steps, optimizer=optimizer)
  return bases.make_recipe(
      stages=stages or (stage,), checkpoint=CheckpointConfig(
          every_steps=3, max_to_keep=1, keep_best=GREEDY, best_is=best_is),
      evaluation=dataclasses.replace(bases.EVALUATION, every_steps=2, stop_after=stop_after))


def run(recipe, folder, values, **settings):
  """Runs the loop; its evaluations give these values, the first that of the start."""
  return fakes.run_loop(recipe, folder, evaluate=lambda number: values[number], **settings)


def evaluated(folder):
  return [(line["step"], line[GREEDY]) for line in metrics.read_lines(folder / "metrics.jsonl")
          if line["stage"].startswith("eval-")]


def checkpoints(folder):
  return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.is_dir())


def test_the_best_evaluation_keeps_its_checkpoint(tmp_path):
  summary = run(make_recipe(), tmp_path, [0.9, 0.1, 0.6, 0.6, 0.2])["summary"]
  assert evaluated(tmp_path) == [(0, 0.9), (2, 0.1), (4, 0.6), (6, 0.6), (8, 0.2)]
  stage = summary["stages"][1]
  assert stage["best"] == {"metric": GREEDY, "step": 4, "value": 0.6}  # the first of equals
  assert [point["step"] for point in stage["evaluations"]] == [2, 4, 6, 8]
  assert stage["evaluations"][-1]["evaluation"] == stage["evaluation"]
  assert checkpoints(tmp_path) == [4, 8]
  assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_the_best_may_be_the_lowest_and_be_missing(tmp_path):
  summary = run(make_recipe(best_is="lowest"), tmp_path, [0.0, 0.3, None, 0.2, 0.4])["summary"]
  assert summary["stages"][1]["best"]["step"] == 6
  assert curves.best_point([{"step": 2, "evaluation": {}}], make_recipe().checkpoint) is None


def test_a_stage_ends_after_evaluations_that_were_no_better(tmp_path):
  recipe = make_recipe(steps=12, stop_after=2)
  trace = run(recipe, tmp_path, [0.0, 0.5, 0.4, 0.5])
  reason = f"{GREEDY} was not better than 0.5 of step 2 in 2 evaluations: ended at step 6"
  assert f"sft: {reason}" in trace["said"]
  stage = trace["summary"]["stages"][1]
  assert (stage["ended_early"], stage["steps"], stage["best"]["step"]) == (reason, 6, 2)
  assert evaluated(tmp_path) == [(0, 0.0), (2, 0.5), (4, 0.4), (6, 0.5)]  # its end is the last one
  assert len(trace["keys"]) == 6 and checkpoints(tmp_path) == [2, 6]
  again = run(recipe, tmp_path, [])  # it has ended, and nothing is done again
  assert again["summary"] == trace["summary"] and "keys" not in again


class Killed(Exception):
  """Replaces a signal."""


@pytest.mark.parametrize("moment", range(1, 4))
def test_a_stage_that_ends_early_is_the_same_when_it_was_killed(tmp_path, moment):
  """In the evaluation after step 2, 4 or 6, and again in the step after it, if there is one."""
  recipe = make_recipe(steps=12, stop_after=2)
  values = [0.0, 0.5, 0.4, 0.5]

  def evaluate(number):
    if number == moment:
      raise Killed
    return values[number]

  def fail(stage, step):
    if step == 2 * moment:
      raise Killed
    return {}

  with pytest.raises(Killed):
    fakes.run_loop(recipe, tmp_path, evaluate=evaluate)
  if moment < 3:
    with pytest.raises(Killed):
      run(recipe, tmp_path, values[moment:], metrics=fail)
    trace = run(recipe, tmp_path, values[moment + 1:])
  else:
    trace = run(recipe, tmp_path, values[moment:])
  assert evaluated(tmp_path) == [(0, 0.0), (2, 0.5), (4, 0.4), (6, 0.5)]
  stage = trace["summary"]["stages"][1]
  assert (stage["steps"], stage["best"]["step"], stage["tokens"]) == (6, 2, 6 * fakes.TOKENS)
  assert "ended_early" in stage and checkpoints(tmp_path) == [2, 6]
  assert [line["step"] for line in metrics.read_lines(tmp_path / "metrics.jsonl")
          if line["stage"] == "sft"] == [1, 2, 3, 4, 5, 6]


# A run that grows.


def test_a_run_that_has_ended_goes_on_with_more_steps(tmp_path):
  one, grown = tmp_path / "one", tmp_path / "grown"
  whole = run(make_recipe(steps=7), one, [0.0, 0.1, 0.2, 0.3, 0.4])
  run(make_recipe(steps=4), grown, [0.0, 0.1, 0.2])
  assert evaluated(grown) == [(0, 0.0), (2, 0.1), (4, 0.2)]
  assert "keys" not in run(make_recipe(steps=4), grown, [])
  trace = run(make_recipe(steps=7), grown, [0.2, 0.3, 0.4])
  assert trace["keys"] == whole["keys"][4:]
  assert evaluated(grown) == evaluated(one)
  without = lambda trace: [stage | {"seconds": 0} for stage in trace["summary"]["stages"]]
  assert without(trace) == without(whole)


def started_with(recipe, folder):
  (folder / "checkpoints" / "4").mkdir(parents=True)
  steps = [{"steps": stage.steps} for stage in recipe.stages]
  (folder / "config.json").write_text(json.dumps({"stages": steps}))


def test_only_growth_that_changes_no_number_is_allowed(tmp_path):
  grow = lambda **fields: workdir.grown_steps(tmp_path, make_recipe(**fields))
  assert grow() == ()
  started_with(make_recipe(steps=8), tmp_path)
  assert grow(steps=8) == ()
  assert grow(steps=9) == ("config.stages[0].steps",)
  with pytest.raises(ValueError, match="^config.sft.steps: got 7 in .* with 8, allowed: 8 or"):
    grow(steps=7)
  with pytest.raises(ValueError, match="got 9 in a run .* with 8 and optimizer.schedule='cosine'"):
    grow(steps=9, schedule="cosine")
  workdir.write_steps(tmp_path, make_recipe(steps=9))
  assert grow(steps=9) == ()
  (tmp_path / "summary.json").write_text(json.dumps(
      {"stages": [{"name": "sft", "ended_early": "no better"}]}))
  with pytest.raises(ValueError, match="steps: got 10 .* with 9, which ended early .no better.,"):
    grow(steps=10)


def test_stages_before_the_last_do_not_grow(tmp_path):
  more = dataclasses.replace(of_runs.SFT, name="more")
  started_with(make_recipe(stages=(of_runs.SFT, more)), tmp_path)
  stages = (dataclasses.replace(of_runs.SFT, steps=9), more)
  assert workdir.grown_steps(tmp_path, make_recipe(stages=stages)) == ()


# What could do nothing is refused.


@pytest.mark.parametrize("evaluation, checkpoint, message", [
    (dict(every_steps=4), {}, "evaluation.every_steps: got 4, allowed: less than 4, the steps of"),
    (dict(every_steps=-1), {}, "every_steps: got -1, allowed: 0 or more"),
    ({}, dict(keep_best=GREEDY), "checkpoint.keep_best: got 'eval/toy/greedy' with evaluation.ev"),
    (dict(every_steps=1, stop_after=1), {}, "evaluation.stop_after: got 1 without checkpoint.kee"),
    (dict(every_steps=1, stop_after=3), dict(keep_best=GREEDY),
     "evaluation.stop_after: got 3, allowed: less than 3, the evaluations within"),
    (dict(every_steps=1), dict(keep_best="greedy"), "keep_best: got 'greedy', allowed: a metric"),
    ({}, dict(best_is="lowest"), "best_is: got 'lowest' without keep_best")])
def test_settings_that_could_do_nothing(evaluation, checkpoint, message):
  with pytest.raises(ValueError, match=f"^{message}"):
    bases.make_recipe(
        stages=(of_runs.SFT,), checkpoint=CheckpointConfig(**checkpoint),
        evaluation=dataclasses.replace(bases.EVALUATION, **evaluation))


def test_a_stage_does_not_have_the_name_of_the_best_of_another():
  stages = (of_runs.SFT, dataclasses.replace(of_runs.SFT, name="sft-best"))
  with pytest.raises(ValueError, match="stages: got 'sft-best' with checkpoint.keep_best"):
    make_recipe(stages=stages)
