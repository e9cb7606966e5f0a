"""The frozen pytrees that travel between the layers, and the axis letters every module uses.

Axes: `P` prompts, `G` samples per prompt, `B` = `P * G` sequences (row `p * G + g`), `S` prompt
tokens, `T` completion tokens (or all tokens of a training row), `V` vocabulary, `D` width, `F` mlp
width, `H` query heads, `K` key/value heads, `h` head size, `N` layers.

Prompts are padded on the left and completions on the right, so that the completion of every row
starts at the same column and the last prompt token sits right before it. Masks are True on what is
kept, and come from lengths, never from a pad id.
"""

from typing import Any

from flax import struct
import jax

Params = Any  # a plain nested dict of arrays
Key = jax.Array  # a typed PRNG key (`jax.random.key`)
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, denominator); the host divides


@struct.dataclass
class Prompts:
  """Tokenised prompts, padded on the left."""

  tokens: jax.Array  # i32[P, S]
  mask: jax.Array  # bool[P, S] True on prompt tokens
  index: jax.Array  # i32[P] row number in the global batch: the source of each row's random key


@struct.dataclass
class Rollout:
  """Completions of prompts, as sampled. What was generated is what is trained on."""

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, T], the end-of-sequence token kept, 0 after it
  completion_mask: jax.Array  # bool[B, T] True on every generated token
  log_probs: jax.Array  # f32[B, T] nats, of the distribution sampled from; 0 where masked
  values: jax.Array | None  # f32[B, T] V(s_t) before token t; None without a shared value head
  truncated: jax.Array  # bool[B] True when the length limit, not a stop token, ended the row


@struct.dataclass
class PackedBatch:
  """Supervised rows: several examples packed one after the other."""

  tokens: jax.Array  # i32[B, T]
  segment_ids: jax.Array  # i32[B, T] 0 on padding, 1.. per example
  positions: jax.Array  # i32[B, T] position within the example
  loss_weights: jax.Array  # f32[B, T] weight of predicting tokens[t]; 0 on prompts and padding


@struct.dataclass
class GroupPacking:
  """Where the completions of some prompts stand in R packed rows of W tokens.

  A packed row holds whole completions of one prompt, one after the other; the prompt itself is
  computed once. Prompts, completions and packed rows are in C parts of equal size, one per device
  that splits rows, and every number counts from the first one of its part. Made on the host by
  `data/groups.py`, read by `models/groups.py`.
  """

  prompt_of_row: jax.Array  # i32[C, R / C]
  segment_ids: jax.Array  # i32[C, R / C, W] 0 on padding, else 1 + b of the completion
  steps: jax.Array  # i32[C, R / C, W] column t of the token in its completion; 0 on padding
  places: jax.Array  # i32[C, B / C, T] r * W + w of each token; -1 where there is none
  group_size: int = struct.field(pytree_node=False)  # G


@struct.dataclass
class GroupPlan:
  """The micro-batches, whole groups each, of every minibatch; N minibatches of M micro-batches."""

  indices: jax.Array  # i32[N, M, b] rows of the rollout
  packing: GroupPacking  # of these, arrays with the leading axes [N, M]


@struct.dataclass
class RolloutBatch:
  """A scored rollout, ready for a policy-gradient update."""

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, T]
  loss_mask: jax.Array  # bool[B, T] completion tokens that are trained on
  old_log_probs: jax.Array  # f32[B, T] behaviour policy, nats
  old_values: jax.Array  # f32[B, T]
  ref_log_probs: jax.Array  # f32[B, T] reference policy, nats
  advantages: jax.Array  # f32[B, T]
  returns: jax.Array  # f32[B, T]
