"""Stages: where their examples come from and what a step of each does. Whole runs: loop_test.py."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlreason import weights
from rlreason.algorithms import presets
from rlreason.data.tasks.arithmetic import ArithmeticConfig
from rlreason.data.tasks.base import Task
from rlreason.data.tasks.load import ArithmeticTask
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rewards import WorkerPool
from rlreason.tokenizers import WordTokenizer
from rlreason.training import stages as stages_lib
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.recipe import from_config
from rlreason.training.setup import make_setup
from rlreason.training.stages.base import Setup
from tests.algorithms import tiny
from tests.training import tiny_run

WORDS = ("a", "b", "c", "\\boxed{", "}", "user", "assistant", "1", "2")
TEMPLATE = ("{% for m in messages %}{{ m.role }} {{ m.content }} {% if m.role == 'assistant' %}"
            "<eos> {% endif %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}")
TOKENIZER = WordTokenizer.from_words(WORDS, chat_template=TEMPLATE)


def make_recipe(**sft):
  """A recipe on the task of a file, of which nothing but the supervised stage is used."""
  config = tiny_run.make_config().to_dict()
  config["task"] = dict(kind="file", name="toy", train="a.jsonl", test="b.jsonl")
  config["sft"] = dict(
      kind="sft", steps=2, batch_size=1, length=12, optimizer=dict(learning_rate=0.1), **sft)
  return from_config(config)


def make_toy_setup(recipe, rows=()):
  rows = list(rows) or [{"prompt": "a", "answer": "2"}]
  task = Task(name="toy", rows=rows, verifier="math")
  return Setup(
      recipe, tiny.MODEL, TOKENIZER, {"train": task}, make_layout(ParallelConfig(data=1)), None)


def first_batch(recipe, rows=()):
  """The first batch of the supervised stage."""
  setup = make_toy_setup(recipe, rows)
  stage = stages_lib.make_stage(setup, recipe.stages[0], tiny.random_params(), 0, None, None)
  return next(stage.data)


def write_rows(tmp_path, rows):
  file = tmp_path / "examples.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(file)


def described(batch):
  """The tokens of the first row, each with the weight of predicting it, `eos` among them."""
  tokens = np.asarray(batch.tokens)[0][np.asarray(batch.segment_ids)[0] > 0]
  names = [TOKENIZER.decode([token], skip_special=False) for token in tokens]
  return list(zip(names, np.asarray(batch.loss_weights)[0].tolist()))


def test_examples_of_a_file_end_with_the_end_token(tmp_path):
  file = write_rows(tmp_path, [{"prompt": "a b", "completion": "c 1"}])
  batch = first_batch(make_recipe(examples=file, token_weights={"c": 3.0}))
  assert described(batch)[:5] == [("a", 0), ("b", 0), ("c", 3.0), ("1", 1.0), ("<eos>", 1.0)]


def test_an_end_token_that_is_there_is_not_doubled(tmp_path):
  file = write_rows(tmp_path, [{"prompt": "a", "completion": "c <eos>"}])
  batch = first_batch(make_recipe(examples=file))
  assert described(batch)[:4] == [("a", 0), ("c", 1.0), ("<eos>", 1.0), ("a", 0)]  # packed again


def test_sampled_tokens_are_trained_on_as_they_are(tmp_path):
  """Whatever their text says; the prompt is tokenised where the row has no tokens of it."""
  c, two = TOKENIZER.encode("c 2")
  sampled = {"prompt": "a", "completion": "c 1", "completion_ids": [c, two]}
  file = write_rows(tmp_path, [sampled | {"prompt_ids": TOKENIZER.encode("b b")}])
  described_ids = described(first_batch(make_recipe(examples=file)))
  assert described_ids[:4] == [("b", 0), ("b", 0), ("c", 1.0), ("2", 1.0)]
  chat = [{"role": "user", "content": "a"}]
  for prompt, words in (("a b", ["a", "b"]), (chat, ["user", "a", "assistant"])):
    file = write_rows(tmp_path, [sampled | {"prompt": prompt}])
    found = described(first_batch(make_recipe(examples=file)))[:len(words) + 2]
    assert found == [*((word, 0) for word in words), ("c", 1.0), ("2", 1.0)]  # and no end is added


def test_chats_learn_what_the_assistant_says(tmp_path):
  chat = [{"role": "user", "content": "a b"}]
  file = write_rows(tmp_path, [{"prompt": chat, "completion": "c"}])
  batch = first_batch(make_recipe(examples=file))
  assert described(batch)[:6] == [
      ("user", 0), ("a", 0), ("b", 0), ("assistant", 0), ("c", 1.0), ("<eos>", 1.0)]


def test_answers_put_into_a_template():
  rows = [{"prompt": "a", "answer": "2"}, {"prompt": "b", "answer": "1"}]
  batch = first_batch(
      make_recipe(answer_template="\\boxed{ {answer} }", num_examples=1), rows)
  assert described(batch)[:5] == [
      ("a", 0), ("\\boxed{", 1.0), ("2", 1.0), ("}", 1.0), ("<eos>", 1.0)]
  assert "b" not in dict(described(batch))  # num_examples


def test_a_template_of_answers_needs_answers():
  without = {"prompt": "a", "answer": None}
  recipe = make_recipe(answer_template="\\boxed{ {answer} }")
  batch = first_batch(recipe, [without, {"prompt": "b", "answer": "1"}])
  assert "a" not in dict(described(batch)) and "b" in dict(described(batch))
  with pytest.raises(ValueError, match="answer_template: the row has no answer"):
    first_batch(recipe, [without])
  config = tiny_run.make_config().to_dict() | {"stages": ("rl",)}
  config["rl"] |= dict(answer_template="{answer}", algorithm=presets.latro(minibatch_size=16))
  config["rl"]["rewards"] = dict(verifier=dict(weight=1.0))
  setup = make_toy_setup(from_config(config), [without])
  setup.tasks["train"] = dataclasses.replace(setup.tasks["train"], verifier=lambda *texts: [])
  with pytest.raises(ValueError, match=r"columns: got .* allowed: with \['answer'\]"):
    stages_lib.check_stages(setup)


def test_arithmetic_comes_with_workings():
  tokenizer = WordTokenizer.from_words(("a", "1", "2", "*", "=", "\\boxed{2}"))
  problems = ArithmeticConfig(tasks={"products": {}})
  recipe = dataclasses.replace(
      make_recipe(), task=ArithmeticTask(kind="arithmetic", problems=problems))
  row = dict(prompt="a", answer="2", task_name="products", question="What is 1 * 2 ?")
  setup = make_toy_setup(recipe, [row])._replace(tokenizer=tokenizer)
  stages_lib.check_stages(setup)
  stage = stages_lib.make_stage(setup, recipe.stages[0], tiny.random_params(), 0, None, None)
  tokens = np.asarray(next(stage.data).tokens)[0]
  assert tokenizer.decode(tokens[:7].tolist()) == "a 1 * 2 = 2 \\boxed{2}"


def test_a_task_without_demonstrations_needs_examples():
  with pytest.raises(ValueError, match="this task has no demonstrations of its own, allowed"):
    first_batch(make_recipe())


@pytest.mark.parametrize("path, value, message", [
    ("rl.rewards.exploration.options", {"see": 4.0}, r"exploration: .*got \[.see.\], allowed: ."),
    ("rl.rewards.verifier.options", {"which_box": "third"},
     "rewards.verifier.options.which_box: got .third. .str., allowed: .first"),
    ("sft", {"examples": "nowhere.jsonl", "answer_template": ""},
     "config.sft.examples: 'nowhere.jsonl' not found, allowed: a"),
    ("sft.examples", "some.jsonl", "config.sft.answer_template: got one beside examples"),
    ("sft.token_weights", {"qeual": 2.0}, "config.sft: text: got the words .'qeual'., allowed"),
    ("sft.answer_template", "", "config.sft: this task has no demonstrations of its own"),
])
def test_mistakes_of_every_stage_come_before_the_first_step(path, value, message):
  config = tiny_run.make_config().to_dict()
  config["task"] = dict(kind="file", name="toy", train="a.jsonl", test="b.jsonl")
  config["sft"] |= dict(answer_template="{answer}", token_weights={})
  stages_lib.check_stages(make_toy_setup(from_config(config)))
  *folders, name = path.split(".")
  section = config
  for folder in folders:
    section = section[folder]
  section[name] = section[name] | value if path == "sft" else value
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    stages_lib.check_stages(make_toy_setup(from_config(config)))


def test_rows_that_the_devices_cannot_split_are_found_before_the_first_step():
  recipe = make_recipe(answer_template="{answer}")
  setup = make_toy_setup(recipe)._replace(layout=make_layout(ParallelConfig(data=2)))
  message = "config.sft.batch_size: got 1, allowed: a multiple of 2, the number of devices"
  with pytest.raises(ValueError, match=message):
    stages_lib.check_stages(setup)


@pytest.mark.parametrize("path", ["algorithm.minibatch_size", "algorithm.micro_batch_size"])
def test_gradient_passes_that_replicas_cannot_split_are_found_before_the_first_step(path):
  config = tiny_run.make_config()
  config.parallel = dict(mode="pmap", data=2)
  setup, _ = make_setup(from_config(config))
  stages_lib.check_stages(setup)
  config.rl.update_from_flattened_dict({"algorithm.minibatch_size": 4} | {path: 1})
  setup, _ = make_setup(from_config(config))
  with pytest.raises(ValueError, match=f"config.rl.{path}: got 1, allowed: a multiple of 2"):
    stages_lib.check_stages(setup)


def test_a_chat_that_the_template_refuses_is_left_out(tmp_path):
  good = {"prompt": [{"role": "user", "content": "a"}], "completion": "b"}
  bad = {"prompt": [{"role": "user", "content": "nowhere"}], "completion": "b"}
  recipe = make_recipe(examples=write_rows(tmp_path, [bad, good]))
  tokens = np.asarray(first_batch(recipe).tokens)[0].tolist()
  assert "user a assistant b" in TOKENIZER.decode(tokens)


def test_a_row_of_the_task_that_cannot_be_read_is_left_out_of_the_examples():
  class Rows(list):
    def __getitem__(self, index):
      if index == 0:
        raise ValueError("answer is empty")
      return list.__getitem__(self, index)

  setup = make_toy_setup(make_recipe(answer_template="{answer}"))
  rows = Rows([{}, {"prompt": "a", "answer": "1"}])
  setup.tasks["train"] = dataclasses.replace(setup.tasks["train"], rows=rows)
  stage = stages_lib.make_stage(setup, setup.recipe.stages[0], tiny.random_params(), 0, None, None)
  assert TOKENIZER.decode(np.asarray(next(stage.data).tokens)[0].tolist()).startswith("a 1")
  setup.tasks["train"] = dataclasses.replace(setup.tasks["train"], rows=Rows([{}]))
  with pytest.raises(ValueError, match="config.sft: no usable row among 1; row 0: answer is empty"):
    stages_lib.make_stage(setup, setup.recipe.stages[0], tiny.random_params(), 0, None, None)


def test_a_stage_whose_rows_are_all_too_long_is_refused():
  with pytest.raises(ValueError, match="config.sft.length: got 12, allowed: enough for at"):
    first_batch(make_recipe(answer_template="{answer}"), [{"prompt": "a " * 12, "answer": "1"}])


def test_a_step_of_rl():
  """One step on one device: the state moves, and rewards are those of the texts."""
  config = tiny_run.make_config()
  config.parallel.data = 1
  config.rl.algorithm.critic_warmup_steps = 0
  config.rl.length_buckets = (4,)
  setup, policy = make_setup(from_config(config))
  before = jax.tree.map(np.array, policy)
  with WorkerPool(num_workers=1) as pool:
    stage = stages_lib.make_stage(setup, setup.recipe.stages[1], policy, 0, pool, None)
    state = stage.data.get_state()
    batch = next(stage.data)
    stage.data.set_state(state)
    output = stage.step(stage.state, 0, stage.data, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(policy))  # not donated
  assert int(output.state.step) == 1
  after = jax.device_get(output.state.params["policy"])
  moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), after, before)
  assert min(jax.tree.leaves(moved)) > 0
  assert output.host_metrics["optim/lr"] == pytest.approx(1e-3)
  sample = output.samples[0]
  assert sample["prompt"] == batch[0]["prompt"] and sample["answer"] == batch[0]["answer"]
  parts = sample["rewards"]
  assert parts["total"] == pytest.approx(
      parts["verifier"] + parts["exploration"] + 0.1 * parts["random"])
  lengths = output.host_metrics["rollout/length/mean"] * 16
  prompts = sum(len(setup.tokenizer.encode(row["prompt"])) for row in batch)
  assert output.tokens == pytest.approx(lengths + 2 * prompts)  # groups of two


def test_a_step_with_int8_rollouts():
  """They are of another distribution, by an amount that is told, and the ratio starts at 1."""
  config = tiny_run.make_config()
  config.parallel.data = 1
  config.rl.sampling.weights = "int8"
  config.rl.algorithm.recompute_log_probs = True
  setup, policy = make_setup(from_config(config))
  policy = jax.tree.map(lambda x: 5 * x if x.ndim > 2 else x, policy)  # so that it matters
  with WorkerPool(num_workers=1) as pool:
    stage = stages_lib.make_stage(setup, setup.recipe.stages[1], policy, 0, pool, None)
    output = stage.step(stage.state, 0, stage.data, jax.random.key(0))
  of = {name: float(total) / float(count) for name, (total, count) in jax.device_get(
      {name: output.device_metrics[name] for name in (
          "policy/sampler_error", "policy/ratio_error")}).items()}
  assert 1e-4 < of["policy/sampler_error"] < 0.5
  assert of["policy/ratio_error"] < 1e-5


def test_a_critic_starts_from_another_model(tmp_path):
  config = tiny_run.make_config()
  config.parallel.data = 1
  config.rl.algorithm.critic = "separate"
  config.rl.critic_path = str(tmp_path / "critic")
  setup, policy = make_setup(from_config(config))
  with pytest.raises(FileNotFoundError, match="config.rl: no model at .*critic"):
    stages_lib.check_stages(setup)
  other = dataclasses.replace(setup.model, width=24, num_layers=2)
  params = tiny.random_params(other)
  weights.save_model(tmp_path / "critic", other, params, setup.tokenizer)
  with WorkerPool(num_workers=1) as pool:
    stage = stages_lib.make_stage(setup, setup.recipe.stages[1], policy, 0, pool, None)
    start = jax.tree.map(np.array, stage.state.params["critic"])
    jax.tree.map(np.testing.assert_array_equal, start["trunk"], params)
    output = stage.step(stage.state, 0, stage.data, jax.random.key(0))
  moved = jax.tree.map(
      lambda x, y: np.any(x != y), jax.device_get(output.state.params["critic"]), start)
  assert moved["value_head"] == {"kernel": True, "bias": True}
  stages_lib.check_stages(setup)
  short = dataclasses.replace(other, max_positions=19)
  weights.save_model(tmp_path / "critic", short, params, setup.tokenizer)
  with pytest.raises(ValueError, match="config.rl.critic_path: got a model of 19 positions, allo"):
    stages_lib.check_stages(setup)
  # Another vocabulary reads other tokens.
  weights.save_model(
      tmp_path / "critic", dataclasses.replace(other, vocab_size=40),
      tiny.random_params(dataclasses.replace(other, vocab_size=40)),
      WordTokenizer.from_words(["a", "b"]))
  with pytest.raises(ValueError, match="critic_path: got a model that knows .* by another id"):
    stages_lib.check_stages(setup)


def test_a_stage_of_no_steps_can_be_made():
  optimizer = dict(learning_rate=0.1, warmup_steps=5)
  recipe = make_recipe(answer_template="{answer}")
  stage = dataclasses.replace(
      recipe.stages[0], steps=0, optimizer=OptimizerConfig(**optimizer))
  setup = make_toy_setup(recipe, [{"prompt": "a", "answer": "2"}])
  made = stages_lib.make_stage(setup, stage, tiny.random_params(), 0, None, None)
  assert made.steps == 0
