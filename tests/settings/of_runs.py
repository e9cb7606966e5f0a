"""Rows of a run, its model, task, evaluation, rewards and devices."""

import dataclasses
import os
import pathlib
import tempfile
import types
from unittest import mock

import jax

from rlreason import models
from rlreason.data import sources
from rlreason.data.tasks import arithmetic, chain, countdown, load
from rlreason.data.tasks.base import Task
from rlreason.data.tasks.load import ArithmeticTask, ChainTask, CountdownTask, FileTask, TfdsTask
from rlreason.data.tasks.own import OwnTask
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.expected import Expected
from rlreason.models import LoRAConfig, lora
from rlreason.parallel import ParallelConfig, make_layout, mesh
from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.searching import SearchConfig
from rlreason.tokenizers import WordTokenizer, encode_prompt
from rlreason.training import expectations, setup as setup_lib
from rlreason.training.settings.recipe import CheckpointConfig, NewModel, PretrainedModel, Recipe
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sft import SFTStage
from tests.algorithms import tiny
from tests.parallel import choose_test
from tests.settings import bases, fakes, of_search
from tests.settings.bases import Row

SFT = SFTStage(**bases.BASES[SFTStage] | dict(steps=4))
RL = RLStage(**bases.BASES[RLStage])
TWO = (SFT, dataclasses.replace(SFT, name="more"))

# The loop.


def looped(recipe, **settings):
  with tempfile.TemporaryDirectory() as folder:
    return fakes.run_loop(recipe, pathlib.Path(folder), **settings)


def loop_of(*names):
  return lambda recipe: {name: looped(recipe).get(name) for name in names}


def steps_before_it_gives_up(recipe):
  done = []

  def metrics(stage, step):
    done.append(step)
    return {"optim/skipped_in_a_row": step + 1}

  try:
    looped(recipe, metrics=metrics)
  except FloatingPointError:
    pass
  return done


def tried(recipe):
  """Whether a few problems are tried before the first step."""
  return looped(recipe, preflight=lambda trace, params, key: (
      trace["said"].append("tried"), ({}, []))[1])["said"]


KEPT = CheckpointConfig(keep_best="eval/toy/greedy")


def ended_after(config):
  """The steps of a stage of 4, whose evaluations find nothing."""
  return len(looped(bases.make_recipe(
      evaluation=config, stages=(SFT,), checkpoint=KEPT))["keys"])


def best_of(config):
  """What the summary says of the best of the evaluations after 1, 2 and 3 steps, and at the end."""
  recipe = bases.make_recipe(checkpoint=config, stages=(SFT,), evaluation=dataclasses.replace(
      bases.EVALUATION, every_steps=1))
  return looped(recipe, evaluate=lambda number: 0.1 * number)["summary"]["stages"][-1].get("best")


# The set-up.


def set_up(recipe):
  """What `make_setup` loads, and what it makes of it."""
  model = dataclasses.replace(tiny.MODEL, num_layers=2)
  tasks = {split: Task(name=split, rows=fakes.ROWS, verifier="math")
           for split in ("train", "validation", "test")}
  with mock.patch.object(setup_lib, "make_layout") as layout, mock.patch.object(
      setup_lib, "load_tasks", return_value=tasks) as loaded, mock.patch.object(
          setup_lib, "load_policy", return_value=(model, {}, fakes.TOKENIZER)), mock.patch.object(
              setup_lib, "make_evaluator") as evaluator:
    setup, _ = setup_lib.make_setup(recipe)
  return {
      "layout": layout.call_args.args[0], "task": loaded.call_args.args[0],
      "model": setup.model, "evaluated": evaluator.call_args.args[:2],
      "evaluation": {name: evaluator.call_args.kwargs[name]
                     for name in ("prompt_buckets", "grading")}}


def set_up_of(*names):
  return lambda recipe: {name: set_up(recipe)[name] for name in names}


def opened(choice):
  """How a model of a folder is loaded, what it is then, and what it makes of a chat."""
  calls = []
  chats = WordTokenizer.from_words(("a", "b"), chat_template=(
      "{% if is_wide %}b {% endif %}{% for m in messages %}{{ m.content }} {% endfor %}"))
  with mock.patch.object(setup_lib.weights, "find_model", lambda path: path), mock.patch.object(
      setup_lib.weights, "load_model", lambda path, **settings: calls.append((
          path, settings["dtype"], settings["compute_dtype"], settings["end_tokens"])) or (
              dataclasses.replace(tiny.MODEL, num_layers=2), {}, chats)):
    model, _, tokenizer = setup_lib.load_policy(
        bases.make_recipe(model=choice), fakes.LAYOUT, jax.random.key(0))
  return calls, model, encode_prompt(tokenizer, [{"role": "user", "content": "a"}])


