"""Groups that are sampled over several draws, against one call for each of them."""

import json

import jax
import numpy as np
import pytest

from rlreason.algorithms import presets
from rlreason.data.pipeline import prompt_batches
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rollout.generate import make_generator
from rlreason.rollout.partial import OpenGroups, make_partial_generator
from rlreason.sampling import SamplingOptions
from tests.algorithms import tiny
from tests.rollout.made import TOKENIZER

GROUP, LIMIT, WANTED, CARRIED = 2, 40, 4, 4
ROWS = [{"prompt": " ".join("abc"[(i + j) % 3] for j in range(1 + i % 4))} for i in range(11)]
LAYOUTS = {"one device": ParallelConfig(data=1), "jit": ParallelConfig(data=2),
           "pmap": ParallelConfig(mode="pmap", data=2)}
SETTINGS = dict(
    options=SamplingOptions(max_new_tokens=LIMIT, temperature=1.5), group_size=GROUP,
    prompt_buckets=(3, 5), has_values=True)


def make_params(layout, seed=0):
  params = {"policy": tiny.random_params(seed=seed), "value_head": tiny.random_value_head()}
  return layout.put_state(jax.tree.map(jax.numpy.asarray, params))


def make_groups():
  return OpenGroups(prompt_batches(ROWS, 3, 0))


def draw(generate, params, groups, number):
  """One draw: the groups that have ended, of which at most `WANTED` leave; and all of them."""
  taken = groups.take(WANTED + CARRIED, jax.random.key(number))
  rollout, has_ended = generate(params, taken)
  chosen = np.flatnonzero(has_ended)[:WANTED].tolist()
  groups.put_back(taken, rollout, [i for i in range(len(taken)) if i not in chosen])
  return rollout, chosen, taken


@pytest.mark.parametrize("name", LAYOUTS)
def test_groups_are_those_of_one_call(name):
  layout = make_layout(LAYOUTS[name])
  generate = make_partial_generator(
      tiny.MODEL, TOKENIZER, layout, enough=WANTED, **SETTINGS)
  whole = make_generator(tiny.MODEL, TOKENIZER, layout, **SETTINGS)
  params, groups = make_params(layout), make_groups()
  begun, ages, trained = {}, [], []
  for number in range(5):
    rollout, chosen, taken = draw(generate, params, groups, number)
    assert len(chosen) == WANTED
    begun[number] = [group for group in taken if group.draw == number]
    for i in chosen:
      ages.append(number - taken[i].draw)
      trained.append(taken[i].row["prompt"])
      # Its neighbours in the call do not matter; the call has as many as the layout splits.
      first = begun[taken[i].draw]
      rows = [group.row for group in first] * (WANTED + CARRIED)
      alone = whole(params, rows[:WANTED + CARRIED], jax.random.key(taken[i].draw))
      of = lambda tree, k: jax.tree.map(lambda x: x[k * GROUP:(k + 1) * GROUP], tree)
      got, expected = of(rollout, i), of(alone, taken[i].index)
      np.testing.assert_array_equal(got.completion_tokens, expected.completion_tokens)
      np.testing.assert_array_equal(got.token_mask, expected.token_mask)
      np.testing.assert_array_equal(got.action_mask, expected.token_mask)
      np.testing.assert_array_equal(got.truncated, expected.truncated)
      np.testing.assert_allclose(got.log_probs, expected.log_probs, atol=1e-5)
      np.testing.assert_allclose(got.values, expected.values, atol=1e-5)
  assert max(ages) > 0 and min(ages) == 0
  # No prompt is lost, none is used twice: an epoch is 11 of them.
  left = [group["number"] for group in groups.get_state()["groups"]]
  assert len(trained) + len(left) == sum(map(len, begun.values())) + sum(
      group["key_data"] is None for group in groups.get_state()["groups"])


