"""Runs every method in a small-scale study, with controls, and writes the tables of results.md.

    .venv/bin/python experiments/miniatures.py --root=runs/miniatures --seeds=0,1,2

Everything runs on the test bed of chains (experiments/methods/beds.py). The supervised starts are
trained once, and every seed of every method continues from them, as from one pretrained model.
Finished runs are not repeated, so the program may be stopped and restarted; `--only="GRPO;DAPO"`
runs a part. The measurements are kept in docs/miniatures.json, from which the tables are made:
`--seeds=` regenerates them and runs nothing. A run takes about a minute on two CPU cores.
"""

import argparse
from collections.abc import Callable, Iterable
from concurrent import futures
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys

from miniature_claims import DIRECTIONS, mean_of

from rlreason.evaluation import metrics

ROOT = pathlib.Path(__file__).parents[1]
METHODS = "experiments/methods"
DOCUMENT = ROOT / "docs" / "results.md"
RECORD = ROOT / "docs" / "miniatures.json"
BEGIN, END = "<!-- miniatures: miniatures.py -->\n", "<!-- end of miniatures -->"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# Supervised starts: name in the recipes below -> the recipe with the demonstrations, seed.
STARTS = {
    "start": ("grpo.py", "0"), "labels": ("return_conditioned.py", "0"), "meta": ("satori.py", "0"),
    "long": ("overthinking.py:kimi", "0"), "start2": ("grpo.py", "1")}
NO_VERIFIER = "--config.rl.rewards.verifier.weight=0"
NO_LENGTH = "--config.rl.rewards.kimi_length.weight=0"
STUDENT = [  # sizes of `beds.small_chain`
    "--config.model.width=80", "--config.model.head_dim=20", "--config.model.mlp_width=208",
    "--config.sft.steps=150"]
ONE, FOUR = (  # updates of a rollout, of 128 rows
    "--config.rl.algorithm.minibatch_size=128", "--config.rl.algorithm.minibatch_size=32")
# 16 updates, so that most use stale data.
STALE = ["--config.rl.steps=20", "--config.rl.algorithm.epochs=4", FOUR]
ALL_TOKENS = "--config.rl.algorithm.selection.options.fraction=1.0"
NO_KL = "--config.rl.algorithm.kl_coef=0"
# A sampler that differs from the trainer: by rounding, as in engines, or by truncating the tail.
BF16, TOP_P = "--config.model.dtype=bfloat16", "--config.rl.sampling.top_p=0.9"
UNMASKED = [NO_KL, "--config.rl.algorithm.recompute_log_probs=True"]
PRODUCT = (
    "--config.rl.algorithm.correction.options={'mean': 'product', 'low': 0.5, 'high': 2.0}")
