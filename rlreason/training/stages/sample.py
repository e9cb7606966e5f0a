"""Sample stages: they write completions and their rewards."""

import functools
import pathlib

from rlreason import models, rollout as rollout_lib, weights
from rlreason.algorithms.base import empty_state
from rlreason.data import pipeline
from rlreason.parallel import Layout
from rlreason.rollout import Sampled
from rlreason.sampling import Batching, sample_queue
from rlreason.training.settings.graph import start_of
from rlreason.training.settings.sample import SampleStage
from rlreason.training.setup import param_shardings
from rlreason.training.stages import base, checks, judges, policies, rl_metrics, scoring
from rlreason.training.stages.base import Setup
from rlreason.types import Params
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: SampleStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_split(stage, setup.layout.num_shards)
  checks.check_source("problems", stage.problems, "{prompt, answer}")
  scoring.make_reward(setup, stage, None)
  policies.check_scalar_models(setup, stage)
  judges.check(setup, stage)
  scoring.check_problems(setup, stage)
  model = setup.model
  if stage.model:
    model, tokenizer = weights.open_model(weights.find_model(stage.model))
    policies.check_positions(setup, "model", model, stage.sampling.max_new_tokens)
    reads_ids = stage.reward_model or stage.process_model
    if reads_ids and tokenizer.get_vocab() != setup.tokenizer.get_vocab():
      raise ValueError("model: got one of another vocabulary beside a model of rewards, which "
                       "reads the policy's token ids, allowed: one of the policy's vocabulary")
  checks.check_top_k(stage.sampling.top_k, model.vocab_size)
  checks.check_bigrams(stage.sampling.blocked_bigrams, model.vocab_size)


def make(
    setup: Setup, stage: SampleStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; its rows record their stage and step, and the policy that sampled them."""
  layout, model, tokenizer = setup.layout, setup.model, setup.tokenizer
  if stage.model:
    model, policy, tokenizer = weights.load_model(
        weights.find_model(stage.model), dtype=model.param_dtype, compute_dtype=model.dtype,
        sharding=param_shardings(layout))
    model = models.with_tokens(model, tokenizer.vocab_size)
  is_readable = tokenizer.get_vocab() == setup.tokenizer.get_vocab()
  params = layout.put_state({"policy": policy})
  problems = scoring.make_problems(setup, stage, folder)
  scorer, reward_models = scoring.make_scorer(setup, stage, pool, folder, tokenizer)
  stages = setup.recipe.stages
  policy_name = start_of(stages, [other.name for other in stages].index(stage.name)) or "initial"
  generate = rollout_lib.make_generator(
      model, tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
      prompt_buckets=setup.recipe.prompt_buckets, sampler=make_sampler(stage, layout))

  def draw(unused_params, data, key):
    rows = next(data)
    rollout = generate(params, rows, key)
    return Sampled(rows, rollout, scorer(rows, rollout))

  def learn(state, number, sampled, key):
    del key
    rows, rollout, _ = sampled
    host_metrics = rl_metrics.rollout_metrics(sampled.scored, rollout, stage.group_size) | {
        "rollout/dropped_prompts": problems.num_dropped}
    samples = rl_metrics.sample_rows(
        rows, sampled.scored, stage.group_size, setup.recipe.samples_per_step)
    provenance = {"stage": stage.name, "step": number, "policy": stage.model or policy_name}
    if not is_readable:  # ids of another vocabulary: only the text is portable
      provenance |= {"prompt_ids": None, "completion_ids": None}
    data_rows = [row | provenance for row in rl_metrics.data_rows(sampled, stage.group_size)]
    tokens = int(rollout.prompt_mask.sum() + sampled.scored.lengths.sum())
    return base.StepOutput(state, {}, host_metrics, tokens, samples, data_rows)

  return base.Stage(
      stage.name, stage.steps, layout.put_state(empty_state()),
      pipeline.prompt_batches(problems, stage.num_prompts, seed), learn, draw,
      trains=False, beside=[params, reward_models])


def make_sampler(stage: SampleStage, layout: Layout):
  """Of a queue of prompts; None: all of a batch are sampled at once."""
  if stage.prompts_at_once in (0, stage.num_prompts):
    return None
  return functools.partial(sample_queue, Batching(
      groups=stage.prompts_at_once // layout.num_replicas,
      parts=layout.prompt_parts(
          stage.prompts_at_once, stage.num_prompts) // layout.num_replicas))
