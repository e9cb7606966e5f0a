"""Plans: the programs are those of a run, their memory is that of a run, and work is as by hand."""

import dataclasses
import functools
import json

import jax
import pytest

from rlreason import models
from rlreason.algorithms import presets
from rlreason.commands import load_config
from rlreason.data.tasks.load import vocabulary
from rlreason.models import LoRAConfig, ModelConfig
from rlreason.parallel import choose, hlo, jit, make_layout, memory, topology
from rlreason.training import planning, progress, run as run_lib
from rlreason.training.planning import flops, kinds, placed, shapes, table
from rlreason.training.settings.recipe import from_config
from tests.main_test import CONFIG
from tests.tiny_families import CONFIGS
from tests.training import tiny_run


def config_of(**fields):
  config = load_config(CONFIG, [("rl.steps", "1"), ("sft.steps", "1")])
  config.rl.algorithm.pack_rows = False  # its shapes depend on the lengths that are sampled
  for name, value in fields.items():
    config[name] = value
  return config


@functools.cache
def plan_of_tiny():
  config = config_of(parallel=dict(data=4, fsdp=2))
  return planning.make_plan(from_config(config), "cpu:8")


def programs_of(recipe, tokens=None):
  """Stage -> its programs, with eight devices of the CPU."""
  with topology.devices("cpu:8"):
    planned = placed.Planned(
        recipe, shapes.policy_shape(recipe), make_layout(recipe.parallel), tokens)
    return {stage.name: kinds.programs_of(planned, stage) for stage in recipe.stages}


def lowered(program, args):
  return program.lower(*args).as_text()


def test_a_run_has_the_programs_of_its_plan(monkeypatch, tmp_path):
  """Not only of their sizes: the texts that are compiled are the same."""
  found, bytes_found = {}, {}
  told, program_kinds = jit.told, memory.program_kinds

  def noting(name, program):
    call = told(name, program)

    def noted(*args):
      text = lowered(program, args)
      found.setdefault(name, []).append(text)
      return call(*args)

    noted.lower = program.lower
    return noted

  def kept(own, args, *rest):
    state = args[0]
    bytes_found.setdefault(sum(own.values()), sum(
        shard.data.nbytes for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)
        for shard in leaf.addressable_shards if shard.device == jax.devices()[0]))
    return program_kinds(own, args, *rest)

  config = config_of(parallel=dict(data=4, fsdp=2), preflight=False)
  config.evaluation.update(num_problems=8, batch_size=8)
  recipe = from_config(config)
  monkeypatch.setattr(jit, "told", noting)
  monkeypatch.setattr(memory, "program_kinds", kept)
  held = []
  monkeypatch.setattr(progress.Progress, "hold", lambda self, sizes: held.append(sizes))
  run_lib.train(recipe, tmp_path / "run")
  monkeypatch.undo()
  assert held == [{kind: memory.device_bytes_of(tree) for kind, tree in made.held.items()}
                  for made in programs_of(recipe).values()]
  for stage, made in programs_of(recipe).items():
    for program in made.programs:
      if program.name != "batch":
        text = lowered(program.call, program.args)
        assert text in found[program.name], f"{stage} {program.name}"
  # Its memory too: of what was compiled for the run, and of the arrays that it was run with.
  for part in plan_of_tiny().stages:
    for program in part.programs:
      if program.name in ("scoring", "update"):
        total = min(bytes_found, key=lambda size: abs(size - sum(program.own.values())))
        assert sum(program.own.values()) == pytest.approx(total, rel=0.1)
        kept = sum(program.memory[kind] for kind in ("parameters", "moments"))
        of_reference = program.memory["parameters"] / 2 if part.stage.name == "rl" else 0
        expected = kept - (  # what else the stage keeps
            program.memory["moments"] if program.name == "scoring" else of_reference)
        assert bytes_found[total] == pytest.approx(expected, rel=0.1)


