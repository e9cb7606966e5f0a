"""Claims of papers about gradients and distances between policies, measured on the chain test bed.

    python experiments/estimators.py variance --model=FOLDER --output=FILE --seed=0
    python experiments/estimators.py dash --model=FOLDER --output=FILE --seed=0
    python experiments/estimators.py kl --model=FOLDER --reference=FOLDER --output=FILE --seed=0

`variance`: of RLOO's gradient (https://arxiv.org/abs/2402.14740) at a fixed policy, by completions
of a problem. `dash` (https://arxiv.org/abs/2505.17218): whether one call of the sampler gives the
same as a call for each micro-batch, how long both take, and whether the filter leaves the gradient
unchanged. `kl`: the distance between two policies. Each takes one to three minutes on a CPU core.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import statistics
import time
from typing import NamedTuple

import jax
from jax import flatten_util
import numpy as np
import optax

import rlreason as rr
from rlreason import config_files
from rlreason.data import fitting
from rlreason.data.tasks.base import Row
from rlreason.rewards import CombinedReward, WorkerPool
from rlreason.rollout.scored import score
from rlreason.training.settings.rl import RLStage
from rlreason.training.setup import make_setup
from rlreason.training.stages import scoring
from rlreason.training.stages.base import Setup
from rlreason.types import Key, Outcome, Params, Rollout

METHODS = pathlib.Path(__file__).parent / "methods"
GROUP_SIZES = (2, 4, 8, 16)
PROMPTS, COMPLETIONS = 8, 192  # of each: groups of 2 for 96 gradients, groups of 16 for 12
MICRO_BATCHES, ROUNDS = 8, 5  # of DASH, and of timing
KL_PROBLEMS, KL_GROUP_SIZE = 128, 2


def main():
  """Makes one measurement and writes it."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest="command", required=True)
  for name in ("variance", "dash", "kl"):
    command = commands.add_parser(name)
    command.add_argument("--model", required=True, help="folder of the policy")
    command.add_argument("--output", type=pathlib.Path, required=True, help="JSON file to write")
    command.add_argument("--seed", type=int, default=0)
    if name == "kl":
      command.add_argument("--reference", required=True, help="folder of the other policy")
  args = parser.parse_args()
  key = jax.random.key(args.seed)
  with WorkerPool() as pool:
    if args.command == "variance":
      result = {"variance": variances(open_bed("rloo.py", args.model, pool), args.seed, key)}
    elif args.command == "dash":
      result = dash(open_bed("dash.py", args.model, pool), args.seed, key)
    else:
      result = divergence(open_bed("rloo.py", args.model, pool), rr.load(args.reference), key)
  args.output.parent.mkdir(parents=True, exist_ok=True)
  args.output.write_text(json.dumps(result, indent=2) + "\n")
  print(json.dumps(result))


class Bed(NamedTuple):
  """The inputs of a recipe's RL stage."""

  setup: Setup
  stage: RLStage
  params: Params  # of the policy
  problems: fitting.FittingRows  # of the train split
  reward: CombinedReward


def open_bed(recipe: str, model: str, pool: WorkerPool) -> Bed:
  """The test bed of a recipe of experiments/methods, as in a run of it from `model`."""
  config = config_files.load_config_file(f"{METHODS / recipe}:{model}")
  config.parallel.cpu_devices = 1  # its programs are compiled here, without a layout
  setup, params = make_setup(rr.from_config(config))
  stage, = setup.recipe.stages
  return Bed(setup, stage, params, scoring.make_problems(setup, stage, pathlib.Path()),
             scoring.make_reward(setup, stage, pool))


def take_problems(bed: Bed, seed: int, count: int) -> list[Row]:
  """The problems of a seed; each seed has different ones."""
  return [bed.problems[(seed * count + i) % len(bed.problems)] for i in range(count)]