# Name -> recipe, flags. {start} and others are of `STARTS`; {teacher} and {teacher2} are the seed's
# models after the runs of `TEACHERS`; {r1_data} is the data kept by its R1, which must run first.
TEACHERS = {"teacher": "GRPO", "teacher2": "second start, GRPO"}
RUNS = {
    "no training": ("grpo.py:{start}", ["--config.stages=()"]),
    "format-only reward": (
        "grpo.py:{start}", [NO_VERIFIER, "--config.rl.rewards.format.weight=1"]),
    "random reward": ("grpo.py:{start}", [NO_VERIFIER, "--config.rl.rewards.random.weight=1"]),
    "GRPO": ("grpo.py:{start}", []),
    "R1-Zero": ("r1_zero.py:{start}", []),
    "GRPO, no KL": ("grpo.py:{start}", ["--config.rl.algorithm.kl_coef=0"]),
    "Dr. GRPO": ("dr_grpo.py:{start}", []),
    "DAPO": ("dapo.py:{start}", []),
    "GSPO": ("gspo.py:{start}", []),
    "PPO": ("ppo.py:{start}", []),
    "VAPO": ("vapo.py:{start}", []),
    "RLOO": ("rloo.py:{start}", []),
    "ReMax": ("remax.py:{start}", []),
    "REINFORCE++": ("reinforce_plus_plus.py:{start}", []),
    "REINFORCE++-baseline": ("variants.py:reinforce_plus_plus_baseline,{start}", []),
    "PPO of RLHF": ("ppo_rlhf.py:{start}", []),
    "T1": ("t1.py:{start}", []),
    "T1, fixed reference": ("t1.py:{start}", ["--config.rl.algorithm.reference_every=0"]),
    "T1, T = 0.6": ("t1.py:{start}", ["--config.rl.sampling.temperature=0.6"]),
    "T1, T = 2": ("t1.py:{start}", ["--config.rl.sampling.temperature=2.0"]),
    "DASH": ("dash.py:{start}", []),
    "CISPO": ("variants.py:cispo,{start}", []),
    "OPO": ("variants.py:opo,{start}", []),
    "pass@4": ("variants.py:pass_at_k,{start}", []),
    "Clip-Cov": ("variants.py:clip_cov,{start}", []),
    "KL-Cov": ("variants.py:kl_cov,{start}", []),
    "second start, no training": ("grpo.py:{start2}", ["--config.stages=()"]),
    "second start, GRPO": ("grpo.py:{start2}", [NO_KL]),
    "second start, 4 updates": ("grpo.py:{start2}", [NO_KL, FOUR]),
    "second start, GSPO": ("gspo.py:{start2}", []),
    "second start, CISPO": ("variants.py:cispo,{start2}", []),
    "SAPO": ("variants.py:sapo,{start2}", []),
    "GMPO": ("variants.py:gmpo,{start2}", []),
    "two-sided clip": ("variants.py:two_sided_clip,{start2}", []),
    "LUSPO": ("variants.py:luspo,{start2}", []),
    "CISPO of ScaleRL": ("variants.py:cispo_wide,{start2}", []),
    "DPPO, TV": ("variants.py:dppo_tv,{start2}", []),
    "DPPO, KL": ("variants.py:dppo_kl,{start2}", []),
    "VESPO": ("variants.py:vespo,{start2}", []),
    "DeepSeek-V3.2": ("variants.py:deepseek_v3_2,{start2}", []),
    "top-entropy tokens": ("variants.py:top_entropy,{start2}", []),
    "all tokens": ("variants.py:top_entropy,{start2}", [ALL_TOKENS]),
    "MaxRL": ("variants.py:max_rl,{start2}", []),
    "MaxRL, order G": ("variants.py:max_rl_g,{start2}", []),
    "GDPO": ("variants.py:gdpo,{start2}", []),
    "GRPO, GDPO's rewards": ("grpo.py:{start2}", [
        NO_KL, "--config.rl.rewards.format.weight=0.5"]),
    "TTRL": ("variants.py:ttrl,{start2}", []),
    "RLPR": ("variants.py:rlpr,{start2}", []),
    "stale, GRPO": ("grpo.py:{start2}", [*STALE, NO_KL]),
    "stale, SAPO": ("variants.py:sapo,{start2}", STALE),
    "stale, GMPO": ("variants.py:gmpo,{start2}", STALE),
    "stale, two-sided clip": ("variants.py:two_sided_clip,{start2}", STALE),
    "stale, GSPO": ("gspo.py:{start2}", STALE),
    "stale, LUSPO": ("variants.py:luspo,{start2}", STALE),
    "stale, CISPO": ("variants.py:cispo,{start2}", STALE),
    "stale, CISPO of ScaleRL": ("variants.py:cispo_wide,{start2}", STALE),
    "stale, DPPO, TV": ("variants.py:dppo_tv,{start2}", STALE),
    "stale, DPPO, KL": ("variants.py:dppo_kl,{start2}", STALE),
    "stale, VESPO": ("variants.py:vespo,{start2}", STALE),
    "stale, off-policy mask": ("variants.py:deepseek_v3_2,{start2}", [*STALE, NO_KL]),
    "stale, k3": ("grpo.py:{start2}", [*STALE, "--config.rl.algorithm.kl_coef=0.1"]),
    "stale, unbiased KL": ("grpo.py:{start2}", [
        *STALE, "--config.rl.algorithm.kl_coef=0.1", "--config.rl.algorithm.unbiased_kl=True"]),
    "stale, top-entropy tokens": ("variants.py:top_entropy,{start2}", STALE),
    "stale, all tokens": ("variants.py:top_entropy,{start2}", [
        *STALE, ALL_TOKENS]),
    "bfloat16, no mask": ("grpo.py:{start2}", [BF16, *UNMASKED]),
    "bfloat16, geometric mask": ("variants.py:masked_sequences,{start2}", [BF16, ONE]),
    "bfloat16, product mask": ("variants.py:masked_sequences,{start2}", [BF16, ONE, PRODUCT]),
    "top-p 0.9, no mask": ("grpo.py:{start2}", [TOP_P, *UNMASKED]),
    "top-p 0.9, geometric mask": ("variants.py:masked_sequences,{start2}", [TOP_P, ONE]),
    "top-p 0.9, product mask": ("variants.py:masked_sequences,{start2}", [TOP_P, ONE, PRODUCT]),
    "LaTRO": ("latro.py:{start}", []),
    "LaTRO, first term only": ("latro.py:{start}", ["--config.rl.algorithm.nll_coef=0"]),
    "one example": ("one_example.py:{start}", []),
    "one example, until saturation": ("one_example.py:{start}", ["--config.rl.steps=15"]),
    "one example, format-only": (
        "one_example.py:{start}", [NO_VERIFIER, "--config.rl.rewards.format.weight=1"]),
    "expert iteration": ("expert_iteration.py:{start}", []),
    "DPO": ("preference.py:dpo,{start}", []),
    "IPO": ("preference.py:ipo,{start}", []),
    "KTO": ("preference.py:kto,{start}", []),
    "ORPO": ("preference.py:orpo,{start}", []),
    "SimPO": ("preference.py:simpo,{start}", []),
    "R1": ("r1.py:{start}", []),
    "return-conditioned": ("return_conditioned.py:{labels}", []),
    "Satori": ("satori.py:{meta}", []),
    "Satori without restarts": ("satori.py:{meta}", ["--config.rl.problems=''"]),
    "Satori, two rounds": ("satori.py:{meta},2", []),
    "long reasoning, no training": ("overthinking.py:kimi,{long}", ["--config.stages=()"]),
    "long reasoning, GRPO": ("overthinking.py:kimi,{long}", [NO_LENGTH]),
    "long reasoning, length reward": ("overthinking.py:kimi,{long}", []),
    "long reasoning, Arora's reward": ("overthinking.py:arora,{long}", []),
    "long reasoning, L1's reward": ("overthinking.py:l1,{long}", []),
    "long reasoning, penalty from the start": ("overthinking.py:l1,{long}", [
        "--config.rl.rewards.l1_length.options.min_accuracy=0",
        "--config.rl.rewards.l1_length.options.target=1",
        "--config.rl.rewards.l1_length.options.a=0.1"]),
    "long reasoning, pairs": ("overthinking.py:pairs,{long}", []),
    "student, RL": ("grpo.py", STUDENT),
    "student, sequence distillation": ("distill_sequence.py:{teacher}", []),
    "student, on-policy distillation": ("distill_on_policy.py:{teacher}", []),
    "student, exact distillation of the second teacher": (
        "distill_on_policy.py:{teacher2}", []),
    "student, distillation by policy gradient": (
        "distill_policy_gradient.py:{teacher2}", []),
    "student, of R1's data": ("distill_sequence.py:{r1_data}", []),
    "student, RL, longer": ("grpo.py", [*STUDENT, "--config.rl.steps=235"]),
    "student, sequence distillation, longer": (
        "distill_sequence.py:{teacher}", ["--config.student.steps=600"]),
}
COLUMNS = {"avg@8": "avg@8, %", "greedy": "greedy, %", "pass@8": "pass@8, %",
           "boxed_fraction": "boxed, %", "length": "tokens"}


