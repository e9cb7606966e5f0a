"""Sampling on a mesh: what steps communicate, and draws from a vocabulary that devices split."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, sampling, types
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.sampling import logits as logits_lib
from tests.algorithms import tiny
from tests.parallel.logits_test import COLLECTIVE, in_loops

MODEL = dataclasses.replace(
    tiny.MODEL, vocab_size=1030, width=16, num_heads=4, num_kv_heads=2, head_dim=4)
MESHES = {
    "fsdp8": ParallelConfig(fsdp=8), "fsdp4": ParallelConfig(data=1, fsdp=4),
    "tensor2": ParallelConfig(fsdp=4, tensor=2),
    "tensor5": ParallelConfig(data=1, tensor=5),
    "sequence2": ParallelConfig(fsdp=4, sequence=2)}


def sampler(name, model, temperature, is_int8=False, prompts=8):
  layout = make_layout(MESHES[name])
  options = sampling.SamplingOptions(
      max_new_tokens=6, temperature=temperature, weights="int8" if is_int8 else "full")
  program = layout.compile_sampler(lambda params, prompts, key: sampling.sample(
      model, params, prompts, key, options=options, stop_ids=(1,), group_size=2))
  params = layout.put_params(tiny.random_params(model), models.abstract_boxed_params(model))
  rows = layout.put_rows(types.Prompts(
      tokens=np.full((prompts, 3), 7, np.int32), mask=np.ones((prompts, 3), bool),
      index=np.arange(prompts, dtype=np.int32)))
  return layout, program, (params, rows, jax.random.key(0))


@pytest.mark.parametrize("name", ["fsdp8", "sequence2"])
@pytest.mark.parametrize("fields", [{}, dict(num_experts=4, experts_per_token=2)])
def test_parameters_are_gathered_once(name, fields):
  """Not in every step: that is as much as all other memory traffic of the step, and more."""
  _, program, args = sampler(name, dataclasses.replace(MODEL, **fields), 1.0)
  text = program.lower(*args).compile().as_text()
  assert "all-gather(" in text
  found = [line for line in in_loops(text) if COLLECTIVE.search(line)]
  # Whether any row is open, and, in the prefill's loop over layers, kernels.
  sizes = [np.prod([int(n) for n in re.search(r"\[([\d,]*)\]", line)[1].split(",") if n])
           for line in found if "_product" not in line and "_through_experts" not in line]
  assert max(sizes, default=0) <= 16, found


@pytest.mark.parametrize("prompts, rows", [(8, 2), (12, 6)])
def test_devices_that_split_columns_split_rows_of_a_sampler(prompts, rows):
  """Unless their number does not divide the prompts: they then sample the same rows."""
  layout, program, args = sampler("sequence2", MODEL, 1.0, prompts=prompts)
  _, alone, others = sampler("fsdp4", MODEL, 1.0, prompts=prompts)
  text = program.lower(*args).compile().as_text()
  assert re.search(rf"f32\[({rows},1030|1030,{rows})\]", text)  # logits of a device's rows
  found, expected = layout.get_rows(program(*args)), layout.get_rows(alone(*others))
  jax.tree.map(np.testing.assert_array_equal, found.completion_tokens, expected.completion_tokens)
  np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
  assert layout.prompt_parts(prompts) == (8 if prompts == 8 else 4)


def test_logits_of_a_split_vocabulary_are_not_gathered():
  _, program, args = sampler("tensor2", MODEL, 1.0)
  text = program.lower(*args).compile().as_text()
  assert re.search(r"\[[\d,]*515[\d,]*\]", text)  # a half
  assert not [line for line in in_loops(text) if COLLECTIVE.search(line) and "1030" in line]


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_draws_are_those_of_one_device(name, temperature):
  random = np.random.default_rng(0)
  logits = random.standard_normal((8, 1030)).astype(np.float32) * 3
  logits[1, [5, 600]] = 30.0  # a tie
  logits[2, :900] = -np.inf
  logits[3, 515:] = -np.inf
  uniforms = random.random((8, 2)).astype(np.float32)

  def draw(rows):
    if not temperature:
      return logits_lib.choose_greedily(rows[0])
    return logits_lib.choose(rows[0] / temperature, rows[1])

  layout = make_layout(MESHES[name])
  rows = layout.put_rows((logits, uniforms))
  found = layout.compile_whole(lambda rows: (draw(rows), 0))(rows)[0]
  expected = draw((jnp.asarray(logits), jnp.asarray(uniforms)))
  np.testing.assert_array_equal(found[0], expected[0])
  np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
  assert len(set(np.asarray(expected[0]) // 128)) > 2 and (temperature or expected[0][1] == 5)


def test_eight_bits_too():
  layout, program, args = sampler("tensor2", MODEL, 1.0, is_int8=True)
  _, alone, others = sampler("fsdp8", MODEL, 1.0, is_int8=True)
  found, expected = layout.get_rows(program(*args)), layout.get_rows(alone(*others))
  np.testing.assert_array_equal(found.completion_tokens, expected.completion_tokens)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5),
               found.log_probs, expected.log_probs)
