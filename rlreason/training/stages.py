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
from rlreason.algorithms import TrainState, init_rl_params, policy_gradient, sft
from rlreason.data import packing, pipeline
from rlreason.data.sources import BadRows, FileRows, FunctionRows
from rlreason.data.tasks.base import RowSource
from rlreason.data.tasks.load import demonstrations
from rlreason.models import ModelConfig, lora
from rlreason.rewards import CombinedReward, WorkerPool, combine_rewards, verifier
from rlreason.tokenizers import Tokenizer
from rlreason.training import rl_metrics
from rlreason.training.optimizer import make_optimizer, make_schedule
from rlreason.training.recipe import RLStage, SFTStage
from rlreason.training.setup import Setup, base_kind, init_key, places
from rlreason.types import Key, Metrics, Outcome, Params


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
        for name in ("minibatch_size", "micro_batch_size"):
          _check_rows(
              f"algorithm.{name}", vars(stage.algorithm)[name], setup.layout.num_replicas)
        _make_reward(setup, stage, None)
        _check_critic(setup, stage)
    except (ValueError, FileNotFoundError) as error:
      raise type(error)(f"config.{stage.name}: {error}") from error


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
    policy: parameters where the layout wants them, with the adapters of the stage before, if the
      recipe has adapters and there was one. The stage takes them over, but for a reference.
    seed: of the order of its data.
    pool: for verifiers.
  """
  if isinstance(stage, SFTStage):
    return _make_sft(setup, stage, policy, seed)
  return _make_rl(setup, stage, policy, seed, pool)


def _own_policy(
    setup: Setup, policy: Params, seed: int, *, has_reference: bool
) -> tuple[Params, Params | None]:
  """What a stage trains, and its reference, as an algorithm's `score` takes it.

  Without adapters these are a copy, and the policy itself. With adapters they are the policy, with
  new ones if it has none yet, and a copy of the adapters that it had.
  """
  if setup.model.lora is None:
    return (jax.tree.map(jnp.copy, policy), policy) if has_reference else (policy, None)
  if not lora.has_adapters(policy):
    return _add_adapters(setup, setup.model, policy, jax.random.fold_in(init_key(seed), 1)), None
  return policy, jax.tree.map(jnp.copy, lora.split(policy)[0]) if has_reference else None


def _add_adapters(setup: Setup, model: ModelConfig, params: Params, key: Key) -> Params:
  """Parameters with new adapters beside them."""
  shardings = setup.layout.param_shardings(lora.split(models.abstract_boxed_params(model))[0])
  start = jax.jit(functools.partial(models.init_adapters, model), out_shardings=shardings)
  return lora.join(params, start(key))


def _load_critic(
    setup: Setup, stage: RLStage, seed: int
) -> tuple[ModelConfig | None, Params | None]:
  """The model and the parameters of a critic from another checkpoint; None for none."""
  if not stage.critic_path:
    return None, None
  model, params, _ = weights.load_scalar_model(
      weights.find_model(stage.critic_path), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=places(setup.layout),
      quantize=base_kind(setup.recipe))
  model = dataclasses.replace(
      model, remat=setup.model.remat, attention=setup.model.attention, lora=setup.model.lora)
  if model.lora is not None:
    key = jax.random.fold_in(init_key(seed), 2)
    params["trunk"] = _add_adapters(setup, model, params["trunk"], key)
  return model, params


def _check_critic(setup: Setup, stage: RLStage):
  """Opens the model of a critic without loading it: it has to read what the policy writes."""
  if not stage.critic_path:
    return
  model, tokenizer = weights.open_scalar_model(weights.find_model(stage.critic_path))
  dataclasses.replace(model, lora=setup.model.lora)  # raises where it cannot have the adapters
  longest = max(setup.recipe.prompt_buckets) + stage.sampling.max_new_tokens
  if model.max_positions < longest:
    raise ValueError(f"critic_path: got a model of {model.max_positions} positions, allowed: "
                     f"{longest} or more, a prompt and its completion")
  ids = tokenizer.get_vocab()
  other = [word for word, token in setup.tokenizer.get_vocab().items() if ids.get(word) != token]
  if other:
    raise ValueError(f"critic_path: got a model that knows {len(other)} of the policy's tokens by "
                     f"another id, or not at all ({other[0]!r}), allowed: one of its vocabulary")


def _make_optimizer(stage: SFTStage | RLStage, updates: int):
  """The stage's optimiser and learning rate; a stage of 0 steps has them without using them."""
  total = max(updates, stage.optimizer.warmup_steps + 1)
  return make_optimizer(stage.optimizer, total), make_schedule(stage.optimizer, total)


def _make_sft(setup: Setup, stage: SFTStage, policy: Params, seed: int) -> Stage:
  optimizer, schedule = _make_optimizer(stage, stage.steps)
  policy, _ = _own_policy(setup, policy, seed, has_reference=False)
  algorithm = sft(stage.sft, setup.model, optimizer)
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

  return Stage(stage.name, stage.steps, state, data, step)


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
  train = setup.tasks["train"].rows
  if stage.answer_template:
    complete = lambda row: stage.answer_template.replace("{answer}", row["answer"])
    return FunctionRows(
        lambda i: {**train[i], "completion": complete(train[i])},
        min(len(train), stage.num_examples))
  return demonstrations(setup.recipe.task, train, stage.num_examples)


def _check_examples(setup: Setup, stage: SFTStage):
  if stage.examples and not os.path.isfile(stage.examples):
    raise FileNotFoundError(
        f"config.{stage.name}.examples: {stage.examples!r} not found, allowed: a .jsonl or "
        ".parquet file of {prompt, completion}")
  if not stage.examples and not stage.answer_template:
    demonstrations(setup.recipe.task, setup.tasks["train"].rows, stage.num_examples)


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
  layout, config = setup.layout, stage.algorithm
  updates = stage.updates_per_step
  optimizer, schedule = _make_optimizer(stage, stage.steps * updates)
  own, reference = _own_policy(
      setup, policy, seed, has_reference=config.kl_coef > 0 and not config.reference_every)
  reference = None if reference is None else layout.put_state(reference)
  critic_model, critic = _load_critic(setup, stage, seed)
  algorithm = policy_gradient(
      config, setup.model, optimizer, temperature=stage.sampling.temperature,
      group_size=stage.group_size, critic=critic_model)
  state = layout.put_state(algorithm.init(init_rl_params(config, setup.model, own, critic)))

  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
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
    models_now = {"params": state.params, "reference": state.reference or reference}
    scores = score(models_now, device_rollout, None)
    scored = rollout_lib.score(reward, setup.tokenizer, batch, rollout)
    rewarded = time.perf_counter()
    outcome = layout.put_rows(Outcome(scored.totals, scored.is_scored, scored.is_right))
    ready, batch_metrics = make_batch(
        (device_rollout, scores, outcome), layout.get_state(state.kl_coef))
    state, update_metrics = update(state, ready, key_update)
    host_metrics = rl_metrics.rollout_metrics(scored, rollout, stage.group_size) | {
        "optim/lr": float(schedule(number * updates)),
        "rollout/dropped_prompts": rows.num_dropped,
        "time/sampling": sampled - started, "time/rewards": rewarded - sampled}
    samples = rl_metrics.sample_rows(
        batch, scored, stage.group_size, setup.recipe.samples_per_step)
    tokens = int(rollout.prompt_mask.sum() + scored.lengths.sum())
    return StepOutput(state, batch_metrics | update_metrics, host_metrics, tokens, samples)

  return Stage(stage.name, stage.steps, state, data, step)