def main():
  """Runs what is missing and writes the document."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/miniatures"))
  parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
  parser.add_argument("--only", default="", help="names of runs, with ; between them; empty: all")
  parser.add_argument("--jobs", type=int, default=CORES, help="runs at a time, sharing the cores")
  args = parser.parse_args()
  names = [name.strip() for name in args.only.split(";")] if args.only else list(RUNS)
  unknown = sorted(set(names) - set(RUNS))
  if unknown:
    parser.error(f"--only: got {unknown}, allowed: {'; '.join(RUNS)}")
  pool = Pool(args.root.absolute(), args.jobs)
  seeds = [Seed(pool, seed) for seed in args.seeds.split(",") if seed]
  run_all(pool, seeds, names)
  record = json.loads(RECORD.read_text()) if RECORD.exists() else {"runs": {}, "claims": {}}
  pool.run(functools.partial(measure, seed, record) for seed in seeds)
  known = {key_of(needed, claim) for needed, claim, *_ in DIRECTIONS}
  record["claims"] = {key: shown for key, shown in record["claims"].items() if key in known}
  RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
  text = "\n".join([*table(record), "", *directions(record)]) + "\n"
  print(text)
  before, rest = DOCUMENT.read_text().split(BEGIN)
  DOCUMENT.write_text(before + BEGIN + text + END + rest.split(END)[1])


def run_all(pool: "Pool", seeds: list["Seed"], names: list[str]):
  """Runs what is missing, starting with the runs that others start from."""
  needs = lambda field: seeds and any(f"{{{field}}}" in RUNS[name][0] for name in names)
  teachers = [name for field, name in TEACHERS.items() if needs(field)]
  names = list(dict.fromkeys([*teachers, *names]))
  pool.run(functools.partial(pool.make_start, start) for start in STARTS if needs(start))
  for group in (teachers, names):
    pool.run(functools.partial(seed.run, name) for seed in seeds for name in group)


def measure(seed: "Seed", record: dict):
  """Adds the finished runs of a seed, and the claims they support or refute, to the record."""
  done = [name for name in RUNS if seed.is_done(name)]
  for name in done:
    record["runs"].setdefault(name, {})[seed.seed] = seed.result(name)
  for needed, claim, two_numbers, _ in DIRECTIONS:
    if set(needed) <= set(done):
      shown = record["claims"].setdefault(key_of(needed, claim), {})
      shown[seed.seed] = list(two_numbers(seed))


def key_of(needed: tuple[str, ...], claim: tuple[str, str]) -> str:
  """The key of a claim in the record."""
  return f"{needed[0]}: {claim[0]}"


class Pool:
  """Runs programs in parallel, each with a share of the cores, in one folder."""

  def __init__(self, root: pathlib.Path, jobs: int):
    self.root, self.jobs = root, jobs
    self.devices = max(CORES // jobs, 1)

  def run(self, tasks: Iterable[Callable[[], None]]):
    """Runs all tasks, `jobs` at a time; raises an exception that one of them raised."""
    with futures.ThreadPoolExecutor(self.jobs) as executor:
      for done in futures.as_completed([executor.submit(task) for task in tasks]):
        done.result()

  def start(self, name: str) -> pathlib.Path:
    return self.root / "starts" / name / "models" / "sft"

  def make_start(self, name: str):
    """Trains a supervised start, unless it is done."""
    recipe, seed = STARTS[name]
    self.train(self.root / "starts" / name, recipe, ["--config.stages=('sft',)"], seed)

  def train(self, workdir: pathlib.Path, recipe: str, flags: list[str], seed: str):
    """Runs a recipe to its end, unless it is done; evaluates only the result."""
    if not (workdir / "report.html").exists():
      self.rlreason(
          "train", f"--config={METHODS}/{recipe}", f"--workdir={workdir}",
          f"--config.seed={seed}", f"--config.parallel.cpu_devices={self.devices}",
          "--config.evaluation.every_stage=False", *flags)

  def rlreason(self, *arguments: str):
    self.python("-m", "rlreason.main", *arguments)

  def python(self, *arguments: str):
    print("python", *arguments, flush=True)
    subprocess.run(
        [sys.executable, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


class Seed:
  """The runs of one seed."""

  def __init__(self, pool: Pool, seed: str):
    self.seed, self.pool, self.root = seed, pool, pool.root / f"seed{seed}"

  def run(self, name: str):
    """Trains, unless it is done."""
    recipe, flags = RUNS[name]
    starts = {start: self.pool.start(start) for start in STARTS}
    recipe = recipe.format(
        **starts, **{field: self.folder(of) / "models" / "rl" for field, of in TEACHERS.items()},
        r1_data=self.folder("R1") / "data" / "kept.jsonl")
    self.pool.train(self.folder(name), recipe, flags, self.seed)

  def accuracy_asked_with(self, suffix: str) -> float:
    """avg@8 of the return-conditioned model with prompts ending in `suffix`, in percent."""
    folder = self.folder("return-conditioned")
    output = folder / f"asked_with_{suffix.strip() or 'nothing'}.json"
    if not output.exists():
      self.pool.rlreason(
               "evaluate", f"--config={METHODS}/return_conditioned.py", f"--output={output}",
               f"--model={folder / 'models' / 'conditioned'}", f"--config.seed={self.seed}",
               f"--config.evaluation.prompt_suffix={suffix!r}")
    estimates = json.loads(output.read_text())["stages"][0]["evaluation"]["chain"]
    return 100 * metrics.with_current_names(estimates)["avg@8"]["value"]

  def under_budget(self, name: str, forced_answer: str) -> float:
    """Greedy accuracy with 24 tokens for reasoning, in percent; a truncated completion is wrong, or
    continues after `forced_answer`."""
    kind = "forced" if forced_answer else "cut_off"
    output = self.root / f"{kind}_{self.folder(name).name}.json"
    if not output.exists():
      self.pool.rlreason(
          "evaluate", f"--config={METHODS}/overthinking.py", f"--output={output}",
          f"--model={self.folder(name) / 'models' / 'rl'}", f"--config.seed={self.seed}",
          "--config.evaluation.max_new_tokens=24", "--config.evaluation.num_samples=0",
          f"--config.evaluation.forced_answer={forced_answer!r}",
          "--config.evaluation.answer_tokens=3")
    evaluation = json.loads(output.read_text())["stages"][0]["evaluation"]["chain"]
    return 100 * evaluation["greedy"]["value"]

  def mended(self, name: str) -> float:
    """Share of wrong beginnings that end right, in percent: of a Satori run, or of its start."""
    folder = self.root / f"mended_by_{self.folder(name).name}"
    policy = self.pool.start("meta") if name == "start" else self.folder(name) / "models" / "rl"
    restarts = self.folder("Satori") / "data" / "restarts.jsonl"
    self.pool.train(folder, f"satori.py:{policy}", [
        "--config.stages=('again',)", "--config.again.kind=sample", "--config.again.steps=8",
        "--config.again.num_prompts=64", "--config.again.group_size=4",
        "--config.again.sampling.max_new_tokens=48", "--config.again.rewards.verifier.weight=1",
        f"--config.again.problems={restarts}"], self.seed)
    with (folder / "data" / "again.jsonl").open() as lines:
      rows = [json.loads(line) for line in lines]
    return 100 * mean_of([float(row["is_right"]) for row in rows if row["start"] == "wrong"])

  def estimate(self, what: str, policy: str = "start", reference: str = "") -> dict:
    """A measurement of experiments/estimators.py at the end of a run, or of a start."""
    output = self.root / f"{what}_of_{self.folder(policy).name}.json"
    if not output.exists():
      model = lambda name: (
          self.pool.start(name) if name in STARTS else self.folder(name) / "models" / "rl")
      flags = [f"--reference={model(reference)}"] if reference else []
      self.pool.python(
          "experiments/estimators.py", what, f"--model={model(policy)}", f"--output={output}",
          f"--seed={self.seed}", *flags)
    return json.loads(output.read_text())

  def folder(self, name: str) -> pathlib.Path:
    kept = (letter for letter in name.lower().replace(" ", "_") if letter not in ",.'")
    return self.root / "".join(kept)

  def is_done(self, name: str) -> bool:
    return (self.folder(name) / "report.html").exists()

  def result(self, name: str) -> dict[str, float]:
    """A run's row of the table."""
    found = self.last(name)
    return {column: found[column]["value"] for column in COLUMNS} | {"tokens": self.tokens(name)}

  def last(self, name: str, task: str = "chain") -> dict:
    """The estimates of the last evaluated stage of a run, on the task or a part of it."""
    stages = json.loads((self.folder(name) / "summary.json").read_text())["stages"]
    evaluation = [stage for stage in stages if stage["evaluation"]][-1]["evaluation"]
    return metrics.with_current_names(evaluation[task])

  def tokens(self, name: str) -> int:
    stages = json.loads((self.folder(name) / "summary.json").read_text())["stages"]
    return sum(stage["tokens"] for stage in stages)

  def series(self, name: str, metric: str, stage: str = "rl") -> list[float]:
    """A metric, step by step, where it was logged."""
    with (self.folder(name) / "metrics.jsonl").open() as lines:
      steps = [json.loads(line) for line in lines]
    return [step[metric] for step in steps if step["stage"] == stage and metric in step]


