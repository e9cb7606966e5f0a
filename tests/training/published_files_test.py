"""A run on data sets in the layouts they are published in: examples, problems and evaluation."""

import json

import jax
import numpy as np
import pytest

from rlreason import models, weights
from rlreason.algorithms import presets
from rlreason.models import ModelConfig
from rlreason.training import metrics, run as run_lib
from rlreason.training import stages as stages_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.setup import make_setup
from tests.tokenizers import tiny_models
from tests.training import tiny_run

TEMPLATE = ("{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}"
            "<end>{% endif %}{{ '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}")
SOLUTION = "So $\\boxed{%d}$."
GSM8K = [{"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(8)]
MATH = [{"problem": f"{i} + 2?", "level": "Level 1", "type": "Algebra",
         "solution": SOLUTION % (i + 2)} for i in range(8)]
NUMINA = [{"source": "cn_k12", "problem": f"{i} + 3?", "solution": SOLUTION % (i + 3), "messages": [
    {"role": "user", "content": f"{i} + 3?"},
    {"role": "assistant", "content": SOLUTION % (i + 3)}]} for i in range(8)]
NUMINA += [NUMINA[0] | {"solution": "Proof.\nIt is clear."}]


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory):
  """A random model of one layer that reads bytes."""
  folder = tmp_path_factory.mktemp("model")
  tokenizer = tiny_models.byte_level(chat_template=TEMPLATE)
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size, width=8, num_layers=1, num_heads=2, num_kv_heads=2,
      head_dim=4, mlp_width=8, max_positions=96)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), models.abstract_params(model))
  weights.save_model(folder, model, params, tokenizer)
  return folder


@pytest.fixture(name="config")
def config_fixture(folder, tmp_path):
  """Problems of GSM8K, of which MATH is the test, and a stage on those of NuminaMath."""
  for name, rows in (("gsm8k", GSM8K), ("math", MATH), ("numina", NUMINA)):
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  config = tiny_run.make_config().to_dict() | {"stages": ("rl",)}
  config["parallel"] = dict(data=1)
  config["model"] = dict(kind="pretrained", path=str(folder))
  config["task"] = dict(kind="file", name="gsm8k", train=str(tmp_path / "gsm8k.jsonl"),
                        test=str(tmp_path / "math.jsonl"), template="Solve. {question}")
  config["prompt_buckets"] = (64,)
  config["sft"] |= dict(
      length=96, steps=1, token_weights={}, optimizer=dict(learning_rate=1e-2))
  config["rl"] |= dict(
      steps=1, group_size=2, problems=str(tmp_path / "numina.jsonl"),
      rewards=dict(verifier=dict(weight=1.0)),
      algorithm=presets.grpo(minibatch_size=16, kl_coef=0.0))
  config["evaluation"] |= dict(num_problems=8, num_samples=0)
  return config


def test_a_run_on_published_files(config, tmp_path, caplog):
  summary = run_lib.train(from_config(config), tmp_path / "run")
  assert [stage["steps"] for stage in summary["stages"]] == [0, 1]
  assert summary["stages"][-1]["evaluation"]["gsm8k"]["greedy"]["n"] == 8
  lines = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
  assert [line["rollout/accuracy"] for line in lines if line["stage"] == "rl"] == [0.0]
  samples = metrics.read_lines(tmp_path / "run" / "samples.jsonl")
  problems = [sample for sample in samples if sample["stage"] == "rl"]
  assert problems and not any("boxed" in json.dumps(sample["prompt"]) for sample in problems)
  tests = [sample for sample in samples if sample["stage"] == "eval-rl"]
  assert {(sample["prompt"][0]["content"], sample["answer"]) for sample in tests} == {
      (f"Solve. {i} + 2?", str(i + 2)) for i in range(8)}
  assert "numina.jsonl: 1 of 9 rows left out: 1 x solution: got a working without a box" in (
      caplog.text)


def first_example(config):
  """The text of the first example, and of what is trained on in it."""
  setup, policy = make_setup(from_config(config | {"stages": ("sft",)}))
  stages_lib.check_stages(setup)
  stage = stages_lib.make_stage(setup, setup.recipe.stages[0], policy, 0, None, None)
  batch = next(stage.data)
  is_first = np.asarray(batch.segment_ids)[0] == 1
  tokens, loss_weights = np.asarray(batch.tokens)[0], np.asarray(batch.loss_weights)[0]
  decode = lambda mask: setup.tokenizer.decode(tokens[mask].tolist(), skip_special=False)
  return decode(is_first), decode(is_first & (loss_weights > 0))


def test_examples_of_gsm8k_are_workings_asked_for_as_problems_are(config, tmp_path):
  config["sft"]["num_examples"] = 1
  working = "0 + 1 = 1\n#### 1<end>"
  assert first_example(config) == (f"user: Solve. 0 + 1?\nassistant: {working}\n", working)
  # Read as a file of their own they are the model's chats, and with a template bare answers.
  config["sft"]["examples"] = config["task"]["train"]
  text, trained = first_example(config)
  assert text.startswith("user: ") and "Solve" not in text and trained.endswith("<end>")
  config["sft"] |= dict(examples="", answer_template="= {answer}")
  assert first_example(config) == ("user: Solve. 0 + 1?\nassistant: = 1<end>\n", "= 1<end>")


def test_what_cannot_be_read_is_said_in_one_line(config, tmp_path):
  (tmp_path / "math.jsonl").write_text(json.dumps({"problem": "q", "level": "Level 1"}) + "\n")
  with pytest.raises(ValueError, match=r"config.task.test: .*math.jsonl: no usable row among "
                     "1; row 1: there is no column 'answer' \\(its columns: problem, level\\); "
                     r"fields=\{'answer': NAME\} says which of them it is$"):
    make_setup(from_config(config))
  config["task"]["test"] = str(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="config.task.test: .*nowhere: no such"):
    make_setup(from_config(config))
