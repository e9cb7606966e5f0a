"""Packed rows in scoring and updates: the numbers of padded rows, whatever the method."""

import functools

import jax
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import minibatch_rows, presets
from rlreason.data.row_packing import Sequences, plan_rows
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.slots import Slot
from rlreason.training.stages.rl import Planner
from rlreason.types import GroupPlan, Outcome, Rollout, RowPlan
from tests.algorithms import tiny

ROWS, COLUMNS = tiny.NUM_ROWS, tiny.COMPLETION
LENGTHS = np.array([6, 4, 2, 1, 0, 5, 6, 3])
TOKENS = np.arange(COLUMNS) < LENGTHS[:, None]
GAPS = TOKENS & ~((np.arange(COLUMNS) == 2) & (np.arange(ROWS) % 3 == 0)[:, None])
SIZES = dict(minibatch_size=4, epochs=2, pack_rows=True, packed_width=20)
FULL = tiny.replace(tiny.FULL, pack_rows=True, packed_width=20)
CONFIGS = {
    "ppo": tiny.replace(FULL, entropy_coef=0.01),
    "ppo, separate critic": tiny.replace(FULL, critic="separate", recompute_log_probs=True),
    "ppo, values of truncated rows": tiny.replace(FULL, bootstrap_truncated=True),
    "ppo, likelihood of right rows": presets.vapo(**SIZES),
    "ppo, passes of few tokens": tiny.replace(FULL, micro_batch_size=1, packed_width=9),
    "grpo": presets.grpo(**SIZES),
    "grpo, micro-batches": presets.grpo(**SIZES, micro_batch_size=1),
    "gspo": presets.gspo(**SIZES),
    "80/20": tiny.replace(
        presets.dapo(**SIZES), policy_loss=Slot(losses.selected_surrogate),
        selection=Slot(losses.select_high_entropy, {"fraction": 0.5})),
    "dash": presets.dash(**SIZES),
    "t1": presets.t1(**SIZES)}


def make_rollout():
  random, prompts = np.random.default_rng(3), tiny.make_prompts()
  return Rollout(
      prompt_tokens=prompts.tokens, prompt_mask=prompts.mask,
      completion_tokens=np.where(
          TOKENS, random.integers(2, tiny.MODEL.vocab_size, TOKENS.shape), 0).astype(np.int32),
      token_mask=TOKENS, action_mask=GAPS, log_probs=np.where(GAPS, -1.5, 0).astype(np.float32),
      values=None, truncated=LENGTHS == COLUMNS)


OUTCOME = Outcome(
    np.float32([1, 0, 0.5, 2, 1, 0, 0, 3]), np.array([True] * 6 + [False, True]),
    np.arange(ROWS) % 2 == 0)


@functools.cache
def compiled(name):
  config = tiny.replace(CONFIGS[name], share_prompts=False)
  return tiny.Compiled(config, 1.0, optax.sgd(0.1), 2)


def step(name, packs):
  """Scores, metrics and the state of one step; and the plans."""
  algorithm, rollout, key = compiled(name), make_rollout(), jax.random.key(5)
  config = tiny.replace(algorithm.config, pack_rows=packs, **({} if packs else {
      "packed_width": 0}))
  planner = Planner(config, 2, make_layout(ParallelConfig(data=1)))
  state = algorithm.init(tiny.random_params())
  reference = tiny.random_params(seed=1) if state.reference is None else state.reference
  models_of = {"params": state.params, "reference": reference}
  plans = [planner.of_rollout(rollout)]
  scores = algorithm.score(models_of, rollout, plans[0])
  batch, batch_metrics = algorithm.make_batch((rollout, scores, OUTCOME), state.coefs)
  plans.append(planner.of_update(
      planner.order(ROWS, key), rollout, OUTCOME.is_scored, batch))
  state, metrics = algorithm.update_step(state, batch.replace(plan=plans[1]), key)
  mask = lambda x: np.where(TOKENS if x.ndim == 2 else LENGTHS > 0, x, 0)
  return plans, (jax.tree.map(mask, scores), batch_metrics, metrics, state)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_rows_are_as_padded_rows(name):
  """Scores, metrics, and the gradient of all parameters, which is what gradient descent changes."""
  plans, packed = step(name, True)
  _, padded = step(name, False)
  has_scores = not CONFIGS[name].bootstrap_truncated
  assert isinstance(plans[0], RowPlan) == has_scores and isinstance(plans[1], RowPlan)
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-5), packed, padded)