def new_model(choice):
  return setup_lib.new_model_config(choice, 7)


def adapters(config):
  """What is made of the parameters: shapes of the adapters, the merged program, the base."""
  model = dataclasses.replace(tiny.MODEL, lora=config)
  shapes = jax.eval_shape(lambda key: models.init_adapters(model, key), jax.random.key(0))
  whole = lora.join(models.abstract_params(tiny.MODEL), shapes)
  merged = str(jax.make_jaxpr(lambda params: lora.merge(model, params))(whole))
  return str(shapes), merged, setup_lib.base_kind(bases.make_recipe(lora=config))


def shardings(config):
  model = models.ModelConfig(
      vocab_size=8, width=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, mlp_width=8)
  boxed = models.abstract_boxed_params(model)
  return [str(x.spec) for x in jax.tree.leaves(make_layout(config).param_shardings(boxed))]


def devices(config):
  update = mock.Mock()
  jax_like = types.SimpleNamespace(
      devices=jax.devices, config=types.SimpleNamespace(update=update))
  with mock.patch.object(mesh, "jax", jax_like), mock.patch.dict(os.environ, XLA_FLAGS=""):
    sizes = mesh.mesh_devices(config)[1]
  layout = make_layout(dataclasses.replace(config, cpu_devices=0))
  return sizes, update.call_args_list, layout.num_shards, layout.takes_plans


# Tasks.


def rows_of(tasks):
  return {split: [task.rows[i] for i in range(min(len(task.rows), 30))]
          for split, task in tasks.items()}


def loaded_task(config):
  tasks = load.load_tasks(config)
  return rows_of(tasks), {split: task.verifier for split, task in tasks.items()}


def own_task(config):
  """And names."""
  return loaded_task(config), [task.name for task in load.load_tasks(config).values()]


def chains(problems):
  return generated(ChainTask(kind="chain", problems=problems))


def countdowns(problems):
  return generated(CountdownTask(kind="countdown", problems=problems))


def generated(config):
  """Problems, demonstrations and words."""
  tasks = load.load_tasks(config)
  shown = load.demonstrations(config, tasks["train"].rows, 40)
  sizes = {split: len(task.rows) for split, task in tasks.items()}
  return rows_of(tasks), sizes, [shown[i] for i in range(40)], load.vocabulary(config)


def arithmetic_rows(config):
  """With a generator that puts its name, options and seed into questions."""
  def items(name, options, size, seed):
    return [{"question": f"{name} {dict(options)} {seed} n{i}?", "answer": str(i)}
            for i in range(size)]

  with mock.patch.object(arithmetic, "_make_items", items):
    tasks = arithmetic.make_tasks(config)
    return rows_of(tasks), {split: len(task.rows) for split, task in tasks.items()}


def arithmetic_task(config):
  with mock.patch.object(arithmetic, "_make_items", lambda name, options, size, seed: [
      {"question": f"{name} n{i}?", "answer": str(i)} for i in range(size)]):
    return loaded_task(config)


def read(config):
  """The calls of the readers, and the tasks that their rows become."""
  calls = []

  class Reader(list):
    """Rows of whatever it is asked for."""

    def __init__(self, *args, **settings):
      calls.append((args, settings))
      super().__init__([{"prompt": f"What is {i} + 1?", "answer": str(i + 1), "where": str(args)}
                        for i in range(20)])

  with mock.patch.object(sources, "FileRows", Reader), mock.patch.object(
      sources, "TfdsRows", Reader):
    tasks = load.load_tasks(config)
    return calls, rows_of(tasks), {
        split: (task.name, task.verifier) for split, task in tasks.items()}


# Evaluation and rewards.


def evaluated(*names):
  return lambda config: {
      name: fakes.evaluation_trace(config).get(name) for name in names}


def split_of(config):
  return set_up(bases.make_recipe(evaluation=config))["evaluated"][1].name


EXPECTED = Expected(**bases.BASES[Expected])


