"""The mixture of experts: a router sends each token through a few of many feed-forward layers."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from rlreason.models import dispatch, quantize
from rlreason.models.config import ModelConfig
from rlreason.models.layers import INIT_STDDEV, activate, multiply, partitioned
from rlreason.parallel.shards import map_rows
from rlreason.types import Params


class Experts(nn.Module):
  """Top-k routed SwiGLU experts, as in Qwen3-MoE.

  Tokens are sorted by expert, so that each expert computes one product with only its own tokens:
  there is no capacity limit, and no token is dropped.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array, counts: jax.Array | None = None):
    """x [B, T, D], [B, T] the weight of each token -> [B, T, D] and the load, f32[2, E].

    The load is, for each expert, the number of counted tokens routed to it, and the sum of their
    probabilities for it; None without `counts`.
    """
    c = self.config
    rows = x.reshape(-1, c.width)
    router = self._kernel("router", (c.width, c.num_experts), ("embed", None))
    # f32 probabilities: bf16 has too many ties, which are broken by index.
    probabilities = jax.nn.softmax(
        multiply(("embed", None), rows, router).astype(jnp.float32), axis=-1)
    choose = lambda x: tuple(jax.lax.top_k(x, c.experts_per_token))
    weights, chosen = map_rows(choose, (("batch", None),), (("batch", None),) * 2)(probabilities)
    if c.normalize_experts:
      weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    kernels = [
        self._kernel("gate", (c.num_experts, c.width, c.mlp_width), dispatch.INNER),
        self._kernel("up", (c.num_experts, c.width, c.mlp_width), dispatch.INNER),
        self._kernel("down", (c.num_experts, c.mlp_width, c.width), dispatch.OUTER)]
    if dispatch.is_spread(x):
      of_token = lambda values: values.reshape(*x.shape[:2], -1)
      out = dispatch.through_experts(c, x, of_token(weights), of_token(chosen), tuple(kernels))
    else:
      out = _through_experts(c, rows, chosen, *kernels)
      out = jnp.sum(out * weights.astype(out.dtype)[..., None], axis=1).reshape(x.shape)
    if counts is None:
      return out, None
    counts = counts.reshape(-1, 1).astype(jnp.float32)
    choices = jnp.bincount(
        chosen.reshape(-1), jnp.broadcast_to(counts, chosen.shape).reshape(-1),
        length=c.num_experts)
    probabilities = jnp.where(counts > 0, counts * probabilities, 0.0)
    return out, jnp.stack([choices, jnp.sum(probabilities, axis=0)])

  def _kernel(self, name: str, shape: tuple[int, ...], axes: tuple) -> jax.Array | Params:
    c = self.config
    stored = self.variables.get("params", {}).get(f"{name}_kernel")
    if quantize.is_quantized(stored):
      return stored
    return self.param(f"{name}_kernel", partitioned(nn.initializers.normal(INIT_STDDEV), axes),
                      shape, jnp.dtype(c.param_dtype))


def _through_experts(config: ModelConfig, rows, chosen, gate, up, down) -> jax.Array:
  """Rows [M, D] through their k experts i32[M, k], [M, k, D]; kernels of all experts."""
  order = jnp.argsort(chosen.reshape(-1), stable=True)
  sizes = jnp.bincount(chosen.reshape(-1), length=config.num_experts)

  def product(rows, kernel):
    if not quantize.is_quantized(kernel):
      return jax.lax.ragged_dot(rows, kernel.astype(rows.dtype), sizes)
    # Recomputed in the backward pass: keeping the floats would store the whole kernel.
    return jax.checkpoint(
        lambda rows, kernel: jax.lax.ragged_dot(
            rows, quantize.dequantize(kernel, -2, config.compute_dtype), sizes),
        prevent_cse=False)(rows, kernel)

  rows = rows[order // config.experts_per_token]
  out = product(activate(product(rows, gate), config) * product(rows, up), down)
  # Back in the order of tokens: a gather, whose sum over k is deterministic.
  return out[jnp.argsort(order)].reshape(*chosen.shape, -1)


def balance_loss(loads: jax.Array | None, num_tokens: jax.Array) -> jax.Array:
  """The load-balancing loss of Switch Transformers (https://arxiv.org/abs/2101.03961), eq. 4 to 6.

  E * sum over experts of (share of the choices) * (mean probability), over all layers together. It
  is `experts_per_token` when the load is even, and more when it is not. Shares have no gradient.

  Args:
    loads: f32[N, 2, E], of `Experts`; None for a model without them.
    num_tokens: f32 scalar, number of counted tokens.

  Returns:
    f32 scalar; 0 without tokens or experts.
  """
  if loads is None:
    return jnp.float32(0)
  layers, _, experts = loads.shape
  choices, probabilities = jnp.sum(loads, axis=0) / jnp.maximum(num_tokens * layers, 1.0)
  return experts * jnp.sum(jax.lax.stop_gradient(choices) * probabilities)
