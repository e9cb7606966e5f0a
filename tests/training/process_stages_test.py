"""From solutions to labels of steps, to a model of them, to RL: whole stages on a tiny policy."""

import json
import pathlib

from ml_collections import config_dict
import pytest

from rlreason import losses, weights
from rlreason.algorithms import presets
from rlreason.data.tasks import chain
from rlreason.rollout import step_labels
from rlreason.slots import Slot
from rlreason.training import report, run as run_lib
from rlreason.training.settings.recipe import from_config

PROBLEMS = chain.ChainConfig(
    min_steps=2, max_steps=4, mistakes=0.7, num_validation=8, num_test=8)
SAMPLING = dict(max_new_tokens=40)


def make_config(**stages):
  config = config_dict.ConfigDict()
  config.seed = 1
  config.model = dict(
      kind="new", width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=32)
  config.task = dict(kind="chain", problems=dict(
      min_steps=2, max_steps=4, num_validation=8, num_test=8))
  config.prompt_buckets = (12,)
  config.parallel = dict(data=1)
  config.preflight = False
  config.evaluation = dict(num_problems=4, batch_size=4, max_new_tokens=8, num_samples=2)
  config.stages = tuple(stages)
  for name, stage in stages.items():
    config[name] = stage
  return config


def process_reward(**changes):
  return dict(kind="process_reward", steps=2, batch_size=8, completion_length=40,
              step_separator=";", optimizer=dict(learning_rate=3e-3)) | changes


def rl(**changes):
  return dict(
      kind="rl", steps=2, num_prompts=2, group_size=4, sampling=dict(max_new_tokens=16),
      rewards=dict(process=dict(weight=1.0, step_separator=";"), verifier=dict(weight=0.0)),
      algorithm=presets.dr_grpo(max_length=16, minibatch_size=8),
      optimizer=dict(learning_rate=1e-3)) | changes


def write_labels(path: pathlib.Path, count=400):
  """Solutions, half of them with a wrong step, and the truth about each of their lines."""
  demonstrations = chain.ChainDemonstrations(PROBLEMS, count)
  lines = []
  for i in range(count):
    row = demonstrations[i]
    words = row["completion"].split()
    found = chain.read_steps(chain.read_prompt(row["prompt"]), words)
    starts = [0, *(step.end for step in found)]
    lines.append(json.dumps({
        "prompt": row["prompt"], "labels": [step.is_right for step in found],
        "steps": [" ".join(words[a:b]) for a, b in zip(starts, starts[1:])]}) + "\n")
  path.write_text("".join(lines))


def metrics_of(workdir, stage):
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [line for line in lines if line["stage"] == stage]


@pytest.fixture(scope="module", name="labels")
def labels_fixture(tmp_path_factory):
  path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
  write_labels(path)
  return path


def test_a_model_of_labels_pays_in_rl_by_its_steps(labels, tmp_path):
  config = make_config(prm=process_reward(examples=str(labels), steps=6),
                       rl=rl(process_model="stage:prm"))
  run_lib.train(from_config(config), tmp_path)
  last = metrics_of(tmp_path, "prm")[-1]
  assert {name.removeprefix("process_reward/held_out/") for name in last if "held_out" in name} >= {
      "accuracy", "auc", "calibration_error", "first_error_f1", "steps"}
  assert last["process_reward/held_out/steps"] > 50
  found = json.loads((tmp_path / "models/prm/step_metrics.json").read_text())
  assert found["metrics"]["auc"] == pytest.approx(last["process_reward/held_out/auc"], abs=1e-5)
  fields = json.loads((tmp_path / "models/prm/config.json").read_text())
  assert fields["architectures"] == ["LlamaForTokenClassification"]
  step = metrics_of(tmp_path, "rl")[0]
  assert "reward/process/mean" in step and "reward/within/mean" in step
  assert {path.name for path in report.make_plots(tmp_path)} >= {"calibration_prm.png"}


def test_a_model_of_ratings_is_kept_with_its_classes(labels, tmp_path):
  rows = [json.loads(line) for line in labels.read_text().splitlines()]
  path = tmp_path / "ratings.jsonl"
  path.write_text("".join(json.dumps(row | {"labels": [
      1 if label else -1 for label in row["labels"]]}) + "\n" for row in rows))
  stage = process_reward(examples=str(path), process_reward=dict(
      loss=Slot(losses.three_way_cross_entropy), micro_batch_size=4))
  run_lib.train(from_config(make_config(prm=stage)), tmp_path / "run")
  _, params, _ = weights.load_scalar_model(
      tmp_path / "run/models/prm", labels=weights.STEP_LABELS)
  assert params["value_head"]["kernel"].shape == (16, 3)


