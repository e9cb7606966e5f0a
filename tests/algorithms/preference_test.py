"""Preference tuning: the direct formula, what must not change an update, and that it prefers.

The optimiser of most tests is plain gradient descent, so that equal parameters after a step mean
equal gradients.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses, models
from rlreason.algorithms import PreferenceConfig, preference, unpaired_batch
from rlreason.models import lora
from rlreason.slots import Slot
from rlreason.types import PairBatch
from tests.algorithms import tiny

ROWS, LENGTH = tiny.NUM_ROWS, tiny.COMPLETION
DPO = PreferenceConfig(Slot(losses.dpo, {"beta": 0.5}), average_log_probs=False)
KTO = PreferenceConfig(
    Slot(losses.kto, {"beta": 0.5, "undesirable_weight": 2.0}), average_log_probs=False)
CONFIGS = {
    "dpo": DPO, "kto": KTO, "dpo_nll": dataclasses.replace(DPO, nll_coef=0.2),
    "ipo": PreferenceConfig(Slot(losses.ipo, {"beta": 0.5}), True),
    "orpo": PreferenceConfig(Slot(losses.orpo, {"beta": 0.5}), True),
    "simpo": PreferenceConfig(Slot(losses.simpo, {"beta": 2.0, "gamma": 0.5}), True)}
# Of each kind one: with reference and NLL, without pairs, without a reference.
kinds = pytest.mark.parametrize("name", ["dpo_nll", "kto", "orpo"])
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5))
assert_equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)


def make_completions(seed=0, first=2):
  random = np.random.default_rng(seed)
  lengths = np.array([6, 1, 3, 2, 5, 4, 6, 2])
  mask = np.arange(LENGTH) < random.permutation(lengths)[:, None]
  tokens = np.where(mask, random.integers(first, tiny.MODEL.vocab_size, mask.shape), 0)
  return tokens.astype(np.int32), mask


def make_pairs():
  prompts, (chosen, rejected) = tiny.make_prompts(), (make_completions(1), make_completions(2))
  tokens, mask = (np.stack(x, axis=1) for x in zip(chosen, rejected, strict=True))
  return PairBatch(prompt_tokens=prompts.tokens, prompt_mask=prompts.mask,
                   completion_tokens=tokens, completion_mask=mask)


def make_unpaired():
  prompts = tiny.make_prompts()
  return unpaired_batch(
      prompts.tokens, prompts.mask, *make_completions(1), np.arange(ROWS) % 3 > 0)


def make_rows(config):
  return make_pairs() if config.has_pairs else make_unpaired()


@functools.cache
def compiled(config, model=tiny.MODEL, learning_rate=0.1):
  algorithm = preference(config, model, optax.sgd(learning_rate))
  return algorithm._replace(
      score=algorithm.score and jax.jit(algorithm.score),
      update_step=jax.jit(algorithm.update_step))


def make_batch(config, pairs, policy, reference, model=tiny.MODEL):
  """The batch of an update, and the metrics of making it."""
  algorithm = compiled(config, model)
  if algorithm.score is None:
    return pairs, {}
  models_ = {"params": {"policy": policy}, "reference": reference}
  return algorithm.make_batch((pairs, algorithm.score(models_, pairs, None)), {})


def update(config, batch, policy, model=tiny.MODEL):
  algorithm = compiled(config, model)
  state, metrics = algorithm.update_step(algorithm.init({"policy": policy}), batch, None)
  return state.params["policy"], metrics


def value(metrics, name):
  numerator, denominator = metrics[name]
  return float(numerator / denominator)


def policy_and_reference():
  return tiny.random_params(), tiny.random_params(seed=4)


@functools.cache
def step(name):
  """(batch, new policy, metrics) of an update of a configuration on its rows."""
  config, (policy, reference) = CONFIGS[name], policy_and_reference()
  batch, made = make_batch(config, make_rows(config), policy, reference)
  return batch, *update(config, batch, policy), made


@jax.jit
def all_logits(params, tokens, mask):
  return models.logits(tiny.MODEL, params, models.forward(tiny.MODEL, params, tokens, mask))


def sequence_log_probs(params, pairs, average):
  """f32[B, 2] from whole logits."""
  sums = []
  for side in range(2):
    tokens = np.concatenate([pairs.prompt_tokens, pairs.completion_tokens[:, side]], axis=1)
    kept = pairs.completion_mask[:, side]
    mask = np.concatenate([pairs.prompt_mask, kept], axis=1)
    log_probs = jax.nn.log_softmax(all_logits(params, tokens, mask))[:, :-1]
    chosen = np.take_along_axis(np.asarray(log_probs), tokens[:, 1:, None], axis=-1)[..., 0]
    total = np.where(mask[:, 1:] & (np.arange(1, tokens.shape[1]) >= 3), chosen, 0).sum(axis=1)
    sums.append(total / kept.sum(axis=1) if average else total)
  return np.stack(sums, axis=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_is_the_direct_formula(name):
  config, (policy, reference) = CONFIGS[name], policy_and_reference()
  pairs, metrics = make_rows(config), step(name)[2]
  own, ref = (sequence_log_probs(params, pairs, config.average_log_probs)
              for params in (policy, reference))
  if name == "kto":
    kl = max(0.0, np.mean(own[:, 1] - ref[:, 1]))
    assert value(step(name)[3], "preference/kl") == pytest.approx(kl, rel=1e-4)
    expected = config.loss.function(
        own[:, 0], ref[:, 0], pairs.is_desirable, np.full(ROWS, kl), **config.loss.options)
  else:
    expected = config.loss.function(
        *own.T, *(ref.T if config.has_reference else ()), **config.loss.options)
    margins = np.diff(ref if config.has_reference else 0 * ref) - np.diff(own)
    assert value(metrics, "preference/margin") == pytest.approx(np.mean(margins), abs=1e-4)
    assert value(metrics, "preference/accuracy") == pytest.approx(np.mean(margins > 0))
    assert value(metrics, "preference/log_probs/rejected") == pytest.approx(
        own[:, 1].mean(), rel=1e-4)
  expected = float(np.mean(expected))
  assert value(metrics, "loss/preference") == pytest.approx(expected, rel=1e-4)
  nll = -np.mean(sequence_log_probs(policy, pairs, True)[:, 0])
  assert value(metrics, "loss/total") == pytest.approx(
      expected + config.nll_coef * nll, rel=1e-4)


def test_kto_baseline_is_positive_here():
  """Or the test above would not see it."""
  assert value(step("kto")[3], "preference/kl") > 0.1


def test_only_losses_with_a_reference_score():
  for name, config in CONFIGS.items():
    algorithm = compiled(config)
    assert (algorithm.score is None) == (name in ("orpo", "simpo"))
    assert (algorithm.make_batch is None) == (algorithm.score is None)


@kinds
def test_micro_batches_are_one_batch(name):
  batch, policy, metrics, _ = step(name)
  split, split_metrics = update(
      dataclasses.replace(CONFIGS[name], micro_batch_size=2), batch, tiny.random_params())
  assert_close(policy, split)
  for metric in metrics:
    assert value(metrics, metric) == pytest.approx(value(split_metrics, metric), abs=1e-5), metric


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_few_rows_at_a_time_have_the_scores_of_all(name):
  config, (policy, reference) = CONFIGS[name], policy_and_reference()
  parts, _ = make_batch(
      dataclasses.replace(config, micro_batch_size=2), make_rows(config), policy, reference)
  assert_close(parts, step(name)[0])


@kinds
def test_padding_changes_nothing(name):
  """Wider rows, and rows without tokens, whose numbers are arbitrary."""
  config, (policy, reference) = CONFIGS[name], policy_and_reference()
  pairs, random = make_rows(config), np.random.default_rng(0)
  fill = lambda x, axis, size: np.concatenate([x, random.integers(
      0, tiny.MODEL.vocab_size, (*x.shape[:axis], size, *x.shape[axis + 1:])).astype(x.dtype)],
      axis=axis)
  wide = pairs.replace(
      prompt_tokens=fill(fill(pairs.prompt_tokens[:, ::-1], 1, 2)[:, ::-1], 0, 2),
      prompt_mask=np.pad(pairs.prompt_mask, ((0, 2), (2, 0))),
      completion_tokens=fill(fill(pairs.completion_tokens, 2, 3), 0, 2),
      completion_mask=np.pad(pairs.completion_mask, ((0, 2), (0, 0), (0, 3))))
  if not config.has_pairs:
    wide = wide.replace(is_desirable=np.pad(pairs.is_desirable, (0, 2)))
  batch, _ = make_batch(config, wide, policy, reference)
  if config.has_reference:
    batch = batch.replace(ref_log_probs=batch.ref_log_probs.at[-1].set(jnp.nan))
  after, metrics = update(config, batch, policy)
  _, expected, expected_metrics, _ = step(name)
  assert_close(after, expected)
  for metric in metrics:
    assert value(metrics, metric) == pytest.approx(
        value(expected_metrics, metric), abs=1e-5), metric


@kinds
def test_a_batch_without_tokens_changes_nothing(name):
  batch = step(name)[0]
  policy, metrics = update(
      CONFIGS[name], batch.replace(completion_mask=np.zeros_like(batch.completion_mask)),
      tiny.random_params())
  assert_equal(policy, tiny.random_params())
  assert float(metrics["optim/skipped_updates"][0]) == 0.0


def test_the_gradient_is_the_mean_of_those_of_the_pairs():
  batch, whole, *_ = step("dpo")
  start = tiny.random_params()
  changes = []
  for rows in (np.arange(3), np.arange(3, ROWS)):
    is_in = np.isin(np.arange(ROWS), rows)[:, None, None]
    part, _ = update(
        DPO, batch.replace(completion_mask=batch.completion_mask & is_in), start)
    changes.append(jax.tree.map(lambda new, old: new - old, part, start))
  mean = jax.tree.map(lambda x, y: (3 * x + (ROWS - 3) * y) / ROWS, *changes)
  assert_close(jax.tree.map(lambda new, old: new - old, whole, start), mean)


def test_at_the_reference_dpo_is_log_2_and_swapped_pairs_undo_it():
  policy = tiny.random_params()
  batch, _ = make_batch(DPO, make_pairs(), policy, policy)
  forth, metrics = update(DPO, batch, policy)
  assert value(metrics, "loss/preference") == pytest.approx(math.log(2), rel=1e-5)
  assert value(metrics, "preference/margin") == pytest.approx(0.0, abs=1e-5)
  swapped = batch.replace(**{
      name: getattr(batch, name)[:, ::-1]
      for name in ("completion_tokens", "completion_mask", "ref_log_probs")})
  back, _ = update(DPO, swapped, policy)
  assert_close(forth, jax.tree.map(lambda x, y: 2 * x - y, policy, back))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tiny_model_learns_to_prefer(name):
  """Even words to odd ones, in 40 steps of Adam."""
  config, random = CONFIGS[name], np.random.default_rng(0)
  even = 2 * random.integers(1, 5, (ROWS, LENGTH))
  pairs = make_pairs().replace(
      completion_tokens=np.stack([even, even + 1], axis=1).astype(np.int32),
      completion_mask=np.ones((ROWS, 2, LENGTH), bool))
  if not config.has_pairs:
    pairs = unpaired_batch(
        pairs.prompt_tokens, pairs.prompt_mask,
        pairs.completion_tokens[np.arange(ROWS), np.arange(ROWS) % 2],
        pairs.completion_mask[:, 0], np.arange(ROWS) % 2 == 0)
  pairs = jax.tree.map(jnp.asarray, pairs)
  algorithm = preference(config, tiny.MODEL, optax.adam(0.02))
  reference = tiny.random_params(scale=0.05)

  @jax.jit
  def run(policy):
    def one(state, _):
      batch = pairs
      if algorithm.score is not None:
        scores = algorithm.score({"params": state.params, "reference": policy}, pairs, None)
        batch, _ = algorithm.make_batch((pairs, scores), {})
      return algorithm.update_step(state, batch, None)
    return jax.lax.scan(one, algorithm.init({"policy": policy}), None, length=40)

  _, metrics = run(reference)
  of = lambda name: np.asarray(metrics[name][0] / metrics[name][1])
  assert of("loss/total")[-1] < 0.8 * of("loss/total")[0]
  assert of("preference/accuracy")[-1] == 1.0
  assert of("preference/margin")[-1] > of("preference/margin")[0] + 0.5


def test_experts_are_balanced():
  model = dataclasses.replace(
      tiny.MODEL, num_experts=2, experts_per_token=1, balance_coef=0.5)
  _, metrics = update(CONFIGS["orpo"], make_pairs(), tiny.random_params(model), model)
  assert value(metrics, "loss/balance") > 0
  assert value(metrics, "loss/total") == pytest.approx(
      value(metrics, "loss/preference") + 0.5 * value(metrics, "loss/balance"), rel=1e-5)


# Adapters.


LORA = dataclasses.replace(tiny.MODEL, lora=models.LoRAConfig(rank=2, alpha=4.0))


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_frozen_base_is_the_reference_of_adapters(name):
  config, base = CONFIGS[name], tiny.random_params()
  policy = lora.join(base, lora.split(tiny.random_params(LORA, 3))[0])
  merged = lora.merge(LORA, policy)
  batch, metrics = make_batch(config, make_rows(config), policy, None, LORA)
  expected, expected_metrics = make_batch(config, make_rows(config), merged, base)
  assert_close((batch, metrics), (expected, expected_metrics))
  after, metrics = update(config, batch, policy, LORA)
  _, merged_metrics = update(config, expected, merged)
  assert value(metrics, "loss/total") == pytest.approx(
      value(merged_metrics, "loss/total"), rel=1e-4)
  assert_equal(lora.base(after), base)
  trained, old = lora.split(after)[0], lora.split(policy)[0]
  assert all(np.any(x != y) for x, y in zip(
      jax.tree.leaves(trained), jax.tree.leaves(old), strict=True))


def test_new_adapters_are_at_their_reference():
  policy = lora.join(tiny.random_params(), models.init_adapters(LORA, jax.random.key(0)))
  batch, _ = make_batch(DPO, make_pairs(), policy, None, LORA)
  _, metrics = update(DPO, batch, policy, LORA)
  assert value(metrics, "loss/preference") == pytest.approx(math.log(2), rel=1e-5)


# What is made, and what is refused.


def test_the_other_completion_is_of_the_next_row():
  tokens, mask = make_completions(1)
  batch = make_unpaired()
  assert_equal((batch.completion_tokens[:, 0], batch.completion_mask[:, 0]), (tokens, mask))
  assert_equal(batch.completion_tokens[:, 1], tokens[[*range(1, ROWS), 0]])
  assert_equal(batch.completion_mask[:, 1], mask[[*range(1, ROWS), 0]])


def test_the_other_completion_is_of_another_prompt():
  """Rows 0, 1 and 3 ask the same: padding does not tell them apart."""
  prompts = np.array([[7, 3], [9, 3], [3, 3], [8, 3]], np.int32)
  mask = np.array([[False, True], [False, True], [True, True], [False, True]])
  completions = np.arange(4, dtype=np.int32)[:, None]
  other = lambda prompts, mask: unpaired_batch(
      prompts, mask, completions, completions >= 0, np.ones(4, bool)).completion_tokens[:, 1, 0]
  np.testing.assert_array_equal(other(prompts, mask), [2, 2, 3, 2])
  np.testing.assert_array_equal(other(prompts[:, 1:], mask[:, 1:]), [1, 2, 3, 0])  # all the same


@pytest.mark.parametrize("fields, message", [
    (dict(micro_batch_size=-1), "micro_batch_size: got -1, allowed: 0 or more"),
    (dict(nll_coef=-0.1), "nll_coef: got -0.1, allowed: 0 or more"),
    (dict(loss=KTO.loss, nll_coef=0.1), "nll_coef: got 0.1 without pairs, allowed: 0"),
    (dict(loss=Slot(lambda chosen, kl: chosen)), r"loss: got a function of \('chosen', 'kl'\)"),
    (dict(loss=Slot(losses.terminal_rewards)), r"loss: got a function of .'scores', 'mask'."),
])
def test_settings_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(DPO, **fields)


def test_micro_batches_that_do_not_divide_the_rows_are_refused():
  with pytest.raises(ValueError, match="micro_batch_size: got 3, allowed: a divisor of the 8 rows"):
    update(dataclasses.replace(DPO, micro_batch_size=3), step("dpo")[0], tiny.random_params())
