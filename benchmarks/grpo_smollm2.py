"""A GRPO step of SmolLM2-135M-Instruct compared with TRL's GRPOTrainer on the same work.

Usage: python benchmarks/grpo_smollm2.py [--rounds=3]
First, once: bash benchmarks/peers.sh

8 arithmetic questions with 8 completions each of at most 64 tokens, f32, temperature 1, one update
with gradients of 16 sequences at a time and a KL of 0.04 to the initial model. Each side runs its
whole step: sampling, rewards (the share of even token ids), scores of the reference, update and
metrics. A ratio above 1 is the speedup of this library in the same round; "tokens" is the mean
length of the completions, which both sides sample from the same model.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import side_by_side

from rlreason import config_files, weights
from rlreason.algorithms import presets
from rlreason.data.fitting import encode_prompt
from rlreason.rewards import WorkerPool
from rlreason.training import stages as stages_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.setup import make_setup

SHAPE = dict(num_prompts=8, group=8, new_tokens=64, micro_sequences=16)
WARM_UP = 2  # rounds: the widths of packed rows may differ between the first
NUM_QUESTIONS = 512  # that the peer draws from
FOLDER = side_by_side.ROOT / ".peers" / "smollm2"
GOAL = 6.0


def make_recipe():
  """The RL stage of rlsp_smollm2.py with GRPO and the benchmark's sizes."""
  config = config_files.load_config_file("rlsp_smollm2")
  config.unlock()
  rows = SHAPE["num_prompts"] * SHAPE["group"]
  config.stages = ("rl",)
  rl = config.rl.to_dict() | dict(
      num_prompts=SHAPE["num_prompts"], group_size=SHAPE["group"], steps=1_000,
      sampling=dict(max_new_tokens=SHAPE["new_tokens"], temperature=1.0),
      rewards=dict(even=dict(function=even_share)), optimizer=dict(learning_rate=1e-6),
      algorithm=presets.grpo(
          minibatch_size=rows, micro_batch_size=SHAPE["micro_sequences"], kl_coef=0.04))
  del rl["min_reasoning_tokens"]
  config.rl = rl
  config.optimizer = config.rl.optimizer
  return from_config(config)


def even_share(prompts, completions, **_):
  """The share of letters with an even code: as cheap as the peer's reward."""
  return [sum(ord(letter) % 2 == 0 for letter in text) / max(len(text), 1) for text in completions]


def make_step(recipe, setup, policy, folder, pool):
  """A function of the round that does one step of the stage: {"total", "tokens"}."""
  stage = stages_lib.make_stage(setup, recipe.stages[0], policy, 0, pool, folder)
  state = stage.state

  def step(index):
    nonlocal state
    start = time.perf_counter()
    output = stage.step(state, index, stage.data, jax.random.key(index))
    state = jax.block_until_ready(output.state)
    return {"total": time.perf_counter() - start,
            "tokens": output.host_metrics["rollout/length/mean"],
            "sampling": output.host_metrics["time/sampling"]}

  return step


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
  rounds = parser.parse_args().rounds
  if not (FOLDER / "config.json").exists():
    weights.convert(weights.find_smollm2(), FOLDER)
  recipe = make_recipe()
  setup, policy = make_setup(recipe)
  questions = setup.tasks["train"].rows
  prompts = [
      setup.tokenizer.decode(encode_prompt(setup.tokenizer, questions[i]), skip_special=False)
      for i in range(NUM_QUESTIONS)]
  peer = side_by_side.start_peer(
      "trl", "trl_worker.py", json.dumps(SHAPE | {"folder": str(FOLDER), "prompts": prompts}),
      log="trl")
  with WorkerPool(num_workers=1) as pool, tempfile.TemporaryDirectory() as folder:
    step = make_step(recipe, setup, policy, pathlib.Path(folder), pool)
    seconds = side_by_side.take_turns(
        {"trl": lambda index: peer.ask(step=index), "rlreason": step}, rounds=rounds,
        warm_up=WARM_UP)
  peer.close()
  total = {side: [result["total"] for result in results] for side, results in seconds.items()}
  side_by_side.print_line(
      "grpo_smollm2", shape=SHAPE, peer=peer.hello,
      seconds={side: side_by_side.median_of_parts(results) for side, results in seconds.items()},
      times_faster=side_by_side.median_ratio(total["trl"], total["rlreason"]), goal=GOAL)


if __name__ == "__main__":
  main()
