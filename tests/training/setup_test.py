"""What a run needs before its first step: the model and its keys."""

import jax
import numpy as np
import pytest

import rlreason as rr
from rlreason import models, rollout as rollout_lib, weights
from rlreason.data.tasks.load import demonstrations
from rlreason.models import ModelConfig
from rlreason.parallel import make_layout
from rlreason.tokenizers import WordTokenizer, render
from rlreason.training import keys as keys_lib, setup as setup_lib
from rlreason.training import stages as stages_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.stages import sft as sft_stage
from tests.tokenizers import templates, tiny_models
from tests.training import tiny_run


def make_recipe(**changes):
  config = tiny_run.make_config()
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return from_config(config)


def test_a_new_model_is_made_for_the_words_of_its_task():
  recipe = make_recipe()
  setup, params = setup_lib.make_setup(recipe)
  assert setup.model.vocab_size == setup.tokenizer.vocab_size == len(
      params["embed"]["embedding"])
  assert setup.model.width == 16 and setup.model.max_positions == 64
  prompt = setup.tasks["train"].rows[0]["prompt"]
  assert setup.tokenizer.decode(setup.tokenizer.encode(prompt)) == prompt
  assert len(setup.tasks["test"].rows) == 16 and setup.layout.num_shards == 8


def chain_recipe(**problems):
  config = tiny_run.make_config().to_dict()
  config["task"] = dict(kind="chain", problems=dict(
      num_train=40, num_validation=4, num_test=8, **problems))
  config["prompt_buckets"] = (16,)
  config["sft"]["token_weights"] = {}
  return from_config(config)


def test_every_task_with_words_of_its_own_can_start_from_nothing():
  setup, _ = setup_lib.make_setup(chain_recipe(distractors=1))
  rows = [setup.tasks[split].rows[0] for split in ("train", "validation", "test")]
  for text in [row["prompt"] for row in rows]:
    assert setup.tokenizer.decode(setup.tokenizer.encode(text)) == text
  stages_lib.check_stages(setup)
  examples = list(demonstrations(setup.recipe.task, setup.tasks["train"].rows, 5))
  assert len(examples) == 5
  for example in examples:
    assert setup.tokenizer.encode(example["completion"])[-1] in setup.tokenizer.eos_ids


def test_random_parameters_depend_on_the_seed_alone():
  layout = make_layout(make_recipe().parallel)
  load = lambda seed: setup_lib.load_policy(
      make_recipe(seed=seed), layout, keys_lib.init_key(seed))[1]
  embedding = lambda seed: np.asarray(load(seed)["embed"]["embedding"])
  first = embedding(3)
  np.testing.assert_array_equal(first, embedding(3))
  assert np.any(first != embedding(4))


def test_keys_are_apart():
  """Those of steps (seed, stage number, step), of the first parameters and of evaluations."""
  seed_key = jax.random.key(0)
  keys = [keys_lib.init_key(0), keys_lib.evaluation_key(0),
          *(jax.random.fold_in(seed_key, stage) for stage in range(3))]
  data = {tuple(np.asarray(jax.random.key_data(key))) for key in keys}
  assert len(data) == len(keys)


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory):
  """A random model as a Hugging Face folder."""
  folder = tmp_path_factory.mktemp("model")
  tokenizer = WordTokenizer.from_words(("1", "2", "\\boxed{", "}", "?"))
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size, width=8, num_layers=2, num_heads=2, num_kv_heads=1,
      head_dim=4, mlp_width=8, max_positions=32)
  params = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.abstract_params(model))
  weights.save_model(folder, model, params, tokenizer)
  return folder


def pretrained(path, **fields):
  config = tiny_run.make_config().to_dict()
  config["model"] = dict(kind="pretrained", path=str(path), **fields)
  return config


def test_a_pretrained_model_has_the_types_of_the_recipe(folder):
  config = pretrained(
      folder, dtype="bfloat16", param_dtype="float32", remat="full", unroll=2, attention="xla")
  model, params, tokenizer = setup_lib.load_policy(
      from_config(config), make_layout(from_config(config).parallel), jax.random.key(0))
  assert (model.dtype, model.param_dtype, model.remat, model.unroll, model.attention) == (
      "bfloat16", "float32", "full", 2, "xla")
  assert params["embed"]["embedding"].dtype == np.float32 and model.width == 8
  assert tokenizer.vocab_size == 7


