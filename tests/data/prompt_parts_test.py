"""What belongs to a prompt beside its question, in published layouts; answers of other columns."""

import json

import pytest

from rlreason.data import messages, sources
from rlreason.data.tasks import load
from tests.data.published_test import (
    ASSISTANT, EXAMPLE, PAIR, PROBLEM, SYSTEM, USER, read, read_one, write)

QUESTION = "Which group has ten?"


# Multiple choice: the choices are shown, the answer is a label.


@pytest.mark.parametrize("row, shown, answer", [
    # MMLU: an index, also where a choice has the same number; CSV and numpy print the list.
    ({"question": QUESTION, "subject": "algebra", "choices": ["0", "4", "2", "6"], "answer": 1},
     "A. 0\nB. 4\nC. 2\nD. 6", "B"),
    ({"question": QUESTION, "choices": "['0' '4'\n '2' '6']", "answer": "1"},
     "A. 0\nB. 4\nC. 2\nD. 6", "B"),
    ({"prompt": QUESTION, "choices": ["x", "y"], "answer": 1.0}, "A. x\nB. y", "B"),
    # MMLU-Pro, RACE, MedQA, ARC, OpenBookQA, CommonsenseQA, AQuA-RAT, MathQA, MedMCQA, C-Eval.
    ({"question": QUESTION, "options": ["x", "y", "z"], "answer": "C", "answer_index": 2},
     "A. x\nB. y\nC. z", "C"),
    ({"question": QUESTION, "options": {"A": "Amp", "B": "Nitro", "C": None}, "answer": "Nitro"},
     "A. Amp\nB. Nitro", "B"),
    ({"question": QUESTION, "choices": {"text": ["dry", "wet"], "label": ["1", "2"]},
      "answerKey": "2"}, "1. dry\n2. wet", "2"),
    ({"question_stem": QUESTION, "choices": {"text": ["dry", "wet"], "label": ["A", "B"]},
      "answerKey": "A"}, "A. dry\nB. wet", "A"),
    ({"answerKey": "B", "question": {"stem": QUESTION, "question_concept": "c", "choices": [
        {"label": "A", "text": "bank"}, {"label": "B", "text": "library"}]}},
     "A. bank\nB. library", "B"),
    ({"question": QUESTION, "options": ["A)21", "B)21.5"], "rationale": "...", "correct": "B"},
     "A. 21\nB. 21.5", "B"),
    ({"Problem": QUESTION, "options": "a ) 38 , b ) 27.675 , c ) 30", "correct": "c"},
     "a ) 38 , b ) 27.675 , c ) 30", "c"),
    ({"question": QUESTION, "options": "A: x, B: y", "correct": "B"}, "A: x, B: y", "B"),
    ({"question": QUESTION, "opa": "x", "opb": "y", "correct": "b"}, "a. x\nb. y", "b"),
    ({"question": QUESTION, "A": "x", "B": "y", "C": "z", "answer": "C"}, "A. x\nB. y\nC. z", "C"),
    ({"question": QUESTION, "option1": "x", "option2": "y", "answer": "2"}, "1. x\n2. y", "2"),
    # The answer as the text, with its label, or several of them; a working that says it.
    ({"question": QUESTION, "choices": ["x one", "y two"], "answer": "(B) y two"},
     "A. x one\nB. y two", "B"),
    ({"question": QUESTION, "choices": ["x", "y", "z"], "answer": "A, C"}, "A. x\nB. y\nC. z",
     "A, C"),
    ({"question": QUESTION, "choices": [3, 4, 5], "answer": "5"}, "A. 3\nB. 4\nC. 5", "C"),
    ({"question": QUESTION, "choices": ["x", "y"], "answer": ["y"]}, "A. x\nB. y", "B"),
    ({"question": QUESTION, "choices": ["x", "y"], "answer": "It is\nso.\n#### B"}, "A. x\nB. y",
     "B"),
])
def test_choices_are_under_the_question_and_the_answer_is_a_label(tmp_path, row, shown, answer):
  assert read_one(tmp_path, row) == (f"{QUESTION}\n{shown}", answer)