def test_the_work_of_a_plan_is_that_of_its_tokens():
  """2 FLOPs a parameter and token, with the gradient 6; attention here is over whole squares."""
  plan = plan_of_tiny()
  model = plan.shape.model
  (sft,), rl = (part.programs for part in plan.stages)
  params = sum(leaf.size for path, leaf in jax.tree_util.tree_flatten_with_path(
      models.abstract_params(model))[0] if "scale" not in jax.tree_util.keystr(path))
  length, rows = 128, 8
  squares = 4 * model.num_layers * model.num_heads * model.head_dim * rows * length**2
  # The last token predicts nothing, but chunks of the logits are padded to whole ones.
  assert 8 * sft.counts.total_flops == pytest.approx(
      6 * params * rows * length + 3 * squares, rel=0.02)
  assert sft.flops == 6 * params * rows * length + 3 * squares / 2
  scoring = next(program for program in rl if program.name == "scoring")
  assert scoring.tokens == 8 * (8 + 24) and plan.mfu(scoring) > 0


def test_every_kind_of_stage_is_planned():
  """Their programs are traced with the shapes of the recipe."""
  recipe = from_config(tiny_run.make_data_config())
  found = programs_of(recipe)
  names = {stage: made and [program.name for program in made.programs]
           for stage, made in found.items()}
  assert names == {
      "sft": ["update"], "sample": ["sampling"], "right": None, "distil": ["update"],
      "restarts": None, "scorer": ["update"],
      "rl": ["sampling", "rewards", "scoring", "batch", "update"]}
  for made in filter(None, found.values()):
    for program in made.programs:
      program.call.lower(*program.args)


def test_process_reward_models_are_planned():
  config = load_config("experiments/methods/process_reward.py")
  config.parallel = dict(data=8)
  found = programs_of(from_config(config))
  assert {stage: made and [program.name for program in made.programs]
          for stage, made in found.items() if stage not in ("sft", "samples")} == {
              "labels": None, "prm": ["update"],
              "rl": ["sampling", "step_rewards", "scoring", "batch", "update"]}
  for made in (found["prm"], found["rl"]):
    for program in made.programs:
      if program.name in ("update", "step_rewards"):
        program.call.lower(*program.args)


@pytest.mark.parametrize("changes", [
    dict(algorithm=presets.grpo(minibatch_size=16), group_size=4),  # groups share their prompt
    dict(algorithm=presets.remax(minibatch_size=16), group_size=2),
    dict(algorithm=dict(minibatch_size=8, critic="separate", kl_coef=0.1), draws_ahead=1),
    dict(algorithm=dict(minibatch_size=8), carried_prompts=8)])
def test_methods_of_rl_are_planned(changes):
  config = tiny_run.make_config()
  with config.ignore_type():
    for field, value in changes.items():
      config.rl[field] = value
  made = programs_of(from_config(config), tokens=5)["rl"]
  for program in made.programs:
    program.call.lower(*program.args)
  assert ("greedy" in [program.name for program in made.programs]) == (
      changes.get("group_size") == 2)


def test_adapters_are_planned_on_their_quantised_base():
  made = programs_of(from_config(tiny_run.make_config(has_adapters=True)))["rl"]
  for program in made.programs:
    program.call.lower(*program.args)
  held = {kind: memory.device_bytes_of(tree) for kind, tree in made.held.items()}
  assert held["moments"] < held["parameters"]


def test_the_turns_of_the_sampler_are_those_of_its_tokens():
  """A completion of n tokens takes n - 1 turns, in whichever loops of the cache's lengths."""
  config = config_of()
  config.model.max_positions = 256
  config.rl.sampling.max_new_tokens = 200
  with topology.devices("cpu:8"):
    recipe = from_config(config)
    planned = placed.Planned(recipe, shapes.policy_shape(recipe), make_layout(recipe.parallel), 50)
    program = kinds.programs_of(planned, recipe.stages[1]).programs[0]
    text = program.call.lower(*program.args).compile().as_text()
  assert program.turns == {
      "decode_32_above_0": 32.0, "decode_128_above_0": 17.0, "decode_199_above_0": 0.0}
  of = lambda turns: hlo.count(hlo.parse(text), turns)
  assert not of(program.turns).unknown_loops
  # A step of the longest cache more is a step more: about 2 FLOPs a parameter and row.
  model = planned.model
  params = sum(leaf.size for leaf in jax.tree.leaves(models.abstract_params(model)))
  one = of(program.turns | {"decode_32_above_0": 33.0}).total_flops - of(program.turns).total_flops
  assert one == pytest.approx(2 * params, rel=0.25)  # of the one row of a device


