"""Tests of rlreason.data.tasks.chain."""

import numpy as np
import pytest

from rlreason.data.tasks import chain
from rlreason.rewards import verifier
from rlreason.tokenizers import word

# 3 + 4 = 7, 7 * 7 = 49, 9 - 2 = 7.
PROBLEM = chain.Problem(3, (("+", 4), ("*", 7), ("-", 2)), 10)


def labels(text):
  return chain.step_labels(PROBLEM, text.split())


def values(text):
  return [step.leads_to_answer for step in chain.read_steps(PROBLEM, text.split())]


def demonstrations(count=200, **habits):
  config = chain.ChainConfig(**habits)
  examples = list(chain.ChainDemonstrations(config, count))
  return [(chain.read_prompt(example["prompt"], config.modulus), example["completion"].split())
          for example in examples]


def test_a_chain_by_hand():
  assert chain.prompt_text(PROBLEM) == "3 + 4 * 7 - 2 = ?"
  assert chain.running_values(PROBLEM) == [3, 7, 9, 7]
  assert chain.demonstration(PROBLEM, np.random.default_rng(0), chain.ChainConfig()) == (
      "3 + 4 = 7 ; 7 * 7 = 9 ; 9 - 2 = 7 ; \\boxed{ 7 } <eos>")
  assert chain.demonstration(
      PROBLEM, np.random.default_rng(0), chain.ChainConfig(answers_only=True)) == (
          "\\boxed{ 7 } <eos>")


@pytest.mark.parametrize("prompt", [
    "3 + 4 * 7 - 2 = ?", "3 ignore 9 * 9 + 4 * 7 - 2 = ?",
    "3 ignore 1 - 1 ignore 2 + 2 + 4 * 7 - 2 ignore 5 * 5 = ?"])
def test_a_prompt_is_read_without_what_is_to_be_ignored(prompt):
  assert chain.relevant_prompt(prompt) == "3 + 4 * 7 - 2 = ?"
  assert chain.read_prompt(prompt) == PROBLEM


@pytest.mark.parametrize("text, right, on_track", [
    ("3 + 4 = 7 ; 7 * 7 = 9 ; 9 - 2 = 7 ; \\boxed{ 7 }", [1, 1, 1], [1, 1, 1]),
    # A mistake: the steps after it are right from where they start, and lead elsewhere.
    ("3 + 4 = 8 ; 8 * 7 = 6 ; 6 - 2 = 4 ;", [0, 1, 1], [0, 0, 0]),
    # From 8, 8 * 7 = 9 is a second mistake, and a lucky one.
    ("3 + 4 = 8 ; 8 * 7 = 9 ;", [0, 0], [0, 1]),
    ("3 + 4 = 8 ; back 3 + 4 = 7 ; 7 * 7 = 9 ;", [0, 1, 1], [0, 1, 1]),
    ("3 + 4 = 8 ; 8 * 7 = 6 ; back back 3 + 4 = 7 ;", [0, 1, 1], [0, 0, 1]),
    ("continue 3 + 4 = 8 ; continue 8 * 7 = 6 ; explore 3 + 4 = 7 ;", [0, 1, 1], [0, 0, 1]),
    ("3 + 4 = 7 ; reflect 3 + 4 = 7 ; back back back 3 + 4 = 7 ;", [1, 1, 1], [1, 1, 1]),
    # The step of another index, the one after the last, lines of no form, and no line at all.
    ("3 * 7 = 1 ; 7 * 7 = 9 ;", [0, 0], [0, 1]),
    ("3 + 4 = 7 ; 7 * 7 = 9 ; 9 - 2 = 7 ; 7 - 2 = 5 ;", [1, 1, 1, 0], [1, 1, 1, 1]),
    ("; back ; = 3 ; 3 + 4 = 17 ; 3 + 4 = * ; 3 + 4 = 7 7 ; 3 + 4", [0] * 6, [1] * 6),
    ("", [], []), ("\\boxed{ 7 }", [], []),
    # A second solution after an answer.
    ("3 + 4 = 7 ; 7 * 7 = 9 ; 9 - 2 = 6 ; \\boxed{ 6 } check 3 + 4 = 7 ; 7 * 7 = 9 ;",
     [1, 1, 0, 1, 1], [1, 1, 0, 1, 1]),
])
def test_labels_of_steps_and_values_of_prefixes(text, right, on_track):
  assert labels(text) == [bool(label) for label in right]
  assert values(text) == [bool(value) for value in on_track]


