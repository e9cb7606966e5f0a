"""Data sets in the layouts they are published in: one small fixture per form, written here."""

import datetime
from decimal import Decimal
import json

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from rlreason.data import sources

PROBLEM, EXAMPLE = ("prompt", "answer"), ("prompt", "completion")
PAIR = ("prompt", "chosen", "rejected")
USER = lambda text: {"role": "user", "content": text}
ASSISTANT = lambda text: {"role": "assistant", "content": text}
SYSTEM = lambda text: {"role": "system", "content": text}
WORKING = "He sold 48/2 = <<48/2=24>>24 in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"
BOXED = r"Then $\boxed{\text{no}}$ is no number, so the answer is $\boxed{\frac{1}{2}}$."


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def read(path, required=PROBLEM, **options):
  return list(sources.FileRows(path, required=required, **options))


def read_one(tmp_path, row, required=PROBLEM, **options):
  """The columns of a row that are required, as a tuple."""
  made, = read(write(tmp_path / "rows.jsonl", [row]), required, **options)
  return tuple(made[name] for name in required)


# Problems, as their cards show them.

GSM8K = {"question": "Natalia sold 48 clips in April and half in May. How many?", "answer": WORKING}
MATH = {"problem": "What is $x$?", "level": "Level 5", "type": "Algebra", "solution": BOXED}
NUMINA_COT = {"source": "cn_k12", "problem": "What is $x$?", "solution": BOXED,
              "messages": [USER("What is $x$?"), ASSISTANT(BOXED)]}
OPEN_R1 = {"problem": "What is $x$?", "solution": "## Solution.\n\n...", "answer": "v = 6.3",
           "problem_type": "Algebra", "question_type": "math-word-problem", "source": "olympiads",
           "uuid": "586fd646", "is_reasoning_complete": [True, True],
           "generations": ["<think>\nOkay\n</think>\n\n6.3", "<think>\nSo\n</think>\n\n6.3"],
           "correctness_math_verify": [True, False], "correctness_llama": None,
           "finish_reasons": None, "correctness_count": 1,
           "messages": [USER("What is $x$?"), ASSISTANT("<think>\nOkay\n</think>\n\n6.3")]}
DEEPSCALER = {"problem": "What is $x$?", "answer": "-\\frac{2}{3}", "solution": ""}
DAPO = {"data_source": "math_dapo", "prompt": [USER("Solve ... Answer: $Answer ...")],
        "ability": "MATH",
        "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4"}}


@pytest.mark.parametrize("row, prompt, answer", [
    (GSM8K, GSM8K["question"], "72"),
    (MATH, "What is $x$?", "\\frac{1}{2}"),
    (NUMINA_COT, "What is $x$?", "\\frac{1}{2}"),
    (OPEN_R1, "What is $x$?", "v = 6.3"),
    (DEEPSCALER, "What is $x$?", "-\\frac{2}{3}"),
    (DAPO, DAPO["prompt"], "34"),
    # JSON, or what Python prints, in a column: pandas and CSV make these of lists and objects.
    (DAPO | {"prompt": json.dumps(DAPO["prompt"]),
             "reward_model": json.dumps(DAPO["reward_model"])}, DAPO["prompt"], "34"),
    (DAPO | {"prompt": repr(DAPO["prompt"]), "reward_model": repr(DAPO["reward_model"])},
     DAPO["prompt"], "34"),
    # Of OlympiadBench and Skywork-OR1: an answer in a list, as it is and as JSON.
    ({"question": "q", "final_answer": ["2"], "is_multiple_answer": False}, "q", "2"),
    ({"question": "q", "final_answer": ["$2$", "$-3$"]}, "q", "$2$, $-3$"),
    ({"prompt": [USER("q")], "reward_model": {"ground_truth": "[\"\\\\frac{1}{2}\"]"}},
     [USER("q")], "\\frac{1}{2}"),
    ({"question": "q", "answer": "['3', '4']"}, "q", "3, 4"),
    ({"question": "q", "answer": "[3, 4]"}, "q", "[3, 4]"),  # an interval
    ({"messages": [USER("q")], "ground_truth": "4", "dataset": "math"}, [USER("q")], "4"),
    ({"problem": "q", "generated_solution": "so 4", "expected_answer": "4"}, "q", "4"),
    ({"ID": "2024-I-1", "Problem": "q", "Solution": "so", "Answer": 204}, "q", "204"),
    ({"instruction": "Add.", "input": "1 + 1", "answer": "2"}, "Add.\n1 + 1", "2"),
    ({"problem": "q", "answer": "", "solution": BOXED}, "q", "\\frac{1}{2}"),
    ({"problem": "q", "solution": "$\\frac{1}{2}$"}, "q", "$\\frac{1}{2}$"),  # of TRL
])
def test_problems(tmp_path, row, prompt, answer):
  assert read_one(tmp_path, row) == (prompt, answer)


