"""Worker of rl_step.py: one step of google-tunix's PPOLearner or GRPOLearner per request.

Runs in .peers/tunix and does not import rlreason. The learner's own `train` runs the steps; its
data iterator waits for the next request, so a step lasts from the moment the learner receives its
prompts to the moment it asks for the next ones with all arrays ready.
"""

import argparse
import json
import os
import sys
import time

# The protocol keeps the real stdout; output of libraries goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import jax  # pylint: disable=wrong-import-position
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen3 import model as qwen3
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl import utils as rl_utils
from tunix.rl.grpo import grpo_learner
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

PAD, BOS = 0, 1
NEVER = -1  # no token has this id: every completion has its full length
PHASES = {
    "generate": "generate", "reference": "get_ref_per_token_logps",
    "old_log_probs": "get_old_per_token_logps", "values": "get_values",
    "actor": "update_actor", "critic": "update_critic",
}


class NumberTokenizer:
  """Token ids written as numbers separated by spaces."""

  def encode(self, text, **_):
    return [int(word) for word in text.split()]

  def decode(self, ids, **_):
    return " ".join(str(token) for token in ids)

  def bos_id(self):
    return BOS

  def eos_id(self):
    return NEVER

  def pad_id(self):
    return PAD


def even_share(prompts, completions, **_):
  """A reward without cost: the share of even token ids."""
  del prompts
  # A completion that is only a stop token is empty here.
  return [float(np.mean([int(word) % 2 == 0 for word in text.split()] or [0.0]))
          for text in completions]


def make_cluster(shape, method):
  """Actor, reference, optimisers and for PPO a critic, of the benchmark's shape, on one CPU device.

  Tunix counts prompts where the shape counts sequences.
  """
  config = qwen3.ModelConfig(
      num_layers=shape["layers"], vocab_size=shape["vocabulary"], embed_dim=shape["width"],
      hidden_dim=shape["mlp_width"], num_heads=shape["heads"], head_dim=shape["head_dim"],
      num_kv_heads=shape["kv_heads"], norm_eps=1e-6, rope_theta=1_000_000,
      use_tied_embedding=False)
  actor = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
  reference = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
  roles = [cluster_lib.Role.ACTOR, cluster_lib.Role.REFERENCE, cluster_lib.Role.ROLLOUT]
  critic = {}
  if method == "ppo":
    roles.append(cluster_lib.Role.CRITIC)
    critic = {"critic": rl_utils.create_critic_model(actor)}
  prompts = shape["sequences"] // shape["group"]
  return cluster_lib.RLCluster(
      actor=actor, reference=reference, tokenizer=NumberTokenizer(), **critic,
      cluster_config=cluster_lib.ClusterConfig(
          role_to_mesh={role: mesh for role in roles},
          training_config=cluster_lib.RLTrainingConfig(
              actor_optimizer=optax.adam(1e-5),
              critic_optimizer=optax.adam(1e-5) if critic else None,
              max_steps=1_000_000, eval_every_n_steps=1_000_000, mini_batch_size=prompts,
              train_micro_batch_size=shape["micro_sequences"] // shape["group"],
              rollout_micro_batch_size=prompts, compute_logps_micro_batch_size=prompts),
          rollout_config=base_rollout.RolloutConfig(
              max_tokens_to_generate=shape["new_tokens"], max_prompt_length=shape["prompt_tokens"],
              kv_cache_size=shape["prompt_tokens"] + shape["new_tokens"],
              temperature=1.0, eos_tokens=shape["stop_ids"] or [NEVER])))


def make_learner(cluster, shape, method):
  """The learner of `method`, with the settings of this library's side."""
  if method == "ppo":
    return ppo_learner.PPOLearner(
        cluster, ppo_learner.PPOConfig(num_iterations=1, beta=0.04), reward_fns=even_share)
  return grpo_learner.GRPOLearner(
      cluster, grpo_learner.GRPOConfig(
          num_generations=shape["group"], num_iterations=1, beta=0.04, kl_loss_mode="low_var_kl"),
      reward_fns=even_share)


def time_phases(cluster, limit, seconds):
  """Makes every phase of the cluster wait for its arrays and add its duration to `seconds`.

  Its "tokens" become the mean length of the completions, including the stop token, which Tunix
  removes.
  """
  trainers = [getattr(cluster, name) for name in ("actor_trainer", "critic_trainer")
              if hasattr(cluster, name)]

  def wrap(name, method):
    def timed(*args, **kwargs):
      start = time.perf_counter()
      result = method(*args, **kwargs)
      jax.block_until_ready([nnx.state(trainer.model) for trainer in trainers])
      if isinstance(result, jax.Array):
        result.block_until_ready()
      seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
      if name == "generate":
        seconds["tokens"] = float(np.mean([min(len(row) + 1, limit) for row in result.tokens]))
      return result
    return timed
  for name, method in PHASES.items():
    setattr(cluster, method, wrap(name, getattr(cluster, method)))


def answer(**fields):
  ANSWERS.write(json.dumps(fields) + "\n")
  ANSWERS.flush()


def serve_prompts(cluster, shape, seconds):
  """Yields one batch of prompts per request and answers with the seconds its step took."""
  random = np.random.default_rng(0)
  # The tokenizer puts BOS before the prompt, so one id less is generated.
  size = (shape["sequences"] // shape["group"], shape["prompt_tokens"] - 1)
  for step, _ in enumerate(sys.stdin):
    cluster.cluster_config.rollout_config.seed = step  # or every step has the same random numbers
    ids = random.integers(2, shape["vocabulary"], size)
    start = time.perf_counter()
    yield {"prompts": np.array([" ".join(map(str, row)) for row in ids])}
    total = time.perf_counter() - start
    answer(total=total, **seconds)
    seconds.clear()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("work", help="JSON object of the method, ppo or grpo, and of the sizes")
  shape = json.loads(parser.parse_args().work)
  method = shape.pop("method")
  cluster = make_cluster(shape, method)
  seconds = {}
  time_phases(cluster, shape["new_tokens"], seconds)
  learner = make_learner(cluster, shape, method)
  leaves = jax.tree.leaves(nnx.state(cluster.actor_trainer.model, nnx.Param))
  answer(jax=jax.__version__, parameters=sum(leaf.size for leaf in leaves))
  learner.train(serve_prompts(cluster, shape, seconds))


if __name__ == "__main__":
  main()
