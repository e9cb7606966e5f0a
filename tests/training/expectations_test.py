"""Whether a run is held against what its recipe expects: the settings of each recipe's own."""

import ast
import dataclasses
import json
import pathlib

import pytest

from rlreason import commands, recipe_files
from rlreason.evaluation import metrics
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.expected import Expected
from rlreason.training import expectations
from rlreason.training.settings.recipe import from_config
from rlreason.training.settings.sft import SFTStage
from tests.settings import bases, fakes

PROBLEMS = {"count": 500, "sha256": "ab12", "first_prompt": "p"}
VALUE = {"countdown": {"greedy": {"value": 0.4}}}
DOCS = pathlib.Path(__file__).parents[2] / "docs"


def recipe_of(name, *overrides):
  return from_config(commands.load_config(name, overrides))


def verdict(*overrides, stage="rl", problems=PROBLEMS, name="rlsp_countdown"):
  found = expectations.of_evaluation(
      recipe_of(name, *overrides), stage, None, VALUE, problems)
  return found["differences"] or found["verdict"]


@pytest.mark.parametrize("overrides", [
    (), (("seed", "7"),), (("evaluation.every_steps", "20"), ("checkpoint.every_steps", "9")),
    (("model.remat", "none"), ("parallel.cpu_devices", "1"), ("preflight", "false")),
    (("evaluation.num_samples", "0"), ("evaluation.batch_size", "10"))])
def test_a_run_with_the_recipes_settings_is_compared(overrides):
  assert verdict(*overrides) == "inside" and verdict(*overrides, stage="sft") == "above"


@pytest.mark.parametrize("field, value, stages, line", [
    ("rl.steps", "12", "rl", "config.rl.steps: 100 -> 12"),
    ("rl.algorithm.kl_coef", "0", "rl", "config.rl.algorithm.kl_coef: 0.0025 -> 0.0"),
    ("sft.steps", "200", "sft rl", "config.sft.steps: 2000 -> 200"),
    ("model.width", "64", "start sft rl", "config.model.width: 128 -> 64"),
    ("lora.rank", "4", "start sft rl", "config.lora: None -> {"),
    ("evaluation.num_problems", "50", "start sft rl",
     "config.evaluation.num_problems: 500 -> 50"),
    ("evaluation.split", "validation", "start sft rl",
     "config.evaluation.split: 'test' -> 'validation'"),
    ("task.problems.max_number", "9", "start sft rl", "config.task.problems.max_number: 12 -> 9"),
    ("stages", "('rl',)", "rl", "config.sft: {")])
def test_a_run_with_other_settings_is_not(field, value, stages, line):
  for stage in ("start", "sft", "rl"):
    if field == "stages" and stage == "sft":
      continue
    found = verdict((field, value), stage=stage)
    if stage in stages.split():
      assert found[0].startswith(line) and len(found[0]) <= 121, stage
    else:
      assert found in ("inside", "above"), stage


def test_a_model_is_known_by_its_name_wherever_it_lies():
  compare = lambda path, **beside: verdict(
      ("model.path", path), name="grpo_gsm8k:full", problems=PROBLEMS | beside)
  for path in ("models/Qwen2.5-0.5B-Instruct", "/data/Qwen2.5-0.5B-Instruct/", (
      "/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/0123")):
    assert compare(path, count=1319) == "below"
  assert compare("models/mine", count=1319) == [
      "config.model.path: 'Qwen2.5-0.5B-Instruct' -> 'mine'"]
  assert compare("/data/Qwen2.5-0.5B-Instruct", count=200) == ["problems: 1319 -> 200"]
  ours = dict(name="grpo_gsm8k", problems={"count": 100, "sha256": "6214b578bd"})
  assert verdict(**ours) == "inside"  # the generated problems
  theirs = ours | {"problems": {"count": 100, "sha256": "0123456789"}}
  assert verdict(**theirs) == ["sha256 of the problems: 6214b578 -> 01234567"]


def test_a_copy_of_a_recipe_is_not_taken_for_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = recipe_files.find_all()["rlsp_countdown"].read_text()
  (tmp_path / "rlsp_countdown.py").write_text(text.replace("kl_coef=0.0025", "kl_coef=0.5"))
  assert verdict(name="rlsp_countdown.py") == ["config.rl.algorithm.kl_coef: 0.0025 -> 0.5"]
  lost = dataclasses.replace(
      recipe_of("rlsp_countdown").evaluation.expected, recipe="no_such_recipe")
  recipe = recipe_of("rlsp_countdown")
  recipe = dataclasses.replace(
      recipe, evaluation=dataclasses.replace(recipe.evaluation, expected=lost))
  found = expectations.of_evaluation(recipe, "rl", None, VALUE, PROBLEMS)
  assert found["verdict"] == "other settings" and "not found" in found["differences"][0]