def test_several_passes_of_a_minibatch_were_among_them():
  plans, _ = step("ppo, passes of few tokens", True)
  assert plans[1].is_needed.sum(axis=1).max() > 1 and plans[0].is_needed.sum() > 2
  assert plans[1].packing.segment_ids.shape[-1] == 9


def test_rows_without_anything_to_learn_change_nothing():
  algorithm, rollout, key = compiled("ppo"), make_rollout(), jax.random.key(0)
  state = algorithm.init(tiny.random_params())
  scores = algorithm.score(
      {"params": state.params, "reference": tiny.random_params(seed=1)}, rollout, None)
  nothing = np.zeros(ROWS, bool)
  batch, _ = algorithm.make_batch(
      (rollout, scores, OUTCOME.replace(is_scored=nothing)), state.coefs)
  planner = Planner(algorithm.config, 1, make_layout(ParallelConfig(data=1)))
  plan = planner.of_update(planner.order(ROWS, key), rollout, nothing, batch)
  assert not plan.packing.segment_ids.any()
  after, metrics = algorithm.update_step(state, batch.replace(plan=plan), key)
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
  assert np.isfinite(jax.tree.leaves(jax.tree.map(np.asarray, metrics))).all()


@pytest.mark.parametrize("planted", ["prompts", "completions"])
def test_what_stands_on_padding_is_not_read(planted):
  """Other words of padding give bitwise the same result."""
  algorithm, rollout = compiled("ppo"), make_rollout()
  if planted == "prompts":
    other = rollout.replace(
        prompt_tokens=np.where(rollout.prompt_mask, rollout.prompt_tokens, 9).astype(np.int32))
  else:
    other = rollout.replace(
        completion_tokens=np.where(TOKENS, rollout.completion_tokens, 9).astype(np.int32))
  params = algorithm.init(tiny.random_params()).params
  plan = plan_rows(
      Sequences(rollout.prompt_mask.sum(axis=1), LENGTHS, (3, COLUMNS)), np.arange(ROWS)[None], 40,
      width=12)
  models_of = {"params": params, "reference": tiny.random_params(seed=1)}
  jax.tree.map(np.testing.assert_array_equal, *(
      algorithm.score(models_of, x, plan) for x in (rollout, other)))


def test_who_packs():
  layout, rollout = make_layout(ParallelConfig(data=1)), make_rollout()
  of = lambda config, group=1, model=tiny.MODEL: Planner(
      config, group, layout, model).of_rollout(rollout)
  assert isinstance(of(FULL), RowPlan) and isinstance(of(FULL, 2), GroupPlan)
  # Groups are not whole in a micro-batch of one row.
  assert isinstance(of(tiny.replace(FULL, micro_batch_size=1), 2), RowPlan)
  assert of(tiny.replace(FULL, pack_rows=False, packed_width=0)) is None
  assert of(FULL, model=tiny.replace(tiny.MODEL, num_experts=2, experts_per_token=1)) is None


def test_a_plan_has_the_rows_of_the_minibatches():
  algorithm, rollout, key = compiled("ppo"), make_rollout(), jax.random.key(5)
  planner = Planner(algorithm.config, 1, make_layout(ParallelConfig(data=1)))
  state = algorithm.init(tiny.random_params())
  scores = algorithm.score(
      {"params": state.params, "reference": tiny.random_params(seed=1)}, rollout, None)
  batch, _ = algorithm.make_batch((rollout, scores, OUTCOME), state.coefs)
  plan = planner.of_update(planner.order(ROWS, key), rollout, OUTCOME.is_scored, batch)
  np.testing.assert_array_equal(plan.rows, minibatch_rows(algorithm.config, key, ROWS, 1))