def test_what_numpy_prints(tmp_path):
  chat = [SYSTEM("Be brief. {a} {b}"), USER("What's\n1 + 1?")]
  for printed in (str(np.array(chat, dtype=object)), repr(np.array(chat, dtype=object))):
    assert read_one(tmp_path, {"prompt": printed, "answer": "2"}) == (chat, "2")


def test_the_working_of_gsm8k_is_kept_and_its_answer_is_the_last_line(tmp_path):
  row, = read(write(tmp_path / "a.jsonl", [GSM8K]))
  assert row == {"prompt": GSM8K["question"], "answer": "72", "solution": WORKING}
  for working, answer in (
      ("#### 1,234", "1,234"), ("a\n####5\n", "5"), ("#### Step 1\nso 5", None)):
    row, = read(write(tmp_path / "a.jsonl", [{"question": "q", "answer": working}]))
    assert row["answer"] == (answer or working)


@pytest.mark.parametrize("solution, answer", [
    (r"\boxed{1}, or \boxed{2}", "1, 2"), (r"$\boxed{\{1, 2\}}$", r"\{1, 2\}"),
    (r"\fbox{7}.", "7"), (r"$\boxed 2$.", "2"), (r"$\boxed{3}$ so $\boxed{}$", "3"),
    (r"$\boxed{\frac{\sqrt{3}}{2}}$", r"\frac{\sqrt{3}}{2}"), (r"\boxed{5", None),
    (r"\boxed{4} then \boxed{\frac{1}{2}", None), ("We prove it. " * 20, None),
    ("First\nsecond", None)])
def test_the_last_box_of_a_solution(tmp_path, solution, answer):
  row = {"problem": "q", "solution": solution}
  if answer is None:
    with pytest.raises(ValueError, match="row 1: solution: got a .*(box that is not closed|"
                       r"without a box), allowed: .*.boxed.answer"):
      read_one(tmp_path, row)
  else:
    assert read_one(tmp_path, row) == ("q", answer)
    assert read_one(tmp_path, row, fields={"answer": "solution"}) == ("q", answer)


@pytest.mark.parametrize("value, answer", [
    (72.0, "72"), (-0.5, "-0.5"), (1e22, "1" + "0" * 22), (1e-7, "0.0000001"), (-0.0, "0"),
    (7, "7"), ("72.0", "72.0"), ([3, 4.0], "3, 4"), (10**400, "1" + "0" * 400)])
def test_numbers(tmp_path, value, answer):
  assert read_one(tmp_path, {"question": "q", "answer": value}) == ("q", answer)


@pytest.mark.parametrize("kind, value, answer", [
    (pyarrow.int64(), 72, "72"), (pyarrow.float64(), 72.0, "72"), (pyarrow.float32(), 0.1, "0.1"),
    (pyarrow.uint8(), 5, "5"), (pyarrow.decimal128(10, 2), Decimal("1.50"), "1.5"),
    (pyarrow.list_(pyarrow.float32()), [0.1, 2.0], "0.1, 2"), (pyarrow.binary(), b"72", "72"),
    (pyarrow.large_string(), "72", "72"), (pyarrow.date32(), datetime.date(2024, 1, 2),
                                           "2024-01-02"),
    (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), "a", "a")])
