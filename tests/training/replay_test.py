"""Rows of another trainer, with losses that can be worked out by hand."""

import json
import math

import jax
import numpy as np
import pytest

import rlreason as rr
from rlreason import config as config_lib, main, models, weights
from rlreason.algorithms import presets
from rlreason.data.tasks import countdown
from rlreason.tokenizers import WordTokenizer
from rlreason.training import replay, replay_rows

VOCABULARY = countdown.vocabulary(countdown.CountdownConfig())


@pytest.fixture(scope="module", name="model")
def model_fixture(tmp_path_factory):
  """A model whose words are all as likely as each other: its head is zeros."""
  tokenizer = WordTokenizer.from_words(VOCABULARY)
  config = models.ModelConfig(
      vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, num_kv_heads=1,
      head_dim=8, mlp_width=32, max_positions=16, tie_embeddings=False)
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  params["lm_head"] = jax.tree.map(np.zeros_like, params["lm_head"])
  folder = tmp_path_factory.mktemp("replay") / "model"
  weights.save_model(folder, config, params, tokenizer)
  return folder


def log_prob():
  """Of each token, in nats."""
  return -math.log(WordTokenizer.from_words(VOCABULARY).vocab_size)


def make_config(algorithm, group_size=2):
  return {
      "seed": 0, "stages": ["rl"], "prompt_buckets": [8],
      "task": {"kind": "countdown"}, "evaluation": {"num_samples": 0},
      "model": {"kind": "new", "width": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1,
                "head_dim": 8, "mlp_width": 32},
      "parallel": {"data": 1},
      "rl": {"kind": "rl", "steps": 1, "num_prompts": 2, "group_size": group_size,
             "sampling": {"max_new_tokens": 8}, "rewards": {"verifier": {"weight": 1.0}},
             "algorithm": algorithm, "optimizer": {"learning_rate": 1e-3}}}


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def row(length, **fields):
  return {"prompt_ids": [4, 5, 6], "completion_ids": [7] * length, **fields}


GRPO = presets.grpo(minibatch_size=4, kl_coef=0.0, aggregation="token-mean")


def test_a_clipped_loss_by_hand(model, tmp_path):
  """Ratios of 2 with an advantage of 1, clipped to 1.2, and of 1 with one of -0.5."""
  old = log_prob()
  rows = write(tmp_path / "rows.jsonl", [
      row(1, old_log_probs=[old - math.log(2)], advantages=1),
      row(3, old_log_probs=[old] * 3, advantages=[-0.5, -0.5, -0.5])])
  found = rr.replay(make_config(GRPO), rows, model=model)
  assert found["loss/policy"] == pytest.approx(-(1.2 - 3 * 0.5) / 4, rel=1e-5)
  assert found["loss/total"] == found["loss/policy"]
  assert found["policy/clip_fraction_high"] == 0.25
  assert found["policy/ratio_error"] == pytest.approx(0.25, rel=1e-4)  # 1 of one token in four
  assert found["policy/advantage_abs"] == pytest.approx((1 + 1.5) / 4)
  assert found["policy/entropy"] == pytest.approx(-old, rel=1e-5)
  assert (found["rows"], found["tokens"]) == (2, 4)
  # Only the head's gradient is not 0: of the clipped token there is none, so that its advantage
  # changes nothing.
  other = write(tmp_path / "other.jsonl", [
      row(1, old_log_probs=[old - math.log(2)], advantages=9),
      row(3, old_log_probs=[old] * 3, advantages=-0.5)])
  again = rr.replay(make_config(GRPO), other, model=model)
  assert 0 < again["optim/grad_norm"] == pytest.approx(found["optim/grad_norm"], rel=1e-5)