def table(record: dict) -> list[str]:
  """One line per run: means over seeds and, of the accuracy, each seed's."""
  lines = ["| run | " + " | ".join(COLUMNS.values()) + " | tokens processed |",
           "|---" * (len(COLUMNS) + 2) + "|"]
  for name in (name for name in RUNS if name in record["runs"]):
    results = [result for _, result in sorted(record["runs"][name].items())]
    cells = [cell([result[column] for result in results], column) for column in COLUMNS]
    worked = statistics.mean(result["tokens"] for result in results)
    lines.append(f"| {name} | " + " | ".join(cells) + f" | {worked:,.0f} |")
  return lines


def cell(values: list[float], column: str) -> str:
  scale = 1 if column == "length" else 100
  shown = [f"{scale * value:.1f}" for value in values]
  mean = f"{scale * statistics.mean(values):.1f}"
  return f"{mean} [{', '.join(shown)}]" if column == "avg@8" else mean


def directions(record: dict) -> list[str]:
  """What each paper claims, and what was seen."""
  lines = ["| claim | measured | seeds | holds |", "|---|---|---|---|"]
  for needed, claim, _, holds in DIRECTIONS:
    pairs = [pair for _, pair in sorted(
        record["claims"].get(key_of(needed, claim), {}).items())]
    if pairs:
      shown = "; ".join(" against ".join(f"{value:.3g}" for value in pair) for pair in pairs)
      count = sum(holds(*pair) for pair in pairs)
      lines.append(f"| {claim[0]} | {claim[1]} | {shown} | {count} of {len(pairs)} |")
  return lines


if __name__ == "__main__":
  main()