def expected_of(config):
  """What is said of an evaluation before the first stage, of which something is expected."""
  recipe = bases.make_recipe(evaluation=dataclasses.replace(bases.EVALUATION, expected=config))
  values = {"toy": {"greedy": {"value": 0.375}, "length": {"value": 3.0}}}
  found = expectations.of_evaluation(recipe, "start", None, values, {"count": 2, "sha256": "ab"})
  return found and expectations.line(found, values)


def rewards(spec):
  """A reward of two texts, one without an answer, as the only part."""
  reward = combine_rewards([spec], pool=fakes.POOL)
  return reward(["p", "p"], ["\\boxed{1} no, \\boxed{2}", "a"], answer=["2", "1"],
                tokens=[4, 1], reasoning_tokens=[0, 1], truncated=[False, True], group=[0, 1])


def five(prompts, completions, **columns):
  del prompts, columns
  return [5.0 for _ in completions]


def first_steps(prompts, completions, **columns):
  del prompts, columns
  return [[(("step", 0), 5.0)] for _ in completions]


def evals(value, *names, **beside):
  return Row(value, evaluated(*names), beside=beside)


def on_loop(value, *names, **beside):
  return Row(value, loop_of(*names), beside=beside)


_READ = {
    "name": Row("other", read), "train": Row("x", read), "test": Row("x", read),
    "validation": Row("x", read), "fields": Row({"prompt": "x"}, read),
    "template": Row("Q: {question}", read), "system": Row("S", read), "is_chat": Row(False, read),
    "verifier": Row("countdown", read)}