def test_tokens_that_were_given_have_no_part_in_the_loss(model, tmp_path):
  """What a tool said, in the middle of a completion: whatever stands there, the loss stays."""
  given = lambda wrong: write(tmp_path / "rows.jsonl", [
      row(4, old_log_probs=[log_prob(), wrong, wrong, log_prob() - math.log(2)],
          advantages=[1, wrong, wrong, 1], action_mask=[1, 0, 0, 1]),
      row(1, old_log_probs=[log_prob()], advantages=-0.5, action_mask=[1])])
  found = rr.replay(make_config(GRPO), given(0.0), model=model)
  assert found["loss/policy"] == pytest.approx(-(1 + 1.2 - 0.5) / 3, rel=1e-5)
  assert found["policy/advantage_abs"] == pytest.approx(2.5 / 3) and found["tokens"] == 3
  assert found == rr.replay(make_config(GRPO), given(-7.0), model=model)


def test_rewards_become_advantages_of_their_groups(model, tmp_path):
  """Rows of two groups, not in their order; 1 and 0 of a group are 0.7071 and -0.7071."""
  rows = [row(2, reward=1.0, group="b"), row(1, reward=1, group="a"),
          row(2, reward=0.0, group="b"), row(1, reward=1, group="a")]
  found = rr.replay(make_config(GRPO), write(tmp_path / "rows.jsonl", rows), model=model)
  assert found["loss/policy"] == pytest.approx(0, abs=1e-6)  # of tokens of the policy itself
  assert found["policy/advantage_abs"] == pytest.approx(4 * 0.7071 / 6, rel=1e-3)
  assert found["policy/ratio_error"] == 0.0  # old log-probs are the model's own
  # A row without a reward is left out.
  rows[0] = rows[0] | {"reward": None}
  read = replay_rows.read(write(tmp_path / "rows.jsonl", rows), vocab_size=9, group_size=2)
  outcome = replay._outcome(read)
  assert outcome.is_scored.tolist() == [False, True, True, True]
  assert outcome.scores.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_reference_and_a_critic_of_the_rows(model, tmp_path):
  """The reference gives the token twice the chance: k3 is 2 - 1 - ln 2; and a new head says 0 where
  the return is the advantage and the old value, 0.5 + 0.5.
  """
  old = log_prob()
  one = row(1, old_log_probs=[old], ref_log_probs=[old + math.log(2)], values=[0.5], advantages=0.5)
  rows = write(tmp_path / "rows.jsonl", [one, one])
  algorithm = rr.PolicyGradientConfig(
      minibatch_size=4, kl_coef=0.1, kl_placement="loss", kl_estimator="k3", value_clip=None,
      value_coef=0.25, entropy_coef=0.01)
  found = rr.replay(make_config(algorithm), rows, model=model)
  assert found["loss/kl"] == pytest.approx(2 - 1 - math.log(2), rel=1e-5)
  assert found["loss/value"] == pytest.approx(0.5 * 1.0**2, rel=1e-5)
  assert found["loss/policy"] == pytest.approx(-0.5, rel=1e-5)
  assert found["loss/total"] == pytest.approx(
      -0.5 + 0.01 * old + 0.1 * found["loss/kl"] + 0.25 * found["loss/value"], rel=1e-5)


@pytest.mark.parametrize("text, message", [
    ("{", "rows.jsonl:1: no JSON"), ("[]", "rows.jsonl:1: got list, allowed: an object"),
    ('{"prompt": "x"}', "rows.jsonl:1: prompt: unknown, allowed: prompt_ids"),
    ({}, "reward: got neither of reward and advantages"),
    (dict(reward=1, advantages=1), "reward: got both of reward and advantages"),
    (dict(reward=1, completion_ids=[99]), "completion_ids: got a list of 1, allowed: a list"),
    (dict(reward=1, prompt_ids=[]), "prompt_ids: got a list of 0, allowed: a list of ids below 9"),
    (dict(reward=1, prompt_ids=[True]), "prompt_ids: got a list of 1"),
    (dict(reward=1, old_log_probs=[0.1]), "old_log_probs: got a list of 1, allowed: 2"),
    (dict(reward=1, values=[0.1, math.nan]), "values: got a list of 2, allowed: 2 finite numbers"),
    (dict(reward=1, action_mask=[1]), "action_mask: got a list of 1, allowed: 2 of 0 and 1"),
    (dict(reward=1, action_mask=[1, 2]), "action_mask: got a list of 2, allowed: 2 of 0 and 1"),
    (dict(reward="1"), "reward: got '1', allowed: a finite number or null"),
    (dict(advantages=[1, "x"]), "advantages: got a list of 2, allowed: 2 finite numbers"),
    (dict(reward=1, truncated=1), "truncated: got 1, allowed: true or false"),
    (dict(reward=1, group=3), "group: got 1 rows of group 3, allowed: 2, the group_size"),
    ("", "rows: got no line in")])
