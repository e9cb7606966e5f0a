"""Logits of one batch, by transformers and here."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from rlreason import models


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
