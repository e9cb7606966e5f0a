"""The programs of all kinds of stages but RL."""

import functools

import jax
import jax.numpy as jnp

from rlreason.algorithms import (
    distill, init_distill_params, init_process_params, init_reward_params, preference,
    process_reward, reward_model, sft)
from rlreason.sampling import segments
from rlreason.training.optimizer import optimizer_of
from rlreason.training.planning import flops, placed, programs
from rlreason.training.planning.placed import Planned, struct
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.process_reward import ProcessRewardStage
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.settings.sft import SFTStage
from rlreason.training.stages.sample import make_sampler
from rlreason.types import PackedBatch, PairBatch, StepBatch


def of_sft(planned: Planned, stage: SFTStage) -> programs.Programs:
  model, optimizer = planned.model, optimizer_of(stage.optimizer, stage.steps)[0]
  algorithm = sft(stage.sft, model, optimizer)
  state = placed.placer(planned, model)(
      jax.eval_shape(lambda p: algorithm.init({"policy": p}), placed.params(planned, model)))
  shape = stage.batch_size, stage.length
  batch = placed.rows(planned, PackedBatch(
      tokens=struct(shape, jnp.int32), segment_ids=struct(shape, jnp.int32),
      positions=struct(shape, jnp.int32), loss_weights=struct(shape, jnp.float32)))
  tokens = float(stage.batch_size * stage.length)
  needed = flops.training(model, flops.forward(
      model, rows=stage.batch_size, prompt=0, completion=stage.length))
  update = programs.update_of(planned, algorithm, state, batch, tokens=tokens, flops=needed)
  return programs.Programs([update], programs.held_by(state), tokens)


def of_preference(planned: Planned, stage: PreferenceStage) -> programs.Programs:
  model, layout, config = planned.model, planned.layout, stage.preference
  policy = placed.params(planned, model)
  algorithm = preference(config, model, optimizer_of(stage.optimizer, stage.steps)[0])
  place = placed.placer(planned, model)
  state = place(jax.eval_shape(lambda p: algorithm.init({"policy": p}), policy))
  reference = policy if config.has_reference and model.lora is None else None
  batch, numbers = _pairs(planned, stage, config.has_pairs)
  scoring = []
  if config.has_reference:
    models_now = {"params": state.params, "reference": reference}
    scores = placed.rows(planned, jax.eval_shape(algorithm.score, models_now, batch))
    scoring.append(programs.Program(
        "scoring", layout.compile_rows(algorithm.score), (models_now, batch, None), **numbers))
    ready, _ = jax.eval_shape(algorithm.make_batch, (batch, scores), state.coefs)
    batch = placed.rows(planned, ready)
  update = programs.update_of(
      planned, algorithm, state, batch, tokens=numbers["tokens"],
      flops=flops.training(model, numbers["flops"]))
  return programs.Programs(
      [*scoring, update], programs.held_by(state, reference), numbers["tokens"])


def of_reward_model(planned: Planned, stage: RewardModelStage) -> programs.Programs:
  model, config = planned.model, stage.reward_model
  algorithm = reward_model(config, model, optimizer_of(stage.optimizer, stage.steps)[0])
  policy = placed.params(planned, model)
  state = placed.placer(planned, model)(jax.eval_shape(
      lambda p: algorithm.init(init_reward_params(model, p, jax.random.key(0))), policy))
  batch, numbers = _pairs(planned, stage, config.form != "verdicts")
  batch = batch.replace(
      weights=placed.rows(planned, struct((stage.batch_size,), jnp.float32)))
  update = programs.update_of(
      planned, algorithm, state, batch, tokens=numbers["tokens"],
      flops=flops.training(model, numbers["flops"]))
  return programs.Programs([update], programs.held_by(state, policy), numbers["tokens"])


def of_process_reward(planned: Planned, stage: ProcessRewardStage) -> programs.Programs:
  """Of as many steps per row as there are tokens, more than there will be."""
  model, config = planned.model, stage.process_reward
  algorithm = process_reward(config, model, optimizer_of(stage.optimizer, stage.steps)[0])
  policy = placed.params(planned, model)
  state = placed.placer(planned, model)(jax.eval_shape(
      lambda p: algorithm.init(init_process_params(config, model, p, jax.random.key(0))), policy))
  count, length = stage.batch_size, stage.completion_length
  ints = functools.partial(struct, dtype=jnp.int32)
  bools = functools.partial(struct, dtype=jnp.bool_)
  prompts, completions = (count, planned.columns), (count, length)
  batch = placed.rows(planned, StepBatch(
      prompt_tokens=ints(prompts), prompt_mask=bools(prompts), completion_tokens=ints(completions),
      token_mask=bools(completions), columns=ints(completions),
      labels=struct(completions, jnp.float32), label_mask=bools(completions)))
  sizes = dict(rows=count, prompt=planned.columns, completion=planned.length(length))
  tokens = float(count * (sizes["prompt"] + sizes["completion"]))
  update = programs.update_of(
      planned, algorithm, state, batch, tokens=tokens,
      flops=flops.training(model, flops.forward(model, **sizes)))
  return programs.Programs([update], programs.held_by(state, policy), tokens)


