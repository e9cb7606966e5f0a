"""The library's front door, as a user's own program calls it."""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlreason as rr
from rlreason import api, config as config_lib, config_files, models, weights
from rlreason.data.tasks import countdown
from rlreason.tokenizers import WordTokenizer

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / "tests" / "tiny_experiment.py")
PROMPTS = ["3 7 12 target 45 :", "1 2 3 target 6 :"]
TEMPLATE = "{% for message in messages %}{{ message.content }} : {% endfor %}"


def untrained_config():
  """A plain dict, and a run without stages: the model is made and measured."""
  fields = config_lib.to_dict(config_files.load_config_file(CONFIG))
  names = ("seed", "model", "task", "prompt_buckets", "evaluation")
  return {name: fields[name] for name in names} | {"stages": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A random Countdown model, as a run leaves it."""
  tokenizer = WordTokenizer.from_words(
      countdown.vocabulary(countdown.CountdownConfig()), chat_template=TEMPLATE)
  config = models.ModelConfig(
      vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, num_kv_heads=1,
      head_dim=8, mlp_width=32, max_positions=128)
  path = tmp_path_factory.mktemp("api") / "runs" / "rlsp_countdown" / "models" / "sft"
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  weights.save_model(path, config, params, tokenizer)
  return path


@pytest.fixture(scope="module")
def policy(folder):
  return rr.load(folder)


def test_the_import_is_light():
  code = (
      "import sys, time; start = time.process_time(); import rlreason; "
      "light = time.process_time() - start, 'jax' in sys.modules; "
      "rlreason.load, rlreason.losses.gae, rlreason.rewards.verify, rlreason.PolicyGradientConfig; "
      "print(light[0] < 3, light[1], [name for name in ('tensorflow_datasets', 'reasoning_gym', "
      "'torch', 'tensorflow', 'math_verify') if name in sys.modules]); "
      "import rlreason.rewards.verifier")
  out = subprocess.run(
      [sys.executable, "-c", code], check=True, capture_output=True, text=True,
      cwd=ROOT).stdout
  assert out.split("\n")[0] == "True False []"


def test_all_names_exist():
  assert set(dir(rr)) >= {"load", "sample", "evaluate", "train", "convert", "losses", "rewards"}
  for name in dir(rr):
    assert getattr(rr, name) is not None
  with pytest.raises(AttributeError, match="no attribute 'evalute'"):
    rr.evalute  # pylint: disable=pointless-statement


def test_greedy_samples_are_what_a_forward_pass_says(policy):
  samples = rr.sample(policy, PROMPTS, jax.random.key(0), max_new_tokens=6, temperature=0.0)
  prompts = jnp.array([policy.tokenizer.encode(prompt) for prompt in PROMPTS])
  tokens = jnp.concatenate([prompts, samples.rollout.completion_tokens], axis=1)
  hidden = jax.jit(models.forward, static_argnums=0)(
      policy.config, policy.params, tokens, jnp.ones(tokens.shape, bool))
  expected = jnp.argmax(models.logits(policy.config, policy.params, hidden[:, :-1]), axis=-1)
  for row, length in enumerate(samples.lengths):
    found = samples.rollout.completion_tokens[row, :length]
    np.testing.assert_array_equal(found, expected[row, prompts.shape[1] - 1:][:length])
    assert samples.completions[row] == policy.tokenizer.decode(found)


def test_groups_follow_their_prompts_and_keys(policy):
  draw = functools.partial(rr.sample, policy, max_new_tokens=6, group_size=3)
  samples = draw(PROMPTS, jax.random.key(1))
  assert len(samples.completions) == 6 and len(set(samples.completions)) > 1
  assert samples.lengths.shape == (6,) and samples.lengths.max() <= 6
  first = policy.tokenizer.encode(PROMPTS[0])
  assert samples.rollout.prompt_tokens[2, -len(first):].tolist() == first
  assert draw(PROMPTS, jax.random.key(1)).completions == samples.completions
  assert draw(PROMPTS, jax.random.key(2)).completions != samples.completions
  assert draw(PROMPTS[:1], jax.random.key(1)).completions == samples.completions[:3]


def test_a_second_call_of_the_same_shape_compiles_nothing(policy):
  draw = lambda prompt, seed: rr.sample(
      policy, [prompt], jax.random.key(seed), group_size=2, max_new_tokens=7, temperature=0.7)
  draw(PROMPTS[0], 0)
  before = api._sample._cache_size()
  draw("1 2 3 4 target 6 :", 1)  # another length, in the same bucket
  assert api._sample._cache_size() == before


def test_chat_messages_go_through_the_template(policy):
  message = [{"role": "user", "content": "3 7 12 target 45"}]
  key = jax.random.key(0)
  chat = rr.sample(policy, [message], key, max_new_tokens=4)
  assert chat.completions == rr.sample(policy, [PROMPTS[0]], key, max_new_tokens=4).completions


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(prompts="3 7"), "prompts: got '3 7', allowed: a list"),
        (dict(prompts=[]), r"prompts: got \[\], allowed: a list"),
        (dict(prompts=PROMPTS, group_size=0), "group_size: got 0, allowed: 1 or more"),
        (dict(prompts=PROMPTS, max_new_tokens=125), "allowed: 128 together"),
        (dict(prompts=PROMPTS, top_p=0.0), "top_p: got 0.0"),
    ])
def test_sampling_that_cannot_be_done_is_refused(policy, arguments, message):
  with pytest.raises(ValueError, match=message):
    rr.sample(policy, key=jax.random.key(0), **{"max_new_tokens": 4, **arguments})


def test_one_formula_and_one_verdict():
  assert rr.rewards.verify(["so \\boxed{15}", "\\boxed{14}", "15"], ["15"] * 3) == [1.0, 0.0, 0.0]
  # By hand, with λ = 1 and γ = 1: the return is what comes after, the advantage return - value.
  rewards, values = jnp.array([[0.0, 1.0, 9.0]]), jnp.array([[0.25, 0.5, 9.0]])
  mask = jnp.array([[True, True, False]])
  advantages, returns = rr.losses.gae(rewards, values, mask, discount=1.0, gae_lambda=1.0)
  np.testing.assert_allclose(advantages, [[0.75, 0.5, 0.0]])
  np.testing.assert_allclose(returns, [[1.0, 1.0, 0.0]])


def test_the_readme_runs(folder, policy, monkeypatch):
  """Its library section as it stands: load, sample, verify, train, and PPO in one's own loop."""
  section = (ROOT / "README.md").read_text().partition("## Library")[2].partition("\n## ")[0]
  first, second, third = [part.partition("```")[0] for part in section.split("```python")[1:]]
  monkeypatch.chdir(folder.parents[3])
  names = {"config": untrained_config()}
  exec(first, names)  # pylint: disable=exec-used
  assert names["scores"] == [1.0] and len(names["samples"].completions) == 8
  assert names["summary"]["stages"][0]["name"] == "start"
  exec(second, names)  # pylint: disable=exec-used
  total, count = names["metrics"]["policy/ratio_error"]
  assert total / count < 1e-5  # the sampler's log-probs are the update's
  assert names["state"].step == 10
  assert rr.reduce_metrics(names["metrics"])["policy/ratio_error"] == pytest.approx(total / count)
  for program in ("score", "make_batch", "update"):
    assert names[program]._cache_size() == 1, f"{program} was compiled again"
  moved = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), policy.params, names["state"].params["policy"])
  assert max(jax.tree.leaves(moved)) > 1e-4
  exec(third, names)  # pylint: disable=exec-used
  sample = lambda policy: rr.sample(
      policy, ["3 7 12 target 45 :"], jax.random.key(0), max_new_tokens=8).completions
  assert sample(names["adapted"]) == sample(policy)  # new adapters change nothing


