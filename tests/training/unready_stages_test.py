"""What a stage would stumble over when its turn comes is found before the first step of the run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from rlreason import models, weights
from rlreason.models import LoRAConfig
from rlreason.tokenizers import WordTokenizer
from rlreason.training import setup as setup_lib
from rlreason.training import stages as stages_lib
from rlreason.training.settings.recipe import from_config
from tests.algorithms import tiny
from tests.training import tiny_run
from tests.training.stages_test import TOKENIZER, make_toy_setup

_OPTIMIZER = dict(learning_rate=0.1)
_PAIRS = dict(steps=1, batch_size=2, completion_length=4, optimizer=_OPTIMIZER)
_PROMPTS = dict(steps=1, num_prompts=2, group_size=2, sampling=dict(max_new_tokens=4))
_VERIFIER = dict(verifier=dict(weight=1.0))
MODEL = dataclasses.replace(tiny.MODEL, vocab_size=TOKENIZER.vocab_size)


def check(stage, rows=(), lora=None, buckets=(4,)):
  """Looks at one stage after a first one that is good."""
  config = tiny_run.make_config().to_dict()
  config["task"] = dict(kind="file", name="toy", train="a.jsonl", test="b.jsonl")
  config["sft"] |= dict(answer_template="{answer}", token_weights={})
  config |= {"stages": ("sft", "second"), "second": stage, "prompt_buckets": buckets}
  config.pop("optimizer")
  setup = make_toy_setup(from_config(config), rows)
  stages_lib.check_stages(setup._replace(model=dataclasses.replace(MODEL, lora=lora)))


def write(folder, rows):
  file = folder / "rows.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(file)


def save(folder, tokenizer=TOKENIZER, **changes):
  """A model of zeros."""
  model = dataclasses.replace(MODEL, **changes)
  params = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), models.abstract_params(model))
  weights.save_model(folder, model, params, tokenizer)
  return str(folder)


def sft(**fields):
  return dict(kind="sft", steps=1, batch_size=1, length=8, optimizer=_OPTIMIZER) | fields


def rl(**fields):
  return _PROMPTS | dict(kind="rl", rewards=_VERIFIER, optimizer=_OPTIMIZER,
                         algorithm=dict(minibatch_size=2, kl_coef=0.0, critic="none")) | fields


OTHER_WORDS = WordTokenizer.from_words(
    [f"w{i}" for i in range(TOKENIZER.vocab_size - 2)])


def test_data_in_which_nothing_fits(tmp_path):
  long = {"prompt": "a b c a b c", "answer": "1", "completion": "a b c a b c",
          "chosen": "a b c a b", "rejected": "a"}
  file = write(tmp_path, [long, long])
  first = [{"prompt": "a", "answer": "2"}]
  pairs = dict(_PAIRS, examples=file)
  dpo = dict(average_log_probs=False, loss=dict(
      function="rlreason.losses:dpo", options=dict(beta=0.1)))
  sample = _PROMPTS | dict(kind="sample", rewards=_VERIFIER, problems=file)
  too_long = r"config.second: prompts: got 2 that are all empty or longer than 4 tokens"
  for stage, message in (
      (sft(length=2, answer_template="a a a a {answer}"),
       "config.second.length: got 2, allowed: enough for at least one of the 1 examples"),
      (sft(examples=file), "config.second.length: got 8, allowed: .* of the 2 examples"),
      (rl(problems=file), too_long), (sample, too_long),
      (pairs | dict(kind="preference", preference=dpo), "config.second: no usable row among 2"),
      (pairs | dict(kind="reward_model"), "config.second: no usable row among 2")):
    with pytest.raises(ValueError, match=message) as error:
      check(stage, first)
    assert "\n" not in str(error.value) and str(error.value).count("config.second") == 1
  with pytest.raises(ValueError, match="config.second: prompts: got 1 that are all empty or lon"):
    check(rl(), [long])  # of the task


def test_files_without_rows(tmp_path):
  file = write(tmp_path, [{"something": "else"}])
  for stage, field in ((sft(examples=file), "examples"), (rl(problems=file), "problems")):
    with pytest.raises(
        ValueError, match=f"^config.second.{field}: .*rows.jsonl: no usable row among 1"):
      check(stage)


def test_a_start_of_another_model(tmp_path):
  for name, changes, message in (
      ("wide", dict(width=24), "a model of width=24, allowed: width="),
      ("deep", dict(num_layers=3), "a model of num_layers=3, allowed: num_layers="),
      ("theta", dict(rope_theta=5.0), "a model of rope_theta=5.0, allowed: rope_theta=10000.0"),
      ("words", dict(tokenizer=OTHER_WORDS), "a model that knows 9 of the policy's tokens by ano"),
  ):
    folder = save(tmp_path / name, **changes)
    for stage in (sft(start=folder, answer_template="{answer}"), rl(start=folder)):
      with pytest.raises(ValueError, match=f"config.second.start: got .*{message}"):
        check(stage)
  check(rl(start=save(tmp_path / "same", max_positions=512)))
  (tmp_path / "no model").mkdir()
  with pytest.raises(FileNotFoundError, match="config.second.start: .*no model/config.json not"):
    check(rl(start=str(tmp_path / "no model")))


def test_a_start_of_other_adapters(tmp_path):
  ours = LoRAConfig(rank=2, alpha=4.0)
  for name, lora, message in (
      ("rank", LoRAConfig(rank=3, alpha=4.0), "adapters of rank=3, allowed: rank=2"),
      ("alpha", LoRAConfig(rank=2, alpha=8.0), "adapters of alpha=8.0, allowed: alpha=4.0"),
      ("base", dataclasses.replace(ours, base="nf4"), None)):
    model = dataclasses.replace(MODEL, lora=lora)
    shapes = jax.eval_shape(lambda model=model: models.init_adapters(model, jax.random.key(0)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    weights.save_adapters(tmp_path / name, model, zeros)
    stage = rl(start=str(tmp_path / name))
    if message is None:
      check(stage, lora=ours)
    else:
      with pytest.raises(ValueError, match=f"config.second.start: got .*{message}"):
        check(stage, lora=ours)


def test_models_beside_the_policy(tmp_path):
  short = save(tmp_path / "short", max_positions=7)
  words = save(tmp_path / "words", tokenizer=OTHER_WORDS)
  wide = save(tmp_path / "wide", vocab_size=MODEL.vocab_size + 8)
  sample = _PROMPTS | dict(kind="sample", rewards=_VERIFIER)
  distill = _PROMPTS | dict(kind="distill", optimizer=_OPTIMIZER, distill=dict(
      divergence=dict(function="rlreason.losses:forward_kl")))
  learned = dict(learned=dict(weight=1.0))
  towards = dict(algorithm=dict(minibatch_size=2, kl_coef=0.1, critic="none"))
  for stage, message in (
      (sample | dict(model=short), "model: got a model of 7 positions, allowed: 8 or more"),
      (sample | dict(rewards=learned, reward_model=words), "reward_model: got a model that knows"),
      (rl(rewards=learned, reward_model=short), "reward_model: got a model of 7 positions"),
      (rl(reference_path=short, **towards), "reference_path: got a model of 7 positions"),
      (rl(reference_path=words, **towards), "reference_path: got a model that knows"),
      (distill | dict(teacher=short), "teacher: got a model of 7 positions"),
      (distill | dict(teacher=words), "teacher: got a model that knows"),
      (distill | dict(teacher=wide), "teacher: got a vocabulary of 19, allowed: .*student, 11")):
    with pytest.raises(ValueError, match=f"config.second.{message}"):
      check(stage)


def test_a_new_model_larger_than_the_memory():
  config = tiny_run.make_config()
  config.model.width, config.model.mlp_width, config.model.num_layers = 2**16, 2**18, 100
  message = r"config.model: got num_layers=100, .* at least 20,617.6 GB .* allowed: "
  with pytest.raises(ValueError, match=message):
    setup_lib.make_setup(from_config(config))
