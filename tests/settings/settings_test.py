"""Every setting takes effect: one table of all fields of all dataclasses that a config may hold.

For each field there is a row: another value than that of a base, and an observation that must
differ (`bases.Row`). The table is complete by construction, as the dataclasses are walked from
`Recipe`: a new field without a row fails here, and so does a new dataclass without a base.

To add a row: name the field under its class in the `ROWS` of `of_stages`, `of_algorithms` or
`of_runs`, give another value, and an observation: a function of an instance of the class. For a
stage it is most often a list of its trace, `of("generators")` (`fakes.stage_trace`); for a plain
dataclass the cheapest function that reads the field. A new dataclass needs a base in `bases.BASES`,
which holds the fields without a default.

What follows the table are literal values of what a mutation of one line would change.
"""

import dataclasses
import typing
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import PreferenceConfig, policy_gradient, presets
from rlreason.rewards import RewardSpec
from rlreason.sampling import SamplingOptions
from rlreason.slots import Slot
from rlreason.training import metrics as metrics_lib, preflight, stages as stages_lib
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.recipe import Recipe
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages import pairs
from tests.algorithms import tiny
from tests.settings import bases, fakes, of_algorithms, of_runs, of_search, of_stages

ROWS = {**of_stages.ROWS, **of_algorithms.ROWS, **of_runs.ROWS, **of_search.ROWS}


def classes_in(hint):
  """The dataclasses that an annotation names."""
  if dataclasses.is_dataclass(hint):
    yield hint
  for argument in typing.get_args(hint):
    yield from classes_in(argument)


def reachable(cls, found=()):
  """`cls` and the dataclasses in it, each once."""
  if cls in found:
    return found
  found = (*found, cls)
  for hint in typing.get_type_hints(cls).values():
    for inner in classes_in(hint):
      found = reachable(inner, found)
  return found


def has_choice(cls, name):
  """Whether a field may hold more than one value: `kind` of a stage may not."""
  hint = typing.get_type_hints(cls)[name]
  return typing.get_origin(hint) is not typing.Literal or len(typing.get_args(hint)) > 1


FIELDS = [(cls, field.name) for cls in reachable(Recipe) for field in dataclasses.fields(cls)
          if field.init and has_choice(cls, field.name)]


def observe(cls, fields, seen):
  try:
    return seen(cls(**fields))
  except ValueError as error:  # it is refused
    return f"{type(error).__name__}: {error}"


def is_same(left, right):
  """Whether two observations are equal: trees of arrays, of texts, and of whatever else."""
  left, right = ((leaves, str(structure)) for leaves, structure in map(
      lambda tree: jax.tree.flatten(tree, is_leaf=lambda x: x is None), (left, right)))
  if left[1] != right[1]:
    return False
  return all(_is_equal(*pair) for pair in zip(left[0], right[0], strict=True))


def _is_equal(left, right):
  if isinstance(left, (np.ndarray, jax.Array)) or isinstance(right, (np.ndarray, jax.Array)):
    return np.array_equal(np.asarray(left), np.asarray(right))
  return left == right


def test_there_is_a_row_for_every_field_and_a_field_for_every_row():
  missing = [f"{cls.__name__}.{name}" for cls, name in FIELDS if name not in ROWS.get(cls, {})]
  assert not missing, f"add rows (see the docstring of this file): {', '.join(missing)}"
  unknown = [f"{cls.__name__}.{name}" for cls, rows in ROWS.items() for name in rows
             if (cls, name) not in FIELDS]
  assert not unknown