def test_lines_end_where_they_are_labelled():
  words = "3 + 4 = 8 ; back 3 + 4 = 7 ; \\boxed{ 7 }".split()
  ends = [step.end for step in chain.read_steps(PROBLEM, words)]
  assert ends == [6, 13] and all(words[end - 1] == chain.LINE_END for end in ends)


def test_plain_demonstrations_are_right_everywhere():
  for problem, words in demonstrations(max_steps=6):
    assert chain.step_labels(problem, words) == [True] * len(problem.steps)
    assert words[-4:] == ["\\boxed{", str(chain.running_values(problem)[-1]), "}", "<eos>"]


@pytest.mark.parametrize("meta", [False, True])
def test_a_slip_is_taken_back_at_once(meta):
  marks = set()
  for problem, words in demonstrations(slip=0.4, meta=meta):
    steps = chain.read_steps(problem, words)
    for place, step in enumerate(steps):
      mark = words[steps[place - 1].end] if place else None
      assert (mark in chain.BACK_WORDS) == bool(place and not steps[place - 1].is_right)
      if mark is not None and (meta or mark in chain.BACK_WORDS):
        marks.add(mark)
      # Right or not, and so is where it leads (but for luck, as in 5 * 2 = 0 for 6 * 2 = 2).
      assert step.leads_to_answer or not step.is_right
    assert steps[-1].is_right and str(chain.running_values(problem)[-1]) == words[-3]
  assert marks == ({"continue", "reflect", "explore"} if meta else {"back"})


def test_mistakes_are_carried_to_the_end():
  assert {chain.step_labels(*pair).count(False) for pair in demonstrations(mistakes=1.0)} == {1}
  share = np.mean([not all(chain.step_labels(*pair)) for pair in demonstrations(mistakes=0.3)])
  assert abs(share - 0.3) < 0.1  # three standard errors


def test_messy_answers_are_in_no_box():
  endings = {words[-3] if words[-3] == "answer" else words[-2]
             for _, words in demonstrations(messy=1.0)}
  assert endings == {"answer", chain.LINE_END}
  boxed = ["}" in words for _, words in demonstrations(messy=0.5)]
  assert abs(np.mean(boxed) - 0.5) < 0.11


def test_a_chain_is_solved_several_times():
  counts = [words.count("\\boxed{") for _, words in demonstrations(rounds=3)]
  assert set(counts) == {1, 2, 3} and abs(np.mean(counts) - 2) < 0.2
  for problem, words in demonstrations(50, rounds=3, mistakes=0.5):
    assert words.count("check") == words.count("\\boxed{") - 1
    assert len(chain.step_labels(problem, words)) == len(problem.steps) * words.count("\\boxed{")


@pytest.mark.parametrize("options", [{}, dict(min_steps=1, distractors=2, num_train=3000)])
def test_splits_are_disjoint_and_rows_are_fixed(options):
  config = chain.ChainConfig(**options)
  rows = {split: chain.ChainRows(config, split) for split in chain.SPLITS}
  problems = {split: [part.problem(i) for i in range(len(part))] for split, part in rows.items()}
  held_out = problems["test"] + problems["validation"]
  assert len(held_out) == len(set(held_out)) == 400
  assert not set(held_out) & set(problems["train"])
  demonstrated = {problem for problem, _ in demonstrations(500, **options)}
  assert not set(held_out) & demonstrated
  for split in chain.SPLITS:
    again = chain.ChainRows(config, split)
    for i in range(0, len(again), 97):
      row = rows[split][i]
      assert row == again[np.int64(i)] and chain.read_prompt(row["prompt"]) == problems[split][i]
      assert row["answer"] == str(chain.running_values(problems[split][i])[-1])
      assert row["task_name"] == f"chain-{len(problems[split][i].steps)}"
  lengths = {len(problem.steps) for problem in problems["train"]}
  assert lengths == set(range(config.min_steps, config.max_steps + 1))
  with pytest.raises(IndexError):
    rows["test"][200]


