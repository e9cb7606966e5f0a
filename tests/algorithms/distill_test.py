"""Distillation: the direct formula, nothing to learn from an equal, and what changes no update."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses, models, sampling
from rlreason.algorithms import DistillConfig, distill, init_distill_params
from rlreason.algorithms.base import trained_part, with_frozen
from rlreason.models import lora
from rlreason.slots import Slot
from tests.algorithms import tiny

ROWS, V = tiny.NUM_ROWS, tiny.MODEL.vocab_size
# Another width, embeddings of its own and a cap: nothing of the student's will do for it.
TEACHER = dataclasses.replace(
    tiny.MODEL, width=24, num_heads=3, num_kv_heads=3, tie_embeddings=False, logit_softcap=5.0)
FORWARD = DistillConfig(Slot(losses.forward_kl), temperature=1.5)
CONFIGS = {
    "forward": FORWARD, "forward_top": dataclasses.replace(FORWARD, top_k=3),
    "reverse": DistillConfig(Slot(losses.reverse_kl), aggregation="sequence-mean"),
    "jsd_top": DistillConfig(
        Slot(losses.generalized_jsd, {"beta": 0.3}), top_k=3, others="renormalize")}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
KEPT = np.arange(ROWS) != 2
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5))
assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)


@functools.cache
def teacher_params():
  return tiny.random_params(TEACHER, seed=3)


@functools.cache
def make_rollout():
  return tiny.sample_rollout(tiny.random_params())


@functools.cache
def compiled(config, model=tiny.MODEL, teacher=TEACHER):
  algorithm = distill(config, model, teacher, optax.sgd(0.1))
  return algorithm._replace(
      score=jax.jit(algorithm.score), update_step=jax.jit(algorithm.update_step))


def make_state(config, policy=None, model=tiny.MODEL, teacher=TEACHER, params=None):
  params = teacher_params() if params is None else params
  policy = tiny.random_params() if policy is None else policy
  return compiled(config, model, teacher).init(
      init_distill_params(config, teacher, policy, params))


def make_batch(config, rollout=None, is_kept=KEPT, model=tiny.MODEL, teacher=TEACHER, params=None):
  algorithm = compiled(config, model, teacher)
  rollout = make_rollout() if rollout is None else rollout
  params = teacher_params() if params is None else params
  scores = algorithm.score({"teacher": params}, rollout, None)
  return algorithm.make_batch((rollout, scores, is_kept), {})


def update(config, batch, state=None):
  state, metrics = compiled(config).update_step(
      make_state(config) if state is None else state, batch, None)
  return state.params, metrics


@functools.cache
def step(config):
  batch, made = make_batch(config)
  return batch, *update(config, batch), made


def value(metrics, name):
  numerator, denominator = metrics[name]
  return float(numerator / denominator)


@functools.partial(jax.jit, static_argnums=0)
def completion_logits(model, params, rollout):
  join = lambda prompt, completion: jnp.concatenate([prompt, completion], axis=1)
  hidden = models.forward(
      model, params, join(rollout.prompt_tokens, rollout.completion_tokens),
      join(rollout.prompt_mask, rollout.token_mask))
  return models.logits(model, params, hidden)[:, rollout.prompt_tokens.shape[1] - 1:-1]


def expected_loss(config):
  """From whole logits, with numpy's means."""
  rollout = make_rollout()
  student, teacher = (
      jax.nn.log_softmax(completion_logits(model, params, rollout) / config.temperature)
      for model, params in ((tiny.MODEL, tiny.random_params()), (TEACHER, teacher_params())))
  if config.top_k:
    ids = np.argsort(-np.asarray(teacher), axis=-1)[..., :config.top_k]
    student, teacher = (losses.with_others(
        jnp.take_along_axis(x, ids, axis=-1), config.others) for x in (student, teacher))
  per_token = np.asarray(config.divergence(student=student, teacher=teacher))
  rows = [per_token[i][rollout.token_mask[i]] for i in range(ROWS) if KEPT[i]]
  is_by_token = config.aggregation == "token-mean"
  return np.mean(np.concatenate(rows) if is_by_token else [np.mean(row) for row in rows])


@configs
def test_loss_is_the_direct_formula(config):
  _, _, metrics, made = step(config)
  assert value(metrics, "loss/distill") == pytest.approx(float(expected_loss(config)), rel=1e-4)
  assert value(metrics, "loss/total") == pytest.approx(value(metrics, "loss/distill"), rel=1e-6)
  assert ("distill/teacher_mass" in made) == bool(config.top_k)
  if config.top_k:
    assert 3 / V < value(made, "distill/teacher_mass") < 1


