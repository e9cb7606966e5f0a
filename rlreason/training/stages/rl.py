"""RL stages: sample, score, make a batch, update."""

from collections.abc import Callable
import functools
import pathlib

import jax

from rlreason import rollout as rollout_lib
from rlreason.algorithms import init_rl_params, policy_gradient
from rlreason.algorithms.base import Algorithm, TrainState
from rlreason.data import pipeline
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages import base, checks, draw as draw_lib, policies, rl_metrics, scoring
from rlreason.training.stages.base import Setup
from rlreason.training.stages.group_plans import GroupPlanner, plan_metrics
from rlreason.types import Key, Params
from rlreason.workers import WorkerPool


def check_rl(setup: Setup, stage: RLStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_rows("num_prompts", stage.num_prompts, setup.layout.num_shards)
  for name in ("minibatch_size", "micro_batch_size"):
    checks.check_rows(
        f"algorithm.{name}", vars(stage.algorithm)[name], setup.layout.num_replicas)
  checks.check_source("problems", stage.problems, "{prompt, answer}")
  checks.check_top_k(stage.sampling.top_k, setup.model.vocab_size)
  checks.check_bigrams(stage.sampling.blocked_bigrams, setup.model.vocab_size)
  scoring.make_reward(setup, stage, None)
  scoring.check_potentials(stage)
  policies.check_scalar_models(setup, stage)
  policies.check_reference(setup, stage)
  scoring.check_problems(setup, stage)


def make_rl(
    setup: Setup, stage: RLStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  layout, config = setup.layout, stage.algorithm
  optimizer, _ = optimizer_of(stage.optimizer, stage.steps * stage.updates_per_step)
  reference_model, given = policies.load_reference(setup, stage)
  own, reference = policies.own_policy(setup, policy, seed, has_reference=(
      config.has_fixed_reference and given is None))
  reference = layout.put_state(given or reference) if given or reference else None
  critic_model, critic = policies.load_critic(setup, stage, seed, folder)
  algorithm = policy_gradient(
      config, setup.model, optimizer, temperature=stage.sampling.temperature,
      group_size=stage.group_size, critic=critic_model, reference=reference_model,
      has_answers=bool(stage.answer_template))
  state = layout.put_state(algorithm.init(init_rl_params(config, setup.model, own, critic)))
  problems = scoring.make_problems(setup, stage, folder)
  scorer = scoring.make_scorer(setup, stage, pool, folder)
  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
      prompt_buckets=setup.recipe.prompt_buckets,
      has_values=config.critic == "shared" and not config.recompute_log_probs)
  learn = _make_learn(setup, stage, algorithm, state, reference, problems.num_dropped)
  return base.Stage(
      stage.name, stage.steps, state,
      pipeline.prompt_batches(problems, stage.num_prompts, seed), learn,
      draw_lib.make_draw(setup, stage, scorer, generate), draws_ahead=stage.draws_ahead,
      preflight=functools.partial(draw_lib.try_problems, stage, problems, generate, scorer))


def _make_learn(
    setup: Setup, stage: RLStage, algorithm: Algorithm, state: TrainState,
    reference: Params | None, num_dropped: int,
) -> Callable[[TrainState, int, draw_lib.Drawn, Key], base.StepOutput]:
  """Makes `learn(state, number, drawn, key)`, for states that are sharded like `state`."""
  layout, updates = setup.layout, stage.updates_per_step
  _, schedule = optimizer_of(stage.optimizer, stage.steps * updates)
  score = layout.compile_rows(algorithm.score)
  make_batch = layout.compile_whole(algorithm.make_batch)
  update = layout.compile_update(algorithm.update_step, state)
  planner = GroupPlanner(stage.algorithm, stage.group_size, layout, setup.model)
  outcome = draw_lib.make_outcome(setup, stage)

  def learn(state, number, drawn, key):
    _, key_update = jax.random.split(key)
    models_now = {"params": state.params, "reference": state.extra.get("reference", reference)}
    placed = layout.put_rows(drawn.rollout)
    # Dispatched, not awaited: the device computes while the host decodes and scores the texts.
    scores = score(models_now, placed,
                   planner.of_rollout(drawn.rollout) if planner.is_used else None)
    judged = drawn.judge()
    rows, rollout, scored = judged.sampled
    inputs = placed, scores, layout.put_rows(outcome(judged, drawn.rollout.token_mask.shape[1]))
    ready, batch_metrics = make_batch(inputs, layout.get_state(state.extra.get("coefs", {})))
    if planner.is_used:
      ready = ready.replace(plan=planner.of_update(ready, key_update))
    state, update_metrics = update(state, ready, key_update)
    host_metrics = rl_metrics.rollout_metrics(scored, rollout, stage.group_size) | {
        "optim/lr": float(schedule(number * updates)),
        "rollout/dropped_prompts": num_dropped, **judged.seconds,
        **(plan_metrics(ready.plan) if planner.is_used else {})}
    if stage.max_resample_rounds > 1:
      host_metrics |= rl_metrics.round_metrics(
          judged.everything, judged.sampled, stage.group_size, stage.filter_groups_by)
    samples = rl_metrics.sample_rows(rows, scored, stage.group_size, setup.recipe.samples_per_step)
    accuracies = (
        rl_metrics.accuracy_rows(judged.everything, number) if stage.writes_accuracy else [])
    tokens = sum(int(part.rollout.prompt_mask.sum() + part.scored.lengths.sum())
                 for part in judged.everything)
    return base.StepOutput(
        state, batch_metrics | update_metrics, host_metrics, tokens, samples, accuracies)

  return learn