def make_sampler(bed: Bed, group_size: int) -> Callable[..., Rollout]:
  """Makes `draw(rows, key, first_index=0) -> Rollout` on the host, with the stage's options."""
  setup = bed.setup
  compiled = jax.jit(functools.partial(
      rr.sampling.sample, setup.model, options=bed.stage.sampling,
      stop_ids=tuple(setup.tokenizer.eos_ids), group_size=group_size))

  def draw(rows: Sequence[Row], key: Key, first_index: int = 0) -> Rollout:
    prompts = fitting.make_prompts(
        [fitting.encode_prompt(setup.tokenizer, row) for row in rows],
        setup.recipe.prompt_buckets, first_index, setup.tokenizer.pad_id)
    return jax.device_get(compiled(bed.params, prompts, key))

  return draw


def outcome_of(bed: Bed, rows: Sequence[Row], rollout: Rollout) -> Outcome:
  """Scores the completions."""
  scored = score(bed.reward, bed.setup.tokenizer, rows, rollout)
  return Outcome(scored.totals, scored.is_scored, scored.is_right)


def make_gradient(
    bed: Bed, config: rr.PolicyGradientConfig, group_size: int
) -> Callable[[Rollout, Outcome, Key], tuple[np.ndarray, float]]:
  """Makes `gradient(rollout, outcome, key)`: the gradient that one minibatch's update gives Optax.

  It returns f32[parameters] and the share of completions that were trained on. The method of
  `config` has neither a critic nor a KL; the policy does not change.
  """
  # Its state is the last gradient. The difference of the parameters before and after a step of SGD
  # is the same, but rounded at the size of the parameters.
  keeper = optax.trace(decay=0.0)
  algorithm = rr.algorithms.policy_gradient(
      config, bed.setup.model, keeper, temperature=bed.stage.sampling.temperature,
      group_size=group_size)
  state = algorithm.init(rr.algorithms.init_rl_params(config, bed.setup.model, bed.params))

  @jax.jit
  def compute(state, rollout, outcome, key):
    scores = algorithm.score({"params": state.params, "reference": None}, rollout, None)
    batch, metrics = algorithm.make_batch((rollout, scores, outcome), state.coefs)
    updated, _ = algorithm.update_step(state, batch, key)
    trained, count = metrics["rollout/trained_fraction"]
    return flatten_util.ravel_pytree(updated.opt_state.trace)[0], trained / count

  return lambda *arrays: jax.device_get(compute(state, *arrays))


def variances(bed: Bed, seed: int, key: Key) -> dict[str, float]:
  """Trace of the covariance of RLOO's gradient by completions per problem.

  Groups of all sizes are made of the same completions, each in one group of every size: chance then
  affects the sizes alike, and gradients of one size are independent.
  """
  rows = take_problems(bed, seed, PROMPTS)
  rollout = make_sampler(bed, COMPLETIONS)(rows, key)
  outcome, results = outcome_of(bed, rows, rollout), {}
  for group_size in GROUP_SIZES:
    config = rr.algorithms.presets.rloo(
        minibatch_size=PROMPTS * group_size, kl_coef=0.0, share_prompts=False)
    gradient = make_gradient(bed, config, group_size)
    parts = [jax.tree.map(lambda x, places=places: x[places], (rollout, outcome))
             for places in group_places(PROMPTS, COMPLETIONS, group_size)]
    results[str(group_size)] = trace_of_covariance([gradient(*part, key)[0] for part in parts])
  return results


def group_places(prompts: int, completions: int, group_size: int) -> np.ndarray:
  """Rows of the smaller rollouts that a rollout is split into, i32[N, prompts * group_size].

  2 prompts, 4 completions, group_size 2 -> [[0, 1, 4, 5], [2, 3, 6, 7]]
  """
  places = np.arange(prompts * completions).reshape(prompts, -1, group_size)
  return places.swapaxes(0, 1).reshape(-1, prompts * group_size)


