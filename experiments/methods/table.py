"""Writes the tables of docs/algorithms.md from the recipes of this folder.

    python experiments/methods/table.py

A cell shows the value in a recipe's configuration, or · if it equals GRPO's. Sizes, learning rates
and numbers of steps are left out.
"""

from collections.abc import Mapping
import inspect
import pathlib
import sys

from rlreason import commands
from rlreason.slots import Slot
from rlreason.training.settings.base import stage_of
from rlreason.training.settings.recipe import from_config

FOLDER = pathlib.Path(__file__).parent
DOCUMENT = FOLDER.parents[1] / "docs" / "algorithms.md"
SAME = "·"
# Recipe -> (method, source, its defining equation).
POLICY_GRADIENTS = {
    "grpo.py": ("GRPO", "2402.03300 (3)-(4)", "A = (r - mean) / std of the group"),
    "r1_zero.py": (
        "R1-Zero", "2501.12948 (1)-(3)", "r = accuracy + format; π_ref <- π periodically"),
    "dr_grpo.py": ("Dr. GRPO", "2503.20783 §3", "A = r - mean; Σ over tokens / constant"),
    "dapo.py": ("DAPO", "2503.14476 (8)-(13)", "clip at 1 + ε_high; 0 < right < G; Σ / all tokens"),
    "gspo.py": ("GSPO", "2507.18071", "s = exp(mean of log ρ) of a completion"),
    "variants.py:cispo": ("CISPO", "2506.13585", "sg(clip(ρ)) A log π"),
    "variants.py:opo": ("OPO", "2505.23585", "b = Σ length r / Σ length"),
    "variants.py:pass_at_k": ("pass@k", "2508.10751", "r of k completions = max of their r"),
    "variants.py:clip_cov": ("Clip-Cov", "2505.22617", "no gradient where cov(log π, A) is high"),
    "variants.py:kl_cov": ("KL-Cov", "2505.22617", "+ |log π - log π_old| where it is highest"),
    "variants.py:sapo": ("SAPO", "2511.20347", "A (4 / τ) sigmoid(τ (ρ - 1))"),
    "variants.py:gmpo": ("GMPO", "2507.20673", "exp(mean of clipped log ρ) of a completion"),
    "variants.py:two_sided_clip": (
        "two-sided clip", "2505.07291", "ρ of bad tokens at most δ"),
    "variants.py:luspo": ("LUSPO", "2602.05261", "GSPO, Σ over tokens"),
    "variants.py:cispo_wide": ("CISPO of ScaleRL", "2510.13786", "sg(min(ρ, 5)) A log π"),
    "variants.py:dppo_tv": (
        "DPPO, TV", "2602.04879", "no gradient where abs(p - p_old) > δ and growing"),
    "variants.py:dppo_kl": (
        "DPPO, KL", "2602.04879", "no gradient where KL(p_old, p) > δ and growing"),
    "variants.py:vespo": ("VESPO", "2602.10693", "sg(w^k e^(λ (1 - w))) A log π, w = Π ρ"),
    "variants.py:masked_sequences": (
        "sequence mask", "", "only completions on which sampler and trainer agree"),
    "variants.py:deepseek_v3_2": (
        "DeepSeek-V3.2", "2512.02556", "ρ k3; no bad completion with drift > δ"),
    "variants.py:max_rl": ("MaxRL", "2602.02710", "A = (r - mean) / mean of the group"),
    "variants.py:max_rl_g": (
        "MaxRL, order G", "2602.02710", "and -1 if none of the group is right"),
    "variants.py:gdpo": ("GDPO", "2601.05242", "A = Σ w (r_n - mean) / std, over the batch's std"),
    "variants.py:top_entropy": (
        "top-entropy tokens", "2506.01939", "only tokens of the 20% highest entropy"),
    "variants.py:ttrl": ("TTRL", "2504.16084", "r = 1 for the majority answer of the group"),
    "variants.py:rlpr": ("RLPR", "2506.18254", "r = mean over y of π(y_t | x, z, y_<t)"),
    "rloo.py": ("RLOO", "2402.14740", "A = r - mean of the others, r less the KL"),
    "remax.py": ("ReMax", "2310.10505", "A = r - r of the greedy completion"),
    "reinforce_plus_plus.py": (
        "REINFORCE++", "2501.03262", "A_t = r - β Σ_{i>=t} KL_i, whitened over the batch"),
    "variants.py:reinforce_plus_plus_baseline": (
        "REINFORCE++-baseline", "2501.03262", "A = r - mean of the group, whitened over the batch"),
    "t1.py": ("T1", "2501.11651", "RLOO at T > 1, + entropy, π_ref <- τ π_ref + (1 - τ) π"),
    "dash.py": ("DASH", "2505.17218", "only completions with |A| > τ"),
    "one_example.py": (
        "one-example RLVR", "2504.20571", "GRPO + entropy on the item with the highest variance"),
    "latro.py": ("LaTRO", "2411.04282 (4)", "r = log π(y | x, z) - β log π(z) / π_0(z); + its NLL"),
    "ppo_rlhf.py": ("PPO of RLHF", "1909.08593", "r_t = r - β KL_t; GAE; β to a target"),
    "ppo.py": ("PPO", "1707.06347 (7)", "A by GAE of r_t = r - β KL_t; clipped"),
    "vapo.py": ("VAPO", "2504.05118", "λ = 1 for V, 1 - 1 / (α length) for π; + NLL where right"),
    "satori.py": ("Satori", "2502.02508", "r = right - 1 ± bonus, from restarted states"),
    "distill_policy_gradient.py:TEACHER": (
        "on-policy distillation", "2306.13649", "A_t = log π_teacher - log π_old of the token"),
    "overthinking.py:kimi": ("length reward", "2501.12599", "+ 1/2 - (n - min) / (max - min)"),
}
PIPELINES = {
    "expert_iteration.py": ("expert iteration", "2403.04642"),
    "return_conditioned.py": ("return-conditioned RL", "2403.04642"),
    "preference.py:dpo": ("DPO", "2305.18290 (7)"),
    "preference.py:ipo": ("IPO", "2310.12036 (17)"),
    "preference.py:kto": ("KTO", "2402.01306"),
    "preference.py:orpo": ("ORPO", "2403.07691 (6)"),
    "preference.py:simpo": ("SimPO", "2405.14734 (6)"),
    "overthinking.py:pairs": ("shortest against longest", "2412.21187"),
    "r1.py": ("R1", "2501.12948"),
    "one_example.py": ("one-example RLVR", "2504.20571"),
    "satori.py": ("Satori", "2502.02508"),
    "ppo_rlhf.py": ("RLHF", "2203.02155"),
    "process_reward.py": ("Math-Shepherd", "2312.08935"),
    "process_reward.py:omega_tree": ("OmegaPRM", "2406.06592"),
    "distill_sequence.py:TEACHER": ("sequence-level distillation", "2501.12948"),
    "distill_on_policy.py:TEACHER": ("on-policy distillation (GKD)", "2306.13649 (1)"),
}


