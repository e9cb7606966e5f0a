"""RL stages: sample and score completions, plan which of them share packed rows, update."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreason import masks
from rlreason import rollout as rollout_lib
from rlreason.algorithms import (
    PolicyGradientConfig, init_rl_params, minibatch_rows, policy_gradient)
from rlreason.algorithms.base import Algorithm, TrainState
from rlreason.data import pipeline
from rlreason.data.group_packing import plan_groups
from rlreason.data.row_packing import Sequences, padding_waste, plan_rows
from rlreason.data.tasks.base import Row
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.rollout import Sampled, Scored
from rlreason.training import preflight
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages import base, checks, judges, policies, rl_metrics, scoring
from rlreason.training.stages.base import Setup
from rlreason.training.stages.scoring import Scorer
from rlreason.types import GroupPlan, Key, Outcome, Params, Rollout, RolloutBatch, RowPlan
from rlreason.workers import WorkerPool


class Judged(NamedTuple):
  """The scored completions of a draw."""

  sampled: Sampled  # the groups used for training
  everything: list[Sampled]  # all groups that were sampled
  greedy_scores: np.ndarray | None  # f32[B], for methods that need them
  metrics: dict[str, float]


class Drawn(NamedTuple):
  """The experience of one step."""

  rollout: Rollout  # numpy, as used for training: `Judged.sampled`, with answers if any
  judge: Callable[[], Judged]  # computes the rewards, once


def check(setup: Setup, stage: RLStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_split(stage, setup.layout.num_shards)
  checks.check_source("problems", stage.problems, "{prompt, answer}")
  checks.check_top_k(stage.sampling.top_k, setup.model.vocab_size)
  checks.check_bigrams(stage.sampling.blocked_bigrams, setup.model.vocab_size)
  scoring.make_reward(setup, stage, None)
  scoring.check_potentials(stage)
  _check_packed_width(setup, stage)
  policies.check_scalar_models(setup, stage)
  judges.check(setup, stage)
  policies.check_reference(setup, stage)
  scoring.check_problems(setup, stage)


def _check_packed_width(setup: Setup, stage: RLStage):
  width = stage.algorithm.packed_width
  needed = max(setup.recipe.prompt_buckets) + stage.sampling.max_new_tokens - 1
  planner = Planner(stage.algorithm, stage.group_size, setup.layout, setup.model)
  if width and not planner.packs:
    raise ValueError(
        f"algorithm.packed_width: got {width} where rows are not packed (a group shares its prompt,"
        " or the model has experts), allowed: 0, or share_prompts=False")
  if width and width < needed:
    raise ValueError(
        f"algorithm.packed_width: got {width}, allowed: 0, or {needed} or more, a prompt of the "
        "largest bucket and max_new_tokens")


def make(
    setup: Setup, stage: RLStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  layout, config = setup.layout, stage.algorithm
  reference_model, given = policies.load_reference(setup, stage)
  own, reference = policies.own_policy(setup, policy, seed, has_reference=(
      config.has_fixed_reference and given is None))
  reference = layout.put_state(given or reference) if given or reference else None
  critic_model, critic = policies.load_critic(setup, stage, seed, folder)
  algorithm = make_algorithm(setup, stage, critic_model, reference_model)
  state = layout.put_state(algorithm.init(init_rl_params(config, setup.model, own, critic)))
  problems = scoring.make_problems(setup, stage, folder)
  prompts = pipeline.prompt_batches(problems, stage.num_prompts, seed)
  scorer, reward_models = scoring.make_scorer(setup, stage, pool, folder)
  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
      prompt_buckets=setup.recipe.prompt_buckets,
      has_values=has_values(stage))
  learn = _make_learn(setup, stage, algorithm, state, reference, problems.num_dropped)
  return base.Stage(
      stage.name, stage.steps, state,
      rollout_lib.OpenGroups(prompts) if stage.carried_prompts else prompts, learn,
      make_draw(setup, stage, scorer, generate), draws_ahead=stage.draws_ahead,
      preflight=functools.partial(try_problems, stage, problems, generate, scorer),
      beside=[reference, reward_models])


def make_algorithm(
    setup: Setup, stage: RLStage, critic: ModelConfig | None, reference: ModelConfig | None
) -> Algorithm:
  """The algorithm of a stage; the models are those of `policies.load_critic` and its reference."""
  optimizer, _ = optimizer_of(stage.optimizer, stage.steps * stage.updates_per_step)
  return policy_gradient(
      stage.algorithm, setup.model, optimizer, temperature=stage.sampling.temperature,
      group_size=stage.group_size, critic=critic, reference=reference,
      has_answers=bool(stage.answer_template))


def make_draw(
    setup: Setup, stage: RLStage, scorer: Scorer, generate: Callable
) -> Callable[[Params, pipeline.BatchIterator, Key], Drawn]:
  """Makes `draw(params, data, key)`: the completions on which a step trains.

  Their rewards are computed when the step requests them, so that the device may compute meanwhile;
  if steps sample ahead, within the draw.
  """
  buckets = (*stage.length_buckets, stage.sampling.max_new_tokens)
  greedy_scores = _make_greedy_scores(setup, stage, scorer)
  sample = _make_sample_groups(setup, stage, generate)

  def draw_one(params, data, key):
    key_sample, _ = jax.random.split(key)
    started = time.perf_counter()
    rows, rollout, ages = sample(params, data, key_sample)
    rollout = rollout_lib.crop(rollout, buckets)
    metrics = ages | {"time/sampling": time.perf_counter() - started}

    @functools.cache
    def judge():
      started = time.perf_counter()
      result = Sampled(rows, rollout, scorer(rows, rollout))
      metrics["time/rewards"] = time.perf_counter() - started
      return Judged(result, [result], greedy_scores(params, rows, key), metrics)

    if not stage.answer_template:
      return Drawn(rollout, judge)
    return Drawn(rollout_lib.append_answers(
        setup.tokenizer, rows, rollout, stage.answer_template), judge)

  def draw_until_full(params, data, key):
    """Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476, eq. 11), bounded."""
    key_sample, _ = jax.random.split(key)
    started = time.perf_counter()
    parts, num_differing = [], 0
    while num_differing < stage.num_prompts and len(parts) < stage.max_resample_rounds:
      rows = next(data)
      rollout = generate(params, rows, jax.random.fold_in(key_sample, len(parts)))
      parts.append(Sampled(rows, rollout, scorer(rows, rollout)))
      num_differing += int(parts[-1].differs(stage.group_size, stage.filter_groups_by).sum())
    chosen = rollout_lib.choose_groups(
        parts, stage.num_prompts, stage.group_size, stage.filter_groups_by)
    chosen = chosen._replace(rollout=rollout_lib.crop(chosen.rollout, buckets))
    metrics = {"time/sampling": time.perf_counter() - started}
    judge = functools.cache(
        lambda: Judged(chosen, parts, greedy_scores(params, chosen.rows, key), metrics))
    return Drawn(chosen.rollout, judge)

  draw = draw_one if stage.max_resample_rounds == 1 else draw_until_full

  def draw_and_judge(params, data, key):
    drawn = draw(params, data, key)
    drawn.judge()
    return drawn

  return draw_and_judge if stage.draws_ahead else draw


def _make_sample_groups(
    setup: Setup, stage: RLStage, generate: Callable
) -> Callable[[Params, Any, Key], tuple[list[Row], Rollout, dict[str, float]]]:
  """Makes `sample(params, data, key)`: `num_prompts` problems, their completions, and metrics."""
  def sample_now(params, data, key):
    rows = next(data)
    return rows, generate(params, rows, key), {}

  if not stage.carried_prompts:
    return sample_now
  count, size = stage.num_prompts, stage.group_size
  generate_some = rollout_lib.make_partial_generator(
      setup.model, setup.tokenizer, setup.layout, options=stage.sampling, group_size=size,
      prompt_buckets=setup.recipe.prompt_buckets, enough=count,
      has_values=has_values(stage))

  def sample_some(params, data, key):
    groups = data.take(count + stage.carried_prompts, key)
    rollout, has_ended = generate_some(params, groups)
    chosen = np.flatnonzero(has_ended)[:count]
    data.put_back(groups, rollout, np.setdiff1d(np.arange(len(groups)), chosen))
    index = (chosen[:, None] * size + np.arange(size)).reshape(-1)
    ages = np.array([data.draws - 1 - groups[i].draw for i in chosen])
    metrics = {"rollout/age/mean": float(ages.mean()), "rollout/age/max": float(ages.max())}
    return [groups[i].row for i in chosen], jax.tree.map(lambda x: x[index], rollout), metrics

  return sample_some


def has_values(stage: RLStage) -> bool:
  """Whether the sampler computes the values of a shared critic."""
  return stage.algorithm.critic == "shared" and not stage.algorithm.recompute_log_probs


def make_outcome(setup: Setup, stage: RLStage) -> Callable[[Judged, int], Outcome]:
  """Makes `outcome(judged, width)`: the `Outcome` of rows of this width, for the update."""
  has_parts = "parts" in stage.algorithm.advantage.arrays

  def outcome(judged, width):
    _, rollout, scored = judged.sampled
    totals, paid = scored.totals, None
    if scored.rewards.placed is not None or scored.rewards.potentials is not None:
      paid = rollout_lib.token_rewards(
          setup.tokenizer, rollout, scored.rewards, discount=stage.algorithm.discount,
          bootstraps=stage.algorithm.bootstrap_truncated)
      paid = np.pad(paid, ((0, 0), (0, width - paid.shape[1])))
      totals = totals - rollout_lib.placed_sums(scored.rewards)
    parts = _reward_parts(stage, scored) if has_parts else (None, None)
    return Outcome(totals, scored.is_scored, scored.is_right, judged.greedy_scores, *parts,
                   token_rewards=paid)

  return outcome


def _reward_parts(stage: RLStage, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
  """Rewards f32[B, N] of a weight other than 0, and the weights.

  A reward that could not be scored is 0, in a row that is ignored.
  """
  specs = [spec for spec in stage.rewards if spec.weight]
  values = [[0.0 if value is None else value for value in scored.rewards.parts[spec.name]]
            for spec in specs]
  parts = np.array(values, np.float32).reshape(len(specs), len(scored.completions)).T
  return parts, np.broadcast_to(np.float32([spec.weight for spec in specs]), parts.shape)


def _make_greedy_scores(
    setup: Setup, stage: RLStage, scorer: Scorer
) -> Callable[[Params, list[Row], Key], np.ndarray | None]:
  """Makes the baseline of ReMax, f32[B]; None for methods that do not need it."""
  if "greedy_scores" not in stage.algorithm.advantage.arrays:
    return lambda params, rows, key: None
  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, setup.layout, group_size=1,
      options=dataclasses.replace(stage.sampling, temperature=0.0),
      prompt_buckets=setup.recipe.prompt_buckets)

  def greedy_scores(params, rows, key):
    scored = scorer(rows, generate(params, rows, key))
    return np.repeat(
        np.where(scored.is_scored, scored.totals, np.nan).astype(np.float32), stage.group_size)

  return greedy_scores


def try_problems(
    stage: RLStage, problems: rollout_lib.FittingRows, generate: Callable, scorer: Scorer,
    params: Params, key: Key,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
  """Samples and scores a few problems of the whole data set; see `Stage.preflight`.

  There are as many rows as in a step, with repeated problems, so that no extra program is compiled
  unless prompts are carried; with a reward model all of them are scored, for the same reason.
  """
  count = min(preflight.NUM_PROMPTS, len(problems), stage.num_prompts)
  chosen = [problems[i * len(problems) // count] for i in range(count)]
  rows = [chosen[i % count] for i in range(stage.num_prompts)]
  rollout = generate(params, rows, key)
  if not (stage.reward_model or stage.process_model):
    rows, rollout = chosen, jax.tree.map(lambda x: x[:count * stage.group_size], rollout)
  scored = scorer(rows, rollout)
  samples = rl_metrics.sample_rows(rows, scored, stage.group_size, count * stage.group_size)
  return rl_metrics.rollout_metrics(scored, rollout, stage.group_size), samples


def plan_metrics(plan: GroupPlan | RowPlan | None) -> dict[str, float]:
  """The share of padding in an update of packed rows, which replaces that of the rollout."""
  return {"rollout/padding_waste": padding_waste(plan)} if isinstance(plan, RowPlan) else {}


class Planner:
  """Plans for one algorithm on one layout; None where every row has its own prompt and padding."""

  def __init__(
      self, config: PolicyGradientConfig, group_size: int, layout: Layout,
      model: ModelConfig | None = None):
    """Prompts are shared if the settings enable it and micro-batches are whole groups.

    Otherwise rows are packed, if the settings enable that.

    Args:
      config: of the algorithm.
      group_size: completions of each prompt, next to each other in a rollout.
      layout: that of the programs that read the plans.
      model: of the policy; rows are not packed if it has experts.
    """
    self._config, self._group_size, self._parts = config, group_size, layout.num_shards
    size = config.micro_batch_size or config.minibatch_size
    self._groups = size // group_size  # of a micro-batch
    is_whole = size % (group_size * self._parts) == 0
    self._shares = (
        config.share_prompts and group_size > 1 and is_whole and layout.takes_plans and
        not config.bootstrap_truncated)
    self.packs = (
        config.pack_rows and not self._shares and not (model and model.num_experts) and
        config.minibatch_size % self._parts == 0)
    self.is_used = self._shares or self.packs  # else no plan is made
    self._order = jax.jit(
        functools.partial(minibatch_rows, config, group_size=group_size),
        static_argnames="num_rows")
    self._put_plan = layout.put_plan
    self._width = {} if model is None else {"model_width": model.width}

  def of_rollout(self, rollout: Rollout) -> GroupPlan | RowPlan | None:
    """For scoring: all rows in their order."""
    if not self.is_used:
      return None
    lengths = masks.lengths(rollout.token_mask)
    if self.packs and not self._config.bootstrap_truncated:
      prompts = rollout.prompt_mask.sum(axis=1)
      return self._plan_rows(
          prompts, lengths, np.arange(len(lengths))[None], rollout, is_update=False)
    if not self._shares:
      return None
    groups = np.arange(len(lengths) // self._group_size)[None]
    return self._plan(lengths, groups, rollout.token_mask.shape[1])

  def order(self, num_rows: int, key: Key) -> np.ndarray:
    """i32[N, minibatch_size]: the rows of an update with this key."""
    return np.asarray(self._order(key, num_rows=num_rows))

  def of_update(
      self, order: np.ndarray, rollout: Rollout, is_scored: np.ndarray, batch: RolloutBatch
  ) -> GroupPlan | RowPlan | None:
    """For an update in this order. Rows without trained tokens take no space, nor do tokens after
    the last trained one of a row; given tokens before it do.

    Args:
      order: of `order`.
      rollout: numpy, with the answers if there are any.
      is_scored: bool[B].
      batch: on the device, made of these; read only if a threshold of advantages leaves rows out.
    """
    if not self.is_used:
      return None
    lengths = self._learned_lengths(rollout, is_scored, batch)
    if self.packs:
      prompts = rollout.prompt_mask.sum(axis=1)
      return self._plan_rows(prompts, lengths, order, rollout, is_update=True)
    groups = order[:, ::self._group_size] // self._group_size
    return self._plan(lengths, groups, rollout.token_mask.shape[1])

  def _learned_lengths(
      self, rollout: Rollout, is_scored: np.ndarray, batch: RolloutBatch) -> np.ndarray:
    """i32[B]: tokens up to the last trained one, or more; 0: nothing in the row is trained."""
    config = self._config
    if config.advantage_threshold is not None:
      learned = batch.learned_mask  # under pmap the devices are another axis
      return masks.lengths(np.asarray(learned.reshape(-1, learned.shape[-1])))
    if config.nll_coef:  # of the answers, which are given
      return masks.lengths(rollout.token_mask) * is_scored
    lengths = masks.lengths(rollout.action_mask) * is_scored
    return lengths * ~rollout.truncated if config.mask_truncated else lengths

  def _plan(self, lengths: np.ndarray, order: np.ndarray, columns: int) -> GroupPlan:
    return plan_groups(
        lengths.reshape(-1, self._group_size), order, min(self._groups, order.shape[1]), columns,
        num_parts=self._parts)

  def _plan_rows(
      self, prompts: np.ndarray, lengths: np.ndarray, order: np.ndarray, rows, *, is_update: bool
  ) -> RowPlan | None:
    """No pass has more tokens than one of padded rows, unless `packed_width` asks for it. Parts of
    a rollout keep their devices.
    """
    columns = rows.prompt_mask.shape[-1], rows.completion_tokens.shape[-1]
    size = self._config.micro_batch_size or self._config.minibatch_size
    sequences = Sequences(prompts, lengths, columns)
    plan = plan_rows(
        sequences, order, size * sum(columns), num_parts=self._parts,
        width=self._config.packed_width, deals=is_update, **self._width)
    return None if plan is None else self._put_plan(plan)


def _make_learn(
    setup: Setup, stage: RLStage, algorithm: Algorithm, state: TrainState,
    reference: Params | None, num_dropped: int,
) -> Callable[[TrainState, int, Drawn, Key], base.StepOutput]:
  """Makes `learn(state, number, drawn, key)`, for states that are sharded like `state`."""
  layout, updates = setup.layout, stage.updates_per_step
  _, schedule = optimizer_of(stage.optimizer, stage.steps * updates)
  score = layout.compile_rows(algorithm.score)
  make_batch = layout.compile_whole(algorithm.make_batch)
  update = layout.compile_update(algorithm.update_step, state)
  planner = Planner(stage.algorithm, stage.group_size, layout, setup.model)
  outcome = make_outcome(setup, stage)

  def learn(state, number, drawn, key):
    _, key_update = jax.random.split(key)
    num_rows = len(drawn.rollout.token_mask)
    order = planner.order(num_rows, key_update) if planner.is_used else None
    models_now = {"params": state.params, "reference": state.extra.get("reference", reference)}
    placed = layout.put_rows(drawn.rollout)
    # Dispatched, not awaited: the device computes while the host decodes and scores the texts.
    scores = score(models_now, placed, planner.of_rollout(drawn.rollout))
    judged = drawn.judge()
    rows, rollout, scored = judged.sampled
    inputs = placed, scores, layout.put_rows(outcome(judged, drawn.rollout.token_mask.shape[1]))
    ready, batch_metrics = make_batch(inputs, layout.get_state(state.extra.get("coefs", {})))
    ready = ready.replace(
        plan=planner.of_update(order, drawn.rollout, scored.is_scored, ready))
    state, update_metrics = update(state, ready, key_update)
    host_metrics = rl_metrics.rollout_metrics(scored, rollout, stage.group_size) | {
        "optim/lr": float(schedule(number * updates)),
        "rollout/dropped_prompts": num_dropped, **judged.metrics,
        **plan_metrics(ready.plan)}
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
