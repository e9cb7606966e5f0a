"""The FLOPs that a model needs for its tokens, by its parameters: the numerator of an MFU.

A product of a token with a matrix of n parameters is 2 n FLOPs, forward; a gradient takes as many
again for the activations and, of trained parameters, for these. Recomputed activations, padding and
tokens that a program computes for nothing are not among them.
"""

import math

import jax

from rlreason import models
from rlreason.models import ModelConfig


def forward(
    model: ModelConfig, *, rows: float, prompt: float, completion: float, groups: float = 0,
    scored: float | None = None,
) -> float:
  """Of a pass over whole rows, forward.

  Args:
    model: the model.
    rows: their number.
    prompt: tokens of a prompt.
    completion: tokens of a completion.
    groups: prompts that are computed, if rows share them; 0: one for each row.
    scored: tokens whose logits are needed; None: those of the completions.
  """
  prompts = groups or rows
  tokens = prompts * prompt + rows * completion
  # Causal attention: of each token to half of a row, on average.
  pairs = prompts * prompt**2 / 2 + rows * completion * (prompt + completion / 2)
  words = 2.0 * model.vocab_size * model.width * (
      rows * completion if scored is None else scored)
  return 2.0 * _layer_params(model) * tokens + _attention(model, pairs) + words


def training(model: ModelConfig, forward_flops: float) -> float:
  """Of the same pass with its gradient; of frozen kernels only that of the activations."""
  return forward_flops * (3.0 if model.lora is None else 2.0)


def sampling(
    model: ModelConfig, *, prompts: float, rows: float, prompt: float, completion: float) -> float:
  """Of prompts that are computed once, and completions sampled after them."""
  return forward(
      model, rows=rows, prompt=prompt, completion=completion, groups=prompts)


def _attention(model: ModelConfig, pairs: float) -> float:
  """Scores and their sum of values: 2 products for each pair of tokens and head."""
  return 4.0 * model.num_layers * model.num_heads * model.head_dim * pairs


def _layer_params(model: ModelConfig) -> float:
  """Parameters of the layers' matrices that a token is multiplied with."""
  total = 0.0
  for path, leaf in jax.tree_util.tree_flatten_with_path(
      models.abstract_params(model)["layers"])[0]:
    names = [str(getattr(part, "key", part)) for part in path]
    if names[-1] in ("scale", "bias"):
      continue
    is_chosen = "experts" in names and names[-1] != "router_kernel"
    share = model.experts_per_token / model.num_experts if is_chosen else 1.0
    total += share * math.prod(leaf.shape)
  return total
