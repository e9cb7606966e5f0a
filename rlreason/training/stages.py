"""A stage, ready to run: its state, its data and one step. The loop owns everything around it."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import os
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp

from rlreason import models, rollout as rollout_lib, tokenizers, weights
from rlreason.algorithms import TrainState, init_ppo_params, ppo, sft
from rlreason.data import packing, pipeline
from rlreason.data.sources import BadRows, FileRows, FunctionRows
from rlreason.data.tasks import countdown, workings
from rlreason.data.tasks.base import RowSource
from rlreason.data.tasks.load import ArithmeticTask, CountdownTask
from rlreason.models import ModelConfig, lora
from rlreason.rewards import CombinedReward, WorkerPool, combine_rewards, verifier
from rlreason.tokenizers import Tokenizer
from rlreason.training import rl_metrics
from rlreason.training.optimizer import make_optimizer, make_schedule
from rlreason.training.recipe import RLStage, SFTStage
from rlreason.training.setup import Setup, base_kind, init_key, places
from rlreason.types import Key, Metrics, Params


class StepOutput(NamedTuple):
  """What one step gives to the loop."""

  state: TrainState
  device_metrics: Metrics  # (sum, denominator) pairs, perhaps not computed yet
  host_metrics: dict[str, float]
  tokens: int  # worked on
  samples: list[dict[str, Any]]


class Stage(NamedTuple):
  """A stage of a run."""

  name: str
  steps: int
  model: ModelConfig  # of the policy in the state, with its adapters if it has any
  state: TrainState  # placed
  data: pipeline.BatchIterator
  step: Callable[[TrainState, int, Any, Key], StepOutput]  # (state, step, batch of data, key)


def check_stages(setup: Setup):
  """Finds now the mistakes that a stage would otherwise find when its turn comes.

  Raises:
    FileNotFoundError, ValueError: name the stage and the field.
  """
  for stage in setup.recipe.stages:
    try:
      if isinstance(stage, SFTStage):
        _token_weights(setup.tokenizer, stage)
        _check_examples(setup, stage)
        _check_rows("batch_size", stage.batch_size, setup.layout.num_shards)
        _check_rows("sft.micro_batch_size", stage.sft.micro_batch_size, setup.layout.num_replicas)
      else:
        _check_rows("num_prompts", stage.num_prompts, setup.layout.num_shards)
        _check_rows("ppo.minibatch_size", stage.ppo.minibatch_size, setup.layout.num_replicas)
        _check_rows("ppo.micro_batch_size", stage.ppo.micro_batch_size, setup.layout.num_replicas)
        _make_reward(setup, stage, None)
        if stage.critic_path and not os.path.exists(weights.find_model(stage.critic_path)):
          raise FileNotFoundError(
              f"config.{stage.name}.critic_path: {stage.critic_path!r} not found, allowed: a "
              "Hugging Face folder or a .gguf file")
    except ValueError as error:
      raise ValueError(f"config.{stage.name}: {error}") from error


def _check_rows(name: str, rows: int, count: int):
  if rows % count:
    raise ValueError(
        f"{name}: got {rows}, allowed: a multiple of {count}, the number of devices that split the "
        "rows")


def make_stage(
    setup: Setup, stage: SFTStage | RLStage, policy: Params, seed: int, pool: WorkerPool
) -> Stage:
  """Makes a stage that starts from `policy`.

  Args:
    setup: of the run.
    stage: its settings.
    policy: parameters where the layout wants them; the stage has its own copy to donate, or where
      the recipe has adapters takes these over.
    seed: of the order of its data.
    pool: for verifiers.
  """
  if isinstance(stage, SFTStage):
    return _make_sft(setup, stage, policy, seed)
  return _make_rl(setup, stage, policy, seed, pool)


def _trainable(setup: Setup, policy: Params, seed: int) -> tuple[ModelConfig, Params]:
  """The policy as a stage trains it: a copy of its own, or the frozen policy with new adapters."""
  if setup.recipe.lora is None:
    return setup.model, jax.tree.map(jnp.copy, policy)
  return _add_adapters(setup, setup.model, policy, init_key(seed))


def _add_adapters(
    setup: Setup, model: ModelConfig, params: Params, key: Key
) -> tuple[ModelConfig, Params]:
  """A model with new adapters beside its parameters, which are then frozen."""
  model = dataclasses.replace(model, lora=setup.recipe.lora)
  shardings = setup.layout.param_shardings(lora.split(models.abstract_boxed_params(model))[0])
  start = jax.jit(functools.partial(models.init_adapters, model), out_shardings=shardings)
  return model, lora.join(params, start(key))


def _load_critic(
    setup: Setup, stage: RLStage, seed: int
) -> tuple[ModelConfig | None, Params | None]:
  """The model and the parameters of a critic from another checkpoint; None for none."""
  if not stage.critic_path:
    return None, None
  model, params, tokenizer = weights.load_scalar_model(
      weights.find_model(stage.critic_path), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=places(setup.layout),
      quantize=base_kind(setup.recipe))
  if tokenizer.vocab_size != setup.tokenizer.vocab_size:
    raise ValueError(
        f"config.{stage.name}.critic_path: {stage.critic_path!r} has a vocabulary of "
        f"{tokenizer.vocab_size} tokens, allowed: that of the policy, "
        f"{setup.tokenizer.vocab_size}")
  model = dataclasses.replace(
      model, remat=setup.model.remat, attention=setup.model.attention)
  if setup.recipe.lora is not None:
    key = jax.random.fold_in(init_key(seed), 1)  # apart from that of the policy's adapters
    model, params["trunk"] = _add_adapters(setup, model, params["trunk"], key)
  return model, params


def _make_optimizer(stage: SFTStage | RLStage, updates: int):
  """The stage's optimiser and learning rate; a stage of 0 steps has them without using them."""
  total = max(updates, stage.optimizer.warmup_steps + 1)
  return make_optimizer(stage.optimizer, total), make_schedule(stage.optimizer, total)