def _pairs(
    planned: Planned, stage: PreferenceStage | RewardModelStage, has_pairs: bool
) -> tuple[PairBatch, dict[str, float]]:
  """The batch of a step, and the tokens and FLOPs of a pass over it."""
  count, length = stage.batch_size, stage.completion_length
  prompts, completions = (count, planned.columns), (count, 2, length)
  batch = placed.rows(planned, PairBatch(
      prompt_tokens=struct(prompts, jnp.int32), prompt_mask=struct(prompts, jnp.bool_),
      completion_tokens=struct(completions, jnp.int32),
      completion_mask=struct(completions, jnp.bool_),
      is_desirable=None if has_pairs else struct((count,), jnp.bool_)))
  sizes = dict(rows=2 * count, prompt=planned.columns, completion=planned.length(length))
  return batch, {
      "tokens": float(sizes["rows"] * (sizes["prompt"] + sizes["completion"])),
      "flops": flops.forward(planned.model, **sizes)}


def of_distill(planned: Planned, stage: DistillStage) -> programs.Programs:
  model, layout, config = planned.model, planned.layout, stage.distill
  teacher_model, teacher = programs.other_model(
      planned, stage.teacher, f"config.{stage.name}.teacher")
  algorithm = distill(
      config, model, teacher_model, optimizer_of(stage.optimizer, stage.steps)[0])
  state = placed.placer(planned, model)(jax.eval_shape(
      lambda p, t: algorithm.init(init_distill_params(config, teacher_model, p, t)),
      placed.params(planned, model), teacher))
  count, longest = stage.num_prompts * stage.group_size, stage.sampling.max_new_tokens
  rollout = placed.rows(planned, programs.full_rollout(planned, count, longest, False))
  scores = placed.rows(planned, jax.eval_shape(algorithm.score, {"teacher": teacher}, rollout))
  inputs = rollout, scores, placed.rows(planned, struct((count,), jnp.bool_))
  batch, _ = jax.eval_shape(algorithm.make_batch, inputs, state.coefs)
  sizes = dict(rows=count, prompt=planned.columns, completion=planned.length(longest))
  tokens = float(count * (sizes["prompt"] + sizes["completion"]))
  sampling = programs.sampling_of(
      planned, model, {"policy": state.params["policy"]}, prompts=stage.num_prompts,
      group_size=stage.group_size, options=stage.sampling)
  scoring = programs.Program(
      "scoring", layout.compile_rows(algorithm.score), ({"teacher": teacher}, rollout, None),
      tokens, flops.forward(teacher_model, **sizes))
  update = programs.update_of(
      planned, algorithm, state, placed.rows(planned, batch), tokens=tokens,
      flops=flops.training(model, flops.forward(model, **sizes)))
  found = [sampling._replace(calls=stage.student_fraction), scoring, update]
  if not stage.student_fraction:
    del found[0]
  return programs.Programs(found, programs.held_by(state, teacher), tokens)


def of_sample(planned: Planned, stage: SampleStage) -> programs.Programs:
  model, layout = planned.model, planned.layout
  params = placed.params(planned, model)
  if stage.model:
    model, params = programs.other_model(planned, stage.model, f"config.{stage.name}.model")
  program = programs.sampling_of(
      planned, model, {"policy": params}, prompts=stage.num_prompts, group_size=stage.group_size,
      options=stage.sampling, sampler=make_sampler(stage, layout))
  at_once = stage.prompts_at_once or stage.num_prompts
  if at_once != stage.num_prompts:
    parts = layout.prompt_parts(at_once, stage.num_prompts) // layout.num_replicas
    longest = stage.sampling.max_new_tokens
    program = program._replace(
        turns=segments.queue_turns(
            stage.sampling, stage.num_prompts // parts, at_once // parts,
            planned.length(longest)),
        cache=programs.cache_bytes(planned, model, at_once, at_once * stage.group_size, longest))
  return programs.Programs([program], {"parameters": params, "moments": ()}, program.tokens)