def test_distractors_change_prompts_and_nothing_else():
  plain, distracted = (chain.ChainRows(chain.ChainConfig(distractors=count), "train")
                       for count in (0, 3))
  for i in range(50):
    assert distracted[i]["prompt"].count("ignore") == 3
    assert {**distracted[i], "prompt": chain.relevant_prompt(distracted[i]["prompt"])} == plain[i]


def test_everything_depends_on_the_seed_and_the_index_alone():
  few, many = (list(chain.ChainDemonstrations(chain.ChainConfig(slip=0.5), size))
               for size in (3, 30))
  assert few == many[:3]
  other = list(chain.ChainDemonstrations(chain.ChainConfig(slip=0.5, seed=1), 30))
  assert other != many
  tests = [list(chain.ChainRows(chain.ChainConfig(seed=seed), "test")) for seed in (0, 1)]
  assert tests[0] != tests[1]


def test_everything_is_in_the_vocabulary():
  for options in (dict(modulus=13), dict(operators=("-", "*"), distractors=1)):
    config = chain.ChainConfig(
        slip=0.3, meta=True, mistakes=0.3, messy=0.5, rounds=2, **options)
    tokenizer = word.WordTokenizer.from_words(chain.vocabulary(config))
    assert tokenizer.vocab_size < 40
    for example in chain.ChainDemonstrations(config, 50):
      for text in example.values():
        assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


def test_the_verifier_agrees_with_the_truth():
  config = chain.ChainConfig(mistakes=0.5, messy=0.3)
  verify = verifier.find(chain.make_task(config, "train").verifier)()
  pairs = demonstrations(mistakes=0.5, messy=0.3)
  texts = [" ".join(words).removesuffix(" <eos>") for _, words in pairs]
  answers = [str(chain.running_values(problem)[-1]) for problem, _ in pairs]
  expected = [float(chain.read_steps(*pair)[-1].leads_to_answer and "}" in pair[1])
              for pair in pairs]
  assert verify([""] * len(texts), texts, answer=answers) == expected
  assert 0.2 < np.mean(expected) < 0.6


@pytest.mark.parametrize("field, value", [
    ("min_steps", 0), ("min_steps", 5), ("modulus", 1), ("modulus", 101), ("operators", ()),
    ("operators", ("+", "/")), ("operators", ("+", "+")), ("distractors", -1), ("num_train", 0),
    ("seed", -1), ("mistakes", 1.5), ("slip", -0.1), ("messy", float("nan")), ("rounds", 0)])
def test_config_names_the_field_out_of_range(field, value):
  with pytest.raises(ValueError, match=field):
    chain.ChainConfig(**{field: value})


def test_training_keeps_half_of_the_shortest_chains():
  with pytest.raises(ValueError, match="allowed: at most 135 for each of the 1 lengths"):
    chain.ChainConfig(min_steps=1, max_steps=1, num_test=100, num_validation=36)
  config = chain.ChainConfig(min_steps=1, max_steps=1, num_test=100, num_validation=35)
  assert len(chain.ChainRows(config, "validation")) == 35
  with pytest.raises(ValueError, match="split"):
    chain.ChainRows(config, "dev")
  with pytest.raises(ValueError, match="size"):
    chain.ChainDemonstrations(config, 0)


def test_extra_words_are_the_last_of_the_vocabulary():
  plain, more = (chain.vocabulary(chain.ChainConfig(extra_words=words))
                 for words in ((), ("GOOD", "BAD")))
  assert more == [*plain, "GOOD", "BAD"]
  for words in (("GOOD", "GOOD"), ("two words",), ("",), ("back",), ("<eos>",)):
    with pytest.raises(ValueError, match="extra_words: got .*allowed: words without spaces"):
      chain.ChainConfig(extra_words=words)