def _make_sft(setup: Setup, stage: SFTStage, policy: Params, seed: int) -> Stage:
  optimizer, schedule = _make_optimizer(stage, stage.steps)
  model, policy = _trainable(setup, policy, seed)
  algorithm = sft(stage.sft, model, optimizer)
  state = setup.layout.put_state(algorithm.init({"policy": policy}))
  update = setup.layout.compile_update(algorithm.update_step, state)
  examples, dropped = packing.fit_examples(
      _tokenize_examples(setup, stage, _load_examples(setup, stage)), stage.length)
  if not examples:
    raise ValueError(
        f"config.{stage.name}.length: got {stage.length}, allowed: enough for at least one of the "
        f"{dropped} examples")
  data = pipeline.packed_batches(examples, stage.batch_size, stage.length, seed)

  def step(state, number, batch, key):
    state, metrics = update(state, setup.layout.put_rows(batch), key)
    host_metrics = {"optim/lr": float(schedule(number)),
                    "rollout/dropped_examples": dropped}
    return StepOutput(state, metrics, host_metrics, batch.tokens.size, [])

  return Stage(stage.name, stage.steps, model, state, data, step)


def _load_examples(setup: Setup, stage: SFTStage) -> RowSource:
  """Rows {prompt, completion}: of a file, of answers put into a template, or the task's own."""
  _check_examples(setup, stage)
  if stage.examples:
    rows = FileRows(stage.examples, required=("prompt", "completion"))
    if isinstance(rows[0]["prompt"], str) and setup.tokenizer.chat_template is not None:
      logging.warning(
          "config.%s.examples: its prompts are plain text, and train as they are, without the chat "
          "template of the model; messages go through it", stage.name)
    return rows
  if stage.answer_template or isinstance(setup.recipe.task, ArithmeticTask):
    train = setup.tasks["train"].rows
    complete = workings.demonstration
    if stage.answer_template:
      complete = lambda row: stage.answer_template.replace("{answer}", row["answer"])
    return FunctionRows(
        lambda i: {**train[i], "completion": complete(train[i])},
        min(len(train), stage.num_examples))
  return countdown.CountdownDemonstrations(setup.recipe.task.problems, stage.num_examples)


def _check_examples(setup: Setup, stage: SFTStage):
  if stage.examples and not os.path.isfile(stage.examples):
    raise FileNotFoundError(
        f"config.{stage.name}.examples: {stage.examples!r} not found, allowed: a .jsonl or "
        ".parquet file of {prompt, completion}")
  task = setup.recipe.task
  if stage.examples or stage.answer_template or isinstance(task, CountdownTask):
    return
  if isinstance(task, ArithmeticTask):
    workings.check_tasks(list(task.problems.tasks))
  else:
    raise ValueError(
        "this task has no demonstrations of its own, allowed: `examples`, a file of {prompt, "
        "completion}, or `answer_template`")


def _token_weights(tokenizer: Tokenizer, stage: SFTStage) -> dict[int, float]:
  """Token id -> weight of predicting it."""
  return {token: weight for word, weight in stage.token_weights.items()
          for token in tokenizer.encode(word)}


