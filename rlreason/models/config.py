"""What a decoder-only transformer is, as data. Reading a `config.json` is in `families.py`."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

Remat = Literal["none", "full", "dots"]


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
  """Frequency-dependent RoPE scaling of Llama 3.1."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_positions: int  # tokens


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A Llama-like decoder: grouped-query attention, RoPE, RMSNorm, SwiGLU.

  Hashable, so that it can be a static argument of `jax.jit`.
  """

  vocab_size: int
  width: int  # D
  num_layers: int  # N
  num_heads: int  # H
  num_kv_heads: int  # K, divides num_heads
  head_dim: int  # h, even
  mlp_width: int  # F
  rope_theta: float = 10000.0
  rope_scaling: Llama3RopeScaling | None = None
  norm_eps: float = 1e-5
  tie_embeddings: bool = True
  qkv_bias: bool = False  # Qwen2
  qk_norm: bool = False  # Qwen3: RMSNorm on each head's query and key
  max_positions: int = 8192  # tokens the model was made for; longer rows are refused
  dtype: str = "float32"  # of the computation: float32 or bfloat16
  param_dtype: str = "float32"  # of the stored parameters: float32 or bfloat16
  remat: Remat = "none"  # what the backward pass computes again: nothing, all, or all but products
  unroll: int = 1  # layers per turn of the loop over them; num_layers leaves no loop

  def __post_init__(self):
    for name in ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads", "mlp_width",
                 "max_positions"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 1 or more")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
          f"num_kv_heads: got {self.num_kv_heads}, allowed: a divisor of "
          f"num_heads={self.num_heads}")
    if self.head_dim < 2 or self.head_dim % 2:
      raise ValueError(f"head_dim: got {self.head_dim}, allowed: even and 2 or more")
    for name in ("dtype", "param_dtype"):
      if getattr(self, name) not in ("float32", "bfloat16"):
        raise ValueError(f"{name}: got {getattr(self, name)!r}, allowed: float32, bfloat16")
    if self.remat not in ("none", "full", "dots"):
      raise ValueError(f"remat: got {self.remat!r}, allowed: none, full, dots")
    if not 1 <= self.unroll <= self.num_layers:
      raise ValueError(f"unroll: got {self.unroll}, allowed: 1 to num_layers={self.num_layers}")

  @property
  def compute_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.dtype)