def test_a_missing_model_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere"):
    setup_lib.make_setup(from_config(pretrained(tmp_path / "nowhere")))


def test_a_new_model_needs_a_task_with_words_of_its_own(tmp_path):
  file = tmp_path / "rows.jsonl"
  file.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
  config = tiny_run.make_config().to_dict()
  config["task"] = dict(kind="file", name="sums", train=str(file), test=str(file))
  with pytest.raises(ValueError, match="config.model.kind: got 'new' with a task that has no voca"):
    setup_lib.make_setup(from_config(config))


@pytest.mark.parametrize("changes, message", [
    ({"rl.sampling.max_new_tokens": 57}, "rl.sampling.max_new_tokens: got 57, .* allowed: 64 tog"),
    ({"evaluation.max_new_tokens": 57}, "evaluation.max_new_tokens: got 57, .* allowed: 64 togeth"),
    ({"model.max_positions": 19}, "rl.sampling.max_new_tokens: got 12, .* up to 8 tok.*: 19 ")])
def test_prompts_and_completions_must_fit_the_positions(changes, message):
  with pytest.raises(ValueError, match=f"config.{message}"):
    setup_lib.make_setup(make_recipe(**changes))


def test_a_base_of_rotations_that_gives_no_finite_angles():
  with pytest.raises(ValueError, match="rope_theta: got 0.0, allowed: 1 or more"):
    setup_lib.make_setup(make_recipe(**{"model.rope_theta": 0.0}))


@pytest.fixture(scope="module", name="chat_folder")
def chat_folder_fixture(tmp_path_factory):
  """A model with more rows than tokens, whose template ends turns with a token of its own."""
  folder = tmp_path_factory.mktemp("chat")
  tokenizer = tiny_models.byte_level(
      templates.SPECIAL, end="<|endoftext|>", chat_template=templates.QWEN3)
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size + 7, width=8, num_layers=1, num_heads=2, num_kv_heads=1,
      head_dim=4, mlp_width=8, max_positions=64)
  params = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.abstract_params(model))
  weights.save_model(folder, model, params, tokenizer)
  return folder


def test_what_a_recipe_says_of_the_chats_of_its_model(chat_folder):
  load = lambda **fields: setup_lib.load_policy(
      from_config(pretrained(chat_folder, **fields)), make_layout(make_recipe().parallel),
      jax.random.key(0))
  ask = [{"role": "user", "content": "?"}]
  spelled = lambda tokenizer: [tokenizer.backend.id_to_token(i) for i in tokenizer.eos_ids]
  model, _, tokenizer = load()
  assert spelled(tokenizer) == ["<|endoftext|>", "<|im_end|>"]
  assert model.num_tokens == tokenizer.vocab_size == model.vocab_size - 7
  assert render(tokenizer, ask, add_generation_prompt=True).endswith("assistant\n")
  _, _, tokenizer = load(end_tokens=("<|end|>",), chat_options={"enable_thinking": False})
  assert spelled(tokenizer) == ["<|end|>", "<|endoftext|>", "<|im_end|>"]
  ids = rollout_lib.encode_prompt(tokenizer, {"prompt": ask})
  assert tokenizer.decode(ids, skip_special=False).endswith("<think>\n\n</think>\n\n")
  with pytest.raises(ValueError, match=r"config.model.chat_options: got \['thinks'\], allowed"):
    load(chat_options={"thinks": True})
  with pytest.raises(ValueError, match=r"end_tokens: got \['<no>'\], allowed: single tokens"):
    load(end_tokens=("<no>",))


def test_a_loaded_policy_has_the_same(chat_folder):
  policy = rr.load(chat_folder, end_tokens=["<|end|>"], chat_options={"enable_thinking": False})
  assert policy.config.num_tokens == policy.tokenizer.vocab_size
  assert policy.tokenizer.chat_options == {"enable_thinking": False}
  assert policy.tokenizer.backend.id_to_token(policy.tokenizer.eos_ids[0]) == "<|end|>"


def test_examples_of_chats_are_those_of_the_template(chat_folder):
  _, _, tokenizer = weights.load_model(chat_folder)
  row = {"prompt": [{"role": "user", "content": "?"}], "completion": "<think>\na\n</think>\n\nb"}
  example = sft_stage._tokenize_example(tokenizer, row, {})
  kept = example["tokens"][example["loss_weights"] > 0].tolist()
  assert tokenizer.decode(kept, skip_special=False) == "<think>\na\n</think>\n\nb<|im_end|>"