@pytest.mark.parametrize("row, reason", [
    ({"choices": ["x", "y"], "answer": "z"}, "answer: got 'z', allowed: one of the choices A, B"),
    ({"choices": ["x", "y"], "answer": 2}, "answer: got '2', allowed: one of the choices A, B"),
    ({"choices": ["B", "A"], "answer": "A"}, "answer: got 'A', which may be one of several, al"),
    ({"choices": ["1", "2"], "answer": "1"}, "answer: got '1', which may be one of several, al"),
    ({"choices": ["x", "y"]}, "there is no column 'answer'"),
])
def test_an_answer_that_is_no_choice_or_may_be_two_is_left_out(tmp_path, row, reason):
  with pytest.raises(ValueError, match=f"row 1: {reason}"):
    read_one(tmp_path, {"question": QUESTION, **row})


def test_the_right_answer_beside_wrong_ones_stands_anywhere(tmp_path):
  """Of GPQA and SciQ, in the same order in every run."""
  rows = [{"Question": f"{QUESTION} {i}", "Correct Answer": f"right {i}", "Incorrect Answer 1": "a",
           "Incorrect Answer 2": "b", "Incorrect Answer 3": "c"} for i in range(20)]
  path = write(tmp_path / "a.jsonl", rows)
  for row in read(path):
    number = row["prompt"].splitlines()[0].rpartition(" ")[2]
    assert f"\n{row['answer']}. right {number}" in row["prompt"]
  assert {row["answer"] for row in read(path)} == set("ABCD") and read(path) == read(path)
  row = {"question": "q", "correct_answer": "x", "distractor1": "y", "support": "z"}
  assert read_one(tmp_path, row)[0] in ("q\nA. x\nB. y", "q\nA. y\nB. x")


def test_choices_that_the_question_shows_are_not_shown_again(tmp_path):
  row = {"query": "Q? Choices: (A)8 (B) 9\nA:", "choices": ["(A)8", "(B)9"], "answer": "B"}
  assert read_one(tmp_path, row) == (row["query"], "B")
  row = {"question": "Of 4 and 2?", "choices": ["4", "2"], "answer": 0}  # no choices, yet
  assert read_one(tmp_path, row) == ("Of 4 and 2?\nA. 4\nB. 2", "A")


def test_choices_of_chats_of_examples_and_of_pairs(tmp_path):
  chat = {"prompt": [SYSTEM("s"), USER("q")], "choices": ["x", "y"], "answer": 0}
  assert read_one(tmp_path, chat) == ([SYSTEM("s"), USER("q\nA. x\nB. y")], "A")
  row = {"question": "q", "options": ["A)x", "B)y"], "rationale": "So it is B.", "correct": "B"}
  assert read_one(tmp_path, row, EXAMPLE) == ("q\nA. x\nB. y", "So it is B.")
  row = {"question": "q", "choices": ["x", "y"], "chosen": "a", "rejected": "b"}
  assert read_one(tmp_path, row, PAIR) == ("q\nA. x\nB. y", "a", "b")
  # What is called so and is something else stays a column.
  assert read_one(tmp_path, {"prompt": "q", "A": 3, "B": [4], "answer": "7"}) == ("q", "7")
  assert read_one(tmp_path, {"prompt": "q", "A": 3, "B": 4, "answer": "7"}) == ("q", "7")
  row = {"prompt": "q", "answer": "1", "options": {"temperature": 1}, "choices": [{"index": 0}]}
  assert read_one(tmp_path, row) == ("q", "1")


# What a question is about.


