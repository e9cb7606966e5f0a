"""Computes our update for another trainer's rows: the loss, its parts and the gradient's norm.

All rows are one minibatch, in the first pass over them, and no parameter changes: the result is
what an update of a run would report for these rows. Missing fields are computed with the model: old
log-probs, those of the reference, values.

Not here: the form of the rows (replay_rows.py).
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlreason import losses
from rlreason.algorithms import PolicyGradientConfig, init_rl_params, policy_gradient
from rlreason.parallel import Layout, make_layout
from rlreason.slots import Slot
from rlreason.training import metrics as metrics_lib, replay_rows
from rlreason.training.keys import init_key
from rlreason.training.replay_rows import Replayed
from rlreason.training.settings.recipe import PretrainedModel, Recipe
from rlreason.training.settings.rl import RLStage
from rlreason.training.setup import load_policy
from rlreason.training.stages import policies
from rlreason.training.stages.base import Setup
from rlreason.types import Outcome, Params, Rollout


def replay(
    recipe: Recipe, rows: str | os.PathLike, *, stage: str = "", model: str | os.PathLike = ""
) -> dict[str, float]:
  """Computes what an update reports of some rows.

  Args:
    recipe: the recipe whose RL stage, algorithm and temperature are used.
    rows: a file, as for `replay_rows`.
    stage: its name; empty: the only one.
    model: the policy, instead of the recipe's: the weights that the other trainer had.

  Returns:
    Metrics as in metrics.jsonl: loss/total, the parts of the loss, optim/grad_norm and others; and
    "rows" and "tokens".

  Raises:
    FileNotFoundError, ValueError: the rows or the model are unavailable, or the rows lack fields
      that the algorithm needs.
  """
  config = _find_stage(recipe, stage)
  layout = make_layout(recipe.parallel)
  if model:
    recipe = dataclasses.replace(recipe, model=_other_model(recipe, os.fspath(model)))
  policy, params, tokenizer = load_policy(recipe, layout, init_key(recipe.seed))
  policy = dataclasses.replace(policy, lora=recipe.lora)
  setup = Setup(recipe, policy, tokenizer, {}, layout, None)
  replayed = replay_rows.read(
      rows, vocab_size=policy.vocab_size, group_size=config.group_size)
  _check(setup, config, replayed)
  return _run(setup, config, params, replayed)


def _find_stage(recipe: Recipe, name: str) -> RLStage:
  stages = {one.name: one for one in recipe.stages if isinstance(one, RLStage)}
  if not name and len(stages) == 1:
    return next(iter(stages.values()))
  if name not in stages:
    raise ValueError(f"stage: got {name!r}, allowed: a stage of reinforcement learning "
                     f"({', '.join(stages) or 'the config has none'})")
  return stages[name]


def _other_model(recipe: Recipe, path: str) -> PretrainedModel:
  names = ("dtype", "param_dtype", "remat", "unroll", "attention")
  return PretrainedModel(
      kind="pretrained", path=path, **{name: getattr(recipe.model, name) for name in names})


def _check(setup: Setup, stage: RLStage, rows: Replayed):
  """Raises ValueError if the rows lack fields that the algorithm needs."""
  config, given = stage.algorithm, rows.of_rows | rows.of_tokens
  needed = {
      "greedy_reward": "greedy_scores" in config.advantage.arrays and "reward" in given,
      "is_right": bool(config.nll_coef),
      "reward": config.advantage_threshold is not None,
  }
  for name, is_needed in needed.items():
    if is_needed and name not in given:
      raise ValueError(f"{name}: got rows without it, allowed: rows with what the algorithm of "
                       f"{stage.name!r} reads")
  if stage.answer_template:
    raise ValueError(f"answer_template: got {stage.answer_template!r}, allowed: '' (answers put "
                     "after completions are not replayed)")
  count, width = len(rows.prompt_tokens), sum(
      x.shape[1] for x in (rows.prompt_tokens, rows.completion_tokens))
  if count % setup.layout.num_shards:
    raise ValueError(f"rows: got {count}, allowed: a multiple of the {setup.layout.num_shards} "
                     "devices that rows are split over (see config.parallel)")
  if width > setup.model.max_positions:
    raise ValueError(f"rows: got prompts and completions of {width} tokens together, allowed: "
                     f"{setup.model.max_positions}, the positions of the model")


def _run(setup: Setup, stage: RLStage, params: Params, rows: Replayed) -> dict[str, float]:
  layout, group_size = setup.layout, stage.group_size
  config = _settings(stage.algorithm, rows, layout)
  if "advantages" in rows.of_tokens:
    group_size = 1
  own, reference = policies.own_policy(
      setup, params, setup.recipe.seed, has_reference=config.has_reference)
  reference = None if reference is None else layout.put_state(reference)
  critic_model, critic = policies.load_critic(setup, stage, setup.recipe.seed, pathlib.Path())
  algorithm = policy_gradient(
      config, setup.model, optax.set_to_zero(), temperature=stage.sampling.temperature,
      group_size=group_size, critic=critic_model)
  state = algorithm.init(init_rl_params(config, setup.model, own, critic))
  # Not one of the first steps, in which only the critic learns.
  state = layout.put_state(state.replace(step=jnp.int32(config.critic_warmup_steps)))
  rollout = _rollout(rows)
  placed = layout.put_rows(rollout)
  scores = layout.get_rows(layout.compile_rows(algorithm.score)(
      {"params": state.params, "reference": reference}, placed, None))
  for name in ("old_log_probs", "ref_log_probs", "values"):
    if name in rows.of_tokens and (name in scores or name == "old_log_probs"):
      scores[name] = rows.of_tokens[name]
  if "sampler_log_probs" not in rows.of_tokens:  # the same as the trainer's
    placed = layout.put_rows(rollout.replace(log_probs=scores["old_log_probs"]))
  batch, metrics = layout.compile_whole(algorithm.make_batch)(
      (placed, layout.put_rows(scores), layout.put_rows(_outcome(rows))),
      layout.get_state(state.coefs))
  if "advantages" in rows.of_tokens:
    batch, metrics = _with_advantages(config, layout, batch, metrics, rows, scores)
  update = layout.compile_update(algorithm.update_step, state)
  _, found = update(state, batch, jax.random.key(setup.recipe.seed))
  return {**metrics_lib.reduce_metrics(metrics | found), "rows": float(len(rows.prompt_tokens)),
          "tokens": float(rows.action_mask.sum())}


def _settings(config: PolicyGradientConfig, rows: Replayed, layout: Layout):
  """The algorithm with all rows in one minibatch, and its micro-batch size."""
  count = len(rows.prompt_tokens)
  limit = config.micro_batch_size or config.minibatch_size
  sizes = [size for size in range(layout.num_shards, count + 1, layout.num_shards)
           if count % size == 0 and size <= max(limit, layout.num_shards)]
  changes = dict(
      epochs=1, minibatch_size=count, micro_batch_size=sizes[-1],
      recompute_log_probs="old_log_probs" not in rows.of_tokens)
  if "advantages" in rows.of_tokens:
    changes["advantage"] = Slot(losses.no_baseline)
  return dataclasses.replace(config, **changes)


def _rollout(rows: Replayed) -> Rollout:
  count = len(rows.prompt_tokens)
  given = rows.of_tokens
  empty = np.zeros(rows.token_mask.shape, np.float32)
  return Rollout(
      prompt_tokens=rows.prompt_tokens, prompt_mask=rows.prompt_mask,
      completion_tokens=rows.completion_tokens, token_mask=rows.token_mask,
      action_mask=rows.action_mask,
      log_probs=given.get("sampler_log_probs", given.get("old_log_probs", empty)),
      values=given.get("values"),
      truncated=rows.of_rows.get("truncated", np.zeros(count, bool)))


def _outcome(rows: Replayed) -> Outcome:
  rewards = rows.of_rows.get("reward", np.zeros(len(rows.prompt_tokens), np.float32))
  return Outcome(
      np.nan_to_num(rewards), ~np.isnan(rewards), rows.of_rows.get("is_right"),
      rows.of_rows.get("greedy_reward"), token_rewards=rows.of_tokens.get("token_rewards"))


def _with_advantages(
    config: PolicyGradientConfig, layout: Layout, batch: Any, metrics: Any, rows: Replayed,
    scores: dict[str, np.ndarray],
) -> tuple[Any, Any]:
  """The batch with the advantages of the rows, and returns that agree with them."""
  advantages = rows.of_tokens["advantages"]
  batch = batch.replace(advantages=layout.put_rows(advantages))
  if config.has_critic:
    returns = rows.of_tokens.get("returns", advantages + np.asarray(scores["values"]))
    batch = batch.replace(returns=layout.put_rows(returns.astype(np.float32)))
  # These concern the rewards, which are absent.
  metrics = {name: value for name, value in metrics.items() if not name.startswith("value/")}
  size = np.float32(np.abs(advantages[rows.action_mask]).sum()), np.float32(rows.action_mask.sum())
  return batch, metrics | {"policy/advantage_abs": size}