def test_evaluation_of_any_model_on_the_task_of_a_recipe(policy, monkeypatch, tmp_path):
  config = config_files.load_config_file(CONFIG)
  summary = rr.evaluate(policy, config, name="tiny")
  (stage,) = summary["stages"]
  assert stage["name"] == "tiny" and stage["steps"] == 0
  assert {"greedy", "pass@2", "maj@2", "backtracks"} <= set(stage["evaluation"]["countdown"])
  json.dumps(summary, allow_nan=False)
  file = tmp_path / "completions.jsonl"
  assert rr.evaluate(policy, rr.from_config(config), name="tiny", completions=file) == summary
  assert len(file.read_text().splitlines()) == 8 * 3
  assert summary["provenance"]["seed"] == 0 and "key" not in summary["provenance"]
  made = rr.evaluate(policy, config, key=jax.random.key(7))["provenance"]
  assert made["seed"] is None and made["key"] == [0, 7]
  # Nothing could be scored: nulls, for JSON has no NaN.
  unscored = lambda self, prompts, *_, **__: [None] * len(prompts)
  monkeypatch.setattr(rr.rewards.CountdownVerifier, "__call__", unscored)
  (stage,) = rr.evaluate(policy, config)["stages"]
  assert stage["evaluation"]["countdown"]["greedy"] == dict(value=None, low=0.0, high=1.0, n=0)
  assert stage["evaluation"]["countdown"]["avg@2"] == dict(value=None, low=0.0, high=1.0, n=0)
  config.evaluation.max_new_tokens = 128
  with pytest.raises(ValueError, match="allowed: 128 together, the positions of the model"):
    rr.evaluate(policy, config)
