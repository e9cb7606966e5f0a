"""This library's side of the benchmarks: one step of PPO or GRPO with a random model, by phase.

The parts are those of the training loop (sampling, score, batch, update); files, text of real tasks
and metrics are left out, as they are for the peers.
"""

import dataclasses
import functools
import time

import jax
import numpy as np

from rlreason import algorithms, models, parallel, rollout as rollout_lib, sampling
from rlreason.algorithms import presets
from rlreason.training.optimizer import OptimizerConfig, make_optimizer
from rlreason.training.stages.rl import Planner
from rlreason.types import Outcome, Prompts


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of one step: a Qwen3-like decoder of 6.03M parameters and its rollout."""

  layers: int = 4
  width: int = 256
  mlp_width: int = 1024
  heads: int = 4
  kv_heads: int = 2
  head_dim: int = 64
  vocabulary: int = 4096
  sequences: int = 64  # prompts times group
  group: int = 1  # completions per prompt
  prompt_tokens: int = 64
  new_tokens: int = 64
  # Mean tokens of a completion without the limit of `new_tokens`; 0 = all reach it.
  mean_tokens: int = 0
  # Sequences of one gradient pass of the update, so that their activations stay in the caches.
  micro_sequences: int = 16

  def model_config(self) -> models.ModelConfig:
    """The model of these sizes, in f32, embeddings untied."""
    return models.ModelConfig(
        vocab_size=self.vocabulary, width=self.width, num_layers=self.layers,
        num_heads=self.heads, num_kv_heads=self.kv_heads, head_dim=self.head_dim,
        mlp_width=self.mlp_width, rope_theta=1e6, norm_eps=1e-6, tie_embeddings=False,
        qk_norm=True, unroll=self.layers, max_positions=self.prompt_tokens + self.new_tokens)

  def stop_ids(self) -> tuple[int, ...]:
    """One of every `mean_tokens` tokens, alternating odd and even, so that no reward favours them.

    For a random model all tokens are about equally likely, and lengths become geometric.
    """
    if not self.mean_tokens:
      return ()
    return tuple(2 + place * self.mean_tokens + place % 2
                 for place in range(self.vocabulary // self.mean_tokens))


def trunk_flops(shape):
  """Floating-point operations of one forward pass of the backbone over whole sequences.

  Matrix products only, two operations per multiply-add; attention counts its causal half.
  """
  length = shape.prompt_tokens + shape.new_tokens
  tokens = shape.sequences * length
  projections = shape.width * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
  attention = shape.heads * shape.head_dim * length  # scores and mixture, half of each
  return 2 * tokens * shape.layers * (projections + 3 * shape.width * shape.mlp_width + attention)


def head_flops(shape):
  """Operations of the logits of every completion token, forward."""
  return 2 * shape.sequences * shape.new_tokens * shape.width * shape.vocabulary


def update_flops(shape, critic):
  """Operations of one update: forward once, backward twice that; recomputation does not count."""
  trunks = 2 if critic == "separate" else 1
  return 3 * (trunks * trunk_flops(shape) + head_flops(shape))


def even_share(completions):
  """The peers' reward: the share of even token ids of each completion, parsed from text."""
  texts = [" ".join(map(str, row)) for row in completions]
  return np.array([np.mean([int(word) % 2 == 0 for word in text.split()]) for text in texts],
                  np.float32)


def ppo(shape, critic):
  """Settings of one update of the whole rollout by PPO; `critic` is "shared" or "separate"."""
  return algorithms.PolicyGradientConfig(
      minibatch_size=shape.sequences, micro_batch_size=shape.micro_sequences, kl_coef=0.04,
      critic=critic, kl_placement="reward", kl_estimator="k1")


def grpo(shape):
  """Settings of one update of the whole rollout by GRPO."""
  return presets.grpo(minibatch_size=shape.sequences, micro_batch_size=shape.micro_sequences)


