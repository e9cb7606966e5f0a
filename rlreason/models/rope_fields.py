"""RoPE in a `config.json`, in both spellings, and in the metadata of a GGUF file."""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import numpy as np

from rlreason.models.config import (
    DynamicRopeScaling, LinearRopeScaling, Llama3RopeScaling, ModelConfig, RopeScaling,
    YarnRopeScaling)
from rlreason.models.fields import MAX_WHOLE, check_kinds, choose, required, shortest_float

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_WHERE = "config.json rope_scaling"
_KINDS = {
    **dict.fromkeys((_GLOBAL, _LOCAL), "object"),
    **dict.fromkeys(("rope_type", "type"), "text"),
    **dict.fromkeys(
        ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "partial_rotary_factor",
         "attention_factor", "beta_fast", "beta_slow", "original_max_position_embeddings"),
        "positive number"),
    **dict.fromkeys(("mscale", "mscale_all_dim"), "number of 0 or more"),
    "truncate": "truth value",
}


class Rope(NamedTuple):
  """The settings of rotary positions in a file."""

  theta: float
  scaling: RopeScaling | None
  local_theta: float | None  # of sliding layers, if it differs
  max_positions: int  # tokens


def from_hf(fields: Mapping[str, Any]) -> Rope:
  """Reads `rope_theta` with `rope_scaling`, or `rope_parameters` of transformers 5.

  Raises:
    ValueError: a scaling that is not supported, or one of its fields is missing.
  """
  spelled = dict(fields.get("rope_scaling") or {}) | dict(fields.get("rope_parameters") or {})
  check_kinds(spelled, _KINDS, f"{_WHERE} ")
  for part in (spelled.get(_LOCAL), spelled.get(_GLOBAL)):
    check_kinds(part or {}, _KINDS, f"{_WHERE} ")
  local_theta = fields.get("rope_local_base_freq")
  local = spelled.pop(_LOCAL, None)
  if local is not None:
    choose(f"{_WHERE} of sliding layers", local.get("rope_type", "default"), ("default",))
    local_theta = local.get("rope_theta", local_theta)
  spelled |= spelled.pop(_GLOBAL, None) or {}
  if spelled.get("partial_rotary_factor", 1.0) != 1.0:
    raise ValueError("config.json partial_rotary_factor: got "
                     f"{spelled['partial_rotary_factor']}, allowed: 1.0")
  theta = float(spelled.get("rope_theta") or fields.get("rope_theta") or 10000.0)
  positions = required(fields, "max_position_embeddings")
  scaling = _scaling_from_hf(spelled, positions)
  if isinstance(scaling, (DynamicRopeScaling, YarnRopeScaling)):
    positions = max(positions, round(scaling.factor * scaling.original_max_positions))
  if positions > MAX_WHOLE:
    raise ValueError(f"{_WHERE}: got {positions} positions, allowed: up to {MAX_WHOLE}")
  return Rope(theta, scaling, local_theta and float(local_theta), positions)


def _scaling_from_hf(fields: Mapping[str, Any], positions: int) -> RopeScaling | None:
  kind = choose(_WHERE, fields.get("rope_type", fields.get("type", "default")),
                ("default", "linear", "dynamic", "llama3", "yarn"))
  if kind == "default":
    return None
  number = lambda name: float(required(fields, name, _WHERE))
  original = int(fields.get("original_max_position_embeddings") or positions)
  if kind == "linear":
    return LinearRopeScaling(number("factor"))
  if kind == "dynamic":
    return DynamicRopeScaling(number("factor"), positions)
  if kind == "llama3":
    return Llama3RopeScaling(
        number("factor"), number("low_freq_factor"), number("high_freq_factor"),
        int(number("original_max_position_embeddings")))
  return YarnRopeScaling(
      factor=number("factor"), original_max_positions=original,
      attention_factor=_yarn_attention_factor(fields),
      beta_fast=float(fields.get("beta_fast") or 32), beta_slow=float(fields.get("beta_slow") or 1),
      truncate=bool(fields.get("truncate", True)))