def trace_of_covariance(gradients: Sequence[np.ndarray]) -> float:
  """Sum over parameters of the unbiased variance over N independent gradients f32[parameters]."""
  return float(np.var(np.stack(gradients), axis=0, ddof=1, dtype=np.float64).sum())


def dash(bed: Bed, seed: int, key: Key) -> dict[str, object]:
  """One call of the sampler against one per micro-batch, and the filter against no filter."""
  stage, rows = bed.stage, take_problems(bed, seed, bed.stage.num_prompts)
  size = len(rows) // MICRO_BATCHES
  draw = make_sampler(bed, stage.group_size)

  def by_micro_batch():
    parts = [draw(rows[i:i + size], key, i) for i in range(0, len(rows), size)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  whole = lambda: draw(rows, key)
  rollout, others = whole(), by_micro_batch()
  is_token = rollout.token_mask | others.token_mask
  is_equal = rollout.completion_tokens == others.completion_tokens
  unfiltered = dataclasses.replace(stage.algorithm, advantage_threshold=None, micro_batch_size=0)
  outcome = outcome_of(bed, rows, rollout)
  expected, _ = make_gradient(bed, unfiltered, stage.group_size)(rollout, outcome, key)
  actual, trained = make_gradient(bed, stage.algorithm, stage.group_size)(rollout, outcome, key)
  return {
      "equal_tokens": float(is_equal[is_token].mean()), "calls": [MICRO_BATCHES, 1],
      "seconds": median_seconds([by_micro_batch, whole]),
      "gradient_difference": relative_difference(actual, expected),
      "trained_fraction": float(trained)}


def median_seconds(functions: Sequence[Callable[[], object]]) -> list[float]:
  """Of each function, warmed up by the caller; alternating, so that other load affects all alike.
  """
  seconds = [[] for _ in functions]
  for _ in range(ROUNDS):
    for function, taken in zip(functions, seconds, strict=True):
      started = time.perf_counter()
      function()
      taken.append(time.perf_counter() - started)
  return [statistics.median(taken) for taken in seconds]


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
  """Norm of the difference over the norm of the expected value."""
  return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def divergence(bed: Bed, reference: rr.Policy, key: Key) -> dict[str, float]:
  """KL(policy || reference) in nats per token, on test problems at temperature 1."""
  setup, problems = bed.setup, bed.setup.tasks["test"].rows
  policy = rr.Policy(setup.model, bed.params, setup.tokenizer)
  samples = rr.sample(
      policy, [problems[i]["prompt"] for i in range(KL_PROBLEMS)], key, temperature=1.0,
      group_size=KL_GROUP_SIZE, max_new_tokens=bed.stage.sampling.max_new_tokens)
  # Both log-probs by one forward pass, so that a policy has KL 0 from itself.
  config = dataclasses.replace(bed.stage.algorithm, recompute_log_probs=True, kl_coef=1.0)
  algorithm = rr.algorithms.policy_gradient(
      config, setup.model, optax.identity(), temperature=1.0, group_size=KL_GROUP_SIZE)
  scores = jax.device_get(jax.jit(algorithm.score)(
      {"params": {"policy": bed.params}, "reference": reference.params}, samples.rollout, None))
  kl, error = mean_per_token(
      scores["old_log_probs"] - scores["ref_log_probs"], samples.rollout.token_mask)
  return {"kl": kl, "error": error}


def mean_per_token(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
  """Mean over tokens of f32[B, T], and its standard error over the B completions.

  A ratio of two sums over completions, whose error is that of their sums of `values - mean`.
  """
  sums, lengths = np.where(mask, values, 0.0).sum(axis=1, dtype=np.float64), mask.sum(axis=1)
  mean = sums.sum() / lengths.sum()
  spread = np.std(sums - mean * lengths, ddof=1) / lengths.mean()
  return float(mean), float(spread / len(sums) ** 0.5)


if __name__ == "__main__":
  main()
