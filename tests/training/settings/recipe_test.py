"""Recipes: what an experiment's ConfigDict becomes, and how each mistake in one is reported."""

import dataclasses

from ml_collections import config_dict
import pytest

from rlreason import config as config_lib
from rlreason.training.settings import recipe as recipe_lib
from rlreason.training.settings.recipe import NewModel, PretrainedModel, from_config
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sft import SFTStage


def make_config():
  config = config_dict.ConfigDict()
  config.seed = 0
  config.model = dict(
      kind="new", width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=16)
  config.task = dict(kind="countdown")
  config.prompt_buckets = [8]
  config.stages = ["sft", "rl"]
  config.sft = dict(
      kind="sft", steps=10, batch_size=4, length=64, token_weights=dict(equal=2.0),
      optimizer=dict(learning_rate=1e-3, warmup_steps=2))
  config.optimizer = dict(learning_rate=1e-4)
  config.rl = dict(
      kind="rl", steps=5, num_prompts=8, group_size=2, min_reasoning_tokens=11,
      sampling=dict(max_new_tokens=96),
      rewards=dict(
          verifier=dict(weight=0.9),
          exploration=dict(weight=1.0, options=dict(c=4.0, unit="tokens"))),
      algorithm=dict(minibatch_size=8, epochs=3), optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer
  config.evaluation = dict(num_problems=10)
  return config


def changed(path, value):
  """The config with one field changed; the path has dots."""
  config = make_config()
  with config.unlocked():
    if path == "optimizer":
      config.optimizer = value
    else:
      config.update_from_flattened_dict({path: value})
  return config


def test_a_config_becomes_frozen_dataclasses():
  recipe = from_config(make_config())
  sft, rl = recipe.stages
  assert isinstance(sft, SFTStage) and isinstance(rl, RLStage)
  assert (sft.name, rl.name) == ("sft", "rl")
  assert recipe.prompt_buckets == (8,)  # a list became a tuple
  rewards = {spec.name: spec for spec in rl.rewards}
  assert set(rewards) == {"verifier", "exploration"} and rewards["verifier"].weight == 0.9
  assert rewards["exploration"].options["c"] == 4.0
  assert rl.updates_per_step == 6  # 3 epochs of 16 rows in minibatches of 8
  assert isinstance(recipe.model, NewModel)
  with pytest.raises(dataclasses.FrozenInstanceError):
    recipe.seed = 1


def test_a_plain_dict_will_do():
  assert from_config(make_config().to_dict()) == from_config(make_config())


def test_the_kind_of_the_model_chooses_its_class():
  config = make_config()
  config.model = dict(kind="pretrained", path="somewhere")
  assert from_config(config).model == PretrainedModel(kind="pretrained", path="somewhere")


def test_optimizer_at_the_top_is_that_of_its_section():
  config = make_config()
  config.optimizer.learning_rate = 3e-5  # what --config.optimizer.learning_rate=3e-5 does
  sft, rl = from_config(config).stages
  assert rl.optimizer.learning_rate == 3e-5
  assert sft.optimizer.learning_rate == 1e-3
  config.stages = ("sft",)  # the section it belongs to may be left out
  assert from_config(config).stages == (sft,)


def test_another_optimizer_at_the_top_is_refused():
  with pytest.raises(ValueError, match="config.optimizer: differs from every stage's"):
    from_config(changed("optimizer", dict(learning_rate=1.0)))


def test_a_function_may_be_the_function_itself():
  def brevity(prompts, completions, **columns):
    return [1.0 / (1 + len(text)) for text in completions]

  config = make_config()
  with config.unlocked():
    config.rl.rewards.brevity = dict(function=brevity, weight=0.2)
  recipe = from_config(config)
  assert {spec.name: spec.function for spec in recipe.stages[1].rewards}["brevity"] is brevity
  written = config_lib.to_dict(recipe)["stages"][1]["rewards"]
  assert [spec["function"] for spec in written if spec["name"] == "brevity"] == [
      f"{__name__}:{brevity.__qualname__}"]


def test_a_reward_with_an_empty_function_is_left_out():
  config = make_config()
  config.rl.rewards.judge = dict(weight=0.2, function="", is_judge=True)
  rewards = lambda: {spec.name: spec for spec in from_config(config).stages[1].rewards}
  assert set(rewards()) == {"exploration", "verifier"}
  config.rl.rewards.judge.function = "my_module:score"
  assert rewards()["judge"].function == "my_module:score" and rewards()["judge"].is_judge


def test_correctness_must_beat_length():
  """c (1 / Lmin - 1 / Lmax) < 0.9: the largest c here is 0.9 / (1/11 - 1/96) = 11.18."""
  from_config(changed("rl.rewards.exploration.options.c", 11.1))
  for path, value in (
      ("rl.rewards.exploration.options.c", 11.2), ("rl.rewards.exploration.weight", 2.9),
      ("rl.rewards.verifier.weight", 0.3), ("rl.min_reasoning_tokens", 3)):
    with pytest.raises(ValueError, match="config.rl.rewards.exploration: c: got .* a long wrong"):
      from_config(changed(path, value))
  # By characters a token may be any number of them: c / Lmin < 0.9.
  in_characters = changed("rl.rewards.exploration.options.unit", "characters")
  with pytest.raises(ValueError, match="c: got 10, .* 11 to inf tokens below 9.9"):
    in_characters.rl.rewards.exploration.options.c = 10.0
    from_config(in_characters)
  # Without a verifier there is nothing to beat, and a user may insist.
  from_config(changed("rl.rewards.verifier.weight", 0.0))
  insisting = changed("rl.rewards.exploration.options.c", 1000.0)
  insisting.rl.allow_length_over_correctness = True
  assert from_config(insisting).stages[1].allow_length_over_correctness


# path, value -> the whole start of the message: field, what was got, what is allowed.
MISTAKES = [
    ("seed", -1, "config.seed: got -1, allowed: 0 to"),
    ("stages", ["sft", "ppo"], "config.ppo: missing, but config.stages names it"),
    ("stages", "rl", "config.stages: got 'rl', allowed: names of stages"),
    ("prompt_buckets", [], r"config.prompt_buckets: got \(\), allowed: widths of 1 or more"),
    ("samples_per_step", -1, "config.samples_per_step: got -1, allowed: 0 or more"),
    ("reward_timeout", 0.0, "config.reward_timeout: got 0.0, allowed: above 0"),
    ("max_skipped_in_a_row", 0, "config.max_skipped_in_a_row: got 0, allowed: above 0"),
    ("learning_rate", 1e-3, "config.learning_rate: unknown field of Recipe"),
    ("model.kind", "old", "config.model: got {'kind': 'old'}, allowed: one of"),
    ("model.dtype", "float16", "config.model.dtype: got 'float16'.*, allowed: 'float32', 'bf"),
    ("task.kind", "chess", "config.task: got {'kind': 'chess'}, allowed: one of"),
    ("sft.kind", "dpo", "config.sft.kind: got 'dpo', allowed: .'custom', 'distill', .*'sft'."),
    ("sft.steps", -1, "config.sft.steps: got -1, allowed: 0 or more"),
    ("sft.steps", 2, "config.sft.optimizer.warmup_steps: got 2, allowed: less than the 2 updates"),
    ("sft.batch_size", 0, "config.sft.batch_size: got 0, allowed: above 0"),
    ("sft.sft.micro_batch_size", 3, "config.sft.sft.micro_batch_size: got 3, allowed: a divisor"),
    ("sft.token_weights.equal", -1.0, "config.sft.token_weights.equal: got -1.0, allowed: 0 or"),
    ("sft.optimizer.learning_rate", 0.0, "config.sft.optimizer.learning_rate: got 0.0, allowed"),
    ("sft.answer_template", "7", "config.sft.answer_template: got '7', allowed: text with"),
    ("sft.answer_template", "\\boxed{answer}", r"config.sft.answer_template: got .boxed{answer},"),
    ("rl.rewards.exploration.options.c", "abc",
     "config.rl.rewards.exploration.options.c: got 'abc' .str., allowed: float"),
    ("rl.rewards.exploration.options.c", -4.0, "rewards.exploration: .* c: got -4.0, allowed: 0"),
    ("rl.rewards.exploration.options.unit", "words", "exploration.options.unit: got 'words'"),
    ("rl.rewards.verifier.options.no_box_score", 5.0,
     "config.rl.rewards.verifier: no_box_score: got 5.0, allowed: at most 0"),
    ("rl.rewards.verifier.options.which_box", "middle",
     "config.rl.rewards.verifier.options.which_box: got 'middle' .*, allowed: 'first'"),
    ("rl.rewards.verifier.options.nosuch", 1,
     "config.rl.rewards.verifier: options of CountdownVerifier: got .'nosuch'., allowed"),
    ("lora.rank", 10**9, "config.lora.rank: got 1000000000 .int., allowed: at most 16384"),
    ("rl.rewards.verifier.weight", "1", "config.rl.rewards.verifier.weight: got '1' .str., all"),
    ("rl.steps", "5", "config.rl.steps: got '5' .str., allowed: int"),
    ("rl.num_prompts", 0, "config.rl.num_prompts: got 0, allowed: above 0"),
    ("rl.num_prompts", 7, "config.rl.algorithm.minibatch_size: got 8, .* a divisor of.* = 14"),
    ("rl.sampling.temperature", 0.0, "config.rl.sampling.temperature: got 0.0, allowed: above 0"),
    ("rl.sampling.top_p", 0.9, "config.rl.algorithm.recompute_log_probs: got False with top_k"),
    ("rl.critic_path", "a", "config.rl.critic_path: got 'a' with algorithm.critic='shared', all"),
    ("rl.algorithm.correction.function", "rlreason.losses:truncated_importance",
     "config.rl.algorithm.recompute_log_probs: got False with a correction for what the sampler"),
    ("rl.sampling.weights", "int8", "config.rl.algorithm.recompute_log_probs: .*int8 weights"),
    ("rl.reward_clip", [1.0, -1.0], r"config.rl.reward_clip: got \(1.0, -1.0\), allowed: \(low"),
    ("rl.length_buckets", [97], r"config.rl.length_buckets: got \(97,\), allowed: 1 to max_new_t"),
    ("rl.algorithm.discount", 2.0, "config.rl.algorithm.discount: got 2.0, allowed: 0 to 1"),
    ("rl.algorithm.advantage.options.k", 2, "config.rl.algorithm.advantage: options of "),
    ("rl.algorithm.minibatch", 8, "config.rl.algorithm.minibatch: unknown field .* did you mean"),
    ("rl.rewards.verifier", 1.0, "config.rl.rewards.verifier: got 1.0, allowed: a section"),
    ("rl.rewards.lenght", dict(weight=1.0), ".rewards.*: reward 'lenght': function: got None"),
    ("rl", 3, "config.rl: got 3, allowed: a section of fields"),
    ("evaluation.split", "train", "config.evaluation.split: got 'train', allowed: validation, t"),
    ("evaluation.num_samples", -1, "config.evaluation.num_samples: got -1, allowed: 0 or more"),
    ("parallel.mode", "xmap", "config.parallel.mode: got 'xmap'.*, allowed: 'jit', 'pmap'"),
    ("checkpoint.every_steps", 0, "config.checkpoint.every_steps: got 0, allowed: above 0"),
]


@pytest.mark.parametrize(
    "path, value, message", MISTAKES, ids=[f"{path}={value}" for path, value, _ in MISTAKES])
def test_a_mistake_is_named(path, value, message):
  config = make_config().to_dict()
  *folders, name = path.split(".")
  section = config
  for folder in folders:
    section = section.setdefault(folder, {})
  section[name] = value
  with pytest.raises(ValueError, match=message) as error:
    from_config(config)
  assert "\n" not in str(error.value)


def test_stage_names_are_distinct_and_none_is_start():
  config = make_config()
  config.stages = ["rl", "sft", "rl"]
  with pytest.raises(ValueError, match="stages: got names .'rl', 'sft', 'rl'., allowed: each once"):
    recipe_lib.from_config(config)
  config = make_config()
  config.start = config.sft
  config.stages = ["start", "rl"]
  del config.sft
  with pytest.raises(ValueError, match="none of .*'start', 'previous', 'initial'"):
    recipe_lib.from_config(config)