def write():
  """Replaces the text between the marks of the document."""
  text = DOCUMENT.read_text()
  for name, table in (("policy gradients", policy_gradients()), ("pipelines", pipelines())):
    begin, end = f"<!-- {name}: table.py -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    text = before + begin + table + end + rest.split(end)[1]
  DOCUMENT.write_text(text)


def policy_gradients() -> str:
  """Each method's cells, if they differ from GRPO's."""
  recipes = {file: load(file) for file in POLICY_GRADIENTS}
  cells = {file: cells_of(recipe) for file, recipe in recipes.items()}
  base = cells["grpo.py"]
  lines = [row(("method", "source", "equation", *base)), row(("---",) * (len(base) + 3))]
  for file, (method, source, equation) in POLICY_GRADIENTS.items():
    shown = [cell if file == "grpo.py" or cell != base[name] else SAME
             for name, cell in cells[file].items()]
    lines.append(row((f"[{method}]({link(file)})", source_link(source), equation, *shown)))
  return "\n".join(lines) + "\n"


def pipelines() -> str:
  """Each method's stages: their starts, data and functions."""
  lines = [row(("method", "source", "stages")), row(("---",) * 3)]
  for file, (method, source) in PIPELINES.items():
    stages = " → ".join(describe(stage) for stage in load(file).stages)
    lines.append(row((f"[{method}]({link(file)})", source_link(source), stages)))
  return "\n".join(lines) + "\n"


def load(file: str):
  return from_config(commands.load_config(str(FOLDER / file)))


def link(file: str) -> str:
  return f"../experiments/methods/{file.partition(':')[0]}"


def source_link(source: str) -> str:
  paper, _, place = source.partition(" ")
  return "" if not paper else f"[{paper}](https://arxiv.org/abs/{paper}) {place}".strip()