@pytest.mark.parametrize("cls, name", [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}") for cls, name in FIELDS])
def test_another_value_makes_a_difference(cls, name):
  row = ROWS[cls][name]
  fields = bases.BASES[cls] | row.beside
  changed = fields | row.with_other | {name: row.other}
  default = next(field.default for field in dataclasses.fields(cls) if field.name == name)
  assert row.other is not fields.get(name, default)
  for seen in row.seen if isinstance(row.seen, tuple) else (row.seen,):
    first = observe(cls, fields, seen)
    assert is_same(first, observe(cls, fields, seen)), "not even the same twice"
    assert not is_same(first, observe(cls, changed, seen)), f"{name}={row.other!r} changes nothing"


# Literal values, through the stages.


def make_rl(**changes):
  return RLStage(**bases.BASES[RLStage] | changes)


def test_rewards_reach_the_update_with_who_is_right():
  """Right, wrong, right, and one truncated without an answer, which costs 0.5."""
  verifier = RewardSpec(name="verifier", options={"no_box_score": -0.5})
  trace = fakes.stage_trace(make_rl(rewards=(verifier,), reward_clip=(-0.25, 0.75)), steps=1)
  (outcome,) = trace["outcomes"]
  np.testing.assert_array_equal(outcome.scores, np.float32([0.75, 0, 0.75, -0.25]))
  np.testing.assert_array_equal(outcome.is_scored, [True] * 4)
  np.testing.assert_array_equal(outcome.is_right, [True, False, True, False])
  assert outcome.greedy_scores is None


def test_the_parts_of_a_reward_reach_the_update_where_the_advantage_asks_for_them():
  """Before their weights, and before the sum is clipped; what has no weight is no part."""
  rewards = (RewardSpec(name="verifier", weight=2.0), RewardSpec(name="finished", weight=0.5),
             RewardSpec(name="format", weight=0.0))
  config = presets.gdpo(minibatch_size=2, share_prompts=False, pack_rows=False)
  of = lambda **changes: fakes.stage_trace(
      make_rl(rewards=rewards, reward_clip=(0.0, 1.0), **changes), steps=1)["outcomes"][0]
  outcome = of(algorithm=config)
  np.testing.assert_array_equal(outcome.parts, [[1, 1], [0, 1], [1, 1], [0, 0]])
  np.testing.assert_array_equal(outcome.part_weights, [[2, 0.5]] * 4)
  np.testing.assert_array_equal(outcome.scores, np.float32([1, 0.5, 1, 0]))
  assert of().parts is None and of().part_weights is None


def test_reasoning_counts_as_no_shorter_than_the_shortest():
  """-c / L of 2, 0, 2 and 8 tokens of reasoning, each at least 4."""
  exploration = RewardSpec(name="exploration", options={"c": 0.8, "unit": "tokens"})
  (outcome,) = fakes.stage_trace(
      make_rl(rewards=(exploration,), min_reasoning_tokens=4), steps=1)["outcomes"]
  np.testing.assert_allclose(outcome.scores, [-0.2, -0.2, -0.2, -0.1], rtol=1e-6)


def test_the_schedule_ends_with_the_last_update_of_the_last_step():
  """2 steps of 2 updates each: from 0.1 down to 0 in 4 updates."""
  trace = fakes.stage_trace(make_rl())
  np.testing.assert_allclose(trace["rates"][0], [0.1, 0.075, 0.05, 0.025], rtol=1e-4)
  assert [metrics["optim/lr"] for metrics in trace["host"]] == pytest.approx([0.1, 0.05])


def test_the_reference_stays_while_the_policy_moves():
  """A fake update adds 1 to every parameter."""
  policy, reference = ([models[name] for models in fakes.stage_trace(make_rl())["models"]]
                       for name in ("params", "reference"))
  assert [params["policy"]["w"].tolist() for params in policy] == [[0, 0], [1, 1]]
  assert [params["w"].tolist() for params in reference] == [[0, 0], [0, 0]]
  without = dataclasses.replace(bases.REINFORCE, kl_coef=0.0)
  trace = fakes.stage_trace(make_rl(algorithm=without))
  assert [models["reference"] for models in trace["models"]] == [None, None]


def test_completions_are_sampled_and_trained_on_at_one_temperature():
  warm = SamplingOptions(max_new_tokens=8, temperature=0.5, top_p=0.9)
  trace = fakes.stage_trace(make_rl(sampling=warm, algorithm=dataclasses.replace(
      bases.REINFORCE, recompute_log_probs=True)))
  assert [options for options, *_ in trace["generators"]] == [warm]
  assert trace["algorithm"][0][2] == dict(
      temperature=0.5, group_size=2, critic=None, reference=None, has_answers=False)


def test_an_evaluation_samples_as_it_is_told():
  config = dataclasses.replace(bases.EVALUATION, temperature=0.5, top_p=0.9, num_samples=3)
  trace = fakes.evaluation_trace(config)
  assert [(options, size) for options, size, *_ in trace["generators"]] == [
      (SamplingOptions(max_new_tokens=8, temperature=0.0), 1),
      (SamplingOptions(max_new_tokens=8, temperature=0.5, top_p=0.9), 3)]


def test_the_greedy_completion_is_the_baseline_of_remax():
  """Sampled 1, 0, 1, 0; greedy 1 for the first problem and 0 for the second."""
  config = presets.remax(minibatch_size=2, kl_coef=0.0, share_prompts=False,
                          pack_rows=False)
  sampling = SamplingOptions(max_new_tokens=8, temperature=0.7)
  trace = fakes.stage_trace(make_rl(algorithm=config, sampling=sampling), steps=1)
  assert [(options.temperature, size) for options, size, *_ in trace["generators"]] == [
      (0.7, 2), (0.0, 1)]
  (outcome,) = trace["outcomes"]
  np.testing.assert_array_equal(outcome.greedy_scores, [1, 1, 0, 0])
  # And the numbers: what the real algorithm makes of the same rollout.
  rollout = fakes.make_rollout(fakes.SAMPLED[:4])
  algorithm = policy_gradient(
      config, tiny.MODEL, optax.identity(), temperature=0.7, group_size=2)
  batch, _ = algorithm.make_batch(
      (rollout, {"old_log_probs": rollout.log_probs}, outcome), {"kl": jnp.float32(0)})
  expected = np.array([0, -1, 1, 0])[:, None] * rollout.token_mask
  np.testing.assert_array_equal(np.where(rollout.token_mask, batch.advantages, 0), expected)


def test_kto_through_its_stage():
  """The loss of the first batch, by `losses.kto` of log-probs taken apart from the stage."""
  config = PreferenceConfig(loss=Slot(losses.kto, {"beta": 0.5}), average_log_probs=False)
  stage = PreferenceStage(**bases.BASES[PreferenceStage] | dict(preference=config, batch_size=4))
  drawn, policy, reference = [], of_algorithms.table(0), of_algorithms.table(1)
  pad = pairs.pad_batch
  model = dataclasses.replace(tiny.MODEL, vocab_size=of_algorithms.WORDS)
  with fakes.stand_ins(fakes.Trace(list)), mock.patch.object(
      fakes.preference, "preference", of_algorithms.PREFERENCE.preference), mock.patch.object(
          of_algorithms.PREFERENCE, "_sequence_log_probs", kto_log_probs), mock.patch.object(
              fakes.policies, "own_policy", lambda *args, **has: (policy, reference)
          ), mock.patch.object(
              pairs, "pad_batch", lambda *args: drawn.append(pad(*args)) or drawn[-1]):
    layout = fakes.LAYOUT._replace(
        compile_rows=tiny.fast_jit, compile_whole=tiny.fast_jit,
        compile_update=lambda update, state: tiny.fast_jit(update))
    setup = fakes.make_setup(bases.make_recipe(stages=(stage,)))._replace(
        model=model, layout=layout)
    made = stages_lib.make_stage(setup, stage, None, 0, fakes.POOL, None)
    output = made.step(made.state, 0, made.data, jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, drawn[0])
  assert sorted(batch.is_desirable.tolist()) == [False, False, True, True]
  log_probs = jax.jit(lambda params: kto_log_probs(None, params, batch)[0])
  now, before = log_probs(policy), log_probs(reference)
  kl = max(0.0, float(jnp.mean(now[:, 1] - before[:, 1])))  # of completions of other prompts
  gain = 0.5 * (now[:, 0] - before[:, 0] - kl)
  expected = jnp.mean(1 - jax.nn.sigmoid(jnp.where(batch.is_desirable, gain, -gain)))
  values = metrics_lib.reduce_metrics(output.device_metrics)
  assert values["preference/kl"] == pytest.approx(kl, rel=1e-5)
  assert values["loss/preference"] == pytest.approx(float(expected), rel=1e-5)


def kto_log_probs(model, params, batch):
  """Of the words of the tokenizer, of which the table knows the first few."""
  clip = lambda x: x % of_algorithms.WORDS
  return of_algorithms.sequence_log_probs(model, params, batch.replace(
      prompt_tokens=clip(batch.prompt_tokens), completion_tokens=clip(batch.completion_tokens)))


# What is tried before the first step.


def test_a_few_problems_are_tried_in_the_shapes_of_a_step():
  """4 problems of 6 in a step of 2: 2 of the whole data set, as many rows as in a step."""
  trace = fakes.Trace(list)
  stage = make_rl(num_prompts=4)
  with fakes.stand_ins(trace), mock.patch.object(preflight, "NUM_PROMPTS", 2):
    setup = fakes.make_setup(bases.make_recipe(stages=(stage,)))
    made = stages_lib.make_stage(setup, stage, fakes.POLICY, 5, fakes.POOL, None)
    position = made.data.get_state()
    values, samples = made.preflight(made.state.params, jax.random.key(3))
    assert made.data.get_state() == position
  assert trace["prompts"] == [["p0", "p2", "p0", "p2"]]
  assert [sample["prompt"] for sample in samples] == ["p0", "p0", "p2", "p2"]
  assert values["rollout/accuracy"] == 0.5 and values["rollout/truncated_fraction"] == 0.25
  assert not preflight.signs(values, stage)


EQUAL = {"rollout/truncated_fraction": 1.0, "reward/total/mean": 0.0, "reward/total/std": 0.0}


def test_a_run_says_before_its_first_step_what_keeps_it_from_learning():
  """Each sign once: before the first step, or at it; and the rest of the run stays as it is."""
  recipe = bases.make_recipe(stages=(of_runs.SFT, make_rl(), make_rl(name="again")))
  keys = []

  def tried(trace, params, key):
    keys.append(jax.random.key_data(key).tolist())
    trace["said"].append(f"tried after {len(trace['keys'])} steps")
    return EQUAL, ["a sample"]

  learning = lambda stage, step: {"optim/grad_norm": 0.0} if stage.name == "again" else {}
  run = of_runs.looped(recipe, preflight=tried, metrics=learning)
  said = [text for text in run["said"] if not text.startswith("evaluating")]
  assert said[0] == "tried after 4 steps" and len(said) == 4 and len(keys) == 1
  assert said[1].startswith(
      "warning: rl: every completion was truncated at sampling.max_new_tokens")
  assert said[2].startswith("warning: rl: all rewards are equal")
  assert said[3].startswith("warning: again: the gradient is exactly 0")
  assert list(run["summary"]["warnings"]) == ["rl: truncated", "rl: equal", "again: gradient"]
  written = [line for line in run["metrics"] if line[1] == "preflight-rl"]
  assert written == [(4, "preflight-rl", {f"preflight/{name}": x for name, x in EQUAL.items()})]
  assert (4, "preflight-rl", ["a sample"]) in run["samples"]
  plain = of_runs.looped(dataclasses.replace(recipe, preflight=False), metrics=learning)
  assert plain["keys"] == run["keys"] and keys[0] not in run["keys"]
