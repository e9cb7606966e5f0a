"""The papers' claims about their methods, as two numbers of the runs of miniatures.py per seed.

A measure is a function of a `miniatures.Seed`.
"""

import statistics


def mean_of(values: list[float]) -> float:
  return statistics.mean(values) if values else float("nan")


def accuracy(name: str, task: str = "chain", metric: str = "avg@8"):
  """Mean accuracy over 8 samples, or another estimate, in percent."""
  return lambda seed: 100 * seed.last(name, task)[metric]["value"]


def length(name: str):
  """Mean tokens of greedy completions."""
  return lambda seed: seed.last(name)["length"]["value"]


def compare(left, right):
  return lambda seed: (left(seed), right(seed))


def shortened(task: str):
  """Share of the tokens of a part of the task saved by the length reward, in percent."""
  def measure(seed):
    with_reward, without = (seed.last(f"long reasoning, {name}", task)["length"]["value"]
                            for name in ("length reward", "GRPO"))
    return 100 * (1 - with_reward / without)
  return measure


def late(name: str, metric: str, stage: str = "rl"):
  """Mean of a metric over the last 20 steps."""
  return lambda seed: mean_of(seed.series(name, metric, stage)[-20:])


def mean_over_steps(name: str, metric: str):
  return lambda seed: mean_of(seed.series(name, metric))


def largest(name: str, metric: str):
  return lambda seed: max(seed.series(name, metric))


def clipped(name: str):
  """Share of the tokens that got no gradient, mean of all steps."""
  return lambda seed: sum(mean_over_steps(name, f"policy/clip_fraction_{side}")(seed)
                          for side in ("low", "high"))


def first_step(name: str, metric: str, share: float):
  """The first step at which a metric has reached `share` of its total gain."""
  def measure(seed):
    values = seed.series(name, metric)
    goal = values[0] + share * (mean_of(values[-5:]) - values[0])
    return next((i for i, value in enumerate(values) if value >= goal), len(values))
  return measure


def asked_with(suffix: str):
  return lambda seed: seed.accuracy_asked_with(suffix)


def more(left, right):
  return left > right


def less(left, right):
  return left < right


def accuracies(left: str, right: str, claim: str, shown: str, holds=more):
  """The row of `DIRECTIONS` that compares the accuracies of two runs."""
  return ((left, right), (claim, f"avg@8, %: {shown}"),
          compare(accuracy(left), accuracy(right)), holds)


def mended(name: str):
  return lambda seed: seed.mended(name)


def variance(group_size: int):
  """Trace of the covariance of RLOO's gradient."""
  return lambda seed: seed.estimate("variance")["variance"][str(group_size)]


def moved(name: str):
  """KL of a run's policy from its start, nats per token."""
  return lambda seed: seed.estimate("kl", name, "start")["kl"]


# Policy gradients with a verifier; the only claim is that they learn.
LEARN = ("R1-Zero", "GSPO", "PPO", "RLOO", "ReMax", "REINFORCE++", "REINFORCE++-baseline", "CISPO",
         "OPO", "pass@4", "Clip-Cov", "KL-Cov", "R1")
# Methods of 2025 and 2026, from the second start.
LEARN_TOO = (
    "SAPO", "GMPO", "two-sided clip", "LUSPO", "CISPO of ScaleRL", "DPPO, TV", "DPPO, KL", "VESPO",
    "DeepSeek-V3.2", "top-entropy tokens", "MaxRL", "MaxRL, order G", "GDPO")
