"""The configuration of a decoder-only transformer. `families.py` reads a `config.json`."""

import dataclasses
from typing import Annotated, Literal, NamedTuple, get_args

import jax.numpy as jnp

from rlreason.config import AtMost

Remat = Literal["none", "full", "attention", "dots", "offload"]
AttentionChoice = Literal["auto", "xla", "cudnn", "flash"]


def _check_above(lowest: float, scaling: "RopeScaling", *names: str) -> None:
  for name in names:
    if not getattr(scaling, name) > lowest:
      raise ValueError(f"rope_scaling {name}: got {getattr(scaling, name)}, allowed: above "
                       f"{lowest}")


@dataclasses.dataclass(frozen=True)
class LinearRopeScaling:
  """Every frequency divided by `factor` (position interpolation, Chen et al. 2023)."""

  factor: float

  def __post_init__(self):
    _check_above(0, self, "factor")


@dataclasses.dataclass(frozen=True)
class DynamicRopeScaling:
  """The base grows with positions beyond the original length (NTK-aware).

  A token at position p is rotated as the last token of a row of p + 1 tokens, as in generation with
  a cache, so that sampling and training agree.
  """

  factor: float
  original_max_positions: int  # tokens

  def __post_init__(self):
    _check_above(0, self, "factor", "original_max_positions")


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
  """Frequency-dependent RoPE scaling of Llama 3.1."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_positions: int  # tokens

  def __post_init__(self):
    _check_above(0, self, "factor", "low_freq_factor", "original_max_positions")
    _check_above(self.low_freq_factor, self, "high_freq_factor")


@dataclasses.dataclass(frozen=True)
class YarnRopeScaling:
  """YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071)."""

  factor: float
  original_max_positions: int  # tokens
  attention_factor: float  # cosines and sines are multiplied by it
  beta_fast: float = 32.0  # turns over the original length above which a pair is unchanged
  beta_slow: float = 1.0  # turns below which it is interpolated
  truncate: bool = True  # whether the two bounds are rounded to whole pairs

  def __post_init__(self):
    _check_above(0, self, "factor", "original_max_positions", "beta_fast", "beta_slow")


RopeScaling = LinearRopeScaling | DynamicRopeScaling | Llama3RopeScaling | YarnRopeScaling


_ATTENTION = ("q", "k", "v", "o")
LORA_TARGETS = (*_ATTENTION, "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
  """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685): x W + (α / r) x A B.

  A and B are trained, and f32 for any type of the model; W is frozen. B starts at zero.
  """

  rank: Annotated[int, AtMost(2**14, "beyond the widths of most models")] = 16  # r, of A and B
  alpha: float = 32.0  # α: adapters are scaled by α / r
  targets: tuple[str, ...] = LORA_TARGETS  # projections that have adapters
  base: Literal["full", "int8", "nf4"] = "full"  # how the frozen kernels of layers are stored

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f"rank: got {self.rank}, allowed: 1 or more")
    if not self.alpha > 0:
      raise ValueError(f"alpha: got {self.alpha}, allowed: above 0")
    if not self.targets or not set(self.targets) <= set(LORA_TARGETS):
      raise ValueError(f"targets: got {self.targets}, allowed: one or more of {LORA_TARGETS}")
    if self.base not in ("full", "int8", "nf4"):
      raise ValueError(f"base: got {self.base!r}, allowed: full, int8, nf4")

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


class LayerKind(NamedTuple):
  """The settings of attention that may differ between layers."""

  window: int | None  # tokens that a token attends to, itself included; None = all
  rope: Literal["global", "local", "none"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder-only transformer: grouped-query attention, RoPE, RMSNorm, gated feed-forward layer.

  Hashable, so that it can be a static argument of `jax.jit`. The defaults are Llama's.
  """

  vocab_size: int  # V, rows of the embedding
  width: int  # D
  num_layers: int  # N
  num_heads: int  # H
  num_kv_heads: int  # K, divides num_heads
  head_dim: int  # h, even
  mlp_width: int  # F
  family: str = "llama"  # of models/families.py: the format of its files; has no other effect
  activation: Literal["silu", "gelu_tanh"] = "silu"  # of the gate
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling | None = None
  local_rope_theta: float | None = None  # base of sliding layers, unscaled; None = as the others
  rope_layers: tuple[bool, ...] = ()  # which layers rotate; empty = all
  sliding_window: int | None = None  # tokens, >= 1; None = no layer slides
  sliding_layers: tuple[bool, ...] = ()  # which layers slide; empty = all, if there is a window
  score_width: int | None = None  # attention scores are divided by its root; None = head_dim
  attention_softcap: float | None = None  # c of c * tanh(score / c)
  logit_softcap: float | None = None  # the same for the logits
  norm_eps: float = 1e-5
  unit_offset_norms: bool = False  # the stored scale of a norm is its distance from 1
  post_norms: bool = False  # a norm after attention and feed-forward layer too, before the addition
  scale_embeddings: bool = False  # by the root of the width
  tie_embeddings: bool = True
  qkv_bias: bool = False  # Qwen2
  qk_norm: bool = False  # RMSNorm on each head's query and key
  num_experts: int = 0  # E; 0 = one feed-forward layer of width `mlp_width`
  experts_per_token: int = 0  # of them; 0 without experts
  normalize_experts: bool = True  # the weights of a token's experts add up to 1
  balance_coef: float = 0.0  # weight of the load-balancing loss in training
  max_positions: int = 8192  # most tokens of a row; longer rows are refused
  dtype: str = "float32"  # of the computation: float32 or bfloat16
  param_dtype: str = "float32"  # of the stored parameters: float32 or bfloat16
  # What the backward pass recomputes: nothing, all, all but flash attention, all but products, or
  # (offload) all but flash attention, with what is kept in the memory of the host.
  remat: Remat = "none"
  unroll: int = 1  # layers per iteration of the loop over them; num_layers: no loop
  # The implementation of attention over whole rows: see `attention.resolve`.
  attention: AttentionChoice = "auto"
  lora: LoRAConfig | None = None  # of the adapters in the parameters, if there are any
  # Number of tokens: ids from here on only pad the embedding to a round size, and have probability
  # 0 in sampling and training. None: vocab_size. See `with_tokens`.
  num_tokens: int | None = None

  def __post_init__(self):
    for name in ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "mlp_width",
                 "max_positions"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 1 or more")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f"num_kv_heads: got {self.num_kv_heads}, allowed: a divisor of "
          f"num_heads={self.num_heads}")
    if self.num_tokens is not None and not 1 <= self.num_tokens <= self.vocab_size:
      raise ValueError(
          f"num_tokens: got {self.num_tokens}, allowed: 1 to vocab_size={self.vocab_size}, or None")
    if self.head_dim < 2 or self.head_dim % 2:
      raise ValueError(f"head_dim: got {self.head_dim}, allowed: even and 2 or more")
    if not self.rope_theta >= 1:
      raise ValueError(f"rope_theta: got {self.rope_theta}, allowed: 1 or more")
    if isinstance(self.rope_scaling, (DynamicRopeScaling, YarnRopeScaling)) and not (
        self.rope_theta > 1 and self.head_dim > 2):
      raise ValueError(f"rope_theta, head_dim: got {self.rope_theta}, {self.head_dim}, allowed "
                       "with a scaling that depends on them: above 1, above 2")
    for name in ("dtype", "param_dtype"):
      if getattr(self, name) not in ("float32", "bfloat16"):
        raise ValueError(f"{name}: got {getattr(self, name)!r}, allowed: float32, bfloat16")
    if self.remat not in get_args(Remat):
      raise ValueError(
          f"remat: got {self.remat!r}, allowed: {', '.join(get_args(Remat))}")
    if self.attention not in ("auto", "xla", "cudnn", "flash"):
      raise ValueError(f"attention: got {self.attention!r}, allowed: auto, xla, cudnn, flash")
    if not 1 <= self.unroll <= self.num_layers:
      raise ValueError(f"unroll: got {self.unroll}, allowed: 1 to num_layers={self.num_layers}")
    if self.activation not in ("silu", "gelu_tanh"):
      raise ValueError(f"activation: got {self.activation!r}, allowed: silu, gelu_tanh")
    for name in ("sliding_layers", "rope_layers"):
      if len(getattr(self, name)) not in (0, self.num_layers):
        raise ValueError(f"{name}: got {len(getattr(self, name))} entries, allowed: "
                         f"{self.num_layers}, one per layer, or none")
    if self.sliding_window is not None and self.sliding_window < 1:
      raise ValueError(f"sliding_window: got {self.sliding_window}, allowed: 1 or more, or None")
    if any(self.sliding_layers) and self.sliding_window is None:
      raise ValueError("sliding_window: got None with sliding_layers, allowed: 1 or more")
    if not (0 <= self.experts_per_token <= self.num_experts
            and bool(self.num_experts) == bool(self.experts_per_token)):
      raise ValueError(
          f"experts_per_token: got {self.experts_per_token}, allowed: 1 to num_experts="
          f"{self.num_experts}, or 0 without experts")
    if self.lora is not None and self.num_experts and set(self.lora.targets) - set(_ATTENTION):
      raise ValueError(
          f"lora.targets: got {self.lora.targets} with experts, allowed: of {_ATTENTION} (experts "
          "have no adapters)")

  @property
  def compute_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.dtype)

  @property
  def layer_kinds(self) -> tuple[LayerKind, ...]:
    """The kind of each layer."""
    slides = self.sliding_layers or (self.sliding_window is not None,) * self.num_layers
    rotates = self.rope_layers or (True,) * self.num_layers
    local = "local" if self.local_rope_theta is not None else "global"
    return tuple(
        LayerKind(self.sliding_window if is_sliding else None,
                  "none" if not has_rope else local if is_sliding else "global")
        for is_sliding, has_rope in zip(slides, rotates, strict=True))

  @property
  def kinds(self) -> tuple[LayerKind, ...]:
    """The different kinds of layers, each once."""
    return tuple(dict.fromkeys(self.layer_kinds))


def with_tokens(config: ModelConfig, count: int) -> ModelConfig:
  """The model with a tokenizer of `count` tokens, which may be fewer than its embedding rows."""
  return dataclasses.replace(config, num_tokens=count if count < config.vocab_size else None)
