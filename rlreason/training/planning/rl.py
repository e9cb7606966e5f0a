"""The programs of an RL stage."""

import dataclasses
import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import rollout as rollout_lib
from rlreason.algorithms import init_rl_params, rows as rows_lib, score_completions, score_tokens
from rlreason.algorithms.base import Algorithm, TrainState
from rlreason.models import ModelConfig, lora
from rlreason.rollout import partial
from rlreason.sampling import Started, segments
from rlreason.training.planning import flops, placed, programs
from rlreason.training.planning.placed import Planned, struct
from rlreason.training.planning.programs import Program, Programs
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages import rl
from rlreason.training.stages.base import Setup
from rlreason.types import GroupPlan, Outcome, Params, Rollout, RowPlan


class _Models(NamedTuple):
  """The models of a stage and its state."""

  algorithm: Algorithm
  state: TrainState
  critic: ModelConfig  # as the policy's, if it has no other
  reference: tuple[ModelConfig, Params | None]


def programs_of(planned: Planned, stage: RLStage) -> Programs:
  """Samplers, the forward passes before an update, and the update."""
  found = _models(planned, stage)
  state, (_, reference) = found.state, found.reference
  count = stage.num_prompts * stage.group_size
  longest, length = stage.sampling.max_new_tokens, planned.length(stage.sampling.max_new_tokens)
  rollout = rollout_lib.crop(
      programs.full_rollout(planned, count, longest, rl.has_values(stage)),
      (*stage.length_buckets, longest))
  planner = rl.Planner(stage.algorithm, stage.group_size, planned.layout, planned.model)
  scored = _scoring(planned, stage, found, rollout, planner)
  tokens = float(stage.num_prompts * planned.columns + count * length)
  learned = _learning(planned, stage, found, rollout, planner)
  made = [*_sampling(planned, stage, state.params), *_reward_models(planned, stage, rollout),
          *scored, *learned]
  policy = lora.split({"policy": state.params["policy"]})[0]
  held = programs.held_by(
      state, reference, *[policy] * stage.draws_ahead,
      *[program.args[0] for program in made if program.name in ("rewards", "step_rewards")])
  rounds = (f"a step may sample up to {stage.max_resample_rounds} times; it counts once",)
  return Programs(made, held, tokens, rounds if stage.max_resample_rounds > 1 else ())


def _models(planned: Planned, stage: RLStage) -> _Models:
  model, config = planned.model, stage.algorithm
  policy = placed.params(planned, model)
  critic_model, critic, of = None, None, [model]
  if stage.critic_path:
    critic_model, params = programs.other_model(
        planned, stage.critic_path, f"config.{stage.name}.critic_path")
    critic = programs.scalar_params(planned, critic_model, params)
    critic_model = dataclasses.replace(
        critic_model, remat=model.remat, attention=model.attention)
    of = [critic_model, model]
  reference_model, reference = model, None
  if stage.reference_path:
    reference_model, reference = programs.other_model(
        planned, stage.reference_path, f"config.{stage.name}.reference_path")
  elif config.has_fixed_reference and model.lora is None:
    reference = policy
  setup = Setup(planned.recipe, model, None, {}, planned.layout, None)
  algorithm = rl.make_algorithm(
      setup, stage, critic_model, reference_model if stage.reference_path else None)
  state = placed.placer(planned, *of)(jax.eval_shape(
      lambda policy, critic: algorithm.init(init_rl_params(config, model, policy, critic)),
      policy, critic))
  return _Models(algorithm, state, critic_model or model, (reference_model, reference))


def _sampling(planned: Planned, stage: RLStage, params: Params) -> list[Program]:
  sample = functools.partial(
      programs.sampling_of, planned, planned.model, params, prompts=stage.num_prompts)
  if stage.carried_prompts:
    found = [_partial_sampling(planned, stage, params)]
  else:
    found = [sample(group_size=stage.group_size, options=stage.sampling,
                    has_values=rl.has_values(stage))]
  if "greedy_scores" in stage.algorithm.advantage.arrays:
    greedy = dataclasses.replace(stage.sampling, temperature=0.0)
    found.append(sample(group_size=1, options=greedy)._replace(name="greedy"))
  return found


def _partial_sampling(planned: Planned, stage: RLStage, params: Params) -> Program:
  """The sampler that continues rows; they may have as many tokens as completions may have."""
  model, size, longest = planned.model, stage.group_size, stage.sampling.max_new_tokens
  prompts = stage.num_prompts + stage.carried_prompts
  columns = max(partial.started_widths(stage.sampling))
  shape, has_values = (prompts * size, columns), rl.has_values(stage)
  key_data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  started = placed.rows(planned, Started(
      prompts=programs.prompt_rows(planned, prompts),
      key_data=struct((prompts, *key_data.shape), key_data.dtype),
      tokens=struct(shape, jnp.int32), lengths=struct(shape[:1], jnp.int32),
      is_done=struct(shape[:1], jnp.bool_), log_probs=struct(shape, jnp.float32),
      values=struct(shape, jnp.float32) if has_values else None))
  program = partial.partial_program(
      model, planned.shape.stop_ids, planned.layout, options=stage.sampling, group_size=size,
      enough=stage.num_prompts, has_values=has_values)
  length = planned.length(longest)
  return programs.sampler(
      planned, model, program, (params, started, placed.key()), prompts=prompts,
      group_size=size, length=length, longest=longest)._replace(
          turns=segments.turns(stage.sampling, size, length))