def test_every_type_a_column_can_have(tmp_path, kind, value, answer):
  table = pyarrow.table({"question": ["q"], "answer": pyarrow.array([value], kind)})
  parquet.write_table(table, tmp_path / "a.parquet")
  assert read(tmp_path / "a.parquet") == [{"prompt": "q", "answer": answer}]


@pytest.mark.parametrize("value, answer", [
    (np.int64(72), "72"), (np.float32(0.1), "0.1"), (np.array(3.0), "3"), (np.str_("a"), "a"),
    (np.array(["1", "2"]), "1, 2"), (Decimal("72.0"), "72"), (b"72", "72")])
def test_values_of_tfds(value, answer):
  row = sources.make_row({"question": b"q", "answer": value, "x": np.array([1, 2])}, None, PROBLEM)
  assert row == {"prompt": "q", "answer": answer, "x": [1, 2]}


def test_paths_inside_a_row(tmp_path):
  row = {"data": {"chat": [USER("q"), ASSISTANT("the answer is 4")], "gold": [{"value": 4}]},
         "a.b": "5", "info": "{\"n\": {\"k\": 6}}"}
  read_answer = lambda path: read_one(
      tmp_path, row, fields={"prompt": "data.chat.0.content", "answer": path})
  assert read_answer("data.gold.0.value") == ("q", "4")
  assert read_answer("data.chat.-1.content") == ("q", "the answer is 4")
  assert read_answer("a.b") == ("q", "5") and read_answer("info.n.k") == ("q", "6")
  for path in ("data.gold.1.value", "data.gold.value", "data.none", "a.c", "info.n.k.m", ""):
    with pytest.raises(ValueError, match=f"row 1: there is no column '{path}' for 'answer'"):
      read_answer(path)


# The prompt of a problem does not hold its solution.


def test_an_assistants_turn_at_the_end_of_a_prompt_is_cut_off_and_counted(tmp_path, caplog):
  turns = [USER("q"), ASSISTANT("a"), USER("again"), ASSISTANT("4"), ASSISTANT("so 4")]
  path = write(tmp_path / "a.jsonl", [
      {"prompt": turns, "answer": "4"}, {"messages": turns[:2], "answer": "4"},
      {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
       "answer": 1}, {"prompt": turns[:1], "answer": "4"}, {"prompt": turns[1:2], "answer": "4"}])
  caplog.clear()
  rows = sources.FileRows(path)
  assert [row["prompt"] for row in rows] == [turns[:3], turns[:1], turns[:1], turns[:1]]
  assert [line for line, _ in rows.bad_rows] == [5]
  cut = [record.getMessage() for record in caplog.records if "removed" in record.getMessage()]
  assert cut == [f"{path}: 3 rows: removed the assistant's turns at the end of the prompt, which "
                 "would hold the solution"]


def test_a_chat_that_ends_with_the_user_goes_before_the_bare_problem(tmp_path):
  chat = [SYSTEM("Be brief."), USER("q?")]
  assert read_one(tmp_path, {"messages": chat, "problem": "q", "answer": "4"}) == (chat, "4")


# Examples.