@pytest.mark.parametrize("others", ["bucket", "renormalize"])
def test_all_words_of_the_teacher_are_its_whole_vocabulary(others):
  config = dataclasses.replace(FORWARD, top_k=V, others=others)
  _, whole, metrics, _ = step(FORWARD)
  _, top, top_metrics, _ = step(config)
  assert_close(whole["policy"], top["policy"])
  for name in metrics:
    assert value(metrics, name) == pytest.approx(value(top_metrics, name), abs=1e-5), name


@pytest.mark.parametrize("config", [
    FORWARD, dataclasses.replace(FORWARD, top_k=4), CONFIGS["reverse"]])
def test_a_student_that_is_its_teacher_learns_nothing(config):
  policy = tiny.random_params()
  own = dict(teacher=tiny.MODEL, params=policy)
  batch, _ = make_batch(config, **own)
  state, metrics = compiled(config, teacher=tiny.MODEL).update_step(
      make_state(config, **own), batch, None)
  assert value(metrics, "loss/distill") == pytest.approx(0.0, abs=1e-6)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6),
               state.params["policy"], policy)


@configs
def test_micro_batches_are_one_batch(config):
  batch, params, metrics, _ = step(config)
  config = dataclasses.replace(config, micro_batch_size=2)
  split, split_metrics = update(config, make_batch(config)[0])
  assert_close(make_batch(config)[0], batch)
  assert_close(params, split)
  for name in metrics:
    assert value(metrics, name) == pytest.approx(value(split_metrics, name), abs=1e-5), name


@pytest.mark.parametrize("config", [FORWARD, CONFIGS["jsd_top"]])
def test_padding_changes_nothing(config):
  """Not even NaN where masked, nor a row that is not kept."""
  rollout, random = make_rollout(), np.random.default_rng(0)
  fill = lambda rows, columns: random.integers(0, V, (rows, columns)).astype(np.int32)
  wide = rollout.replace(
      prompt_tokens=np.concatenate([fill(ROWS, 2), rollout.prompt_tokens], axis=1),
      prompt_mask=np.pad(rollout.prompt_mask, ((0, 0), (2, 0))),
      completion_tokens=np.concatenate([rollout.completion_tokens, fill(ROWS, 3)], axis=1),
      token_mask=np.pad(rollout.token_mask, ((0, 0), (0, 3))),
      action_mask=np.pad(rollout.action_mask, ((0, 0), (0, 3))))
  batch, _ = make_batch(config, wide)
  batch = batch.replace(
      teacher={name: x if name == "ids" else jnp.where(batch.loss_mask[..., None], x, jnp.nan)
               for name, x in batch.teacher.items()})
  params, metrics = update(config, batch)
  _, expected, expected_metrics, _ = step(config)
  assert_close(params, expected)
  for name in metrics:
    assert value(metrics, name) == pytest.approx(
        value(expected_metrics, name), abs=1e-5), name


def test_nothing_kept_changes_nothing():
  batch, _ = make_batch(FORWARD, is_kept=np.zeros(ROWS, bool))
  params, metrics = update(FORWARD, batch)
  assert_equal(params["policy"], tiny.random_params())
  assert float(metrics["optim/skipped_updates"][0]) == 0.0


def test_the_teacher_is_frozen_and_in_no_checkpoint():
  state = make_state(FORWARD)
  kernel = teacher_params()["lm_head"]["kernel"]
  assert_equal(step(FORWARD)[1]["frozen"]["kernel"], kernel)
  assert "frozen" not in trained_part(state).params
  assert_equal(with_frozen(trained_part(state), lora.split(state.params)[1]), state)
  assert "frozen" not in make_state(CONFIGS["jsd_top"]).params


def test_adapters_of_a_student_learn_and_nothing_else():
  model = dataclasses.replace(tiny.MODEL, lora=models.LoRAConfig(rank=2, alpha=4.0))
  policy = lora.join(tiny.random_params(), lora.split(tiny.random_params(model, 3))[0])
  batch, _ = make_batch(FORWARD, model=model)
  before = make_state(FORWARD, policy, model)
  after, metrics = compiled(FORWARD, model).update_step(before, batch, None)
  assert_equal(lora.split(after.params)[1], lora.split(before.params)[1])
  assert all(np.any(x != y) for x, y in zip(
      *(jax.tree.leaves(lora.split(state.params)[0]) for state in (after, before)), strict=True))
  _, merged = update(FORWARD, batch, make_state(FORWARD, lora.merge(model, policy)))
  assert value(metrics, "loss/distill") == pytest.approx(value(merged, "loss/distill"), rel=1e-4)