def row(cells) -> str:
  return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def slot(value: Slot | None) -> str:
  if value is None:
    return "none"
  parameters = inspect.signature(value.function).parameters.values()
  defaults = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
  plain = lambda option: dict(option) if isinstance(option, Mapping) else option
  options = [
      f"{name}={plain(option)}" for name, option in sorted(
          (defaults | dict(value.options)).items()) if option is not None]
  return f"{value.name}({', '.join(options)})" if options else value.name


def cells_of(recipe) -> dict[str, str]:
  """Slot -> its value in the last RL stage of a recipe."""
  stage = [stage for stage in recipe.stages if stage.kind == "rl"][-1]
  config = stage.algorithm
  kl = "none"
  if config.kl_coef:
    kl = f"{config.kl_estimator} in the {config.kl_placement}"
    kl += " to a teacher" if stage.reference_path else ""
    kl += ", unbiased" if config.unbiased_kl else ""
    kl += ", adaptive" if config.kl_target else ""
    kl += ", whitened" if config.whiten_kl else ""
  if config.reference_every:
    kl += (f"; reference x {config.reference_decay} every step" if config.reference_every == 1
           else f"; reference replaced every {config.reference_every}")
  return {
      "data": stage.problems or "the task's",
      "rollout": rollout(stage),
      "reward": " + ".join(
          ["likelihood"] * bool(stage.answer_template) + [
              f"{spec.weight:g} {spec.name}" for spec in stage.rewards if spec.weight]) or "none",
      "advantage": slot(config.advantage) + (", whitened" if config.whiten_advantages else ""),
      "critic": critic(config),
      "loss": slot(config.policy_loss) + (
          f" on {slot(config.selection)}" if config.selection else ""),
      "mean": config.aggregation,
      "KL": kl,
      "other": other_settings(config),
  }


def rollout(stage) -> str:
  parts = [f"T={stage.sampling.temperature:g}"]
  parts += ["one of each prompt"] if stage.group_size == 1 else []
  if stage.max_resample_rounds > 1:
    parts.append(f"until full by {stage.filter_groups_by}, {stage.max_resample_rounds} rounds")
  parts += ["then the answer"] if stage.answer_template else []
  return ", ".join(parts)


def critic(config) -> str:
  if not config.has_critic:
    return "none"
  policy_lambda = ("adaptive" if config.length_adaptive_alpha else f"{config.gae_lambda:g}")
  own = config.gae_lambda if config.critic_lambda is None else config.critic_lambda
  return f"{config.critic}, λ {policy_lambda} (critic {own:g})"


def other_settings(config) -> str:
  parts = [
      (config.entropy_coef, "entropy bonus"), (config.nll_coef, "NLL"),
      (config.mask_truncated, "truncated not trained on"),
      (config.truncated_score is not None, "truncated scored by the batch"),
      (config.advantage_threshold is not None, f"abs(A) > {config.advantage_threshold} only"),
      (config.whiten_rewards, "rewards whitened"), (config.epochs > 1, "several epochs"),
      (config.critic_warmup_steps, "critic first"),
      (config.correction is not None, slot(config.correction))]
  return ", ".join(text for is_on, text in parts if is_on) or "none"


def describe(stage) -> str:
  """`name`: kind, data, function, start."""
  parts = [stage.kind]
  sources = [name for names in stage.data_sources().values() for name in names]
  parts += ["on " + " + ".join(sources)] if sources else []
  for function in (getattr(stage, "select", None), getattr(stage, "search", None),
                   stage.process_reward.loss if stage.kind == "process_reward" else None,
                   stage.preference.loss if stage.kind == "preference" else None,
                   stage.reward_model.loss if stage.kind == "reward_model" else None,
                   stage.distill.divergence if stage.kind == "distill" else None):
    parts += [f"by {slot(function)}"] if function is not None else []
  if stage.kind == "rl" and stage.reward_model:
    parts += [f"rewarded by {stage_of(stage.reward_model) or stage.reward_model}"]
  if stage.kind == "rl" and stage.process_model:
    parts += [f"rewarded for its steps by {stage_of(stage.process_model) or stage.process_model}"]
  start = getattr(stage, "start", "previous")
  parts += [f"from {start}"] if start != "previous" else []
  parts += ["of the teacher"] if getattr(stage, "model", "") else []
  return f"`{stage.name}` ({', '.join(parts)})"


if __name__ == "__main__":
  write()
  sys.stdout.write(f"wrote {DOCUMENT}\n")