def test_needed_flops_by_hand():
  model = ModelConfig(
      vocab_size=7, width=4, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=2, mlp_width=8)
  layer = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8  # q, k and v, o, mlp
  found = flops.forward(model, rows=5, prompt=6, completion=10)
  pairs = 5 * 16**2 / 2
  assert found == 2 * 3 * layer * 5 * 16 + 2 * 7 * 4 * 5 * 10 + 4 * 3 * 2 * 2 * pairs
  shared = flops.forward(model, rows=5, prompt=6, completion=10, groups=1)
  assert found - shared == 4 * (2 * 3 * layer * 6 + 4 * 3 * 2 * 2 * 6**2 / 2)
  assert flops.training(model, found) == 3 * found
  adapted = dataclasses.replace(model, lora=LoRAConfig(rank=1))
  assert flops.training(adapted, found) == 2 * found


def test_a_model_that_is_not_here_has_the_shape_of_its_name(tmp_path):
  config = config_of(model=dict(kind="pretrained", path="models/Qwen2.5-1.5B-Instruct"))
  found = shapes.policy_shape(from_config(config))
  assert sum(leaf.size for leaf in jax.tree.leaves(models.abstract_params(found.model))) == (
      1_543_714_304)  # as published: 1.54B
  assert "not here" in found.source and found.stop_ids == (151643,)
  config.model.path = "models/mine"
  with pytest.raises(FileNotFoundError, match="give its shape with --model_config=FILE"):
    shapes.policy_shape(from_config(config))
  file = tmp_path / "config.json"
  fields = dict(
      model_type="llama", hidden_size=8, intermediate_size=16, num_hidden_layers=1,
      num_attention_heads=2, num_key_value_heads=1, vocab_size=32, max_position_embeddings=64,
      rms_norm_eps=1e-5, eos_token_id=[3, 4])
  file.write_text(json.dumps(fields), encoding="utf-8")
  found = shapes.policy_shape(from_config(config), str(file))
  assert found.model.width == 8 and found.stop_ids == (3, 4)


def test_a_token_needs_only_its_experts():
  """Width 12, heads of 6: 4 of queries and of outputs, 2 of keys and of values; 3 layers."""
  model = CONFIGS["qwen3_moe"]
  of_token = (4 + 4 + 2 + 2) * 6 * 12 + 12 * 5 + 2 * 3 * 12 * 20  # attention, router, 2 experts
  assert flops.forward(model, rows=1, prompt=1, completion=0, scored=0) == pytest.approx(
      2 * 3 * of_token + 4 * 3 * 4 * 6 / 2)


@pytest.mark.parametrize("name, billions", [
    ("Qwen2.5-0.5B", 0.494), ("Qwen2.5-Math-1.5B", 1.544), ("Qwen2.5-3B", 3.086),
    ("Qwen2.5-7B", 7.616), ("Qwen2.5-14B", 14.77), ("Qwen2.5-32B", 32.76),
    ("Qwen3-30B-A3B", 30.53), ("Llama-3.1-8B", 8.030),
    ("Llama-3.1-70B", 70.55), ("SmolLM2-135M", 0.1345)])
def test_published_shapes_have_the_published_number_of_parameters(name, billions):
  model = shapes.model_shape(f"models/{name}", "config.model.path").model
  count = sum(leaf.size for leaf in jax.tree.leaves(models.abstract_params(model)))
  assert count / 1e9 == pytest.approx(billions, rel=1e-3)


def test_the_words_of_a_new_model_come_from_its_task():
  recipe = from_config(config_of())
  assert shapes.policy_shape(recipe).model.vocab_size >= len(vocabulary(recipe.task))


