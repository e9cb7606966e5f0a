"""Tests of rlreason.rewards.control."""

import numpy as np
import pytest

from rlreason.rewards import control


def draw(count, **options):
  return control.random_reward(["p"] * count, [f"completion {i}" for i in range(count)], **options)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_frequency(probability):
  rewards = draw(4000, probability=probability)
  assert set(rewards) == {0.0, 1.0}
  assert abs(np.mean(rewards) - probability) < 0.04  # 5 standard errors


def test_extremes_and_range():
  assert draw(50, probability=0) == [0.0] * 50
  assert draw(50, probability=1) == [1.0] * 50
  with pytest.raises(ValueError, match="probability: got .*, allowed: 0 to 1"):
    draw(1, probability=1.5)


def test_depends_on_seed_prompt_and_text_alone():
  assert draw(200) == draw(200)
  assert draw(200) != draw(200, seed=1)
  texts = [str(i) for i in range(200)]
  one = control.random_reward(["p"] * 200, texts)
  assert one == control.random_reward(["p"] * 200, texts[::-1])[::-1]
  assert one != control.random_reward([[{"role": "user", "content": "q"}]] * 200, texts)


def test_unpaired_surrogates_are_text_too():
  assert control.random_reward(["p"], ["\ud800"])[0] in (0.0, 1.0)
