"""Rows of a run of TRL's GRPOTrainer through `replay`, against what TRL itself logged of them.

`benchmarks/trl_rows.py` made `trl_rows/`: four updates, the second and the fourth on rollouts that
the policy has moved away from; the version of TRL and its settings are in `trl.json`.
"""

import json
import pathlib
import shutil

import pytest

import rlreason as rr
from rlreason import losses
from rlreason.algorithms import presets
from rlreason.slots import Slot

FOLDER = pathlib.Path(__file__).parent / "trl_rows"
TRL = json.loads((FOLDER / "trl.json").read_text())
SETTINGS = TRL["settings"]
# TRL's defaults where `beta` is not 0.
DEFAULTS = dict(
    kl_coef=SETTINGS["beta"], kl_placement="loss", kl_estimator="k3", unbiased_kl=True,
    minibatch_size=8)
CLIP = {"clip_low": 0.2, "clip_high": 0.2}
# What TRL was asked for -> ours.
VARIANTS = {
    "grpo": dict(aggregation="sequence-mean"),
    "bnpo": dict(aggregation="token-mean"),
    "dr_grpo": dict(
        aggregation="constant", constant_length=SETTINGS["max_completion_length"]),
    "no bias correction": dict(unbiased_kl=False),
    "delta": dict(policy_loss=Slot(losses.clipped_surrogate, CLIP | {"dual_clip": 1.3})),
    "cispo": dict(policy_loss=Slot(losses.cispo, {"clip_low": 1.0, "clip_high": 0.1})),
    "sequence": dict(
        policy_loss=Slot(losses.gspo, CLIP), aggregation="sequence-mean", unbiased_kl=False),
    "luspo": dict(
        policy_loss=Slot(losses.gspo, CLIP), aggregation="sequence-sum", unbiased_kl=False),
    "sapo": dict(policy_loss=Slot(losses.sapo), aggregation="sequence-mean"),
    "vespo": dict(policy_loss=Slot(losses.vespo)),
    "off-policy mask": dict(
        correction=Slot(losses.off_policy_mask, {"threshold": 0.05}), recompute_log_probs=True),
}


def replay(step, folder, fields=("reward",), **changes):
  """Our numbers of the rows of a step, of which some fields are left out."""
  model = folder / "model"
  model.mkdir()
  for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
    shutil.copy(FOLDER / name, model / name)
  shutil.copy(FOLDER / f"step{step}.safetensors", model / "model.safetensors")
  rows = [json.loads(line) for line in (FOLDER / f"step{step}.jsonl").open()]
  for row in rows:
    for name in {"reward", "advantages"} - set(fields):
      del row[name]
  file = folder / "rows.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rr.replay({
      "seed": 0, "stages": ["rl"], "prompt_buckets": [8], "task": {"kind": "countdown"},
      "evaluation": {"num_samples": 0}, "parallel": {"data": 1},
      "model": {"kind": "pretrained", "path": str(model)},
      "rl": {"kind": "rl", "steps": 1, "num_prompts": 2, "group_size": SETTINGS["num_generations"],
             "sampling": {"max_new_tokens": SETTINGS["max_completion_length"],
                          "temperature": SETTINGS["temperature"]},
             "rewards": {"verifier": {"weight": 1.0}}, "optimizer": {"learning_rate": 1e-3},
             "algorithm": presets.grpo_of("TRL", **DEFAULTS | changes)}}, file)


def close(value):
  return pytest.approx(value, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_step_is_what_trl_logged(step, tmp_path):
  logged = TRL["steps"][step - 1]
  found = replay(step, tmp_path)
  assert found["loss/total"] == close(logged["loss"])
  assert found["loss/kl"] == close(logged["kl"])  # with the ratio, as TRL logs it
  assert found["optim/grad_norm"] == close(logged["grad_norm"])
  assert found["policy/entropy"] == close(logged["entropy"])
  for side in ("low", "high"):
    assert found[f"policy/clip_fraction_{side}"] == close(logged[f"clip_ratio/{side}_mean"])
  assert (found["policy/ratio_error"] > 0.1) == (step in (2, 4))


def test_each_setting_of_trl_has_one_of_ours():
  assert set(VARIANTS) == set(TRL["variants"])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_loss_of_other_settings_is_that_of_trl(name, tmp_path):
  logged = TRL["variants"][name]
  found = replay(4, tmp_path, **VARIANTS[name])
  assert found["loss/total"] == close(logged["loss"])
  assert found["optim/grad_norm"] == close(logged["grad_norm"])


def test_advantages_of_trl_in_the_place_of_rewards(tmp_path):
  found = replay(4, tmp_path, fields=("advantages",))
  assert found["loss/total"] == close(TRL["steps"][3]["loss"])
  assert found["optim/grad_norm"] == close(TRL["steps"][3]["grad_norm"])