SHAREGPT = {"id": "identity_0", "conversations": [
    {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"},
    {"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}


@pytest.mark.parametrize("row, prompt, completion", [
    (NUMINA_COT, [USER("What is $x$?")], BOXED),
    (OPEN_R1, [USER("What is $x$?")], "<think>\nOkay\n</think>\n\n6.3"),
    (SHAREGPT, [USER("Hi"), ASSISTANT("Hello"), USER("1 + 1?")], "2"),
    (SHAREGPT | {"system": "Be brief."},
     [SYSTEM("Be brief."), USER("Hi"), ASSISTANT("Hello"), USER("1 + 1?")], "2"),
    ({"conversations": [{"from": "system", "value": ""}, *SHAREGPT["conversations"][2:]]},
     [USER("1 + 1?")], "2"),
    # TRL: text, messages, and a prompt that the completion continues.
    ({"prompt": "The sky is", "completion": " blue."}, "The sky is", " blue."),
    ({"prompt": [USER("q")], "completion": [ASSISTANT("a")]}, [USER("q")], "a"),
    ({"messages": [USER("q"), ASSISTANT("a")]}, [USER("q")], "a"),
    ({"prompt": [USER("q")], "completion": [ASSISTANT("a"), USER("b"), ASSISTANT("c")]},
     [USER("q"), ASSISTANT("a"), USER("b")], "c"),
    ({"prompt": "q", "prompt_id": "1", "messages": [USER("q"), ASSISTANT("a")]}, [USER("q")], "a"),
    # Content in parts, columns of lists, fields that other messages have.
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "1 + "},
                                                {"type": "text", "text": "1?"}]},
                   {"role": "assistant", "content": [{"type": "text", "text": "2"}]}]},
     [USER("1 + 1?")], "2"),
    ({"messages": {"role": ["user", "assistant"], "content": ["q", "a"]}}, [USER("q")], "a"),
    ({"messages": [USER("q") | {"tool_calls": None, "name": "Ada"}, ASSISTANT("a")]},
     [USER("q") | {"name": "Ada"}], "a"),
    ({"messages": [USER("q"), ASSISTANT("a") | {"reasoning_content": "So."}]}, [USER("q")],
     "<think>\nSo.\n</think>\n\na"),
    ({"messages": [{"role": "USER", "content": "q"}, {"role": "Assistant", "content": "a"}]},
     [USER("q")], "a"),
    ({"instruction": "Add.", "input": "", "output": "2"}, "Add.", "2"),
    ({"instruction": "Who?", "context": "Ada ran.", "response": "Ada"}, "Who?\nAda ran.", "Ada"),
    ({"prompt": "q", "response": "a"}, "q", "a"),
    (GSM8K, GSM8K["question"], WORKING),
    (MATH, "What is $x$?", BOXED),
])
def test_examples(tmp_path, row, prompt, completion):
  assert read_one(tmp_path, row, EXAMPLE) == (prompt, completion)


def test_a_question_becomes_a_users_turn_where_that_is_asked_for(tmp_path):
  chat = lambda row: read_one(tmp_path, row, EXAMPLE, questions="chat")
  assert chat(GSM8K) == ([USER(GSM8K["question"])], WORKING)
  assert chat({"prompt": "q", "solution": "s"}) == ("q", "s")  # a prompt is taken as it is
  assert chat({"question": "q", "completion": "s"}) == ("q", "s")


@pytest.mark.parametrize("row, reason", [
    ({"question": "q", "answer": "72"}, "the answer '72' is no working; answer_template makes"),
    ({"messages": [USER("q")]}, "messages: got a last message of 'user', allowed: of 'assistant'"),
    ({"prompt": "q"}, "there is no column 'completion' and no chat messages to take it from"),
    ({"prompt": [USER("q")], "completion": [USER("a")]},
     "completion: got a last message of 'user', allowed: of 'assistant'"),
    ({"messages": [USER("q"), {"role": "assistant", "content": [{"type": "image"}]}]},
     "content: got a part of the type 'image', allowed: text"),
    ({"messages": [USER("q"), {"role": "assistant", "tool_calls": []}]},
     r"message: got .'role', 'tool_calls'., allowed: a role and a content"),
    ({"messages": [USER("q"), ASSISTANT(" ")]}, "content: got an empty text"),
    ({"messages": []}, "there is no column 'completion'"),
    ({"prompt": "q", "completion": "a", "prompt_ids": "1 2"},
     "prompt_ids: got a str, allowed: a list of token ids"),
    ({"messages": "[{'role': 'user', 'content': "}, "begins like chat messages, allowed: on"),
])
def test_examples_that_are_none(tmp_path, row, reason):
  with pytest.raises(ValueError, match=f"no usable row among 1; row 1: .*{reason}"):
    read_one(tmp_path, row, EXAMPLE)


# Pairs and verdicts.