ROWS = {
    Recipe: {
        "seed": on_loop(1, "keys", "stages", "evaluated", stages=(SFT,)),
        "model": Row(NewModel(**bases.BASES[NewModel] | dict(width=32)), lambda recipe: (
            setup_lib.load_policy(recipe, fakes.LAYOUT, jax.random.key(0))[0])),
        "task": Row(CountdownTask(kind="countdown"), set_up_of("task")),
        "prompt_buckets": Row((8,), (set_up_of("evaluation"), lambda recipe: fakes.stage_trace(
            RL, prompt_buckets=recipe.prompt_buckets)["generators"])),
        "stages": on_loop(TWO, "stages"),
        "evaluation": Row(dataclasses.replace(bases.EVALUATION, top_p=0.5), set_up_of("evaluated")),
        "lora": Row(LoRAConfig(), set_up_of("model")),
        "parallel": Row(ParallelConfig(fsdp=2), set_up_of("layout")),
        "checkpoint": on_loop(CheckpointConfig(every_steps=1), "saved", stages=(SFT,)),
        "preflight": Row(False, tried, beside=dict(stages=(RL,))),
        "samples_per_step": Row(1, lambda recipe: fakes.stage_trace(
            RL, samples_per_step=recipe.samples_per_step)["samples"]),
        "max_skipped_in_a_row": Row(2, steps_before_it_gives_up, beside=dict(stages=(
            dataclasses.replace(SFT, steps=9),))),
        "reward_workers": on_loop(3, "pool"), "reward_timeout": on_loop(9.0, "pool")},
    CheckpointConfig: {
        "every_steps": Row(3, lambda config: looped(
            bases.make_recipe(checkpoint=config, stages=(SFT,)))["saved"]),
        "max_to_keep": Row(3, lambda config: looped(
            bases.make_recipe(checkpoint=config))["kept"]),
        "keep_best": Row("eval/toy/greedy", best_of),
        "best_is": Row("lowest", best_of, beside=dict(keep_best="eval/toy/greedy"))},
    PretrainedModel: {name: Row(value, opened) for name, value in dict(
        path="b", dtype="bfloat16", param_dtype="bfloat16", remat="full", unroll=2,
        attention="xla", end_tokens=("b",), chat_options={"is_wide": True}).items()},
    NewModel: {name: Row(value, new_model) for name, value in dict(
        width=32, num_layers=3, num_heads=4, num_kv_heads=1, head_dim=4, mlp_width=8,
        max_positions=64, rope_theta=9.0, dtype="bfloat16", param_dtype="bfloat16", remat="full",
        unroll=2, attention="xla").items()},
    LoRAConfig: {name: Row(value, adapters) for name, value in dict(
        rank=2, alpha=2.0, targets=("q",), base="nf4").items()},
    ParallelConfig: {
        "mode": Row("pmap", devices), "data": Row(2, devices), "fsdp": Row(2, devices),
        "expert": Row(2, devices), "sequence": Row(2, devices), "tensor": Row(2, devices),
        "strategy": Row("fsdp", devices), "cpu_devices": Row(3, devices),
        "rules": Row(("embed:data",), shardings),
        "precision": Row("bfloat16", choose_test.precisions)},
    EvaluationConfig: {
        "split": Row("validation", split_of), "num_problems": evals(3, "prompts"),
        "batch_size": evals(1, "generators"), "max_new_tokens": evals(7, "generators"),
        "num_samples": evals(3, "generators", "found"), "temperature": evals(0.5, "generators"),
        "top_p": evals(0.5, "generators"), "which_box": evals("first", "found"),
        "verifier_options": evals({"which_box": "first"}, "found"),
        "blocked_words": evals(((("a",), ("b",)),), "generators"),
        "prompt_suffix": evals(" a", "prompts"), "forced_answer": evals("1", "forcing"),
        "answer_tokens": evals(5, "forcing", forced_answer="1"),
        "wait": evals("b", "forcing", wait="a", num_waits=1),
        "num_waits": evals(1, "forcing", wait="a"),
        "search": Row(SearchConfig(num_samples=2), of_search.in_evaluation),
        "every_stage": Row(False, lambda config: looped(
            bases.make_recipe(evaluation=config, stages=TWO))["evaluated"]),
        "every_steps": Row(2, lambda config: looped(
            bases.make_recipe(evaluation=config, stages=TWO))["evaluated"]),
        "stop_after": Row(2, ended_after, beside=dict(every_steps=1)),
        "expected": Row(EXPECTED, lambda config: expected_of(config.expected))},
    Expected: {
        "metric": Row("length", expected_of), "points": Row({"start": (0.5, 1.0)}, expected_of),
        "source": Row("there", expected_of), "recipe": Row("rlsp_countdown", expected_of),
        "is_published": Row(True, expected_of), "num_problems": Row(3, expected_of),
        "problems_sha256": Row("12", expected_of)},
    RewardSpec: {
        "name": Row("finished", rewards), "weight": Row(0.5, rewards), "function": Row(
            five, rewards), "options": Row({"which_box": "first"}, rewards),
        "is_judge": Row(True, rewards, beside=dict(function=five)),
        "is_potential": Row(True, rewards, beside=dict(name="own", function=first_steps)),
        "step_separator": Row(" ", rewards, beside=dict(name="own", function=first_steps))},
    ChainTask: {
        "problems": Row(chain.ChainConfig(modulus=7), loaded_task),
        "verifier": Row("countdown", loaded_task)},
    CountdownTask: {
        "problems": Row(countdown.CountdownConfig(max_target=30), loaded_task),
        "verifier": Row("math", loaded_task)},
    ArithmeticTask: {
        "problems": Row(arithmetic.ArithmeticConfig(tasks={"b": {}}), arithmetic_task),
        "verifier": Row("countdown", arithmetic_task)},
    OwnTask: {
        "function": Row(lambda: bases.own_problems(3), loaded_task),
        "options": Row({"size": 3}, loaded_task), **{name: _READ[name]._replace(seen=own_task)
        for name in ("name", "template", "system", "is_chat", "verifier")}},
    FileTask: _READ | {"held_out": Row(0.9, read, beside=dict(test=""))}, TfdsTask: _READ | {
        "data_dir": Row("x", read), "download": Row(True, read)},
    chain.ChainConfig: {name: Row(value, chains) for name, value in dict(
        min_steps=3, max_steps=3, modulus=7, operators=("+",), distractors=1, num_train=60,
        num_validation=5, num_test=5, seed=1, mistakes=0.9, slip=0.9, messy=0.9, meta=True,
        rounds=3, answers_only=True, extra_words=("x",)).items()},
    countdown.CountdownConfig: {name: Row(value, countdowns) for name, value in dict(
        num_numbers=4, max_number=7, max_target=15, max_intermediate=30, num_validation=5,
        num_test=5, seed=1, give_up=0.1, restart=0.9, insight=0.9, max_words=26,
        min_target=9, at_once=0.9).items()},
    arithmetic.ArithmeticConfig: {name: Row(value, arithmetic_rows) for name, value in dict(
        tasks={"a": {"x": 1}, "b": {}}, weights={"a": 3.0, "b": 1.0}, num_train=60,
        num_validation=50, num_test=50, template="Q: {question}", system="S", is_chat=False,
        seed=1).items()},
}
