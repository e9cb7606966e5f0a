"""The frozen pytrees that modules exchange, and the axis letters that every module uses.

Axes: `P` prompts, `G` samples per prompt, `B` = `P * G` sequences (row `p * G + g`), `S` prompt
tokens, `T` completion tokens (or all tokens of a training row), `V` vocabulary, `D` width, `F` mlp
width, `H` query heads, `K` key/value heads, `h` head size, `N` layers.

Prompts are padded on the left and completions on the right, so that the completion of every row
starts at the same column and the last prompt token is right before it. Masks are True on kept
entries, and are computed from lengths, never from a pad id.
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
  """Completions of prompts, as sampled. Training uses the tokens that the policy chose.

  Lengths, positions, attention and packing follow `token_mask`; losses, KL, entropies, values and
  advantages follow `action_mask`. Tokens that are not actions were given: the text that budget
  forcing inserts, or the answer after a reasoning.
  """

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, T], the end-of-sequence token kept, 0 after it
  token_mask: jax.Array  # bool[B, T] True on tokens: the first columns of each row
  action_mask: jax.Array  # bool[B, T] tokens that the policy chose; the others were given
  log_probs: jax.Array  # f32[B, T] nats, of the sampling distribution; 0 except on actions
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
  """The layout of the completions of some prompts in R packed rows of W tokens.

  A packed row holds whole completions of one prompt, one after the other; the prompt itself is
  computed once. Prompts, completions and packed rows are in C parts of equal size, one per device
  that splits rows, and every index counts from the first one of its part. Made on the host by
  `data/group_packing.py`, read by `models/groups.py`.
  """

  prompt_of_row: jax.Array  # i32[C, R / C]
  segment_ids: jax.Array  # i32[C, R / C, W] 0 on padding, else 1 + b of the completion
  steps: jax.Array  # i32[C, R / C, W] column t of the token in its completion; 0 on padding
  places: jax.Array  # i32[C, B / C, T] index r * W + w of each token; -1 where there is none
  group_size: int = struct.field(pytree_node=False)  # G


@struct.dataclass
class GroupPlan:
  """The micro-batches, whole groups each, of every minibatch; N minibatches of M micro-batches."""

  indices: jax.Array  # i32[N, M, b] rows of the rollout
  packing: GroupPacking  # of these, arrays with the leading axes [N, M]


@struct.dataclass
class RowPacking:
  """The layout of a pass's sequences (prompt and completion) in R packed rows of W tokens.

  Parts as in `GroupPacking`. Log-probs and values are computed for K completion tokens: the first
  `lengths` of each sequence in the pass. Made by `data/row_packing.py`, read by `models/groups.py`.
  """

  segment_ids: jax.Array  # i32[C, R / C, W] 0 on padding, else 1 + b of the sequence
  sources: jax.Array  # i32[C, R / C, W] b * (S + T) + its column, completions after prompts
  positions: jax.Array  # i32[C, R / C, W] of the token in its sequence
  reads: jax.Array  # i32[C, K] r * W + w that each completion token was sampled from
  targets: jax.Array  # i32[C, K] b * T + t of the token
  starts: jax.Array  # i32[C, B / C] k of the first one; -1 for a sequence that is not in the pass
  lengths: jax.Array  # i32[C, B / C]


@struct.dataclass
class RowPlan:
  """The passes of every minibatch without padding; N minibatches of at most M passes."""

  rows: jax.Array  # i32[N, Q] of the rollout, those of the first part first
  is_needed: jax.Array  # bool[N, M] whether the pass holds any sequence
  packing: RowPacking  # of these rows, arrays with the leading axes [N, M]


@struct.dataclass
class Outcome:
  """The host's results for each completion of a rollout."""

  scores: jax.Array  # f32[B] rewards, combined
  is_scored: jax.Array  # bool[B] False: could not be scored, and gets no gradient
  is_right: jax.Array | None = None  # bool[B] the verifier's verdict; None where it is not used
  greedy_scores: jax.Array | None = None  # f32[B] of the greedy completion of the row's prompt
  # f32[B, N] the rewards behind the scores, and their weights, the same in all rows; None where
  # they are not used.
  parts: jax.Array | None = None
  part_weights: jax.Array | None = None
  # f32[B, T] rewards within the completions, in addition to the score, which is given at the end.
  # Those on a given token belong to the last action before it. The advantage slot gets the sum of
  # both; with a critic, or where advantages have the unit of rewards, a token gets what is not
  # given before it.
  token_rewards: jax.Array | None = None