@pytest.mark.parametrize("row, prompt", [
    ({"Body": "Each pack costs 76.", "Question": "How much?", "Answer": "51.0"},  # SVAMP
     "Each pack costs 76.\nHow much?"),
    ({"passage": "It rained.", "question": "Did it?", "answer": "yes"}, "It rained.\nDid it?"),
    ({"context": "A ball.", "question": "How far?", "final_answer": ["2"]}, "A ball.\nHow far?"),
    ({"context": ["It rained.", "It ended."], "question": "Did it?", "answer": "yes"},
     "It rained.\nIt ended.\nDid it?"),
    ({"article": "Art.", "question": "What?", "options": ["x", "y"], "answer": "A"},
     "Art.\nWhat?\nA. x\nB. y"),
    ({"context": "A ball.", "question": "A ball. How far?", "answer": 2}, "A ball. How far?"),
    ({"context": "A ball.", "prompt": "How far?", "answer": 2}, "How far?"),  # as it is
    ({"instruction": "Add.", "context": "1 + 1", "answer": 2}, "Add.\n1 + 1"),
    ({"input": "1 + 1", "target": "2"}, "1 + 1"),  # BIG-Bench
])
def test_the_text_that_a_question_is_about_goes_before_it(tmp_path, row, prompt):
  assert read_one(tmp_path, row)[0] == prompt


def test_columns_of_text_that_are_not_used_are_named_once(tmp_path, caplog):
  caplog.set_level("INFO")
  long = "a text of several words"
  path = write(tmp_path / "a.jsonl", [
      {"question": "q", "answer": "1", "hint": long, "level": "Level 5", "solution": long,
       "context": {"title": ["T"], "sentences": [[long]]}, "concat": "q"}] * 3)
  read(path)
  assert [record.getMessage() for record in caplog.records] == [
      f"{path}: not used (`fields` can name them): 'hint' (3), 'context' (3)",
      f"{path}: prompt from 'question' (3)"]


def test_a_row_with_an_image_is_left_out(tmp_path):
  row = {"question": "q", "answer": "1", "image_1": {"bytes": "x", "path": None}}
  with pytest.raises(ValueError, match="row 1: image_1: got an image, allowed: text"):
    read_one(tmp_path, row)
  assert read_one(tmp_path, row | {"image_1": {"bytes": None, "path": None}}) == ("q", "1")


def test_rows_that_their_makers_hold_to_be_bad_are_left_out(tmp_path):
  row = {"problem": "q", "solution": "So \\boxed{4}.", "answer": "4"}
  rows = [row | {"problem_is_valid": a, "solution_is_valid": b}
          for a, b in (("Yes", "Yes"), ("Incomplete", "Yes"), ("Yes", "Not Verified"), (None, ""))]
  path = write(tmp_path / "a.jsonl", rows)
  assert sources.FileRows(path).bad_rows == [
      (2, "problem_is_valid: got 'Incomplete', allowed: yes, true or 1")]
  assert sources.FileRows(path, required=EXAMPLE).bad_rows == [
      (2, "problem_is_valid: got 'Incomplete', allowed: yes, true or 1"),
      (3, "solution_is_valid: got 'Not Verified', allowed: yes, true or 1")]


# System messages.


