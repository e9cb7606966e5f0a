"""Accuracy of searches at test time against the tokens that they generate, with bands over seeds.

    python experiments/search_tokens.py --config=experiments/search_chain.py \\
        --model=runs/chain/models/sft --scorer=likelihood \\
        --beside=runs/chain/models/prm:min,runs/chain/models/orm:last \\
        --output=docs/search_chain --page=docs/search.md

Writes OUTPUT.json and OUTPUT.png, and the table of the page, between its two marks. Solutions that
are sampled independently are drawn once, and read as the first 1, 2, 4, ... of them; all other
searches run for themselves. Of the scorers of `--beside`, each with its aggregate, there is the
best of N.
"""

import argparse
import dataclasses
import json
import pathlib
import re

import jax
from matplotlib import pyplot
import numpy as np

from rlreason import api, config_files, models
from rlreason.data.tasks.load import load_tasks
from rlreason.evaluation import search as search_lib
from rlreason.parallel import make_layout
from rlreason.rewards import combine_rewards, is_right
from rlreason.searching import SearchConfig, choose
from rlreason.training.settings.recipe import from_config

MOST = 32  # independent solutions
# name -> settings of the points of its curve.
STEPS = dict(max_steps=10, step_tokens=12)
TREE = dict(method="mcts", choose="best", num_samples=1, **STEPS)
SEARCHES = {
    "step beam": [dict(method="beam", choose="best", num_samples=n, width=n // 4, **STEPS)
                  for n in (4, 8, 16)],
    "DVTS": [dict(method="beam", choose="weighted_vote", num_samples=n, width=n // 4,
                  subtrees=n // 4, **STEPS) for n in (8, 16)],
    "lookahead 1": [dict(
        method="beam", choose="best", num_samples=8, width=2, lookahead=1, **STEPS)],
    "MCTS, vanilla": [dict(TREE, width=4, simulations=n) for n in (4, 16)],
    "MCTS, re-rooted": [dict(TREE, width=4, simulations=4, form="reroot")],
    "MCTS, rollout": [dict(TREE, width=4, simulations=16, form="rollout", choose="weighted_vote")],
    "MCTS, Gumbel": [dict(TREE, width=4, simulations=16, selection="gumbel")],
    "MCTS of tokens": [dict(method="token_mcts", choose="best", num_samples=1, width=3,
                            simulations=32, max_depth=24)],
    "revision": [dict(method="revise", choose="vote", num_samples=4, num_revisions=1,
                      revision="back")],
}
READINGS = {"majority vote": "vote", "best of N": "best", "weighted vote": "weighted_vote"}


def make_runs(recipe, policy, scorer, read):
  """run(settings) -> for each key and problem (result, verdicts)."""
  tasks, layout = load_tasks(recipe.task), make_layout(recipe.parallel)
  task = tasks["test"]
  rows = [task.rows[i] for i in range(recipe.evaluation.num_problems)]
  params = layout.put_state({"policy": layout.put_params(
      policy.params, models.abstract_boxed_params(policy.config))})
  reward = combine_rewards([recipe.grading], verifier=task.verifier, pool=None)

  def run(settings, seeds):
    of_steps = {} if settings["method"] == "token_mcts" else read
    config = dataclasses.replace(
        recipe.evaluation, batch_size=len(rows), num_samples=0,
        search=SearchConfig(scorer=scorer, **of_steps, **settings))
    search = search_lib.make_search(
        config, config.options(is_greedy=False), policy.config, policy.tokenizer, layout,
        prompt_buckets=recipe.prompt_buckets, reader=search_lib.ANSWERS)
    found = []
    for seed in range(seeds):
      results = search(rows, params, jax.random.key(seed), lambda: None)
      verdicts = search_lib.verify(reward, rows, results)
      found.append([(result, list(map(is_right, row)))
                    for result, row in zip(results, verdicts, strict=True)])
    return found

  return run


def point(found, take) -> dict:
  """Mean and range over seeds of the accuracy, and mean tokens; `take` gives (right, tokens)."""
  values = [np.mean([take(*one) for one in seed], axis=0) for seed in found]
  accuracy = [float(value[0]) for value in values]
  return {"accuracy": float(np.mean(accuracy)), "low": min(accuracy), "high": max(accuracy),
          "generated": float(np.mean([value[1] for value in values])),
          "scored": float(np.mean([value[2] for value in values])),
          "seconds": float(np.mean([one[0].seconds for one in found[-1]]))}


def of_first(how, count):
  """What the first `count` independent solutions give."""
  def take(result, verdicts):
    some = result.solutions[:count]
    index = choose([one.answer_class for one in some], [one.score for one in some], how)
    tokens = sum(len(one.candidate.ids) for one in some)
    reads = how != "vote" and result.cost.scored  # a likelihood reads nothing more
    scored = tokens + result.cost.prompt if reads else 0
    return bool(verdicts[index]), tokens, scored
  return take


def whole(result, verdicts):
  right = result.chosen is not None and bool(verdicts[result.chosen])
  return right, result.cost.generated, result.cost.scored


def draw(path, curves, title):
  pyplot.figure(figsize=(8, 5))
  colors = iter(pyplot.get_cmap("tab20").colors)
  for name, points in curves.items():
    color = next(colors)
    points = sorted(points, key=lambda one: one["generated"])
    x, y, low, high = (np.array([one[key] for one in points])
                       for key in ("generated", "accuracy", "low", "high"))
    is_line = name == "majority vote"
    (line,) = pyplot.plot(x, y, "o-", label=name, color="black" if is_line else color,
                          linewidth=2.5 if is_line else 1.2, markersize=4)
    if len(points) > 1:
      pyplot.fill_between(x, low, high, alpha=0.15, color=line.get_color())
    else:
      pyplot.errorbar(x, y, [y - low, high - y], color=line.get_color(), capsize=3)
  pyplot.xscale("log")
  pyplot.xlabel("tokens generated per problem")
  pyplot.ylabel("accuracy of the answer")
  pyplot.title(title)
  pyplot.legend(fontsize=8)
  pyplot.grid(alpha=0.3)
  pyplot.tight_layout()
  pyplot.savefig(path, dpi=110)


def with_table(page: str, name: str, curves: dict) -> str:
  """The page with the table between its two marks replaced."""
  percent = lambda one, key: f"{100 * one[key]:.1f}"
  rows = [f"| {search} | {one['generated']:.0f} | {one['scored']:.0f} | {percent(one, 'accuracy')} "
          f"[{percent(one, 'low')}, {percent(one, 'high')}] |"
          for search, points in curves.items() for one in points]
  lines = ["| search | tokens generated | tokens scored | accuracy, % |",
           "| --- | --- | --- | --- |", *rows]
  begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
  found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
  if not found.search(page):
    raise ValueError(f"page: got none of the marks {begin} and {end}, allowed: both")
  return found.sub(lambda _: "\n\n".join([begin, "\n".join(lines), end]), page)


def main():
  parser = argparse.ArgumentParser()
  for name in ("config", "model", "scorer", "output"):
    parser.add_argument(f"--{name}", required=True)
  parser.add_argument("--delimiter", default=";")
  parser.add_argument("--aggregate", default="min")
  parser.add_argument("--beside", default="", help="SCORER:AGGREGATE,...: other scorers")
  parser.add_argument("--page", help="a page with the marks of the table")
  parser.add_argument("--problems", type=int, default=100)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--title", default="Chains of 2 to 5 operations")
  flags = parser.parse_args()
  recipe = from_config(config_files.load_config_file(flags.config))
  recipe = dataclasses.replace(recipe, evaluation=dataclasses.replace(
      recipe.evaluation, num_problems=flags.problems))
  policy, output = api.load(flags.model), pathlib.Path(flags.output)
  runs_of = lambda scorer, aggregate: make_runs(
      recipe, policy, scorer, {"delimiter": flags.delimiter, "aggregate": aggregate})
  counts, curves = [2**i for i in range(MOST.bit_length())], {}

  def keep(name, points):
    curves[name] = points
    print(name, points, flush=True)
    output.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")

  run = runs_of(flags.scorer, flags.aggregate)
  sampled = run(dict(method="sample", num_samples=MOST), flags.seeds)
  for name, how in READINGS.items():
    keep(name, [point(sampled, of_first(how, count)) for count in counts])
  for other in filter(None, flags.beside.split(",")):
    path, _, aggregate = other.partition(":")
    found = runs_of(path, aggregate)(dict(method="sample", num_samples=MOST), flags.seeds)
    keep(f"best of N, {pathlib.Path(path).name}",
         [point(found, of_first("best", count)) for count in counts])
  for name, settings in SEARCHES.items():
    keep(name, [point(run(one, flags.seeds), whole) for one in settings])
  if flags.page:
    page = pathlib.Path(flags.page)
    page.write_text(with_table(page.read_text(encoding="utf-8"), output.name, curves),
                    encoding="utf-8")
  draw(output.with_suffix(".png"), curves, flags.title)


if __name__ == "__main__":
  main()