def _reward_models(planned: Planned, stage: RLStage, rollout: Rollout) -> list[Program]:
  """The scores of a reward model, in as many rows at a time as a gradient pass has.

  Those of a process reward model are planned at every token, as how many steps rows have is not
  known; a run reads the head at their ends only.
  """
  found = []
  for field, score in (("reward_model", score_completions), ("process_model", score_tokens)):
    if not vars(stage)[field]:
      continue
    model, params = programs.other_model(
        planned, vars(stage)[field], f"config.{stage.name}.{field}")
    model = dataclasses.replace(
        model, unroll=min(planned.model.unroll, model.num_layers),
        attention=planned.model.attention)
    size = stage.algorithm.micro_batch_size or stage.algorithm.minibatch_size
    program = planned.layout.compile_rows(
        lambda params, rollout, key, score=score, model=model: rows_lib.in_chunks(
            functools.partial(score, model, params), rollout, size))
    sizes = _sizes(planned, rollout)
    found.append(Program(
        "rewards" if field == "reward_model" else "step_rewards", program,
        (programs.scalar_params(planned, model, params), placed.rows(planned, rollout), None),
        _tokens(sizes), flops.forward(model, **sizes, scored=0)))
  return found


def _sizes(planned: Planned, rollout: Rollout, plan: GroupPlan | RowPlan | None = None):
  rows = len(rollout.token_mask)
  sizes = dict(rows=rows, prompt=planned.columns, completion=int(rollout.token_mask[0].sum()))
  if isinstance(plan, GroupPlan):
    sizes["groups"] = rows // plan.packing.group_size
  return sizes


def _tokens(sizes) -> float:
  return float(sizes.get("groups", sizes["rows"]) * sizes["prompt"]
               + sizes["rows"] * sizes["completion"])


def _scoring(
    planned: Planned, stage: RLStage, found: _Models, rollout: Rollout, planner: rl.Planner
) -> list[Program]:
  """The forward passes of policy, critic and reference, if there are any."""
  config, (reference_model, reference) = stage.algorithm, found.reference
  plan = planner.of_rollout(rollout)
  sizes = _sizes(planned, rollout, plan)
  passes = 0.0
  if config.recompute_log_probs or config.uses_old_entropies:
    passes += flops.forward(planned.model, **sizes)
  if config.has_reference:
    passes += flops.forward(reference_model, **sizes)
  if config.critic == "separate":
    passes += flops.forward(found.critic, **sizes, scored=0)
  args = ({"params": found.state.params,
           "reference": found.state.extra.get("reference", reference)},
          placed.rows(planned, rollout), placed.plan(plan))
  program = planned.layout.compile_rows(found.algorithm.score)
  return [Program("scoring", program, args, _tokens(sizes) if passes else 0.0, passes)]


def _learning(
    planned: Planned, stage: RLStage, found: _Models, rollout: Rollout, planner: rl.Planner
) -> list[Program]:
  """The batch from a scored rollout, and the update on it."""
  config, state, algorithm = stage.algorithm, found.state, found.algorithm
  rows = placed.rows(planned, rollout)
  reference = state.extra.get("reference", found.reference[1])
  scores = placed.rows(planned, jax.eval_shape(
      algorithm.score, {"params": state.params, "reference": reference}, rows))
  inputs = rows, scores, _outcome(planned, stage, len(rollout.token_mask))
  coefs = state.extra.get("coefs", {})
  batch, _ = jax.eval_shape(algorithm.make_batch, inputs, coefs)
  plan = None
  if planner.is_used:
    order = planner.order(len(rollout.token_mask), jax.random.key(0))
    plan = planner.of_update(
        order, rollout, np.ones(len(rollout.token_mask), bool),
        types.SimpleNamespace(learned_mask=rollout.token_mask))
  batch = placed.rows(planned, batch).replace(plan=placed.plan(plan))
  sizes = _sizes(planned, rollout, plan)
  needed = flops.training(planned.model, flops.forward(planned.model, **sizes))
  if config.critic == "separate":
    needed += flops.training(found.critic, flops.forward(found.critic, **sizes, scored=0))
  made = planned.layout.compile_whole(algorithm.make_batch)
  return [
      Program("batch", made, (inputs, coefs), is_model_first=False),
      programs.update_of(planned, algorithm, state, batch, tokens=config.epochs * _tokens(sizes),
                         flops=config.epochs * needed)]


def _outcome(planned: Planned, stage: RLStage, rows: int) -> Any:
  """The host's results; rewards within completions, which depend on the texts, are left out."""
  arrays, parts = stage.algorithm.advantage.arrays, None
  if "parts" in arrays:
    parts = struct((rows, sum(bool(spec.weight) for spec in stage.rewards)), jnp.float32)
  column = lambda dtype: struct((rows,), dtype)
  return placed.rows(planned, Outcome(
      scores=column(jnp.float32), is_scored=column(jnp.bool_), is_right=column(jnp.bool_),
      greedy_scores=column(jnp.float32) if "greedy_scores" in arrays else None,
      parts=parts, part_weights=parts))