@pytest.mark.parametrize("row, required, text, chat", [
    ({"system_prompt": "s", "question": "q", "response": "r"}, EXAMPLE, "s\n\nq",
     [SYSTEM("s"), USER("q")]),  # OpenOrca
    ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, PAIR, "s\n\nq",
     [SYSTEM("s"), USER("q")]),
    ({"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"}, PAIR, "s\n\nq",
     [SYSTEM("s"), USER("q")]),
    ({"system": "s", "problem": "q", "answer": "1"}, PROBLEM, "s\n\nq", [SYSTEM("s"), USER("q")]),
    ({"system": "", "question": "q", "response": "r"}, EXAMPLE, "q", [USER("q")]),
    ({"question": "q", "chosen": "a", "rejected": "b"}, PAIR, "q", [USER("q")]),
    ({"problem": "q", "answer": "1"}, PROBLEM, "q", [USER("q")]),
    ({"prompt": "q", "answer": "1"}, PROBLEM, "q", "q"),
    ({"system_prompt": "s", "input": [USER("q")], "output": "r"}, EXAMPLE, [SYSTEM("s"), USER("q")],
     [SYSTEM("s"), USER("q")]),
    ({"system": "s", "messages": [USER("q"), ASSISTANT("r")]}, EXAMPLE, [SYSTEM("s"), USER("q")],
     [SYSTEM("s"), USER("q")]),
    ({"system": "s", "messages": [SYSTEM("own"), USER("q"), ASSISTANT("r")]}, EXAMPLE,
     [SYSTEM("own"), USER("q")], [SYSTEM("own"), USER("q")]),
    ({"system": "s", "chosen": [USER("q"), ASSISTANT("a")], "rejected": [USER("q"), ASSISTANT("b")]
      }, PAIR, [SYSTEM("s"), USER("q")], [SYSTEM("s"), USER("q")]),
])
def test_a_system_message_beside_the_question(tmp_path, row, required, text, chat):
  assert read_one(tmp_path, row, required)[0] == text
  assert read_one(tmp_path, row, required, questions="chat")[0] == chat


@pytest.mark.parametrize("is_chat, prompt", [
    (True, [SYSTEM("s"), USER("Solve: q")]), (False, "s\n\nSolve: q")])
def test_the_template_of_a_task_is_of_the_question_alone(tmp_path, is_chat, prompt):
  path = str(write(tmp_path / "a.jsonl", [{"system": "s", "problem": "q", "answer": "1"}]))
  task = load.FileTask(kind="file", name="a", train=path, test=path, template="Solve: {question}",
                       is_chat=is_chat)
  assert dict(load.load_tasks(task)["train"].rows[0]) == {"prompt": prompt, "answer": "1"}


# Other chats, and what of them is trained on.


def test_turns_of_weight_0_are_not_trained_on(tmp_path):
  """Of OpenAI's and SlimOrca's fine-tuning data; a last turn without a weight is removed."""
  last = lambda *weights, name="weight": read_one(tmp_path, {"messages": [
      turn for i, weight in enumerate(weights)
      for turn in (USER(f"q{i}") | {name: 0}, ASSISTANT(f"a{i}") | {name: weight})]}, EXAMPLE)
  silent = ASSISTANT("a0") | {"weight": 0}
  assert last(0, 1) == ([USER("q0"), silent, USER("q1")], "a1")
  assert last(1, 0) == last(1, False, name="train") == last(1) == ([USER("q0")], "a0")
  assert last(0, 1, 0, name="loss_mask") == last(0, 1.0) and last(None) == last(1)
  with pytest.raises(ValueError, match="row 1: weight: got 0 for every turn of the assistant"):
    last(0, 0)
  with pytest.raises(ValueError, match=r"weight: got \[0.5\], allowed: 0 or 1"):
    last(0.5)


def test_chats_of_texts_and_chats_alone(tmp_path):
  assert read_one(tmp_path, {"conversations": ["q", "a", "b", "c"]}, EXAMPLE) == (
      [USER("q"), ASSISTANT("a"), USER("b")], "c")  # of LIMA
  data = {"id": "0", "data": ["q", "a"]}  # of UltraChat
  assert read_one(tmp_path, data, EXAMPLE, fields={"messages": "data"}) == ([USER("q")], "a")
  # Of Open-Reasoner-Zero: a list of lists, the gold beside no content.
  turns = [{"from": "human", "value": "q"}, {"from": "assistant", "ground_truth": {"value": "4"}}]
  (tmp_path / "a.json").write_text(json.dumps([turns] * 2))
  assert [(row["prompt"], row["answer"]) for row in read(tmp_path / "a.json")] == [
      ([USER("q")], "4")] * 2
  (tmp_path / "a.json").write_text(json.dumps([[USER("q"), ASSISTANT("a")]]))
  row, = read(tmp_path / "a.json", EXAMPLE)
  assert (row["prompt"], row["completion"]) == ([USER("q")], "a")