@struct.dataclass
class PairBatch:
  """Prompts with two completions each, for preference tuning and reward models.

  With pairs, the two are the chosen and the rejected completion. Without pairs, they are the judged
  completion and, for the baseline, one of another prompt. A ranking has n, from the best to the
  worst; those that it lacks have no tokens. One row is one prompt, so that both are
  on the same device and in the same micro-batch.
  """

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, 2, T]
  completion_mask: jax.Array  # bool[B, 2, T] True on completion tokens; a row of padding has none
  is_desirable: jax.Array | None = None  # bool[B] of the judged completion; None: pairs
  ref_log_probs: jax.Array | None = None  # f32[B, 2] summed over tokens, nats; None: no reference
  kl: jax.Array | None = None  # f32[B] the baseline, the same in all rows; None: pairs
  weights: jax.Array | None = None  # f32[B] of the row in the loss of a reward model; None: 1


@struct.dataclass
class StepBatch:
  """Completions with labels of their steps, for process reward models."""

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, T]
  token_mask: jax.Array  # bool[B, T]
  columns: jax.Array  # i32[B, K] of the last token of each step; any where there is none
  # f32[B, K] of each step up to and including it: 0 (wrong) to 1 (right), or a rating -1, 0 or 1
  # for a loss of three classes.
  labels: jax.Array
  label_mask: jax.Array  # bool[B, K] False: the step has no label, or there is none


@struct.dataclass
class DistillBatch:
  """Completions, and a teacher's next-token predictions at each of their tokens."""

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, T]
  loss_mask: jax.Array  # bool[B, T] completion tokens that are trained on
  # {"hidden": [B, T, D] of the teacher}, or of its K likeliest words {"ids": i32[B, T, K],
  # "log_probs": f32[B, T, K] nats}.
  teacher: dict[str, jax.Array]


@struct.dataclass
class RolloutBatch:
  """A scored rollout, ready for a policy-gradient update; fields that a method lacks are None."""

  prompt_tokens: jax.Array  # i32[B, S]
  prompt_mask: jax.Array  # bool[B, S]
  completion_tokens: jax.Array  # i32[B, T]
  loss_mask: jax.Array  # bool[B, T] completion tokens that are trained on
  old_log_probs: jax.Array  # f32[B, T] of the policy before the update, nats
  advantages: jax.Array  # f32[B, T]
  counted_mask: jax.Array | None = None  # bool[B, T] tokens that count in means; None: loss_mask
  sampler_log_probs: jax.Array | None = None  # f32[B, T] of what the tokens were sampled from, nats
  old_entropies: jax.Array | None = None  # f32[B, T] of the policy before the update, nats
  ref_log_probs: jax.Array | None = None  # f32[B, T] reference policy, nats
  old_values: jax.Array | None = None  # f32[B, T]
  returns: jax.Array | None = None  # f32[B, T]
  nll_mask: jax.Array | None = None  # bool[B, T] tokens with an additional likelihood loss
  is_selected: jax.Array | None = None  # bool[B, T] of one minibatch, by the selection slot
  # How groups share their prompt, or rows are packed; None: each row has its own, and its padding.
  plan: GroupPlan | RowPlan | None = None

  @property
  def learned_mask(self) -> jax.Array:
    """bool[B, T]: tokens with a gradient, by either loss."""
    return self.loss_mask if self.nll_mask is None else self.loss_mask | self.nll_mask