# With 16 updates of each rollout, against GRPO's clip.
STALE = ("SAPO", "GMPO", "two-sided clip", "CISPO of ScaleRL", "DPPO, TV", "DPPO, KL", "VESPO")
NO_LABELS = ("TTRL", "RLPR")
# (runs needed, (claim, the two numbers), (seed) -> two numbers, whether they support the claim)
DIRECTIONS = (
    accuracies("GRPO", "no training", "GRPO raises accuracy", "after, before"),
    accuracies(
        "GRPO", "format-only reward", "by more than with a reward for boxes",
        "GRPO, format-only"),
    accuracies("GRPO", "random reward", "and than with a random reward", "GRPO, random"),
    (("R1-Zero",), ("R1-Zero: the format comes first", "step of half the gain: boxes, accuracy"),
     compare(first_step("R1-Zero", "reward/format/mean", 0.5),
             first_step("R1-Zero", "rollout/accuracy", 0.5)), less),
    *(accuracies(name, "no training", f"{name} raises accuracy", "after, before")
      for name in LEARN),
    (("Dr. GRPO", "GRPO, no KL"), (
        "Dr. GRPO: wrong answers are shorter", "tokens, last 20 steps: Dr. GRPO, GRPO without KL"),
     compare(late("Dr. GRPO", "rollout/length_wrong/mean"),
             late("GRPO, no KL", "rollout/length_wrong/mean")), less),
    (("Dr. GRPO", "GRPO, no KL"), (
        "at equal reward", "accuracy, last 20 steps: Dr. GRPO, GRPO without KL"),
     compare(late("Dr. GRPO", "rollout/accuracy"), late("GRPO, no KL", "rollout/accuracy")),
     lambda left, right: abs(left - right) < 0.03),
    (("DAPO", "GRPO"), (
        "DAPO: no groups with zero reward variance",
        "share of groups: all right or all wrong (DAPO), equal rewards (GRPO)"),
     compare(mean_over_steps("DAPO", "rollout/zero_variance_groups"),
             mean_over_steps("GRPO", "rollout/zero_variance_groups")),
     lambda left, right: left < 0.05 < right),
    # A baseline of K - 1 completions is itself noise: trace = (a + b / (K - 1)) / K, and the second
    # part is large at K = 2 and almost 0 at K = 16.
    (("RLOO",), ("RLOO: the variance of its gradient falls with K, at least as 1 / K",
                 "trace of covariance: K = 2, K = 16"),
     compare(variance(2), variance(16)), lambda left, right: left > 8 * right),
    (("RLOO",), ("and about as 1 / K, within a factor of 2, for larger groups",
                 "trace of covariance: K = 4, K = 16"),
     compare(variance(4), variance(16)), lambda left, right: 2 < left / right < 8),
    (("DASH",), ("DASH: one call of the sampler instead of 8 gives the same completions",
                 "share of equal tokens: found, all"),
     lambda seed: (seed.estimate("dash")["equal_tokens"], 1.0),
     lambda left, right: left > 0.99 * right),  # rounding may turn a token, and then what follows
    (("DASH",), ("and takes less time", "seconds: 1 call, 8 calls"),
     lambda seed: seed.estimate("dash")["seconds"][::-1], less),
    (("DASH",), ("its filter leaves the gradient unchanged", "relative difference: found, allowed"),
     lambda seed: (seed.estimate("dash")["gradient_difference"], 1e-4), less),
    accuracies(
        "DASH", "GRPO, no KL", "DASH: fewer completions, same accuracy",
        "DASH, GRPO without KL", lambda left, right: abs(left - right) < 3),
    (("DASH",), (
        "only some completions enter the network", "share of completions: last 20 steps, all"),
     lambda seed: (late("DASH", "rollout/trained_fraction")(seed), 1.0), less),
    accuracies("VAPO", "PPO", "VAPO is better than PPO", "VAPO, PPO"),
    (("pass@4", "no training"), ("the objective of pass@4 rises", "pass@8, %: after, before"),
     compare(lambda seed: 100 * seed.last("pass@4")["pass@8"]["value"],
             lambda seed: 100 * seed.last("no training")["pass@8"]["value"]), more),
    (("T1", "T1, fixed reference"), (
        "T1: closer to its moving reference than to a fixed one", "KL, nats per token: T1, fixed"),
     compare(late("T1", "policy/kl"), late("T1, fixed reference", "policy/kl")), less),
    (("T1", "T1, fixed reference"), (
        "T1: farther from its start than with a fixed reference",
        "KL, nats per token: T1, fixed"), compare(moved("T1"), moved("T1, fixed reference")), more),
    (("T1", "T1, T = 0.6", "T1, T = 2"), (
        "T1: 1.2 is a better temperature than 0.6 and 2", "avg@8, %: 1.2, best of the others"),
     lambda seed: (accuracy("T1")(seed),
                   max(accuracy(f"T1, T = {other}")(seed) for other in ("0.6", "2"))), more),
    accuracies("LaTRO", "no training", "LaTRO raises accuracy without a verifier", "after, before"),
    (("LaTRO",), ("and the likelihood of the answer", "log-prob, nats: last 20 steps, first"),
     lambda seed: (late("LaTRO", "reward/answer_log_prob")(seed),
                   seed.series("LaTRO", "reward/answer_log_prob")[0]), more),
    accuracies("one example", "no training", "one example is enough", "after, before"),
    accuracies(
        "one example", "one example, format-only", "by more than with a reward for boxes",
        "one example, format-only"),
    (("one example",), (
        "the example itself is learned, within 2 points", "training accuracy: last 20 steps, goal"),
     lambda seed: (late("one example", "rollout/accuracy")(seed), 1.0),
     lambda left, right: left > right - 0.02),
    accuracies(
        "one example", "one example, until saturation",
        "other problems keep improving after it is learned", "60 steps, 15 steps"),
    accuracies(
        "expert iteration", "GRPO", "expert iteration is about as good as a policy gradient",
        "EI, GRPO", lambda left, right: left > right - 3),
    accuracies(
        "expert iteration", "PPO", "and as PPO, within 3 points",
        "EI, PPO", lambda left, right: abs(left - right) < 3),
    accuracies(
        "PPO of RLHF", "no training", "RLHF: with a learned reward alone, PPO raises accuracy",
        "after, before"),
    *(accuracies(
        name, "no training", f"{name} on the policy's samples raises accuracy", "after, before")
      for name in ("DPO", "IPO", "KTO", "ORPO", "SimPO")),
    (("return-conditioned",), ("prompted with GOOD it is better than with no label",
                               "avg@8, %: GOOD, nothing"),
     compare(asked_with(" GOOD"), asked_with("")), more),
    (("return-conditioned",), ("and with no label better than with BAD", "avg@8, %: nothing, BAD"),
     compare(asked_with(""), asked_with(" BAD")), more),
    (("Satori",), ("Satori corrects wrong beginnings", "corrected, %: after RL, before"),
     compare(mended("Satori"), mended("start")), more),
    (("Satori", "Satori without restarts"), (
        "more often than without restarts", "corrected, %: with, without"),
     compare(mended("Satori"), mended("Satori without restarts")), more),
    accuracies(
        "Satori, two rounds", "Satori", "a second round from the first policy is not worse",
        "two, one", lambda left, right: left > right - 2),
    (("long reasoning, length reward", "long reasoning, GRPO"), (
        "a length reward shortens", "greedy tokens: with, without"),
     compare(length("long reasoning, length reward"), length("long reasoning, GRPO")), less),
    (("long reasoning, length reward", "long reasoning, GRPO"), (
        "or at least it shortens sooner", "tokens, mean of all steps: with, without"),
     compare(*(mean_over_steps(f"long reasoning, {name}", "rollout/length/mean")
               for name in ("length reward", "GRPO"))), less),
    accuracies(
        "long reasoning, length reward", "long reasoning, GRPO",
        "at the same accuracy, within 2 points", "with, without",
        lambda left, right: left > right - 2),
    *(((f"long reasoning, {name}", "long reasoning, GRPO"), (
        f"{name} shortens sooner as well", "tokens, mean of all steps: with, without"),
       compare(*(mean_over_steps(f"long reasoning, {run}", "rollout/length/mean")
                 for run in (name, "GRPO"))), less) for name in ("Arora's reward", "L1's reward")),
    (("long reasoning, length reward", "long reasoning, GRPO"), (
        "easy problems more than hard ones", "% of the tokens saved: 2 steps, 5 steps"),
     compare(shortened("chain-2"), shortened("chain-5")), more),
    (("long reasoning, pairs", "long reasoning, no training"), (
        "pairs of the shortest right and the longest shorten", "greedy tokens: after, before"),
     compare(length("long reasoning, pairs"), length("long reasoning, no training")), less),
    accuracies(
        "long reasoning, pairs", "long reasoning, no training",
        "at the same accuracy, within 5 points", "after, before",
        lambda left, right: left > right - 5),
    (("long reasoning, GRPO",), (
        "budget forcing: an answer forced after 24 tokens beats none",
        "greedy, %: forced, truncated"),
     compare(lambda seed: seed.under_budget("long reasoning, GRPO", "\\boxed{"),
             lambda seed: seed.under_budget("long reasoning, GRPO", "")), more),
    accuracies(
        "long reasoning, penalty from the start", "long reasoning, GRPO",
        "a strong one, applied from the start, destroys it", "with, without",
        lambda left, right: left < right - 20),
    accuracies(
        "student, sequence distillation", "student, RL", "distillation beats RL on a small model",
        "distilled, RL"),
    (("student, sequence distillation", "student, RL"), (
        "with fewer tokens", "millions processed: distilled, RL"),
     compare(lambda seed: seed.tokens("student, sequence distillation") / 1e6,
             lambda seed: seed.tokens("student, RL") / 1e6), less),
    accuracies(
        "student, on-policy distillation", "student, RL", "on-policy distillation as well",
        "distilled, RL"),
    accuracies(
        "student, of R1's data", "student, RL", "on R1's kept completions as well",
        "distilled, RL"),
    accuracies(
        "student, sequence distillation, longer", "student, RL, longer",
        "distillation beats RL on a small model, both longer", "distilled, RL"),
    (("student, sequence distillation, longer", "student, RL, longer"), (
        "with fewer tokens", "millions processed: distilled, RL"),
     compare(lambda seed: seed.tokens("student, sequence distillation, longer") / 1e6,
             lambda seed: seed.tokens("student, RL, longer") / 1e6), less),
    *(accuracies(name, "second start, no training", f"{name} raises accuracy", "after, before")
      for name in LEARN_TOO),
    *(accuracies(name, "second start, no training", f"{name} raises accuracy without labels",
                 "after, before") for name in NO_LABELS),
    *(accuracies(
        f"stale, {name}", "stale, GRPO", f"{name} is more robust to stale data than a clip",
        f"{name}, GRPO, 16 updates of each rollout") for name in STALE),
    accuracies(
        "stale, GSPO", "stale, GRPO", "so is GSPO, whose clip is of whole completions",
        "GSPO, GRPO, 16 updates of each rollout"),
    accuracies(
        "stale, off-policy mask", "stale, GRPO", "and a clip with the off-policy mask added",
        "with, without, 16 updates of each rollout"),
    *((("stale, " + name, "stale, GRPO"), (
        f"{name}: more tokens get a gradient than with GRPO's clip",
        f"share without a gradient: {name}, GRPO, 16 updates of each rollout"),
       compare(clipped("stale, " + name), clipped("stale, GRPO")), less)
      for name in ("SAPO", "GMPO", "DPPO, TV")),
    (("stale, two-sided clip", "stale, GRPO"), (
        "a bound on bad tokens' ratios: no large gradients",
        "largest norm: two-sided, GRPO, 16 updates of each rollout"),
     compare(largest("stale, two-sided clip", "optim/grad_norm"),
             largest("stale, GRPO", "optim/grad_norm")), less),
    accuracies("LUSPO", "second start, GSPO", "LUSPO is better than GSPO", "LUSPO, GSPO"),
    accuracies(
        "stale, LUSPO", "stale, GSPO", "with stale data too",
        "LUSPO, GSPO, 16 updates of each rollout"),
    accuracies(
        "CISPO of ScaleRL", "second start, CISPO", "CISPO's bound hardly matters, within 3 points",
        "up to 5, up to 1.28", lambda left, right: abs(left - right) < 3),
    *(accuracies(name, "second start, 4 updates", f"{name} is better than GRPO's clip",
                 "DPPO, GRPO, 4 updates of each rollout") for name in ("DPPO, TV", "DPPO, KL")),
    accuracies(
        "stale, unbiased KL", "stale, k3", "the unbiased KL is better than k3 on stale data",
        "unbiased, k3, 16 updates of each rollout"),
    (("stale, unbiased KL", "stale, k3"), (
        "and keeps the policy closer", "KL, nats per token, last 20 steps: unbiased, k3"),
     compare(late("stale, unbiased KL", "policy/kl"), late("stale, k3", "policy/kl")), less),
    (("top-entropy tokens", "all tokens"), (
        "learning from the top-entropy tokens alone keeps entropy",
        "nats per token, last 20 steps: those, all"),
     compare(late("top-entropy tokens", "policy/entropy"), late("all tokens", "policy/entropy")),
     more),
    accuracies(
        "top-entropy tokens", "all tokens", "and loses nothing, within 3 points", "those, all",
        lambda left, right: left > right - 3),
    *(((name, "second start, GRPO"), (
        f"{name}: better on the hardest problems", f"avg@8, %, 5 operations: {name}, GRPO"),
       compare(accuracy(name, "chain-5"), accuracy("second start, GRPO", "chain-5")), more)
      for name in ("MaxRL", "MaxRL, order G")),
    (("GDPO", "GRPO, GDPO's rewards"), (
        "GDPO: a weak reward of the format is learned sooner",
        "share in the format, mean of all steps: GDPO, the sum of the same rewards"),
     compare(mean_over_steps("GDPO", "reward/format/mean"),
             mean_over_steps("GRPO, GDPO's rewards", "reward/format/mean")), more),
    (("TTRL", "second start, no training"), (
        "TTRL: no better than the vote at its start", "%: avg@8 after, maj@8 before"),
     compare(accuracy("TTRL"), accuracy("second start, no training", metric="maj@8")), less),
    (("RLPR",), ("RLPR: the answer becomes more likely", "mean probability: last 20 steps, first"),
     lambda seed: (late("RLPR", "reward/answer_prob")(seed),
                   seed.series("RLPR", "reward/answer_prob")[0]), more),
    *(((f"{sampler}, {mean} mask",), (
        f"{sampler}: a {mean} mask keeps most completions", "share: kept, half"),
       lambda seed, name=f"{sampler}, {mean} mask": (
           mean_over_steps(name, "policy/correction")(seed), 0.5), more)
      for sampler in ("bfloat16", "top-p 0.9") for mean in ("geometric", "product")),
    *(accuracies(
        f"{sampler}, {mean} mask", f"{sampler}, no mask",
        f"{sampler}: a {mean} mask is not worse, within 3 points", "with, without",
        lambda left, right: left > right - 3)
      for sampler in ("bfloat16", "top-p 0.9") for mean in ("geometric", "product")),
    (("student, distillation by policy gradient",), (
        "distillation as a policy gradient: closer to the teacher",
        "KL, nats per token: last 20 steps, first"),
     lambda seed: (
         late("student, distillation by policy gradient", "policy/kl", "student")(seed),
         seed.series("student, distillation by policy gradient", "policy/kl", "student")[0]), less),
    accuracies(
        "student, exact distillation of the second teacher",
        "student, distillation by policy gradient",
        "exact distributions do better with half the samples", "exact, policy gradient"),
)
