"""Settings that could not do anything, or of which nothing can come, are refused in one line.

One row for each: the section, what is changed in it, and the start of the message. Beside each
stands what is allowed, where that is near.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses
from rlreason.algorithms import presets
from rlreason.data.tasks import chain
from rlreason.losses import advantages as advantages_lib
from rlreason.slots import Slot
from rlreason.training.settings.recipe import from_config
from rlreason.training.stages import checks
from tests.training import tiny_run

SAMPLING = dict(max_new_tokens=8)
OPTIMIZER = dict(learning_rate=1e-3)
VERIFIED = dict(verifier=dict(weight=1.0))
SECTIONS = {  # a section of each kind, allowed as it is
    "sft": dict(kind="sft", steps=4, batch_size=8, length=48, optimizer=OPTIMIZER),
    "rl": dict(
        kind="rl", steps=4, num_prompts=8, group_size=2, sampling=SAMPLING, rewards=VERIFIED,
        algorithm=dict(minibatch_size=8), optimizer=OPTIMIZER),
    "sample": dict(
        kind="sample", steps=4, num_prompts=8, group_size=2, sampling=SAMPLING, rewards=VERIFIED),
    "preference": dict(
        kind="preference", steps=4, batch_size=8, completion_length=8, examples="a.jsonl",
        optimizer=OPTIMIZER, preference=dict(
            loss=dict(function="rlreason.losses:dpo", options=dict(beta=0.1)),
            average_log_probs=False)),
    "reward_model": dict(
        kind="reward_model", steps=4, batch_size=8, completion_length=8, examples="a.jsonl",
        optimizer=OPTIMIZER),
    "distill": dict(
        kind="distill", steps=4, teacher="a", num_prompts=8, sampling=SAMPLING, distill={},
        optimizer=OPTIMIZER),
    "evaluation": dict(num_problems=8),
}
NO_CRITIC = dict(critic="none")
GRPO = dict(critic="none", whiten_advantages=False, advantage=dict(
    function="rlreason.losses:group_normalized"))
PASS_AT_2 = GRPO | dict(
    advantage=dict(function="rlreason.losses:pass_at_k", options=dict(k=2)))

REFUSED = [
    # Every completion is worth as much as any other.
    ("rl", dict(algorithm=GRPO, group_size=1), "group_size: got 1 with algorithm.advantage=group_"),
    ("rl", dict(algorithm=PASS_AT_2), "group_size: got 2 with algorithm.advantage=pass_at_k, whi"),
    ("rl", dict(rewards=dict(verifier=dict(weight=0.0))), "rewards: got the weight 0 for each of"),
    ("rl", dict(sampling=dict(top_k=1), algorithm=dict(recompute_log_probs=True)),
     "sampling.top_k: got 1 with group_size=2"),
    ("rl", dict(sampling=dict(min_p=1.0), algorithm=dict(recompute_log_probs=True)),
     "sampling.min_p: got 1.0 with group_size=2"),
    ("rl", dict(sampling=dict(temperature=0.0)), "sampling.temperature: got 0.0, allowed: above 0"),
    ("rl", dict(max_resample_rounds=2, group_size=1),
     "max_resample_rounds: got 2 with group_size=1"),
    ("sample", dict(sampling=dict(temperature=0.0)), "sampling.temperature: got 0.0 with group_si"),
    ("distill", dict(group_size=2, sampling=dict(temperature=0.0)), "sampling.temperature: got 0"),
    ("evaluation", dict(temperature=0.0), "temperature: got 0 with num_samples=8, allowed: above"),
    *((kind, dict(group_size=1, rewards=dict(kimi_length=dict(weight=1.0))),
       "group_size: got 1 with a reward 'kimi_length', which") for kind in ("rl", "sample")),
    ("rl", dict(reference_path="a", algorithm=dict(kl_coef=0.0)), "reference_path: got 'a' with"),
    ("rl", dict(reference_path="a", algorithm=dict(reference_every=2)), "reference_path: got 'a'"),
    ("rl", dict(answer_template="{answer}", algorithm=GRPO | dict(
        recompute_log_probs=True, advantage=dict(function="rlreason.losses:gdpo"))),
     "answer_template: got '{answer}' with algorithm.advantage=gdpo"),
    ("rl", dict(algorithm=dict(answer_score="mean_prob")),
     "algorithm.answer_score: got 'mean_prob' without answer_template"),
    ("rl", dict(group_size=1, rewards=dict(majority=dict(weight=1.0))),
     "group_size: got 1 with a reward 'majority', which gives 1 for any answer"),
    *((kind, dict(rewards=dict(overlong=dict(options=dict(max_length=10, cache=2)))),
       "rewards.overlong.options.max_length: got 10 with sampling.max_new_tokens=8, allowed: less "
       "than 10 ") for kind in ("rl", "sample")),
    # Nothing learns, or nothing moves.
    ("rl", dict(algorithm=dict(critic_warmup_steps=4)), "algorithm.critic_warmup_steps: got 4, al"),
    ("rl", dict(algorithm=dict(value_coef=0.0)), "algorithm.value_coef: got 0 with a new critic"),
    ("rl", dict(algorithm=dict(value_coef=0.0, critic_warmup_steps=1)),
     "algorithm.critic_warmup_steps: got 1 with value_coef=0"),
    ("rl", dict(algorithm=dict(entropy_target=1.0, entropy_step=0.0)), "algorithm.entropy_step: g"),
    # Gradient passes that make up no batch.
    ("sft", dict(sft=dict(micro_batch_size=3)), "sft.micro_batch_size: got 3, allowed: a diviso"),
    ("preference", dict(preference=dict(micro_batch_size=3)),
     "preference.micro_batch_size: got 3, allowed: a divisor of batch_size=8, or 0"),
    ("reward_model", dict(reward_model=dict(micro_batch_size=3)),
     "reward_model.micro_batch_size: got 3, allowed: a divisor of batch_size=8, or 0"),
    ("distill", dict(distill=dict(micro_batch_size=16)),
     r"distill.micro_batch_size: got 16, allowed: a divisor of num_prompts \* group_size=8, or 0"),
    # What another setting turns off.
    *(("rl", dict(algorithm=NO_CRITIC | {name: value}),
       f"algorithm.{name}: got {value} with critic='none', allowed: .* a critic")
      for name, value in dict(
          critic_lambda=0.5, length_adaptive_alpha=0.5, huber_delta=1.0, critic_warmup_steps=1,
          bootstrap_truncated=True, gae_lambda=0.5, value_clip=0.5, value_coef=0.5).items()),
    ("rl", dict(algorithm=dict(
        length_adaptive_alpha=0.1, critic_lambda=1.0, gae_lambda=0.9)),
     "algorithm.gae_lambda: got 0.9 with length_adaptive_alpha and critic_lambda"),
    ("rl", dict(algorithm=dict(advantage_threshold_normalizer="kept")),
     "algorithm.advantage_threshold_normalizer: got 'kept' w"),
    ("rl", dict(algorithm=dict(constant_length=9)), "algorithm.constant_length: got 9 with aggreg"),
    ("rl", dict(algorithm=dict(whiten_advantages=False, whiten_ddof=1)), "algorithm.whiten_ddof:"),
    ("rl", dict(algorithm=dict(kl_horizon=9.0)), "algorithm.kl_horizon: got 9.0 without kl_target"),
    ("rl", dict(algorithm=dict(kl_coef=0.0, kl_target=1.0)), "algorithm.kl_target: got 1.0 with k"),
    ("rl", dict(algorithm=dict(kl_coef=0.0, reference_every=1)), "algorithm.reference_every: got"),
    ("rl", dict(algorithm=dict(entropy_step=0.1)), "algorithm.entropy_step: got 0.1 without entro"),
    ("rl", dict(algorithm=NO_CRITIC, optimizer=dict(critic_learning_rate=0.1)),
     "optimizer.critic_learning_rate: got 0.1 with algorithm.critic='none'"),
    ("rl", dict(filter_groups_by="accuracy"),
     "filter_groups_by: got 'accuracy' with max_resample_rounds=1, allowed: 're"),
    ("rl", dict(algorithm=NO_CRITIC | dict(whiten_rewards=True)),
     "algorithm.whiten_rewards: got True with whiten_advantages and critic='none'"),
    ("rl", dict(min_reasoning_tokens=5, rewards=dict(exploration=dict(function="math:floor"))),
     "min_reasoning_tokens: got 5 without a reward 'exploration'"),
    ("rl", dict(min_reasoning_tokens=5, rewards=dict(exploration=dict(
        options=dict(c=0.1, unit="tokens", min_length=3)))),
     "min_reasoning_tokens: got 5 beside rewards.exploration.options.min_length, allowed: 1"),
    ("rl", dict(min_reasoning_tokens=5),
     "min_reasoning_tokens: got 5 without a reward 'exploration', allowed:"),
    *(("rl", dict(rewards=dict(random=dict(weight=1.0), verifier=None)) | changes, message)
      for changes, message in [
          (dict(writes_accuracy=True), "writes_accuracy: got True without a reward 'verifier'"),
          (dict(filter_groups_by="accuracy", max_resample_rounds=2),
           "filter_groups_by: got 'accuracy' without a reward"),
          (dict(algorithm=dict(nll_coef=0.1)), "algorithm.nll_coef: got 0.1 without a reward")]),
    ("sft", dict(optimizer=dict(critic_learning_rate=0.1)), "optimizer.critic_learning_rate: got"),
    ("sample", dict(model="a", start="initial"), "start: got 'initial' with a model of its own"),
    ("sample", dict(group_size=1, sampling=dict(temperature=0.0, top_p=0.5)),
     "sampling.top_p: got 0.5 with temperature=0, allowed: 1.0"),
    ("preference", dict(optimizer=dict(critic_learning_rate=0.1)), "optimizer.critic_learning_rat"),
    ("distill", dict(optimizer=dict(critic_learning_rate=0.1)), "optimizer.critic_learning_rate:"),
    ("distill", dict(distill=dict(others="renormalize")), "distill.others: got 'renormalize' with"),
    *((kind, dict(fields=dict(prompt="q"), **source), "fields: got {'prompt': 'q'}, allowed: none")
      for kind, source in [
          ("sft", {}), ("rl", dict(problems="stage:a")), ("sample", {}), ("distill", {}),
          ("preference", dict(examples="stage:a"))]),
    ("distill", dict(examples="a", problems="b"), "problems: got 'b' with examples"),
    ("distill", dict(examples="a", student_fraction=0.0, group_size=2), "group_size: got 2 with s"),
    ("distill", dict(examples="a", student_fraction=0.0, sampling=dict(temperature=0.5)),
     "sampling: got options with student_fraction=0, allowed: max_new_tokens alone"),
    ("evaluation", dict(num_samples=1, temperature=0.0, top_p=0.5), "top_p: got 0.5 with temperat"),
    ("evaluation", dict(num_samples=0, top_p=0.5), "top_p: got 0.5 with num_samples=0, where all"),
    ("evaluation", dict(num_samples=0, temperature=0.5), "temperature: got 0.5 with num_samples=0"),
    ("evaluation", dict(wait="a"), "wait: got 'a' with num_waits=0, allowed: ''"),
    ("evaluation", dict(which_box="first", verifier_options=dict(which_box="last")),
     "verifier_options.which_box: got 'last' beside which_box='first', allowed: one of the two"),
    ("evaluation", dict(answer_tokens=5), "answer_tokens: got 5 without forced_answer, allowed: 1"),
]


def with_changes(section, changes):
  """Sections inside a section are changed, and not replaced; None leaves a part out."""
  merged = dict(section)
  for name, value in changes.items():
    old = merged.get(name)
    merged[name] = with_changes(old, value) if isinstance(value, dict) and old else value
  return {name: value for name, value in merged.items() if value is not None}


def make_recipe(section, changes):
  config = tiny_run.make_config().to_dict()
  config = {name: value for name, value in config.items() if name not in ("sft", "rl", "optimizer")}
  config |= dict(stages=() if section == "evaluation" else (section,))
  return from_config(config | {section: with_changes(SECTIONS[section], changes)})


@pytest.mark.parametrize("section, changes, message", REFUSED)
def test_what_could_not_do_anything_is_refused(section, changes, message):
  make_recipe(section, {})
  with pytest.raises(ValueError) as error:
    make_recipe(section, changes)
  # Messages of a section's own check have a colon before the field.
  text = re.sub(r"^([\w.]+): (?=\w+[.:])", r"\1.", str(error.value))
  assert re.match(f"config.{section}.{message}", text) and "\n" not in text


@pytest.mark.parametrize("section, changes", [
    ("rl", dict(algorithm=GRPO)),
    ("rl", dict(algorithm=NO_CRITIC, group_size=1)),
    ("rl", dict(group_size=1, algorithm=with_changes(
        GRPO, dict(advantage=dict(options=dict(group_of_one="raw")))))),
    ("rl", dict(algorithm=with_changes(PASS_AT_2, dict(advantage=dict(options=dict(k=1)))))),
    ("rl", dict(algorithm=with_changes(GRPO, dict(nll_coef=1.0)), group_size=1)),
    ("rl", dict(algorithm=dict(value_coef=0.0, critic="separate"), critic_path="a")),
    ("rl", dict(steps=0, algorithm=dict(critic_warmup_steps=4))),
    ("rl", dict(filter_groups_by="accuracy", max_resample_rounds=2)),
    ("rl", dict(algorithm=dict(aggregation="constant", constant_length=9))),
    ("rl", dict(algorithm=dict(kl_target=1.0, kl_horizon=9.0))),
    ("rl", dict(algorithm=dict(reference_every=9, reference_decay=0.9))),
    ("rl", dict(algorithm=dict(whiten_rewards=True))),
    ("rl", dict(rewards=dict(overlong=dict(options=dict(max_length=9, cache=2))))),
    ("rl", dict(rewards=dict(kimi_length={}))),
    # A teacher tells the completions of a prompt apart, and tokens within each.
    ("rl", dict(reference_path="a", group_size=1, algorithm=GRPO, rewards=dict(
        verifier=dict(weight=0.0)))),
    ("rl", dict(min_reasoning_tokens=5, allow_length_over_correctness=True, rewards=dict(
        exploration=dict(options=dict(c=0.1, min_length=5))))),  # as config.json records it
    ("distill", dict(group_size=2, distill=dict(micro_batch_size=16))),
    ("sample", dict(group_size=1, sampling=dict(temperature=0.0))),
    ("distill", dict(examples="a", group_size=2, sampling=dict(temperature=0.5))),
    ("distill", dict(distill=dict(top_k=3, others="renormalize"))),
    ("evaluation", dict(num_samples=0, temperature=0.0)),
    ("evaluation", dict(forced_answer="a", answer_tokens=5)),
])
def test_what_stands_beside_it_is_allowed(section, changes):
  make_recipe(section, changes)


@pytest.mark.parametrize("name, value", [
    ("mistakes", 0.5), ("slip", 0.5), ("messy", 0.5), ("meta", True), ("rounds", 2)])
def test_answers_alone_have_no_habits(name, value):
  with pytest.raises(ValueError, match=f"^{name}: got {value} with answers_only, allowed: "):
    chain.ChainConfig(answers_only=True, **{name: value})


def test_a_term_that_a_weight_of_0_turns_off_may_keep_its_options():
  """As where a preset is run without its KL, to see what that does."""
  for preset in (presets.grpo, presets.t1, presets.ppo_rlhf):
    preset(kl_coef=0.0, kl_target=None, reference_every=0, kl_horizon=10_000.0)
  presets.t1(reference_every=0)  # with its reference_decay
  presets.latro(nll_coef=0.0)  # with its nll_aggregation
  presets.grpo_of("verl", kl_coef=0.0)  # with its clamps


def test_every_advantage_is_known_to_be_zero_or_not_in_small_groups():
  """Each function of the module, of groups of one and two; `is_always_zero` says what it gives."""
  slots, random = [], np.random.default_rng(0)
  for name, function in vars(advantages_lib).items():
    parameters = inspect.signature(function).parameters if inspect.isfunction(function) else ()
    if "is_kept" in parameters and not name.startswith("_"):
      options = {"k": 2} if "k" in parameters else {}
      raw = [options | {"group_of_one": "raw"}] if "group_of_one" in parameters else []
      slots += [Slot(function, given) for given in [options, *raw]]
  assert len(slots) >= 12

  @jax.jit  # one program, which takes a second to compile
  def are_zero(scores):
    arrays = dict(
        scores=scores, is_kept=jnp.ones(scores.shape, bool), lengths=jnp.ones(scores.shape),
        greedy_scores=jnp.zeros(len(scores)), parts=scores[..., None], part_weights=jnp.ones(1))
    return [jnp.all(slot(**arrays) == 0) for slot in slots]

  for size in (1, 2, 3):
    found = are_zero(random.normal(size=(20, size)).astype(np.float32))
    assert list(map(bool, found)) == [
        losses.is_always_zero(slot.function, slot.options, size) for slot in slots], size


def test_filters_that_every_token_passes_are_refused():
  checks.check_top_k(24, 25)
  checks.check_bigrams((((1, 99), (24,)),), 25)
  with pytest.raises(ValueError, match=r"sampling.blocked_bigrams: got \(\(1,\), \(25,\)\), allow"):
    checks.check_bigrams((((1,), (25,)),), 25)
  with pytest.raises(ValueError, match="sampling.top_k: got 25, allowed: less than the 25 tokens"):
    checks.check_top_k(25, 25)