@pytest.mark.parametrize("search", ["every_step", "first_error", "omega_tree"])
def test_solutions_are_labelled_and_learned_from(search, labels, tmp_path):
  """The policy is random, so that a verifier of its own decides: an even number of characters."""
  solutions = tmp_path / "solutions.jsonl"
  rows = [json.loads(line) for line in labels.read_text().splitlines()][:24]
  solutions.write_text("".join(json.dumps({
      "prompt": row["prompt"], "answer": "1", "completion": " ".join(row["steps"])}) + "\n"
                               for row in rows))
  even = dict(verifier=dict(weight=1.0, function="tests.every_stage:is_even"))
  config = make_config(
      labels=dict(kind="label_steps", steps=2, num_prompts=4, num_completions=4,
                  examples=str(solutions), step_separator=";", sampling=SAMPLING, rewards=even,
                  search=Slot(getattr(step_labels, search))),
      prm=process_reward(examples="stage:labels", steps=1, held_out_share=0.0))
  run_lib.train(from_config(config), tmp_path / "run")
  data = [json.loads(line)
          for line in (tmp_path / "run/data/labels.jsonl").read_text().splitlines()]
  assert data
  for row in data:
    assert len(row["steps"]) == len(row["labels"]) and "".join(row["steps"]) == row["completion"]
    assert row["labels"][-1] == row["is_right"] or search == "first_error"
  counts = metrics_of(tmp_path / "run", "labels")[0]
  assert 0 < counts["labels/tokens_computed"] < counts["labels/tokens_naive"]


def test_what_a_stage_of_steps_refuses(labels, tmp_path):
  recipe = lambda **stages: run_lib.train(from_config(make_config(**stages)), tmp_path / "run")
  with pytest.raises(ValueError, match="rl.process_model: got '' with a reward 'process', allowed"):
    recipe(rl=rl())
  with pytest.raises(ValueError, match="process_model: got 'sft', allowed: earlier stages"):
    recipe(rl=rl(process_model="stage:sft"))
  shares = tmp_path / "shares.jsonl"
  shares.write_text(json.dumps({"prompt": "3 + 4 = ?", "steps": ["3 + 4 = 7 ;"], "labels": [0.5]}))
  with pytest.raises(ValueError, match="labels: got the share 0.5, allowed: ratings -1, 0 and 1"):
    recipe(prm=process_reward(examples=str(shares), process_reward=dict(
        loss=Slot(losses.three_way_cross_entropy))))
  with pytest.raises(ValueError, match="held_out_share: got one problem alone"):
    recipe(prm=process_reward(examples=str(shares)))
  for field, value, allowed in (
      ("held_out_share", 1.0, "0 to below 1"), ("threshold", 0.0, "above 0 and below 1"),
      ("step_separator", "", "text"), ("batch_size", 0, "above 0")):
    with pytest.raises(ValueError, match=f"{field}: got {value!r}, allowed: {allowed}"):
      recipe(prm=process_reward(examples=str(labels), **{field: value}))
  with pytest.raises(ValueError, match="with a loss of ratings"):
    recipe(prm=process_reward(examples=str(labels), neutral="none", process_reward=dict(
        loss=Slot(losses.three_way_cross_entropy))))
  with pytest.raises(ValueError, match="rewards: got .*, allowed: verifier"):
    recipe(labels=dict(
        kind="label_steps", steps=1, num_prompts=2, examples=str(labels), sampling=SAMPLING,
        search=Slot(step_labels.every_step), rewards=dict(format=dict(weight=1.0))))


def test_a_reward_model_learns_from_rankings_and_weights(tmp_path):
  path = tmp_path / "rankings.jsonl"
  path.write_text("".join(json.dumps({
      "prompt": f"{i % 9} + 4 = ?", "ranking": ["\\boxed{ 7 }", "answer 7", "7"][:2 + i % 2],
      "weight": 1 + i % 3}) + "\n" for i in range(12)))
  stage = dict(
      kind="reward_model", steps=2, batch_size=4, completion_length=8, examples=str(path),
      reward_model=dict(loss=Slot(losses.ranking)), optimizer=dict(learning_rate=1e-3))
  run_lib.train(from_config(make_config(orm=stage)), tmp_path / "run")
  assert metrics_of(tmp_path / "run", "orm")[0]["loss/reward_model"] > 0
  path.write_text(json.dumps({"prompt": "1 + 4 = ?", "ranking": ["7", "8"], "weight": -1}) + "\n")
  with pytest.raises(ValueError, match="weight: got -1, allowed: a number of 0 or more"):
    run_lib.train(from_config(make_config(orm=stage)), tmp_path / "other")
