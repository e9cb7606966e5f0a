import time

import numpy as np
import pytest

from rlreason.data.tasks import countdown
from rlreason.evaluation import behaviours


def test_a_trace_by_hand():
  trace = ("try 3 * 7 = 21 , 21 + 12 = 33 lower back 21 - 12 = 9 lower back "
           "try 3 + 7 = 10 , 10 + 12 = 22 equal answer \\boxed{ 3 + 7 + 12 } <eos> back lower")
  counts = behaviours.trace_behaviours(trace, countdown.BACK_WORDS, countdown.CHECK_WORDS)
  assert counts == behaviours.Behaviours(going_back=2, checking=3)


def test_counts_of_demonstrations_agree_with_how_they_are_made():
  config = countdown.CountdownConfig(give_up=0.3)
  for example in countdown.CountdownDemonstrations(config, 50):
    counts = behaviours.trace_behaviours(
        example["completion"], countdown.BACK_WORDS, countdown.CHECK_WORDS)
    assert counts.checking == counts.going_back + 1  # every try is checked; after the last, no more


def test_words_are_counted_whole():
  assert behaviours.count_words("back backwards back, <back> back", ["back"]) == 2
  assert behaviours.count_words("", ["back"]) == 0


@pytest.mark.parametrize("text, going_back, checking", [
    ("The sum is 12.", 0, 0),
    ("Wait, that is wrong. Let me check: 3 + 4 = 7.", 1, 1),
    ("Wait, let me try another approach.", 1, 0),
    ("Alternatively, we could double it. Hmm, no. Going back to step 2.", 3, 0),
    ("I will verify this. Substituting x = 2 gives 4.", 0, 2),
    ("This doesn't work, so I start over.", 2, 0),
    ("Plug x back into the equation. Is this correct? Yes.", 0, 2),
    ("We need to double-check the result.", 0, 1),
    ("But wait, is it 5? Oh wait. How long do they wait? They wait 3 hours.", 2, 0),
    ("The waiter checks the bill and comes back later.", 0, 0),
])
def test_natural_language_by_hand(text, going_back, checking):
  counts = behaviours.text_behaviours(text)
  assert (counts.going_back, counts.checking) == (going_back, checking)
  assert behaviours.text_behaviours(text.upper())[:2] == counts[:2]


def test_text_after_the_box_does_not_count():
  text = "Let me check. So \\boxed{7} wait, wait, let me check again"
  assert behaviours.text_behaviours(text) == behaviours.Behaviours(0, 1)
  marked = "Let me check. \\boxed{7}? Wait, no. #### 7 wait, wait"
  assert behaviours.text_behaviours(marked, mark="####") == behaviours.Behaviours(1, 1)
  assert behaviours.trace_behaviours("back # back", ["back"], [], mark="#") == (1, 0)


def test_long_text_is_counted_in_linear_time():
  rng = np.random.default_rng(0)
  words = ["wait", "let", "me", "to", "check", "plug", "actually", ",", "this", "does", "not"]
  text = " ".join(words[place] for place in rng.integers(len(words), size=50_000))
  start = time.thread_time()
  behaviours.text_behaviours(text)
  behaviours.text_behaviours("wait" * 50_000 + " plug" * 50_000)
  for degenerate in ("\n", " ", ". ", "\n \t", "but ", "is it ", "no\n"):
    behaviours.text_behaviours(degenerate * 50_000)
  assert time.thread_time() - start < 5.0