def test_rows_that_cannot_be_read_are_named(text, message, tmp_path):
  file = tmp_path / "rows.jsonl"
  file.write_text(text if isinstance(text, str) else json.dumps(row(2) | text) + "\n")
  with pytest.raises(ValueError) as error:
    replay_rows.read(file, vocab_size=9, group_size=2)
  assert message in str(error.value)


def test_a_field_is_in_all_rows_or_in_none(tmp_path):
  file = write(tmp_path / "rows.jsonl", [row(1, reward=1, values=[1]), row(1, reward=1)])
  with pytest.raises(ValueError, match="values: got it in 1 of 2 rows, allowed: in all of them"):
    replay_rows.read(file, vocab_size=9, group_size=2)


def test_rows_are_padded_on_their_sides(tmp_path):
  file = tmp_path / "rows.jsonl"  # without a line break at its end
  file.write_text(json.dumps({"prompt_ids": [1], "completion_ids": [2, 3], "advantages": 0.5})
                  + "\n\n" + json.dumps(
                      {"prompt_ids": [4, 5], "completion_ids": [6], "advantages": [-1.0]}))
  rows = replay_rows.read(file, vocab_size=9, group_size=7)
  assert rows.prompt_tokens.tolist() == [[0, 1], [4, 5]]
  assert rows.prompt_mask.tolist() == [[False, True], [True, True]]
  assert rows.completion_tokens.tolist() == [[2, 3], [6, 0]]
  assert rows.of_tokens["advantages"].tolist() == [[0.5, 0.5], [-1.0, 0.0]]


@pytest.mark.parametrize("algorithm, rows, settings, message", [
    (presets.remax(minibatch_size=4), [row(1, reward=1)] * 2, {},
     "greedy_reward: got rows without it, allowed: rows with what the algorithm of 'rl' reads"),
    (rr.PolicyGradientConfig(advantage_threshold=0.1, minibatch_size=4), [row(1, advantages=1)], {},
     "reward: got rows without it, allowed: rows with what the algorithm of 'rl' reads"),
    (GRPO, [row(99, reward=1)] * 2, {}, "tokens together, allowed: 16"),
    (GRPO, [row(1, reward=1)] * 2, {"stage": "sft"}, "stage: got 'sft', allowed: a stage"),
])
def test_what_an_algorithm_lacks_is_named(algorithm, rows, settings, message, model, tmp_path):
  file = write(tmp_path / "rows.jsonl", rows)
  with pytest.raises(ValueError, match=message):
    rr.replay(make_config(algorithm), file, model=model, **settings)


def test_the_command_prints_the_loss_and_its_parts(model, tmp_path, capsys):
  experiment = tmp_path / "experiment.py"
  config = config_lib.to_dict(make_config(GRPO))
  experiment.write_text(f"def get_config():\n  return {config!r}\n")
  rows = write(tmp_path / "rows.jsonl", [row(1, advantages=1.0)] * 2)
  assert main.main(["replay", str(rows), f"--config={experiment}", f"--model={model}",
                    "--config.rl.algorithm.entropy_coef=0.5"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "2 rows of 2 tokens, as one minibatch"
  shown = dict(line.split() for line in lines[1:])
  assert list(shown)[:3] == ["loss/total", "loss/policy", "optim/grad_norm"]
  assert float(shown["loss/policy"]) == pytest.approx(-1)
  assert float(shown["loss/total"]) == pytest.approx(-1 + 0.5 * log_prob(), rel=1e-6)
  assert main.main(["replay", str(tmp_path / "no.jsonl"), f"--config={experiment}",
                    f"--model={model}"]) == main.EXIT_USER
  assert "no.jsonl' not found; give a file of JSON lines" in capsys.readouterr().err