def test_transcripts_end_with_the_assistants_name(tmp_path):
  """Of HH-RLHF: what both answers begin with is no part of the prompt."""
  turns = "\n\nHuman: q\n\nAssistant: a\n\nHuman: b\n\nAssistant:"
  row = {"chosen": f"{turns} I am one", "rejected": f"{turns} I am two"}
  assert read_one(tmp_path, row, PAIR) == (turns, " I am one", " I am two")
  chat = [USER("q"), ASSISTANT("a"), USER("b")]
  assert read_one(tmp_path, row, PAIR, questions="chat") == (chat, "I am one", "I am two")
  row = {"prompt": f"{turns} ", "chosen": "one", "rejected": "two"}
  assert read_one(tmp_path, row, PAIR, questions="chat") == (chat, "one", "two")
  row = {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: b\n\nAssistant: c",
         "rejected": "\n\nHuman: q\n\nAssistant: x"}
  with pytest.raises(ValueError, match="row 1: rejected: got another prompt than chosen's"):
    read_one(tmp_path, row, PAIR)
  assert messages.read_transcript("He said:\n\nHuman: q\n\nAssistant: a") is None


# Answers and examples.


@pytest.mark.parametrize("row, answer", [
    ({"solution": "128"}, "128"),  # of s1K
    ({"solution": "It is even.\nThe answer is 4."}, "4"),
    ({"solution": "It is even.\n**Answer:** $x=4$"}, "$x=4$"),
    ({"answer": "We add them. " * 20, "final_answer": "4"}, "4"),
    ({"answer": "We add them. " * 20 + "\n#### 5", "final_answer": "4"}, "5"),
    ({"reference_answer": "4", "responses": [{"response": "r"}]}, "4"),
])
def test_answers_of_other_columns(tmp_path, row, answer):
  assert read_one(tmp_path, {"question": "q", **row}) == ("q", answer)


def test_a_list_that_numpy_prints_without_commas_is_no_joined_text(tmp_path):
  assert read_one(tmp_path, {"question": "q", "answer": "['3' '4']"}) == ("q", "3, 4")


def test_a_bare_number_is_no_example(tmp_path):
  with pytest.raises(ValueError, match=r"and the solution '128' is no working; .*attempt\); "
                     r"fields=\{'completion': NAME\} says which of them it is$"):
    read_one(tmp_path, {"question": "q", "solution": "128", "attempt": "So 128"}, EXAMPLE)
  assert read_one(tmp_path, {"question": "q", "solution": ["So it is 4."]}, EXAMPLE) == (
      "q", "So it is 4.")


@pytest.mark.parametrize("row, fields, example", [
    ({"question": "q", "solution": "128", "attempt": "So 128"}, {"completion": "attempt"},
     ([USER("q")], "So 128")),
    ({"text": "q", "code": "print(1)"}, {"prompt": "text", "completion": "code"},
     ([USER("q")], "print(1)")),
    ({"prompt": "q", "code": "print(1)"}, {"completion": "code"}, ("q", "print(1)")),
    ({"id": 1, "data": ["q", "a"]}, {"messages": "data"}, ([USER("q")], "a"))])
def test_columns_named_in_fields(tmp_path, row, fields, example):
  assert read_one(tmp_path, row, EXAMPLE, questions="chat", fields=fields) == example


def test_an_object_in_place_of_an_answer_names_a_place_in_it(tmp_path):
  row = {"question": "q", "answer": {"value": "4", "aliases": ["IV"]}}
  with pytest.raises(ValueError, match="answer: got an object .answer.value in `fields` is a place "
                     "in it., allowed: text or a finite number"):
    read_one(tmp_path, row)
  assert read_one(tmp_path, row, fields={"answer": "answer.value"}) == ("q", "4")
