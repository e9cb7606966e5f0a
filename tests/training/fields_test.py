"""Every field of a config, given values that it cannot have: one line each, with its path."""

import copy
import functools
import math
import time

import pytest

from rlreason.training.settings.recipe import from_config

_OPTIMIZER = dict(
    learning_rate=1e-3, warmup_steps=0, schedule="cosine", b1=0.9,
    b2=0.95, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0)
_SAMPLING = dict(max_new_tokens=6, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, weights="full")


_ALGORITHM = dict(
    epochs=1, minibatch_size=16, micro_batch_size=0, discount=1.0, gae_lambda=0.95, kl_coef=0.1,
    kl_target=1.0, kl_horizon=100.0, kl_clamp=5.0, entropy_coef=0.01, entropy_target=1.0,
    nll_coef=0.1, value_clip=0.2, value_coef=0.1, huber_delta=1.0, truncated_score=0.5,
    advantage_threshold=0.1, reference_decay=0.5, critic_warmup_steps=1, length_adaptive_alpha=0.1,
    critic="shared", policy_loss=dict(
        function="rlreason.losses:clipped_surrogate", options=dict(clip_low=0.2)))
_REWARDS = dict(
    verifier=dict(weight=1.0, options=dict(no_box_score=-0.5)),
    exploration=dict(weight=0.0, options=dict(c=4.0, unit="tokens")))
_PAIRS = dict(steps=2, batch_size=8, completion_length=6, examples="a.jsonl", optimizer=_OPTIMIZER)
_PROMPTS = dict(
    steps=2, num_prompts=8, group_size=2, sampling=_SAMPLING, start="initial", problems="")
STAGES = dict(
    sft=dict(kind="sft", steps=3, batch_size=8, length=16, num_examples=64, optimizer=_OPTIMIZER,
             token_weights=dict(a=1.0), start="initial", examples="", sft=dict(micro_batch_size=0)),
    rl=_PROMPTS | dict(
        kind="rl", reward_clip=(-1.0, 1.0), algorithm=_ALGORITHM, min_reasoning_tokens=1,
        max_resample_rounds=1,
        filter_groups_by="reward", critic_path="", writes_accuracy=True, optimizer=_OPTIMIZER,
        reward_model="", rewards=_REWARDS, allow_length_over_correctness=False),
    sample=_PROMPTS | dict(kind="sample", rewards=_REWARDS, reward_clip=(-1.0, 1.0), model=""),
    dpo=_PAIRS | dict(kind="preference", preference=dict(
        average_log_probs=False, nll_coef=0.0,
        loss=dict(function="rlreason.losses:dpo", options=dict(beta=0.1)))),
    scorer=_PAIRS | dict(kind="reward_model", standardize=True),
    distill=_PROMPTS | dict(
        kind="distill", teacher="nowhere", student_fraction=1.0, examples="", optimizer=_OPTIMIZER,
        distill=dict(temperature=1.0, top_k=0, others="bucket", divergence=dict(
            function="rlreason.losses:generalized_jsd", options=dict(beta=0.5)))))
COMMON = dict(
    seed=3, prompt_buckets=(8,), samples_per_step=2, reward_workers=2, reward_timeout=5.0,
    max_skipped_in_a_row=3,
    model=dict(
        kind="new", width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=16,
        max_positions=64, rope_theta=1e4, unroll=1, remat="none", dtype="float32"),
    task=dict(kind="chain", problems=dict(
        min_steps=1, max_steps=1, modulus=2, num_validation=1, num_test=2, mistakes=0.1, seed=3,
        num_train=40, distractors=0, rounds=1)),
    evaluation=dict(
        num_problems=2, batch_size=8, max_new_tokens=6, num_samples=0, temperature=1.0, top_p=1.0,
        split="test", num_waits=0),
    checkpoint=dict(every_steps=2, max_to_keep=2),
    lora=dict(rank=2, alpha=4.0, base="full", targets=("q", "v")),
    parallel=dict(mode="jit", data=-1, fsdp=1, tensor=1, cpu_devices=0))


def leaves(value, path=()):
  if isinstance(value, dict):
    for name, inner in value.items():
      yield from leaves(inner, (*path, name))
  else:
    yield path


def changed(path, value):
  """The common part and one stage, with one field of the two changed."""
  stage = path[0] if path[0] in STAGES else "sft"
  config = copy.deepcopy(COMMON | {"stages": (stage,), stage: STAGES[stage]})
  *sections, name = path
  functools.reduce(lambda node, section: node[section], sections, config)[name] = value
  return config


def value_at(path):
  return functools.reduce(lambda node, name: node[name], path, COMMON | STAGES)


PATHS = list(leaves(COMMON | STAGES))
VALUES = (math.nan, math.inf, -1, 0, 1e300, 1e-40, 2**70, "", None, [], object(), -0.5)


def test_the_configs_are_good_ones():
  for stage in STAGES:
    from_config(changed((stage, "steps"), 2))
  assert len(PATHS) > 150


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_a_wrong_value_is_one_line_with_the_path(path):
  refused = 0
  started = time.process_time()
  for value in VALUES:
    try:
      from_config(changed(path, value))
    except ValueError as error:
      message = str(error)
      assert "\n" not in message and len(message) < 1000, message
      # Of two fields that do not go together the message may begin with the other one.
      assert message.startswith(f"config.{path[0]}"), message
      assert path[-1] in message or f"config.{'.'.join(path[:-1])}" in message, message
      refused += 1
  assert refused >= 3  # what is of another type at least
  assert time.process_time() - started < len(VALUES)  # a second each


FLOATS = [path for path in PATHS if isinstance(value_at(path), float)]


@pytest.mark.parametrize("path", FLOATS, ids=".".join)
def test_a_number_is_finite_and_such_as_float32_holds(path):
  for value in (math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-40):
    with pytest.raises(ValueError) as error:
      from_config(changed(path, value))
    assert ".".join(("config", *path)) in str(error.value)