def test_what_does_not_fit_says_what_to_change():
  plan = plan_of_tiny()
  small = plan._replace(chip=dataclasses.replace(plan.chip, memory=2e5))
  text = " ".join("\n".join(table.lines(small)).split())
  assert "of 200.0 kB a device; try config.model.remat=full" in text
  fits = {program["name"]: program["fits"] for stage in table.record(small)["stages"]
          for program in stage["programs"]}
  assert not fits["update"] and fits["batch"]


def test_a_program_that_the_compiler_refuses_is_reported(monkeypatch):
  class Refused:
    def compile(self):
      raise jax.errors.JaxRuntimeError(
          "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.30G of 15.75G hbm.")

  class Program:
    lower = staticmethod(lambda *args: Refused())

  recipe = from_config(config_of(stages=("sft",)))
  of = kinds.programs_of
  monkeypatch.setattr(kinds, "programs_of", lambda *args: of(*args)._replace(
      programs=[program._replace(call=Program) for program in of(*args).programs]))
  plan = planning.make_plan(recipe, "cpu:8")
  lines = table.lines(plan)
  assert any("18.30 GiB by itself, and the compiler has 15.75GiB" in line for line in lines)
  assert any(line.startswith("sft         no time: a program does not fit") for line in lines)
  assert any(line.startswith("too large") for line in lines)
  assert not any(line.startswith("run ") for line in lines)


def test_the_table_is_80_columns_wide_and_the_json_is_complete():
  plan = plan_of_tiny()
  lines = table.lines(plan)
  assert max(map(len, lines)) <= 80
  assert any(line.startswith("run   ") and "chip-hours" in " ".join(lines) for line in lines)
  found = json.loads(json.dumps(table.record(plan)))
  assert {axis: size for axis, size in found["mesh"].items() if size > 1} == {
      "data": 4, "fsdp": 2} and found["fits"]
  update = found["stages"][0]["programs"][0]
  assert update["bytes"] == sum(update["memory"].values())
  assert sum(update["own"].values()) == pytest.approx(update["bytes"], rel=0.02)
  assert found["chip_hours"] == 8 * found["hours"] > 0


@pytest.mark.parametrize("name, changes, expected", [
    ("v5e:4", {}, "--topology: got 'v5e:4', allowed: cpu:N, v5e:AxB"),
    ("v9:4x4", {}, "--topology: got 'v9:4x4', allowed: cpu:N"),
    ("cpu:0", {}, "--topology: got 'cpu:0', allowed: cpu:N"),
    ("cpu:64", {}, "--topology: got cpu:64, allowed: at most cpu:8"),
    ("cpu:2", dict(parallel=dict(fsdp=4)), "allowed: a product of at most 2"),
    ("cpu:8", dict(parallel=dict(mode="pmap")), "config.parallel.mode: got 'pmap'")])
def test_what_cannot_be_planned_is_refused(name, changes, expected):
  with pytest.raises(ValueError, match=expected.replace("(", r"\(")):
    planning.make_plan(from_config(config_of(**changes)), name)


def test_rows_that_the_devices_cannot_split_are_refused():
  config = config_of()
  config.sft.batch_size = 12
  with pytest.raises(ValueError, match="config.sft.batch_size: got 12, allowed: a multiple of 8"):
    planning.make_plan(from_config(config), "cpu:8")


def test_some_programs_alone_are_compiled():
  plan = planning.make_plan(from_config(config_of()), "cpu:8", only=["batch"])
  assert [[program.name for program in part.programs] for part in plan.stages] == [[], ["batch"]]
  lines = table.lines(plan)
  assert "sft         not planned: none of its programs is asked for" in lines
  assert "not compiled: sampling, greedy" in "\n".join(lines)


def test_devices_are_those_of_jax_again_afterwards():
  before = jax.devices(), jax.default_backend()
  with topology.devices("cpu:2") as found:
    assert len(jax.devices()) == 2 == len(found.devices)
    assert choose.make_layout(from_config(config_of()).parallel).num_shards == 2
  assert (jax.devices(), jax.default_backend()) == before
