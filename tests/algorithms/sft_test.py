"""The supervised update: packed and padded rows, weights, borders between examples, the end."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from rlreason import models
from rlreason.algorithms import SFTConfig, sft
from rlreason.data import packing
from rlreason.parallel import ALONE
from rlreason.types import PackedBatch
from tests.algorithms import tiny

EOS = tiny.STOP[0]
EXAMPLES = [  # (prompt, completion): 5, 4, 3 and 4 tokens
    ([2, 3], [4, 5, EOS]), ([6], [7, 8, EOS]), ([9, 2], [EOS]), ([3, 4, 5], [6])]


@functools.cache
def compiled_update(config=SFTConfig()):
  algorithm = sft(config, tiny.MODEL, optax.sgd(0.1))
  return algorithm, jax.jit(functools.partial(algorithm.update_step, replicas=ALONE))


def update(batch, config=SFTConfig()):
  """Parameters after one step of plain gradient descent, and the metrics."""
  algorithm, update_step = compiled_update(config)
  state = algorithm.init({"policy": tiny.random_params()})
  state, metrics = update_step(state, batch, jax.random.key(0))
  return state.params["policy"], {
      name: float(numerator) / max(float(denominator), 1.0)
      for name, (numerator, denominator) in metrics.items()}


def make_batch(rows, length=8, token_weights=None):
  """Rows of examples, each row a list of them, packed by hand."""
  fields = {name: np.zeros((len(rows), length), dtype) for name, dtype in (
      ("tokens", np.int32), ("segment_ids", np.int32), ("positions", np.int32),
      ("loss_weights", np.float32))}
  for i, row in enumerate(rows):
    start = 0
    for segment, (prompt, completion) in enumerate(row, 1):
      example = packing.make_example(prompt, completion, token_weights)
      place = np.s_[i, start:start + len(example["tokens"])]
      fields["tokens"][place] = example["tokens"]
      fields["loss_weights"][place] = example["loss_weights"]
      fields["segment_ids"][place] = segment
      fields["positions"][place] = np.arange(len(example["tokens"]))
      start += len(example["tokens"])
  return PackedBatch(**fields)


def padded(examples=EXAMPLES, **settings):
  return make_batch([[example] for example in examples], **settings)


def assert_close(left, right):
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), left, right)


def differs(left, right):
  return any(jax.tree.leaves(jax.tree.map(lambda x, y: np.any(x != y), left, right)))


def test_packed_equals_padded():
  first, second, third, fourth = EXAMPLES
  policy, metrics = update(padded())
  packed_policy, packed_metrics = update(
      make_batch([[second, fourth], [], [first, third], []]))  # of one shape: one compilation
  assert_close(policy, packed_policy)
  assert metrics["loss/sft"] == pytest.approx(packed_metrics["loss/sft"], abs=1e-5)
  assert metrics["policy/entropy"] == pytest.approx(packed_metrics["policy/entropy"], abs=1e-5)
  assert metrics["rollout/padding_waste"] == pytest.approx(0.5)


def test_micro_batches_are_one_batch():
  policy, metrics = update(padded())
  split_policy, split_metrics = update(padded(), SFTConfig(micro_batch_size=2))
  assert_close(policy, split_policy)
  assert metrics == pytest.approx(split_metrics, abs=1e-5)


def test_loss_is_the_cross_entropy_of_completion_tokens():
  _, metrics = update(padded())
  log_probs = []
  for prompt, completion in EXAMPLES:
    log_probs += sequence_log_probs(prompt + completion)[len(prompt):]
  assert metrics["loss/sft"] == pytest.approx(-np.mean(log_probs), rel=1e-4)
  assert metrics["loss/total"] == pytest.approx(metrics["loss/sft"], rel=1e-5)


def sequence_log_probs(tokens):
  """log p of each token after the ones before it, by whole forward passes; 0 for the first."""
  padded_tokens = np.zeros((1, 8), np.int32)
  padded_tokens[0, :len(tokens)] = tokens
  logits = np.asarray(all_logits(tiny.random_params(), padded_tokens)[0], np.float64)
  log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  return [0.0] + [log_probs[i - 1, tokens[i]] for i in range(1, len(tokens))]


@jax.jit
def all_logits(params, tokens):
  return models.logits(
      tiny.MODEL, params, models.forward(tiny.MODEL, params, tokens, tokens == tokens))


def test_the_end_of_a_text_is_trained():
  """Without weight on the end, another loss comes out: it was part of the first."""
  whole = padded(EXAMPLES[:1] * 4)
  cut = dataclasses.replace(
      whole, loss_weights=np.where(whole.tokens == EOS, 0, whole.loss_weights))
  prompt, completion = EXAMPLES[0]
  log_probs = sequence_log_probs(prompt + completion)
  assert update(whole)[1]["loss/sft"] == pytest.approx(-np.mean(log_probs[2:5]), rel=1e-4)
  assert update(cut)[1]["loss/sft"] == pytest.approx(-np.mean(log_probs[2:4]), rel=1e-4)


def test_no_loss_across_the_border_of_two_examples():
  """A weight on the first token of an example would predict it from the example before."""
  first, second = EXAMPLES[:2]
  batch = make_batch([[], [], [], [first[:1] + ([4, EOS],), second]])
  border = dataclasses.replace(batch, loss_weights=batch.loss_weights.copy())
  place = int(np.argmax(batch.segment_ids[3] == 2))
  border.loss_weights[3, place] = 5.0
  policy, metrics = update(batch)
  border_policy, border_metrics = update(border)
  assert not differs(policy, border_policy)
  assert metrics == border_metrics


def test_token_weights_weigh_the_gradient():
  plain, _ = update(padded())
  one, _ = update(padded(token_weights={token: 1.0 for token in range(11)}))
  assert not differs(plain, one)
  # Weights are relative: doubling all of them is doubling none.
  double, metrics = update(padded(token_weights={token: 2.0 for token in range(11)}))
  assert_close(plain, double)
  heavy, heavy_metrics = update(padded(token_weights={5: 4.0}))
  assert differs(plain, heavy)
  # The metric stays the mean over trained tokens; the total is what is minimised.
  assert heavy_metrics["loss/sft"] == pytest.approx(metrics["loss/sft"], rel=1e-5)
  weights, losses = [], []
  for prompt, completion in EXAMPLES:
    losses += [-x for x in sequence_log_probs(prompt + completion)[len(prompt):]]
    weights += [4.0 if token == 5 else 1.0 for token in completion]
  assert heavy_metrics["loss/total"] == pytest.approx(
      np.average(losses, weights=weights), rel=1e-4)


def test_a_batch_without_any_weight_changes_nothing():
  empty = padded()
  policy, _ = update(dataclasses.replace(empty, loss_weights=0 * empty.loss_weights))
  assert not differs(policy, tiny.random_params())


def test_settings_out_of_range_are_named():
  with pytest.raises(ValueError, match="micro_batch_size: got -1, allowed: 0 or more"):
    SFTConfig(micro_batch_size=-1)


def test_micro_batches_that_do_not_divide_the_rows_are_refused():
  with pytest.raises(ValueError, match="micro_batch_size: got 3, allowed: a divisor of the 4 rows"):
    update(padded(), SFTConfig(micro_batch_size=3))
