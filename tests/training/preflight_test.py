"""Signs that a run cannot learn: which metrics they are read off. In runs: settings_test.py."""

import dataclasses

import pytest

from rlreason import losses
from rlreason.slots import Slot
from rlreason.training import preflight
from rlreason.training.settings.recipe import from_config
from tests.training import tiny_run

SFT, STAGE = from_config(tiny_run.make_config()).stages  # STAGE is PPO on groups of two
GRPO = dataclasses.replace(STAGE, algorithm=dataclasses.replace(
    STAGE.algorithm, advantage=Slot(losses.group_normalized)))
DAPO = dataclasses.replace(GRPO, max_resample_rounds=2, filter_groups_by="accuracy")
GOOD = {
    "rollout/truncated_fraction": 0.5, "reward/unscored": 1.0, "reward/total/mean": 0.25,
    "reward/total/std": 0.5, "rollout/zero_variance_groups": 0.5, "reward/verifier/mean": 0.25,
    "reward/timeouts": 3.0, "optim/grad_norm": 0.1}


def changed(*left_out, **values):
  values = {name.replace("__", "/"): value for name, value in values.items()}
  return {name: value for name, value in (GOOD | values).items() if name not in left_out}


@pytest.mark.parametrize("stage, values, sign, line", [
    (GRPO, changed(rollout__truncated_fraction=1.0), "truncated",
     "every completion was truncated at sampling.max_new_tokens=12: no end token was ever sampled; "
     "look in samples.jsonl"),
    (GRPO, changed("reward/total/mean", "reward/total/std", reward__unscored=16.0), "unscored",
     "no completion could be scored (timeouts 3, crashes 0, errors 0): all rewards are None"),
    (GRPO, changed(rollout__zero_variance_groups=1.0), "equal",
     "all rewards are equal in every group (means: verifier 0.25): nothing tells good"),
    (DAPO, changed(rollout__zero_variance_groups=1.0), "equal", "all rewards are equal in every"),
    (STAGE, changed(reward__total__std=1e-9), "equal", "all rewards are equal (means: verifier"),
    (GRPO, changed(optim__grad_norm=0.0), "gradient",
     "the gradient is exactly 0: nothing is learned; look at rollout/trained_fraction"),
    (SFT, {"optim/grad_norm": 0.0}, "gradient", "nothing is learned; look at token_weights"),
    # A gradient of 0 follows from what is said already.
    (GRPO, changed(rollout__truncated_fraction=1.0, optim__grad_norm=0.0), "truncated",
     "every completion was truncated at"),
    (GRPO, changed("reward/total/mean", reward__unscored=16.0, optim__grad_norm=0.0), "unscored",
     "no completion could be scored"),
    (GRPO, changed(rollout__zero_variance_groups=1.0, optim__grad_norm=0.0), "equal",
     "all rewards"),
])
def test_each_sign_has_its_line(stage, values, sign, line):
  found = preflight.signs(values, stage)
  assert list(found) == [sign] and line in found[sign]


@pytest.mark.parametrize("stage, values", [
    (GRPO, GOOD), (STAGE, GOOD), (GRPO, {}),
    (GRPO, changed("optim/grad_norm")),  # before the first step there is no update
    (STAGE, changed(rollout__zero_variance_groups=1.0)),  # a critic is another baseline
    (GRPO, changed(optim__grad_norm=1e-30)),
    # In a step it is the verdicts that are equal; rewards may differ, by their lengths.
    (DAPO, changed(rollout__zero_variance_groups=1.0, rollout__rounds=2.0)),
])
def test_a_run_that_can_learn_shows_none(stage, values):
  assert not preflight.signs(values, stage)