def test_experts_are_balanced():
  model = dataclasses.replace(
      tiny.MODEL, num_experts=2, experts_per_token=1, balance_coef=0.5)
  state = make_state(FORWARD, tiny.random_params(model), model)
  _, metrics = compiled(FORWARD, model).update_step(
      state, make_batch(FORWARD, model=model)[0], None)
  assert value(metrics, "loss/balance") > 0
  assert value(metrics, "loss/total") == pytest.approx(
      value(metrics, "loss/distill") + 0.5 * value(metrics, "loss/balance"), rel=1e-5)


@configs
def test_a_student_comes_near_its_teacher(config):
  """On samples of its own, 60 steps of Adam."""
  config = dataclasses.replace(config, temperature=1.0)
  algorithm = distill(config, tiny.MODEL, TEACHER, optax.adam(0.02))
  # A flat teacher, which the student is able to follow.
  teacher = jax.tree.map(jnp.asarray, tiny.random_params(TEACHER, seed=3, scale=0.15))
  options = sampling.SamplingOptions(max_new_tokens=4)
  prompts = jax.tree.map(jnp.asarray, tiny.make_prompts())

  def one(state, key):
    rollout = sampling.sample(
        tiny.MODEL, state.params["policy"], prompts, key, options=options, stop_ids=())
    scores = algorithm.score({"teacher": teacher}, rollout, None)
    batch, _ = algorithm.make_batch((rollout, scores, jnp.ones(ROWS, bool)), {})
    return algorithm.update_step(state, batch, None)

  state = algorithm.init(init_distill_params(
      config, TEACHER, tiny.random_params(scale=0.3), teacher))
  _, metrics = jax.jit(lambda state: jax.lax.scan(
      one, state, jax.random.split(jax.random.key(0), 60)))(state)
  divergence = np.asarray(metrics["loss/distill"][0] / metrics["loss/distill"][1])
  assert np.mean(divergence[-5:]) < 0.2 * np.mean(divergence[:5])


# What is refused.


@pytest.mark.parametrize("fields, message", [
    (dict(top_k=-1), "top_k: got -1, allowed: 0 or more"),
    (dict(micro_batch_size=-1), "micro_batch_size: got -1, allowed: 0 or more"),
    (dict(temperature=0.0), "temperature: got 0.0, allowed: above 0"),
    (dict(others="no"), "others: got 'no', allowed: bucket, renormalize"),
    (dict(aggregation="constant"), "aggregation: got 'constant', allowed: token-mean, sequence-m"),
])
def test_settings_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(FORWARD, **fields)


def test_another_vocabulary_is_refused():
  with pytest.raises(ValueError, match="teacher: got a vocabulary of 12, allowed: that of the stu"):
    distill(FORWARD, tiny.MODEL, dataclasses.replace(TEACHER, vocab_size=12), optax.sgd(0.1))
  with pytest.raises(ValueError, match="top_k: got 12, allowed: at most 11 words"):
    distill(dataclasses.replace(FORWARD, top_k=12), tiny.MODEL, TEACHER, optax.sgd(0.1))


def test_given_tokens_are_not_distilled():
  """Whatever the teacher says before them; what is before and after a gap still is."""
  config, rollout = next(iter(CONFIGS.values())), make_rollout()
  is_given = (np.arange(rollout.token_mask.shape[1]) == 1)[None] & rollout.token_mask
  batch, _ = make_batch(config, rollout.replace(action_mask=rollout.token_mask & ~is_given))
  np.testing.assert_array_equal(
      batch.loss_mask, rollout.token_mask & ~is_given & np.asarray(KEPT)[:, None])
  shape = lambda x: np.reshape(is_given, is_given.shape + (1,) * (x.ndim - 2))
  other = batch.replace(teacher={
      name: x if name == "ids" else jnp.where(shape(x), x - 3.0, x)
      for name, x in batch.teacher.items()})
  (params, metrics), (others, same) = update(config, batch), update(config, other)
  assert is_given.any() and value(metrics, "loss/distill") == value(same, "loss/distill")
  jax.tree.map(np.testing.assert_array_equal, params, others)
