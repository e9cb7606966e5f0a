"""Every experiment builds; those that nobody runs here are traced at their full size."""

import ast
import dataclasses
import functools
import importlib.util
import json
import math
import pathlib
import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import commands, config_files, losses, main, models, sampling
from rlreason.algorithms import init_rl_params, policy_gradient, presets
from rlreason.models import families
from rlreason.parallel import ALONE
from rlreason.slots import Slot
from rlreason.training.optimizer import make_optimizer
from rlreason.training.settings.recipe import from_config
from rlreason.types import Outcome, Prompts, Rollout

FOLDER = pathlib.Path(__file__).parents[1] / "experiments"
PROGRAMS = ("estimators", "miniature_claims", "miniatures", "question_files",
            "search_tokens")  # and no recipes
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in PROGRAMS)

# The values of the published config.json files.
LLAMA_8B = dict(
    model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, hidden_act="silu",
    max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
    tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
    rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192))
QWEN_32B = dict(
    model_type="qwen2", vocab_size=152064, hidden_size=5120, intermediate_size=27648,
    num_hidden_layers=64, num_attention_heads=40, num_key_value_heads=8, hidden_act="silu",
    max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0,
    tie_word_embeddings=False, use_sliding_window=False)
LARGE = {  # file -> (its model, parameters in billions)
    "rlsp_llama31_8b.py": (LLAMA_8B, 8.03), "rlsp_qwen25_32b.py": (QWEN_32B, 32.76)}


