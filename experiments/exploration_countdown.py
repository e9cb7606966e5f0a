"""RLSP on Countdown from a policy that finds almost no rewards: the use of the exploration reward.

Four numbers and large targets. A first model learns to search. Demonstrations that answer
immediately then hide this ability: nineteen in twenty box a number without a try, and nineteen in
twenty tries are given up. Less than one rollout in a thousand is right, so a verifier alone gives
nothing to learn from, whereas the exploration reward rewards every additional token of search.

    make train CONFIG=experiments/exploration_countdown.py ARGS=--workdir=runs/searches
    make train CONFIG=experiments/exploration_countdown.py:runs/searches/models/sft

The first command trains the model that searches, the second teaches it to answer immediately and
runs RLSP from there. With `rl,FOLDER` after the colon only RLSP runs, starting from a model.
`--config.rl.rewards.exploration.options.c=1` changes the strength of the exploration reward.

Sweep, controls, hardware and results: docs/results.md and experiments/controls/exploration.py. The
settings were chosen on the validation split.
"""

import rlsp_countdown

NEW_TOKENS = 128
TEMPERATURE = 0.7  # the authors' value
# Behaviours of the demonstrations of the two supervised stages.
SEARCHES, ANSWERS = dict(give_up=0.25), dict(give_up=0.95, at_once=0.95)


def get_config(argument: str = ""):
  """The recipe.

  Args:
    argument: empty for the first model; its folder for the other two stages; `rl,` and the folder
      of a model to start from for the last stage only.
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
      # A right answer takes at least one try of 19 tokens; from there on c = 4 obeys the rule.
      allow_length_over_correctness=True)
  config.rl.sampling.update(max_new_tokens=NEW_TOKENS, temperature=TEMPERATURE)
  del config.evaluation.expected  # is for other problems
  config.evaluation.update(
      num_problems=500, batch_size=250, num_samples=4, max_new_tokens=NEW_TOKENS,
      temperature=TEMPERATURE)
  if not start:
    config.optimizer = config.sft.optimizer
    del config.rl
  elif last:
    del config.sft
  return config