@pytest.mark.parametrize("row, prompt", [
    ({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, "The sky is"),
    ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "The sky is "),
    ({"prompt": [USER("q")], "chosen": [ASSISTANT("a")], "rejected": [ASSISTANT("b")]},
     [USER("q")]),
    ({"chosen": [USER("q"), ASSISTANT("a")], "rejected": [USER("q"), ASSISTANT("b")]},
     [USER("q")]),
    # UltraFeedback: the prompt as text, and again in the messages.
    ({"prompt": "q", "prompt_id": "1", "chosen": [USER("q"), ASSISTANT("a")], "rejected":
      [USER("q"), ASSISTANT("b")], "messages": [USER("q"), ASSISTANT("a")], "score_chosen": 8.0},
     [USER("q")]),
    ({"prompt": "q", "chosen": [ASSISTANT("a")], "rejected": [ASSISTANT("b")]}, [USER("q")]),
    ({"question": "q", "chosen": "a", "rejected": "b"}, "q"),
    ({"messages": [USER("q")], "chosen": ASSISTANT("a")["content"], "rejected": "b"}, [USER("q")]),
    # ShareGPT's preference form.
    ({"conversations": [{"from": "human", "value": "q"}],
      "chosen": [{"from": "gpt", "value": "a"}], "rejected": [{"from": "gpt", "value": "b"}]},
     [USER("q")]),
    ({"conversations": [{"from": "Human", "value": "q"}],
      "chosen": {"from": "GPT", "value": "a"}, "rejected": {"from": "GPT", "value": "b"}},
     [USER("q")]),
])
def test_pairs(tmp_path, row, prompt):
  found, chosen, rejected = read_one(tmp_path, row, PAIR)
  assert found == prompt
  assert (chosen.strip(), rejected.strip()) in (("a", "b"), ("blue.", "green."))


@pytest.mark.parametrize("row, reason", [
    ({"chosen": [USER("q"), ASSISTANT("a")], "rejected": [USER("r"), ASSISTANT("b")]},
     "rejected: got another prompt than chosen's"),
    ({"chosen": [ASSISTANT("a")], "rejected": [ASSISTANT("b")]}, "there is no column 'prompt'"),
    ({"chosen": "a", "rejected": "b"},
     "prompt, which chosen and rejected begin with: got an empty"),
    ({"prompt": "q", "chosen": "a"}, "there is no column 'rejected'"),
    ({"prompt": "q", "chosen": "a", "rejected": ""}, "rejected: got an empty text"),
])
def test_pairs_that_are_none(tmp_path, row, reason):
  with pytest.raises(ValueError, match=f"row 1: .*{reason}"):
    read_one(tmp_path, row, PAIR)


@pytest.mark.parametrize("columns, verdict", [
    ({"label": True}, True), ({"label": False}, False), ({"is_right": 1}, True),
    ({"is_right": "False"}, False), ({"is_right": "true", "label": False}, True),
    ({"is_right": None}, None), ({"is_right": "", "label": "False"}, None)])
def test_verdicts(tmp_path, columns, verdict):
  """TRL's unpaired form has a `label`; a CSV file has it as text."""
  row = {"prompt": [USER("q")], "completion": [ASSISTANT("a")], **columns}
  made, = read(write(tmp_path / "a.jsonl", [row]), EXAMPLE)
  assert made["is_right"] is verdict and made["completion"] == "a"


def test_a_verdict_that_is_none_is_refused(tmp_path):
  with pytest.raises(ValueError, match="is_right: got 'maybe', allowed: true or false"):
    read_one(tmp_path, {"prompt": "q", "completion": "a", "is_right": "maybe"}, EXAMPLE)


def test_a_line_says_where_columns_were_found(tmp_path, caplog):
  caplog.set_level("INFO")
  path = write(tmp_path / "a.jsonl", [GSM8K, MATH, {"prompt": "p", "answer": "1"}])
  read(path)
  assert [record.getMessage() for record in caplog.records] == [
      f"{path}: prompt from 'question' (1); answer from what follows '####' in 'answer' (1); "
      "prompt from 'problem' (1); answer from the last box of 'solution' (1)"]
