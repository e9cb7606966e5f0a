"""Log-probs on a mesh: the communication of their compiled program, and their numbers."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.losses import logprobs
from rlreason.parallel import ParallelConfig, make_layout
from tests.algorithms import tiny

COLLECTIVE = re.compile(r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\(")
MESHES = {"tensor2": ParallelConfig(data=1, tensor=2), "fsdp8": ParallelConfig(fsdp=8),
          "data2_fsdp4": ParallelConfig(data=2, fsdp=4),
          "fsdp4_tensor2": ParallelConfig(fsdp=4, tensor=2),
          "fsdp2_sequence4": ParallelConfig(data=1, fsdp=2, sequence=4),
          "data2_sequence2_tensor2": ParallelConfig(data=2, sequence=2, tensor=2)}
MODEL = dataclasses.replace(tiny.MODEL, width=16, vocab_size=1030, num_tokens=1027)


def in_loops(text):
  """The lines of a compiled program that loops run, in whatever they call."""
  bodies = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
  todo, seen = re.findall(r"body=%?([\w.\-]+)", text), set()
  while todo:
    name = todo.pop()
    if name not in seen:
      seen.add(name)
      todo += [word for word in re.findall(r"%([\w.\-]+)", bodies[name]) if word in bodies]
  return [line for name in seen for line in bodies[name].splitlines()]


def loss(model, params, hidden, targets):
  log_probs, entropy = models.token_log_probs(model, params, hidden, targets)
  return jnp.sum(log_probs) + 0.1 * jnp.sum(entropy)


def test_under_pmap_too(monkeypatch):
  """Each device has its rows and the whole kernel, whose words no device splits."""
  monkeypatch.setattr(models.transformer.logprobs, "token_log_probs", functools.partial(
      logprobs.token_log_probs, chunk_elements=2048))
  random = np.random.default_rng(0)
  hidden = random.standard_normal((8, 5, 16)).astype(np.float32)
  targets = random.integers(0, 1027, (8, 5)).astype(np.int32)
  params = tiny.random_params(MODEL)
  expected = models.token_log_probs(MODEL, params, hidden, targets)
  layout = make_layout(ParallelConfig(mode="pmap", data=8))
  program = layout.compile_rows(
      lambda params, rows, plan: models.token_log_probs(MODEL, params, *rows))
  found = layout.get_rows(program(
      layout.put_state(jax.tree.map(jnp.asarray, params)), layout.put_rows((hidden, targets)),
      None))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)


def place(layout, model, hidden, targets, params):
  boxed = jax.eval_shape(lambda: models.boxed_params(model, jax.random.key(0)))
  return layout.put_params(params, boxed), layout.put_rows((hidden, targets))


@pytest.mark.parametrize(
    "name", ["fsdp8", "fsdp4_tensor2", "fsdp2_sequence4", "data2_sequence2_tensor2"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_no_loop_over_chunks_communicates(name, is_tied):
  """Else each turn gathers a part of the kernel and sums its gradient over all devices."""
  model = dataclasses.replace(MODEL, vocab_size=40_000, num_tokens=None, tie_embeddings=is_tied)
  layout = make_layout(MESHES[name])
  hidden, targets = np.zeros((8, 512, 16), np.float32), np.zeros((8, 512), np.int32)
  params, rows = place(layout, model, hidden, targets, tiny.random_params(model))
  gradient = jax.grad(functools.partial(loss, model), (0, 1))
  program = layout.compile_whole(lambda rows, params: (None, gradient(params, *rows)))
  lines = in_loops(program.lower(rows, params).compile().as_text())
  assert len(lines) > 20
  assert not [line for line in lines if COLLECTIVE.search(line)]


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("rows", [8, 6])  # the second cannot be split
@pytest.mark.parametrize("chunk", [2048, 2**24])
def test_numbers_are_those_of_one_device(name, rows, chunk, monkeypatch):
  monkeypatch.setattr(models.transformer.logprobs, "token_log_probs", functools.partial(
      logprobs.token_log_probs, chunk_elements=chunk))
  random = np.random.default_rng(0)
  hidden = random.standard_normal((rows, 5, 16)).astype(np.float32)
  targets = random.integers(0, 1027, (rows, 5)).astype(np.int32)
  params = tiny.random_params(MODEL)
  gradient = jax.grad(functools.partial(loss, MODEL), (0, 1))
  expected = jax.jit(gradient)(params, hidden, targets)
  layout = make_layout(MESHES[name])
  placed, _ = place(layout, MODEL, hidden[:0], targets[:0], params)
  found = layout.compile_whole(
      lambda rows, params: (None, gradient(params, *rows)))((hidden, targets), placed)[1]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)