def _tokenize_examples(
    setup: Setup, stage: SFTStage, rows: RowSource
) -> Iterator[packing.Example]:
  """The examples of good rows; a bad one, as where a template refuses a chat, is left out."""
  weights, bad_rows = _token_weights(setup.tokenizer, stage), BadRows(f"config.{stage.name}")
  for i in range(len(rows)):
    try:
      example = _tokenize_example(setup.tokenizer, rows[i], weights)
    except ValueError as error:
      bad_rows.add(i, error)
    else:
      yield example
  bad_rows.finish(len(rows))


def _tokenize_example(tokenizer: Tokenizer, row, weights: dict[int, float]) -> packing.Example:
  if not isinstance(row["prompt"], str):
    messages = [*row["prompt"], {"role": "assistant", "content": row["completion"]}]
    chat = tokenizers.encode_chat(tokenizer, messages)
    return packing.mask_example(chat.ids, chat.completion_mask, weights)
  completion = tokenizer.encode(row["completion"])
  if not completion or completion[-1] not in tokenizer.eos_ids:
    completion = [*completion, tokenizer.eos_ids[0]]
  return packing.make_example(rollout_lib.encode_prompt(tokenizer, row), completion, weights)


def _make_reward(setup: Setup, stage: RLStage, pool: WorkerPool | None) -> CombinedReward:
  shortest = {"min_length": stage.min_reasoning}
  specs = [dataclasses.replace(spec, options={**shortest, **spec.options})
           if spec.name == "exploration" and spec.function is None else spec
           for spec in stage.rewards]
  return combine_rewards(
      specs, verifier=setup.tasks["train"].verifier, pool=pool, clip_range=stage.reward_clip)


def _make_rl(
    setup: Setup, stage: RLStage, policy: Params, seed: int, pool: WorkerPool
) -> Stage:
  layout, config = setup.layout, stage.ppo
  updates = stage.updates_per_step
  optimizer, schedule = _make_optimizer(stage, stage.steps * updates)
  model, own = _trainable(setup, policy, seed)
  critic_model, critic = _load_critic(setup, stage, seed)
  algorithm = ppo(config, model, optimizer, temperature=stage.sampling.temperature,
                  critic=critic_model)
  state = layout.put_state(algorithm.init(init_ppo_params(config, model, own, critic)))
  needs_reference = config.kl_coef > 0 and model.lora is None  # else it is the base of the policy
  reference = layout.put_state(policy) if needs_reference else None

  generate = rollout_lib.make_generator(
      model, setup.tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
      prompt_buckets=setup.recipe.prompt_buckets,
      has_values=config.critic == "shared" and not config.recompute_log_probs)
  score = layout.compile_rows(algorithm.score)
  make_batch = layout.compile_whole(algorithm.make_batch)
  update = layout.compile_update(algorithm.update_step, state)

  train = setup.tasks["train"]
  rows = rollout_lib.FittingRows(
      train.rows, setup.tokenizer, max(setup.recipe.prompt_buckets),
      verifier.columns(train.verifier))
  data = pipeline.prompt_batches(rows, stage.num_prompts, seed)
  reward = _make_reward(setup, stage, pool)
  buckets = (*stage.length_buckets, stage.sampling.max_new_tokens)

  def step(state, number, batch, key):
    key_sample, key_update = jax.random.split(key)
    started = time.perf_counter()
    rollout = rollout_lib.crop(generate(state.params, batch, key_sample), buckets)
    sampled = time.perf_counter()
    device_rollout = layout.put_rows(rollout)
    # Dispatched, not awaited: the device computes while the host reads and scores the texts.
    scores = score({"params": state.params, "reference": reference}, device_rollout, None)
    scored = rollout_lib.score(reward, setup.tokenizer, batch, rollout)
    rewarded = time.perf_counter()
    rewards = layout.put_rows((scored.totals, scored.is_scored))
    ready, batch_metrics = make_batch(
        (device_rollout, scores, *rewards), layout.get_state(state.kl_coef))
    state, update_metrics = update(state, ready, key_update)
    host_metrics = rl_metrics.rollout_metrics(scored, rollout, stage.group_size) | {
        "optim/lr": float(schedule(number * updates)),
        "rollout/dropped_prompts": rows.num_dropped,
        "time/sampling": sampled - started, "time/rewards": rewarded - sampled}
    samples = rl_metrics.sample_rows(
        batch, scored, stage.group_size, setup.recipe.samples_per_step)
    tokens = int(rollout.prompt_mask.sum() + scored.lengths.sum())
    return StepOutput(state, batch_metrics | update_metrics, host_metrics, tokens, samples)

  return Stage(stage.name, stage.steps, model, state, data, step)