def _yarn_attention_factor(fields: Mapping[str, Any]) -> float:
  """As given; else 0.1 ln(factor) + 1, or the ratio of two such terms with `mscale`."""
  if fields.get("attention_factor") is not None:
    return float(fields["attention_factor"])
  factor = float(fields["factor"])
  term = lambda scale: 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0
  if fields.get("mscale") and fields.get("mscale_all_dim"):
    return term(fields["mscale"]) / term(fields["mscale_all_dim"])
  return term(1.0)


def to_hf(config: ModelConfig) -> dict[str, Any]:
  """The fields `rope_theta`, `rope_scaling` and `max_position_embeddings` of a `config.json`."""
  scaling, positions = config.rope_scaling, config.max_positions
  fields = None
  if isinstance(scaling, LinearRopeScaling):
    fields = {"rope_type": "linear", "factor": scaling.factor}
  if isinstance(scaling, DynamicRopeScaling):
    fields = {"rope_type": "dynamic", "factor": scaling.factor}
    positions = scaling.original_max_positions
  if isinstance(scaling, Llama3RopeScaling):
    fields = {
        "rope_type": "llama3", "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions}
  if isinstance(scaling, YarnRopeScaling):
    fields = {
        "rope_type": "yarn", "factor": scaling.factor,
        "original_max_position_embeddings": scaling.original_max_positions,
        "attention_factor": scaling.attention_factor, "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
  written = {"rope_theta": config.rope_theta, "rope_scaling": fields,
             "max_position_embeddings": positions}
  if config.local_rope_theta is not None:
    written["rope_local_base_freq"] = config.local_rope_theta
  return written


def from_gguf(metadata: Mapping[str, Any], architecture: str, theta: float) -> Rope:
  """Reads the metadata of a GGUF file; `theta` is the base if the file has none.

  Llama 3 scaling is not in the metadata: see `llama3_scaling_of`.

  Raises:
    ValueError: a scaling that is not supported.
  """
  get = lambda name, default=None: metadata.get(f"{architecture}.rope.{name}", default)
  positions = required(metadata, f"{architecture}.context_length", "GGUF")
  kind = choose(f"GGUF {architecture}.rope.scaling.type", get("scaling.type", "none"),
                ("none", "linear", "yarn"))
  scaling, factor = None, shortest_float(get("scaling.factor", 1.0))
  if kind == "linear" and factor != 1.0:
    scaling = LinearRopeScaling(factor)
  if kind == "yarn":
    # The factor of the file, if there is one, multiplies the usual term.
    gain = shortest_float(get("scaling.yarn_attn_factor", get("scaling.attn_factor", 1.0)))
    scaling = YarnRopeScaling(
        factor=factor, attention_factor=gain * _yarn_attention_factor({"factor": factor}),
        original_max_positions=int(required(
            metadata, f"{architecture}.rope.scaling.original_context_length", "GGUF")),
        beta_fast=shortest_float(get("scaling.yarn_beta_fast", 32.0)),
        beta_slow=shortest_float(get("scaling.yarn_beta_slow", 1.0)))
  local = get("freq_base_swa")
  return Rope(shortest_float(get("freq_base", theta)), scaling,
              None if local is None else shortest_float(local), positions)


def llama3_scaling_of(factors: np.ndarray, config: ModelConfig) -> Llama3RopeScaling:
  """The Llama 3 scaling whose divisors of the rotary frequencies are `factors`, f32[h / 2].

  GGUF files keep only these divisors. The slowest pair is divided by the full `factor`; all
  published Llama 3 models share the other constants, and the result is checked against the tensor.

  Raises:
    ValueError: the divisors are not those of a published Llama 3 model.
  """
  scaling = Llama3RopeScaling(
      factor=shortest_float(float(np.max(factors))), low_freq_factor=1.0, high_freq_factor=4.0,
      original_max_positions=8192)
  exponents = np.arange(0, config.head_dim, 2) / config.head_dim
  turns = scaling.original_max_positions / (2 * math.pi) * config.rope_theta ** -exponents
  span = scaling.high_freq_factor - scaling.low_freq_factor
  kept = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
  expected = 1.0 / ((1 - kept) / scaling.factor + kept)
  if np.shape(factors) != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
    raise ValueError(
        f"GGUF rope_freqs.weight: got {np.asarray(factors).tolist()}, allowed: the divisors of "
        f"Llama 3 scaling, {expected.tolist()}")
  return scaling