def test_a_model_that_is_evaluated_by_itself_is_compared_where_it_is_the_start():
  recipe = recipe_of("grpo_gsm8k:full")
  of_model = lambda path: expectations.of_model(
      recipe, path, {"gsm8k": {"greedy": {"value": 0.36}}}, PROBLEMS | {"count": 1319})
  assert of_model("x/Qwen2.5-0.5B-Instruct")["verdict"] == "inside"
  assert of_model("runs/a/models/rl") is None
  assert expectations.of_model(
      recipe_of("rlsp_countdown"), "runs/a/models/rl", VALUE, PROBLEMS) is None


def test_the_run_says_it_at_each_evaluation_and_keeps_it(tmp_path):
  values = [0.0, 0.3, 0.6, 0.9]
  expected = Expected(points={"start": (0.0, 0.1), "more": (0.1, 0.5)}, source="here")
  evaluation = EvaluationConfig(num_problems=2, batch_size=2, every_steps=1, expected=expected)
  stage = SFTStage(**bases.BASES[SFTStage] | dict(name="more", steps=3))
  recipe = bases.make_recipe(evaluation=evaluation, stages=(stage,))
  trace = fakes.run_loop(recipe, tmp_path, evaluate=values.__getitem__)
  assert [line for line in trace["said"] if line.startswith("greedy")] == [
      "greedy 0.0%: inside the expected 0 to 10% (here)",
      "greedy 30.0%: inside the expected 0 to 50%, between start and more (here)",
      "greedy 60.0%: above the expected 0 to 50%, between start and more (here)",
      "greedy 90.0%: above the expected 10 to 50% (here)"]
  start, more = trace["summary"]["stages"]
  assert start["expected"]["verdict"] == "inside" and more["expected"]["verdict"] == "above"
  assert [point.get("expected", {}).get("verdict") for point in more["evaluations"]] == [
      "inside", "above", None]
  assert json.loads((tmp_path / "summary.json").read_text()) == trace["summary"]


def _recipes():
  """Every recipe with an argument for each of what it expects, as --config takes it."""
  for name in recipe_files.find_all():
    arguments = {"methods/preference": ("dpo", "ipo", "kto", "orpo", "simpo"),
                 "methods/variants": ("cispo", "opo", "pass_at_k", "clip_cov", "kl_cov",
                                      "reinforce_plus_plus_baseline"),
                 "grpo_gsm8k": ("", "full")}.get(name, ("",))
    if name not in ("methods/distill_sequence", "methods/distill_on_policy",
                    "methods/distill_policy_gradient"):  # which need a teacher
      yield from (f"{name}:{argument}" if argument else name for argument in arguments)


@pytest.mark.parametrize("name", list(_recipes()))
def test_a_recipe_has_the_settings_of_what_it_expects(name):
  recipe = recipe_of(name)
  config = recipe.evaluation.expected
  if config is None:
    return
  stages = [stage.name for stage in recipe.stages]
  assert config.recipe == name and set(config.points) <= {"start", *stages}
  value = {"task": {config.metric: {"value": 0.5}}}
  problems = {"count": config.num_problems, "sha256": config.problems_sha256}
  for point in config.points:
    assert not expectations.of_evaluation(recipe, point, None, value, problems)["differences"]


def test_ranges_are_those_of_the_documented_runs():
  interval = lambda count, right: metrics.proportion([True] * right + [False] * (count - right))
  ends = lambda count, *rights: (min(interval(count, right)["low"] for right in rights),
                                 max(interval(count, right)["high"] for right in rights))
  near = lambda name, point: pytest.approx(
      recipe_of(name).evaluation.expected.points[point], abs=6e-4)
  assert ends(500, 48, 37, 53) == near("rlsp_countdown", "sft")  # 9.6, 7.4 and 10.6%
  assert ends(500, 217, 199, 243) == near("rlsp_countdown", "rl")  # 43.4, 39.8 and 48.6%
  assert ends(200, 81) == near("rlsp_smollm2", "sft")  # 40.5%
  assert ends(200, 116) == near("rlsp_smollm2", "rl")  # 58%
  assert ends(100, 35) == near("grpo_gsm8k", "sft")
  assert ends(100, 33) == near("grpo_gsm8k", "rl")
  text = (DOCS / "results.md").read_text()
  assert "9.2 [9.6, 7.4, 10.6]" in text and "[43.4, 39.8, 48.6]" in text
  # 94.1% of 200 problems: 90.0 to 96.6%; 91.3%: 86.5 to 94.4%.
  assert near("methods/grpo", "rl") == (0.8652, 0.9659)


def test_bands_of_the_methods_are_those_of_the_record():
  source = (recipe_files.FOLDER / "methods" / "bands.py").read_text()
  measured = next(ast.literal_eval(node.value) for node in ast.parse(source).body
                  if isinstance(node, ast.Assign) and node.targets[0].id == "MEASURED")
  runs = json.loads((DOCS / "miniatures.json").read_text())["runs"]
  for name, values in measured.items():
    record = [100 * runs[name][seed]["avg@8"] for seed in "012"]
    assert list(values) == pytest.approx(record, abs=0.051), name