def load(name):
  return from_config(config_files.load_config_file(str(FOLDER / name)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipe_builds_and_its_command_is_documented(path):
  config = config_files.load_config_file(str(path))
  recipe = from_config(config)
  assert recipe.stages
  # The short name that `--config.optimizer.learning_rate` reaches.
  config.optimizer.learning_rate = 0.125
  assert from_config(config).stages[-1].optimizer.learning_rate == 0.125
  docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
  assert f"experiments/{path.name}" in docstring or "make train" in docstring


@pytest.mark.parametrize("prompt, template, system, is_chat, options", [
    ("boxed", "{question}\nPlease reason step by step", "", True, {}),
    ("qwen_math", "{question}", "Please reason step by step, and put your", True, {}),
    ("r1", "A conversation between User and Assistant.", "", False, {"answer_tags": True}),
    ("hashes", "{question} Let's think step by step", "", True, {"answer_after": "####"})])
def test_a_prompt_says_where_the_answer_is(prompt, template, system, is_chat, options):
  for name in (f"grpo_gsm8k.py:{prompt}", f"grpo_math.py:deepscaler,{prompt}", f"aime.py:{prompt}"):
    recipe = load(name)
    assert recipe.task.template.startswith(template) and "{question}" in recipe.task.template
    assert recipe.task.system.startswith(system) and bool(recipe.task.system) == bool(system)
    assert recipe.task.is_chat is is_chat and dict(recipe.grading.options) == options
    assert recipe.evaluation.verifier_options == options  # of a run without this stage as well


@pytest.mark.parametrize("name, message", [
    ("grpo_gsm8k.py:boxed,r1", "got the prompts boxed, r1, allowed: one"),
    ("grpo_math.py:aime", "got 'aime' after the colon, allowed: deepscaler, boxed"),
    ("countdown_llm.py:hashes", "the verifier of Countdown reads boxes"),
    ("own_file.py:a.jsonl,ppo", "got 'ppo' after the colon, allowed: grpo, rloo"),
    ("own_file.py:a.jsonl,grpo,rloo", "got the methods grpo, rloo, allowed: one"),
    ("own_file.py:a.jsonl,answers,workings", "got answers and workings, allowed: one")])
def test_what_a_recipe_does_not_know_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    load(name)


@pytest.mark.parametrize("words, stages, advantage, answer", [
    ("", ["rl"], losses.group_normalized, None),
    (",answers,rloo", ["sft", "rl"], losses.leave_one_out, "\\boxed{{answer}}"),
    (",dr_grpo,workings", ["sft", "rl"], losses.group_centered, ""),
    (",hashes,answers,full", ["sft", "rl"], losses.group_normalized, "#### {answer}"),
    (",r1,answers", ["sft", "rl"], losses.group_normalized,
     " <think> </think> <answer> {answer} </answer>")])
def test_a_file_of_ones_own_is_trained_on_by_any_method(words, stages, advantage, answer):
  recipe = load(f"own_file.py:my/problems.jsonl{words}")
  assert (recipe.task.train, recipe.task.test) == ("my/problems.jsonl", "")
  assert [stage.name for stage in recipe.stages] == stages
  assert recipe.stages[-1].algorithm.advantage.function is advantage
  if answer is not None:
    assert recipe.stages[0].answer_template == answer


@pytest.mark.parametrize("name", ["rlsp_countdown.py", "rlsp_smollm2.py"])
def test_controls_start_from_a_model(name):
  recipe = load(f"{name}:some/folder")
  assert [stage.name for stage in recipe.stages] == ["rl"]
  assert recipe.model.path == "some/folder"
  assert recipe.stages == load(name).stages[1:]


def load_program(monkeypatch, name):
  """A program of experiments/controls, whose neighbours it imports."""
  monkeypatch.syspath_prepend(FOLDER / "controls")
  monkeypatch.delitem(sys.modules, name, raising=False)
  return importlib.import_module(name)


def run_nothing(recipes, stages, rows=()):
  """Replaces `rlreason`: keeps the recipe that the flags ask for, and writes results.

  Args:
    recipes: name of the output -> recipe, filled.
    stages: stage -> its evaluation, for the summary.
    rows: completions, written for each stage of a run and beside a result.
  """
  lines = "".join(json.dumps(row) + "\n" for row in rows)

  def run(command, *flags):
    overrides, rest = main._split_overrides(flags)
    values = dict(flag.removeprefix("--").split("=", 1) for flag in rest)
    output = pathlib.Path(values["workdir"] if command == "train" else values["output"])
    recipes[output.name] = from_config(commands.load_config(values["config"], overrides))
    summary = json.dumps({"stages": [
        {"name": name, "evaluation": {"countdown": found}} for name, found in stages.items()]})
    if command != "train":
      output.write_text(summary)
      output.with_suffix(".jsonl").write_text(lines)
      return
    (output / "evaluation").mkdir(parents=True)
    for name in stages:
      (output / "evaluation" / f"{name}.jsonl").write_text(lines)
    (output / "summary.json").write_text(summary)
    (output / "metrics.jsonl").write_text(
        '{"stage": "eval-sft"}\n{"stage": "rl", "rollout/accuracy": 0.25}\n')
    (output / "report.html").touch()

  return run


def test_the_program_of_the_controls_runs_each_of_them(monkeypatch, tmp_path):
  controls = load_program(monkeypatch, "countdown")
  estimate = dict(value=0.5, low=0.4, high=0.6, n=9)
  evaluation = dict.fromkeys(controls.COLUMNS, estimate)
  recipes = {}
  monkeypatch.setattr(
      controls, "rlreason",
      run_nothing(recipes, dict.fromkeys(("start", "sft", "rl"), evaluation)))
  monkeypatch.chdir(FOLDER.parent)
  results = controls.run_seed(tmp_path, "3", [])
  assert list(results) == ["after SFT", "RLSP", *controls.CONTROLS, "SFT, giving up blocked"]
  assert controls.cell([results["RLSP"]] * 2, "greedy") == "0.5 [0.5, 0.5]"
  assert {recipe.seed for recipe in recipes.values()} == {3}
  weights = {name: {spec.name for spec in recipe.stages[-1].rewards if spec.weight}
             for name, recipe in recipes.items()}
  assert weights["rlsp"] == {"verifier", "exploration"}
  assert weights["verifier_only"] == {"verifier"}
  assert weights["exploration_only"] == {"exploration"}
  assert weights["random_reward"] == {"random"}
  assert recipes["kept_from_giving_up.json"].evaluation.blocked_words
  before = dict(recipes)
  assert controls.run_seed(tmp_path, "3", []) == results and recipes == before


def test_the_sweep_of_the_exploration_reward(monkeypatch, tmp_path):
  sweep = load_program(monkeypatch, "exploration")
  # Of 16 samples of a problem two are right, of which one went back twice; 30 tokens each.
  rows = [dict(problem=0, sample=sample, prompt="1 2 3 target 6 :",
               completion="1 = 6 lower back a back" if sample == 3 else "a",
               vote=int(sample in (3, 7)), score=float(sample in (3, 7)), length=30,
               truncated=sample == 5, extracted=None if sample == 9 else "6")
          for sample in (None, *range(16))]
  recipes = {}
  monkeypatch.setattr(
      sweep.controls, "rlreason", run_nothing(recipes, dict.fromkeys(("sft", "rl"), {}), rows))
  monkeypatch.chdir(FOLDER.parent)
  results = sweep.run_seed(tmp_path / "seed3", "3", [])
  assert list(results) == ["after SFT", "SFT, giving up blocked", "c = 0", "c = 0.1", "c = 1",
                           "c = 4", "c = 10", "c = 40", "random reward"]
  expected = [0, 12.5, 100 * (1 - 1001 / 1820), 0, 0, 30, 1, 12.5, 12.5, 12.5,
              1500 / 16, 2 / 16, 100 / 16, 100 / 16, 100, 25, 25]
  columns = (*sweep.RESULTS, *sweep.REASONS, *sweep.TRAINING)
  found = [results["c = 4"][column]["value"] for column in columns]
  assert found == pytest.approx(expected)
  assert sweep.TRAINING[0] not in results["after SFT"]
  # Of four samples each: the third of the first four says so and is wrong, none of the rest does.
  claims = [row | dict(completion="equal" if row["sample"] == 2 else "a") for row in rows[1:]]
  assert sweep.own_check(claims, 4) == 0
  claims[7]["completion"] = "equal"
  assert sweep.own_check(claims, 4) == 25
  searches, start = recipes["searches"], recipes["start"]
  assert searches.seed == 0 and searches.task.problems.at_once == 0
  assert start.task.problems.at_once > 0.9
  assert start.model.path == str(tmp_path / "searches" / "models" / "sft")
  assert start.seed == 3 and start.evaluation.num_samples == 32
  strengths = {}
  for name, recipe in recipes.items():
    if name.startswith("c_"):
      stage, = recipe.stages
      assert recipe.model.path == str(tmp_path / "seed3" / "start" / "models" / "sft")
      parts = {spec.name: spec for spec in stage.rewards if spec.weight}
      assert set(parts) == {"verifier", "exploration"}
      strengths[name] = parts["exploration"].options["c"]
  assert strengths == {"c_0": 0, "c_0.1": 0.1, "c_1": 1, "c_4": 4, "c_10": 10, "c_40": 40}
  assert {spec.name for spec in recipes["random_reward"].stages[0].rewards if spec.weight} == {
      "random"}
  assert recipes["kept_from_giving_up.json"].evaluation.blocked_words


@pytest.mark.parametrize("recipe", ["rlsp_word_problems", "rlsp_small_word_problems"])
def test_the_controls_of_the_word_problems(monkeypatch, tmp_path, recipe):
  controls = load_program(monkeypatch, "word_problems")
  rows = [dict(problem=0, sample=sample, completion="#### 4" if sample == 2 else "a #### 3",
               vote=sample, score=float(sample == 3), length=30, truncated=False)
          for sample in (None, *range(8))]
  recipes, sections = {}, dict.fromkeys(("start", "sft", "rl"), {})
  monkeypatch.setattr(
      controls.controls, "rlreason", run_nothing(recipes, sections, rows))
  monkeypatch.chdir(FOLDER.parent)
  results = controls.run_seed(tmp_path, "3", [], f"experiments/{recipe}.py")
  assert list(results) == ["untrained", "after SFT", *controls.RUNS]
  assert results["RLSP"]["pass@4, %"]["value"] == results["RLSP"]["avg@4, %"]["value"] * 4 == 50
  assert results["RLSP"]["at once, %"]["value"] == 100 / 8  # of the samples
  paid = {}
  for name, recipe in recipes.items():
    assert recipe.seed == 3 and recipe.evaluation.verifier_options == {
        "answer_after": "####"}
    if name != "sft":
      assert recipe.model.path == str(tmp_path / "sft" / "models" / "sft")
      paid[name] = {spec.name for spec in recipe.stages[0].rewards if spec.weight}
  assert paid == {
      "RLSP": {"verifier", "exploration", "finished"}, "verifier_only": {"verifier", "finished"},
      "format-only_reward": {"format"}, "random_reward": {"random"}}


def test_small_word_problems_hold_out_numbers(monkeypatch):
  monkeypatch.syspath_prepend(FOLDER)
  recipe = importlib.import_module("rlsp_small_word_problems")
  parts = recipe.problems()
  numbers, read = {}, re.compile(r"\d+")
  for split, part in parts.items():
    questions = [row["question"] for row in part.rows]
    assert len(set(questions)) == len(questions) == recipe.SIZES[split]
    numbers[split] = {tuple(sorted(read.findall(question))) for question in questions}
    words = {word for row in part.rows for word in f"{row['question']} {row['completion']}".split()}
    assert words <= set(part.vocabulary)
  assert not numbers["train"] & (numbers["test"] | numbers["validation"])
  assert not numbers["test"] & numbers["validation"]
  at_once = [row["completion"].startswith("####") for row in parts["train"].rows]
  assert np.mean(at_once) == pytest.approx(recipe.AT_ONCE, abs=0.02)
  right = [row["completion"].endswith(f"#### {row['answer']}") for row in parts["train"].rows]
  wrong = recipe.AT_ONCE * recipe.GUESSES + (1 - recipe.AT_ONCE) * recipe.MISTAKES
  assert np.mean(right) == pytest.approx(1 - wrong, abs=0.02)


def test_the_working_of_a_small_word_problem(monkeypatch):
  monkeypatch.syspath_prepend(FOLDER)
  recipe = importlib.import_module("rlsp_small_word_problems")
  problem = recipe.Problem("?", 4, [("*", 5, "There are {x} * {n} = {y} ."),
                                    ("-", 3, "Then {x} - {n} = {y} are left .")])
  assert recipe.solve(problem) == (
      ["There are 4 * 5 = 20 .", "Then 20 - 3 = 17 are left ."], 17)
  assert recipe.solve(problem, {0: -1}) == (
      ["There are 4 * 5 = 19 .", "Then 19 - 3 = 16 are left ."], 16)
  assert recipe.solve(problem, {1: 1})[1] == 18


@pytest.mark.parametrize("name", LARGE)
def test_settings_of_the_paper(name):
  stage, = load(name).stages
  algorithm, optimizer = stage.algorithm, stage.optimizer
  assert (stage.num_prompts, stage.group_size, algorithm.minibatch_size) == (512, 1, 128)
  assert (algorithm.discount, algorithm.gae_lambda) == (1.0, 0.95)
  assert algorithm.policy_loss == Slot(
      losses.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.2})
  assert algorithm.value_clip == 0.2
  assert (algorithm.kl_coef, algorithm.kl_placement, algorithm.kl_target) == (
      0.05, "reward", None)
  assert (algorithm.epochs, algorithm.entropy_coef) == (1, 0.0)
  assert algorithm.critic == "separate" and algorithm.critic_warmup_steps == 4
  assert algorithm.recompute_log_probs  # the forward pass of bf16 is not its decode
  assert algorithm.aggregation == "sequence-mean" and algorithm.whiten_advantages
  assert (optimizer.learning_rate, optimizer.critic_learning_rate) == (2e-7, 2e-6)
  assert (optimizer.b1, optimizer.b2, optimizer.max_grad_norm) == (0.9, 0.95, 1.0)
  updates = stage.steps * stage.updates_per_step
  assert optimizer.warmup_steps == math.ceil(0.03 * updates)
  assert (stage.sampling.temperature, stage.sampling.max_new_tokens) == (0.7, 4096)
  assert max(load(name).prompt_buckets) == 2048 and stage.reward_clip == (-10.0, 10.0)
  rewards = {spec.name: spec for spec in stage.rewards}
  assert rewards["exploration"].options["c"] == 1000.0
  assert rewards["verifier"].options == {"which_box": "first", "no_box_score": -0.5}
  has_judge = name == "rlsp_qwen25_32b.py"
  assert ("judge" in rewards) == has_judge
  assert rewards["verifier"].weight == rewards["exploration"].weight == (0.8 if has_judge else 1.0)


@pytest.mark.parametrize("name", LARGE)
def test_the_judge_is_a_field(name):
  config = config_files.load_config_file(str(FOLDER / name))
  config.rl.rewards.judge.function = "my_judge:score"
  with_judge = {spec.name for spec in from_config(config).stages[0].rewards}
  config.rl.rewards.judge.function = ""
  without = {spec.name for spec in from_config(config).stages[0].rewards}
  assert with_judge - without == {"judge"}


@pytest.mark.parametrize("name", LARGE)
def test_large_experiments_trace(name):
  """One whole step at full size, with abstract shapes: sampling, scoring, the batch, the update."""
  published, billions = LARGE[name]
  recipe, (stage,) = load(name), load(name).stages
  model = dataclasses.replace(
      families.config_from_hf(published), dtype=recipe.model.dtype,
      param_dtype=recipe.model.param_dtype, remat=recipe.model.remat)
  policy = models.abstract_params(model)
  num_params = sum(leaf.size for leaf in jax.tree.leaves(policy))
  assert num_params / 1e9 == pytest.approx(billions, abs=0.01)
  assert {leaf.dtype for leaf in jax.tree.leaves(policy)} == {jnp.dtype("float32")}

  rows, columns = stage.num_prompts * stage.group_size, stage.sampling.max_new_tokens
  shape = jax.ShapeDtypeStruct
  key = jax.eval_shape(lambda: jax.random.key(0))
  width = max(recipe.prompt_buckets)
  prompts = Prompts(
      tokens=shape((stage.num_prompts, width), jnp.int32),
      mask=shape((stage.num_prompts, width), bool), index=shape((stage.num_prompts,), jnp.int32))
  rollout = jax.eval_shape(
      functools.partial(
          sampling.sample, model, options=stage.sampling, stop_ids=(1, 2),
          group_size=stage.group_size),
      policy, prompts, key)
  assert isinstance(rollout, Rollout)
  assert rollout.completion_tokens.shape == (rows, columns) == rollout.log_probs.shape

  updates = stage.steps * stage.updates_per_step
  algorithm = policy_gradient(
      stage.algorithm, model, make_optimizer(stage.optimizer, updates),
      temperature=stage.sampling.temperature)
  state = jax.eval_shape(
      lambda policy: algorithm.init(init_rl_params(stage.algorithm, model, policy)), policy)
  scores = jax.eval_shape(
      algorithm.score, {"params": state.params, "reference": policy}, rollout, None)
  assert {name: x.shape for name, x in scores.items()} == {
      name: (rows, columns) for name in ("old_log_probs", "ref_log_probs", "values")}
  batch, _ = jax.eval_shape(
      algorithm.make_batch,
      (rollout, scores, Outcome(shape((rows,), jnp.float32), shape((rows,), bool))),
      state.coefs)
  new_state, metrics = jax.eval_shape(
      functools.partial(algorithm.update_step, replicas=ALONE), state, batch, key)
  # The same shapes and types come out, so that a donated state can be updated again.
  assert jax.tree.structure(new_state) == jax.tree.structure(state)
  describe = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
  assert describe(new_state) == describe(state)
  assert "loss/policy" in metrics and "loss/value" in metrics


def import_file(path, monkeypatch):
  monkeypatch.syspath_prepend(str(path.parent))
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_tables_of_the_algorithms_are_those_of_the_recipes(monkeypatch):
  table = import_file(FOLDER / "methods" / "table.py", monkeypatch)
  text = table.DOCUMENT.read_text()
  assert table.policy_gradients() in text and table.pipelines() in text
  shown = {file.partition(":")[0] for file in (*table.POLICY_GRADIENTS, *table.PIPELINES)}
  recipes = {path.name for path in (FOLDER / "methods").glob("*.py")} - {
      "bands.py", "beds.py", "table.py"}
  assert shown == recipes


def test_each_method_says_its_command_settings_and_what_to_expect():
  for path in (FOLDER / "methods").glob("*.py"):
    text = ast.get_docstring(ast.parse(path.read_text()))
    if path.stem not in ("bands", "beds", "table"):
      assert f"rlreason train --config=experiments/methods/{path.name}" in text
      assert "arxiv.org" in text and "Expected" in text, path.name
      assert re.search(r"settings\s+of\s+the\s+papers?|As DeepSeek-R1", text, re.I) or (
          "Settings of papers" in text), path.name


def test_every_miniature_is_a_recipe(monkeypatch, tmp_path):
  miniatures = import_file(FOLDER / "miniatures.py", monkeypatch)
  for name, (recipe, flags) in miniatures.RUNS.items():
    overrides, rest = main._split_overrides(flags)
    starts = dict.fromkeys(miniatures.STARTS, "some/folder")
    path = FOLDER / "methods" / recipe.format(
        **starts, **dict.fromkeys(miniatures.TEACHERS, "some/teacher"), r1_data="some/kept.jsonl")
    stages = from_config(commands.load_config(str(path), overrides)).stages
    assert not rest and (stages or name.endswith("no training")), name
  assert all(set(needed) <= set(miniatures.RUNS) for needed, *_ in miniatures.DIRECTIONS)
  keys = [miniatures.key_of(needed, claim) for needed, claim, *_ in miniatures.DIRECTIONS]
  assert len(set(keys)) == len(keys)


def test_a_miniature_comes_after_what_it_starts_from(monkeypatch, tmp_path):
  """Its supervised start and its teacher are trained before it, and no others."""
  miniatures = import_file(FOLDER / "miniatures.py", monkeypatch)
  pool, trained = miniatures.Pool(tmp_path, jobs=1), []
  monkeypatch.setattr(
      pool, "train", lambda workdir, recipe, flags, seed: trained.append((workdir.name, seed)))
  name = "student, distillation by policy gradient"
  miniatures.run_all(pool, [miniatures.Seed(pool, "7")], [name])
  assert trained[:2] == [("start2", "1"), ("second_start_grpo", "7")]
  assert trained[-1] == ("student_distillation_by_policy_gradient", "7")
  assert len(set(trained)) == 3
  trained.clear()
  miniatures.run_all(pool, [miniatures.Seed(pool, "7")], ["LaTRO"])
  assert trained == [("start", "0"), ("latro", "7")]


def test_the_document_of_the_miniatures(monkeypatch, tmp_path):
  """The table and the claims, of runs that are made up."""
  miniatures = import_file(FOLDER / "miniatures.py", monkeypatch)
  pool = miniatures.Pool(tmp_path, jobs=1)
  seeds = [miniatures.Seed(pool, seed) for seed in "01"]
  for seed in seeds:
    for i, name in enumerate(("GRPO", "no training")):
      estimate = {"value": 0.5 - 0.1 * i + 0.01 * int(seed.seed)}
      summary = {"stages": [{"tokens": 1000, "evaluation": {
          "chain": dict.fromkeys(miniatures.COLUMNS, estimate)}}]}
      seed.folder(name).mkdir(parents=True)
      (seed.folder(name) / "summary.json").write_text(json.dumps(summary))
      (seed.folder(name) / "report.html").touch()
  record = {"runs": {}, "claims": {}}
  for seed in seeds:
    miniatures.measure(seed, record)
  record = json.loads(json.dumps(record))  # as it is kept
  table = miniatures.table(record)
  assert len(table) == 4 and table[2].startswith("| no training | 40.5 [40.0, 41.0] | 40.5 |")
  assert table[3].startswith("| GRPO | 50.5 [50.0, 51.0] | 50.5 |")
  claims = miniatures.directions(record)
  assert len(claims) == 3 and claims[-1].endswith(
      "| avg@8, %: after, before | 50 against 40; 51 against 41 | 2 of 2 |")


def test_the_tables_of_the_miniatures_are_those_of_the_record(monkeypatch):
  miniatures = import_file(FOLDER / "miniatures.py", monkeypatch)
  record = json.loads(miniatures.RECORD.read_text())
  shown = miniatures.DOCUMENT.read_text().split(miniatures.BEGIN)[1].split(miniatures.END)[0]
  lines = [*miniatures.table(record), "", *miniatures.directions(record)]
  assert shown == "\n".join(lines) + "\n"


def test_the_miniatures_ask_the_estimators_once(monkeypatch, tmp_path):
  miniatures = import_file(FOLDER / "miniatures.py", monkeypatch)
  pool, calls = miniatures.Pool(tmp_path, jobs=1), []

  def python(program, what, *flags):
    calls.append((program, what, *flags))
    values = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    pathlib.Path(values["output"]).write_text(json.dumps(
        {"kl": 0.1 if "/t1/" in values["model"] else 0.05,
         "variance": {"2": 90.0, "4": 22.0, "8": 9.0, "16": 4.0}, "equal_tokens": 1.0,
         "calls": [8, 1], "seconds": [2.0, 1.0], "gradient_difference": 1e-6}))

  monkeypatch.setattr(pool, "python", python)
  seed = miniatures.Seed(pool, "3")
  seed.root.mkdir()
  names = ["RLOO", "DASH", "T1", "T1, fixed reference"]
  of_metrics = ("only some completions", "T1: closer")
  rows = [row for row in miniatures.DIRECTIONS
          if set(row[0]) <= set(names) and not row[1][0].startswith(of_metrics)]
  monkeypatch.setattr(miniatures, "DIRECTIONS", rows)
  monkeypatch.setattr(miniatures.Seed, "is_done", lambda self, name: name in names)
  monkeypatch.setattr(miniatures.Seed, "result", lambda self, name: {})

  def claims():
    record = {"runs": {}, "claims": {}}
    miniatures.measure(seed, record)
    return miniatures.directions(record)

  first = claims()
  assert len(first) == 2 + 6 and all("1 of 1" in line for line in first[2:])
  assert any("seconds: 1 call, 8 calls | 1 against 2" in line for line in first)
  start = f"--model={pool.start('start')}"
  assert [call[1] for call in calls] == ["variance", "dash", "kl", "kl"]
  assert all(start in call for call in calls[:2])
  assert all(f"--reference={pool.start('start')}" in call for call in calls[2:])
  assert {call[0] for call in calls} == {"experiments/estimators.py"}
  assert all("--seed=3" in call for call in calls)
  assert claims() == first and len(calls) == 4


def test_formulas_of_the_estimators(monkeypatch):
  estimators = import_file(FOLDER / "estimators.py", monkeypatch)
  gradients = [np.array([1.0, 0.0]), np.array([3.0, 0.0]), np.array([2.0, 3.0])]
  assert estimators.trace_of_covariance(gradients) == pytest.approx(1 + 3)
  assert estimators.relative_difference(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == 0.1
  assert estimators.group_places(2, 4, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
  values, mask = np.array([[1.0, 2.0], [4.0, 9.0]]), np.array([[True, True], [True, False]])
  # 7 nats on 3 tokens; the sums of values - 7 / 3 are -5 / 3 and 5 / 3, the mean length is 3 / 2.
  mean, error = estimators.mean_per_token(values, mask)
  assert mean == pytest.approx(7 / 3)
  assert error == pytest.approx((10 / 3) / 2**0.5 / 1.5 / 2**0.5)


def test_the_estimators_take_the_gradient_of_the_library(monkeypatch):
  """Against the derivative of hand-written REINFORCE, on a tiny untrained model."""
  estimators = import_file(FOLDER / "estimators.py", monkeypatch)
  model = models.ModelConfig(
      vocab_size=7, width=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, mlp_width=16)
  params = jax.jit(models.init_params, static_argnums=0)(model, jax.random.key(0))
  mask = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
  rollout = Rollout(  # made by hand: the sampler takes long to compile
      prompt_tokens=np.int32([[1, 2], [1, 2], [3, 4], [3, 4]]), prompt_mask=np.ones((4, 2), bool),
      completion_tokens=np.int32(np.arange(12).reshape(4, 3) % 7 * mask), token_mask=mask,
      action_mask=mask,
      log_probs=np.zeros((4, 3), np.float32), values=None, truncated=np.zeros(4, bool))
  scores = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
  bed = estimators.Bed(
      setup=SimpleNamespace(model=model), params=params, problems=None, reward=None,
      stage=SimpleNamespace(sampling=sampling.SamplingOptions(max_new_tokens=3, temperature=1.0)))
  config = presets.rloo(minibatch_size=4, kl_coef=0.0, share_prompts=False)
  gradient, trained = estimators.make_gradient(bed, config, 2)(
      rollout, Outcome(scores, np.ones(4, bool), scores > 0), jax.random.key(2))

  def loss(params):
    tokens = jnp.concatenate([rollout.prompt_tokens, rollout.completion_tokens], axis=1)
    hidden = models.forward(model, params, tokens, jnp.ones(tokens.shape, bool))[:, 1:-1]
    log_probs, _ = models.token_log_probs(
        model, params, hidden, rollout.completion_tokens, temperature=1.0)
    others = scores[np.array([1, 0, 3, 2])]
    sums = jnp.sum(jnp.where(rollout.token_mask, log_probs, 0.0), axis=1)
    return -jnp.mean((scores - others) * sums)

  expected, _ = jax.flatten_util.ravel_pytree(jax.jit(jax.grad(loss))(params))
  assert trained == 1.0 and jnp.linalg.norm(expected) > 0.01
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