class Step:
  """Whole steps on random prompts; `run` does one and returns seconds per phase."""

  def __init__(self, shape, settings, *, seed=0):
    """Args: a Shape; `ppo` or `grpo` of it; the seed of parameters and prompts."""
    self.shape, self._seed = shape, seed
    config = shape.model_config()
    # Adam without weight decay, as in the peer.
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-5, max_grad_norm=None), total_steps=1_000_000)
    algorithm = algorithms.policy_gradient(
        settings, config, optimizer, temperature=1.0, group_size=shape.group)
    layout = parallel.make_layout(parallel.ParallelConfig(data=1))
    policy = models.init_params(config, jax.random.key(seed))
    self._layout, self._key = layout, jax.random.key(seed + 1)
    self._reference = layout.put_params(jax.tree.map(jax.numpy.copy, policy), None)
    self.state = layout.put_state(algorithm.init(
        layout.put_params(algorithms.init_rl_params(settings, config, policy), None)))
    options = sampling.SamplingOptions(max_new_tokens=shape.new_tokens)
    self._sample = layout.compile_sampler(
        functools.partial(_sample, shape, config, options))
    self._planner = Planner(settings, shape.group, layout, config)
    self._score = layout.compile_rows(algorithm.score)
    self._make_batch = layout.compile_whole(algorithm.make_batch)
    self._update = layout.compile_update(algorithm.update_step, self.state)

  def run(self, index):
    """One step. Returns {"total", "generate", "score", "batch", "update"} in seconds, and "tokens".

    The latter is the mean of the completions' lengths, a stop token included.
    """
    prompts = self._prompts(index)
    key_sample, key_update = jax.random.split(jax.random.fold_in(self._key, index))
    clock = _Clock()
    models_now = {"params": self.state.params, "reference": self._reference}
    rollout = clock.wait("generate", self._sample(models_now, prompts, key_sample))
    rollout = rollout_lib.crop(self._layout.get_rows(rollout), (self.shape.new_tokens,))
    placed = self._layout.put_rows(rollout)
    scores = clock.wait(
        "score", self._score(models_now, placed, self._planner.of_rollout(rollout)))
    lengths = rollout.token_mask.sum(axis=1)
    rewards = even_share(
        row[:length] for row, length in zip(rollout.completion_tokens, lengths, strict=True))
    is_scored = np.ones(len(rewards), bool)
    outcome = self._layout.put_rows(Outcome(rewards, is_scored))
    batch, _ = clock.wait(
        "batch", self._make_batch((placed, scores, outcome), self.state.coefs))
    order = self._planner.order(len(rewards), key_update)
    self.batch = batch.replace(plan=self._planner.of_update(order, rollout, is_scored, batch))
    self.key = key_update
    self.update(clock)
    return {**clock.seconds(), "tokens": float(lengths.mean())}

  def update(self, clock=None):
    """The update alone, on the batch of the last `run`. Returns {"total", "update"}."""
    clock = clock or _Clock()
    self.state, _ = clock.wait("update", self._update(self.state, self.batch, self.key))
    return clock.seconds()

  def _prompts(self, index):
    shape = self.shape
    random = np.random.default_rng((self._seed, index))
    size = (shape.sequences // shape.group, shape.prompt_tokens)
    return self._layout.put_rows(Prompts(
        tokens=random.integers(2, shape.vocabulary, size).astype(np.int32),
        mask=np.ones(size, bool), index=np.arange(size[0], dtype=np.int32)))


def _sample(shape, config, options, models_now, prompts, key):
  params = models_now["params"]
  return sampling.sample(
      config, params["policy"], prompts, key, options=options, stop_ids=shape.stop_ids(),
      group_size=shape.group, value_head=params.get("value_head"))


class _Clock:
  """Seconds since the last lap, after its arrays are ready."""

  def __init__(self):
    self._start = self._last = time.perf_counter()
    self._seconds = {}

  def wait(self, name, arrays):
    jax.block_until_ready(arrays)
    now = time.perf_counter()
    self._seconds[name] = now - self._last
    self._last = now
    return arrays

  def seconds(self):
    return {"total": time.perf_counter() - self._start, **self._seconds}
