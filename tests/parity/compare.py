"""Logits and greedy completions of one batch, by transformers and here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from rlreason import models, sampling
from rlreason.types import Prompts


def reference_logits(reference, tokens, mask):
  """f32[B, T, V] of a transformers model; tokens [B, T], mask bool[B, T], host arrays."""
  positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
  with torch.no_grad():
    return reference(
        input_ids=torch.tensor(tokens.astype(int)), attention_mask=torch.tensor(mask.astype(int)),
        position_ids=torch.tensor(positions)).logits.numpy()


def our_logits(config, params, tokens, mask):
  """The same of a model here."""
  hidden = jax.jit(models.forward, static_argnums=0)(
      config, params, jnp.asarray(tokens), jnp.asarray(mask))
  return np.asarray(models.logits(config, params, hidden))


def our_completions(config, params, tokens, mask, *, new_tokens, stop_ids=()):
  """What is added here to left-padded prompts, greedily and up to a stop id: a list of i32[N]."""
  options = sampling.SamplingOptions(max_new_tokens=new_tokens, temperature=0.0)
  sample = jax.jit(functools.partial(
      sampling.sample, config, options=options, stop_ids=tuple(stop_ids)))
  prompts = Prompts(tokens=tokens.astype(np.int32), mask=mask, index=np.arange(len(tokens)))
  rollout = sample(params, prompts, jax.random.key(0))
  kept = np.asarray(rollout.token_mask).sum(axis=1)
  return [row[:n] for row, n in zip(np.asarray(rollout.completion_tokens), kept)]


def assert_same_completions(reference, ours, tokens, mask, *, new_tokens, stop_ids=()):
  """Asserts that `ours`, of `our_completions`, are those of a transformers model."""
  with torch.no_grad():
    wanted = reference.generate(
        input_ids=torch.tensor(tokens.astype(int)), attention_mask=torch.tensor(mask.astype(int)),
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=list(stop_ids) or None,
        pad_token_id=0)
  for row, got in enumerate(ours):
    np.testing.assert_array_equal(got, wanted[row, tokens.shape[1]:][:len(got)].numpy())
    assert len(got) == new_tokens or got[-1] in stop_ids


def greedy_completions(reference, config, params, tokens, mask, **options):
  """Asserts that both continue left-padded prompts with the same tokens, up to a stop id."""
  ours = our_completions(config, params, tokens, mask, **options)
  assert_same_completions(reference, ours, tokens, mask, **options)
