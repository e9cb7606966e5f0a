"""Worker of rl_step.py: one PPO step of google-tunix's PPOLearner per request.

Runs in .peers/tunix and knows nothing of rlreason. The learner's own `train` runs the steps; its
data iterator waits for the next request, so a step lasts from the moment the learner receives its
prompts to the moment it asks for the next ones with all arrays ready.
"""

import argparse
import json
import os
import sys
import time

# The protocol keeps the real stdout; whatever a library prints goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import jax  # pylint: disable=wrong-import-position
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen3 import model as qwen3
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl import utils as rl_utils
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
  """Token ids written as numbers with spaces between them."""

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
  """A reward that costs nothing: the share of even token ids."""
  del prompts
  return [float(np.mean([int(word) % 2 == 0 for word in text.split()])) for text in completions]


def make_cluster(shape):
  """Actor, critic, reference and optimisers of the benchmark's shape on one CPU device."""
  config = qwen3.ModelConfig(
      num_layers=shape["layers"], vocab_size=shape["vocabulary"], embed_dim=shape["width"],
      hidden_dim=shape["mlp_width"], num_heads=shape["heads"], head_dim=shape["head_dim"],
      num_kv_heads=shape["kv_heads"], norm_eps=1e-6, rope_theta=1_000_000,
      use_tied_embedding=False)
  actor = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
  reference = qwen3.Qwen3(config, rngs=nnx.Rngs(0))
  critic = rl_utils.create_critic_model(actor)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
  roles = (cluster_lib.Role.ACTOR, cluster_lib.Role.CRITIC, cluster_lib.Role.REFERENCE,
           cluster_lib.Role.ROLLOUT)
  cluster = cluster_lib.RLCluster(
      actor=actor, critic=critic, reference=reference, tokenizer=NumberTokenizer(),
      cluster_config=cluster_lib.ClusterConfig(
          role_to_mesh={role: mesh for role in roles},
          training_config=cluster_lib.RLTrainingConfig(
              actor_optimizer=optax.adam(1e-5), critic_optimizer=optax.adam(1e-5),
              max_steps=1_000_000, eval_every_n_steps=1_000_000,
              mini_batch_size=shape["sequences"],
              train_micro_batch_size=shape["micro_sequences"],
              rollout_micro_batch_size=shape["sequences"],
              compute_logps_micro_batch_size=shape["sequences"]),
          rollout_config=base_rollout.RolloutConfig(
              max_tokens_to_generate=shape["new_tokens"], max_prompt_length=shape["prompt_tokens"],
              kv_cache_size=shape["prompt_tokens"] + shape["new_tokens"],
              temperature=1.0, eos_tokens=[NEVER])))
  return cluster


def time_phases(cluster, seconds):
  """Makes every phase of the cluster wait for its arrays and add its duration to `seconds`."""
  def wrap(name, method):
    def timed(*args, **kwargs):
      start = time.perf_counter()
      result = method(*args, **kwargs)
      jax.block_until_ready((nnx.state(cluster.actor_trainer.model),
                             nnx.state(cluster.critic_trainer.model)))
      if isinstance(result, jax.Array):
        result.block_until_ready()
      seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
      return result
    return timed
  for name, method in PHASES.items():
    setattr(cluster, method, wrap(name, getattr(cluster, method)))


def answer(**fields):
  ANSWERS.write(json.dumps(fields) + "\n")
  ANSWERS.flush()


def serve_prompts(shape, seconds):
  """Yields one batch of prompts per request and answers with the seconds its step took."""
  random = np.random.default_rng(0)
  # The tokenizer puts BOS before the prompt, so one id less is drawn.
  size = (shape["sequences"], shape["prompt_tokens"] - 1)
  for _ in sys.stdin:
    ids = random.integers(2, shape["vocabulary"], size)
    start = time.perf_counter()
    yield {"prompts": np.array([" ".join(map(str, row)) for row in ids])}
    total = time.perf_counter() - start
    answer(total=total, **seconds)
    seconds.clear()


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("shape", help="JSON object of the sizes")
  shape = json.loads(parser.parse_args().shape)
  cluster = make_cluster(shape)
  seconds = {}
  time_phases(cluster, seconds)
  learner = ppo_learner.PPOLearner(
      cluster, ppo_learner.PPOConfig(num_iterations=1, beta=0.04), reward_fns=even_share)
  leaves = jax.tree.leaves(nnx.state(cluster.actor_trainer.model, nnx.Param))
  answer(jax=jax.__version__, parameters=sum(leaf.size for leaf in leaves))
  learner.train(serve_prompts(shape, seconds))


if __name__ == "__main__":
  main()