def test_tokens_keep_the_log_probs_they_were_sampled_with():
  layout = make_layout(ParallelConfig(data=1))
  generate = make_partial_generator(tiny.MODEL, TOKENIZER, layout, enough=WANTED, **SETTINGS)
  algorithm = tiny.Compiled(
      presets.grpo(recompute_log_probs=True, minibatch_size=2), SETTINGS["options"].temperature,
      None, GROUP)
  groups, policies = make_groups(), [make_params(layout, seed) for seed in (0, 1)]
  draw(generate, policies[0], groups, 0)
  before = {id(group): [dict(row) for row in group.completions] for group in groups._groups}
  rollout, _, taken = draw(generate, policies[1], groups, 1)
  of = lambda params: algorithm.score(
      {"params": params, "reference": params["policy"]}, rollout, None)["old_log_probs"]
  first, second = map(of, policies)
  count = 0
  for i, group in enumerate(taken):
    for g, row in enumerate(before.get(id(group), ())):
      at, length = i * GROUP + g, len(row["tokens"])
      rest = rollout.token_mask[at].copy()
      rest[:length] = False
      assert rollout.completion_tokens[at, :length].tolist() == row["tokens"]
      np.testing.assert_array_equal(
          rollout.log_probs[at, :length], np.float32(row["log_probs"]))
      np.testing.assert_allclose(
          rollout.log_probs[at, :length], first[at, :length], atol=2e-5)
      np.testing.assert_allclose(rollout.log_probs[at, rest], second[at, rest], atol=2e-5)
      count += length > 0 and rest.any()
  assert count > 2


@pytest.mark.parametrize("stopped", [1, 3])
def test_a_saved_position_holds_the_open_groups(stopped):
  layout = make_layout(ParallelConfig(data=1))
  generate = make_partial_generator(tiny.MODEL, TOKENIZER, layout, enough=WANTED, **SETTINGS)
  params, groups, resumed = make_params(layout), make_groups(), make_groups()
  for number in range(stopped):
    draw(generate, params, groups, number)
  resumed.set_state(json.loads(json.dumps(groups.get_state())))
  for number in range(stopped, stopped + 3):
    one, other = (draw(generate, params, these, number) for these in (groups, resumed))
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert one[1] == other[1]
    assert [group.row for group in one[2]] == [group.row for group in other[2]]
  assert groups.get_state() == resumed.get_state()


@pytest.mark.parametrize("group, limit, enough", [(1, 5, 1), (4, 40, 2), (16, 150, 1), (1, 1, 2)])
def test_groups_of_other_sizes(group, limit, enough):
  """One row, several loops with fewer and fewer rows, more columns than a chunk, one token."""
  layout, settings = make_layout(ParallelConfig(data=1)), SETTINGS | dict(
      group_size=group, has_values=False,
      options=SamplingOptions(max_new_tokens=limit, temperature=1.5))
  generate = make_partial_generator(tiny.MODEL, TOKENIZER, layout, enough=enough, **settings)
  whole = make_generator(tiny.MODEL, TOKENIZER, layout, **settings)
  params, groups, lengths = make_params(layout), make_groups(), []
  taken = groups.take(3, jax.random.key(0))
  expected = whole(params, [one.row for one in taken], jax.random.key(0))
  for _ in range(200):
    rollout, has_ended = generate(params, taken)
    assert rollout.values is None and has_ended.sum() >= enough
    lengths.append(int(rollout.token_mask.sum()))
    if has_ended.all():
      break
    # None leaves, so that the same three go on; a draw in which enough have ended adds nothing.
    groups.put_back(taken, rollout, range(3))
    taken = groups.take(3, jax.random.key(1))
    enough += 1
    generate = make_partial_generator(tiny.MODEL, TOKENIZER, layout, enough=enough, **settings)
  assert has_ended.all() and lengths == sorted(lengths) and len(set(lengths)) == len(lengths)
  np.testing.assert_array_equal(rollout.completion_tokens, expected.completion_tokens)
  np.testing.assert_array_equal(rollout.truncated, expected.truncated)
  np.testing.assert_allclose(rollout.log_probs, expected.log_probs, atol=2e-5)


def test_what_has_ended_before_is_enough():
  layout = make_layout(ParallelConfig(data=1))
  generate = make_partial_generator(tiny.MODEL, TOKENIZER, layout, enough=2, **SETTINGS)
  params, groups = make_params(layout), make_groups()
  taken = groups.take(4, jax.random.key(0))
  first, has_ended = generate(params, taken)
  groups.put_back(taken, first, range(4))
  again, still = generate(params, groups.take(4, jax.random.key(1)))
  np.testing.assert_array_equal(has_ended, still)
  jax.tree.map(np.testing.assert_array_equal, first, again)
