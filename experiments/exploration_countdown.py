"""RLSP on Countdown from a start that finds almost nothing: what the exploration reward is for.

Four numbers and large targets. A first model learns to search; demonstrations that answer at once
then hide it: nineteen in twenty box a number without a try, and of the tries nineteen in twenty are
given up. Less than one rollout in a thousand is right, so that a verifier alone has nothing to
learn from, while every token more of search is paid by the exploration reward.

    make train CONFIG=experiments/exploration_countdown.py ARGS=--workdir=runs/searches
    make train CONFIG=experiments/exploration_countdown.py:runs/searches/models/sft

The first trains the model that searches, the second makes it answer at once and runs RLSP from
there. With `rl,FOLDER` after the colon RLSP alone starts from a model. Another strength of the
exploration reward is `--config.rl.rewards.exploration.options.c=1`.

Sweep, controls, hardware and results: docs/results.md and experiments/controls/exploration.py. The
settings were chosen on the validation split.
"""

import rlsp_countdown

NEW_TOKENS = 128
TEMPERATURE = 0.7  # as the authors'
# Habits of the demonstrations of either supervised stage.
SEARCHES, ANSWERS = dict(give_up=0.25), dict(give_up=0.95, at_once=0.95)


def get_config(argument: str = ""):
  """The recipe.

  Args:
    argument: empty for the first model; its folder for the other two stages; `rl,` and the folder
      of a model to start from for the last stage alone.
  """
  first, _, last = argument.partition(",")
  start = last if first == "rl" else first
  config = rlsp_countdown.get_config()
  config.task.problems = dict(
      num_numbers=4, max_number=12, min_target=50, max_target=80, max_intermediate=80,
      restart=1.0, max_words=NEW_TOKENS, **(ANSWERS if start else SEARCHES))
  config.prompt_buckets = (7,)  # four numbers, `target`, a number and `:`
  config.parallel.cpu_devices = 1
  config.sft.update(length=NEW_TOKENS, batch_size=16)
  if start:
    config.model = dict(kind="pretrained", path=start, remat="dots")
    config.stages = ("rl",) if last else ("sft", "rl")
    config.sft.update(steps=100, num_examples=20_000)
    config.sft.optimizer.learning_rate = 3e-4
    config.sft.optimizer.warmup_steps = 10
  else:
    config.model.update(width=96, num_layers=4, head_dim=24, mlp_width=288)
    config.stages = ("sft",)
    config.sft.update(steps=3000, num_examples=200_000)
  config.rl.update(
      steps=80, num_prompts=128, min_reasoning_tokens=1,
      # No right answer takes less than a try of 19 tokens, from which on c = 4 does not.
      allow_length_over_correctness=True)
  config.rl.sampling.update(max_new_tokens=NEW_TOKENS, temperature=TEMPERATURE)
  del config.evaluation.expected  # of the other problems
  config.evaluation.update(
      num_problems=500, batch_size=250, num_samples=4, max_new_tokens=NEW_TOKENS,
      temperature=TEMPERATURE)
  if not start:
    config.optimizer = config.sft.optimizer
    del config.rl
  elif last:
    del config.sft
  return config
