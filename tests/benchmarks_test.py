"""The counting and the turns of benchmarks/, on shapes too small to measure anything."""

import dataclasses
import functools
import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from tests import compiler, waiting

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(name="ours")
def _ours(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import ours

  return ours


@pytest.fixture(name="side_by_side")
def _side_by_side(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import side_by_side

  return side_by_side


def test_operations_of_the_trunk_are_those_that_xla_counts(ours):
  """XLA counts the whole square of attention and what is not a product: a few percent more."""
  shape = ours.Shape(sequences=4)
  params = models.abstract_params(shape.model_config())
  rows = jax.ShapeDtypeStruct((4, shape.prompt_tokens + shape.new_tokens), jnp.int32)
  forward = jax.jit(lambda params, rows: models.forward(shape.model_config(), params, rows, rows))
  counted = forward.lower(params, rows).cost_analysis()["flops"]
  assert ours.trunk_flops(shape) < counted < 1.15 * ours.trunk_flops(shape)


TINY = dict(
    layers=1, width=16, mlp_width=16, heads=2, kv_heads=1, head_dim=8, vocabulary=32, sequences=4,
    group=2, prompt_tokens=3, micro_sequences=2)


@pytest.mark.parametrize("method", ["shared", "separate", "grpo"])
def test_a_step_is_timed_by_phase(ours, method):
  shape = ours.Shape(new_tokens=2, **TINY)
  step = ours.Step(shape, ours.grpo(shape) if method == "grpo" else ours.ppo(shape, method))
  seconds = step.run(0)
  assert seconds.pop("tokens") == 2.0
  assert set(seconds) == {"total", "generate", "score", "batch", "update"}
  assert sum(seconds.values()) <= 2.01 * seconds["total"]
  assert int(step.state.step) == 1
  step.update()
  assert int(step.state.step) == 2


def test_stop_tokens_make_lengths_geometric(ours):
  """One of 4 tokens ends a row: 1 + 3/4 + ... + (3/4)^39 = 4 tokens, and half as many over."""
  shape = ours.Shape(new_tokens=40, mean_tokens=4, **TINY | dict(sequences=64))
  assert shape.stop_ids() == (2, 7, 10, 15, 18, 23, 26, 31)
  step = ours.Step(shape, ours.grpo(dataclasses.replace(shape, micro_sequences=64)))
  assert step.run(0)["tokens"] == pytest.approx(4.0, abs=1.5)
  lengths = np.asarray(step.batch.loss_mask).sum(axis=1)
  assert lengths.min() == 1 and 8 < lengths.max() < 40


@pytest.mark.parametrize("name, method, lengths", [
    ("ppo", "ppo", (64, 64)), ("grpo", "grpo", (64, 64)), ("grpo_tail", "grpo", (256, 256))])
def test_workloads(monkeypatch, name, method, lengths):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import rl_step

  work = rl_step.workload(name)
  assert work.method == method and set(work.settings) == set(work.goal)
  assert (work.shape.prompt_tokens, work.shape.new_tokens) == lengths
  assert 0 not in work.shape.stop_ids() and 1 not in work.shape.stop_ids()  # padding and start


def test_log_probs_of_both_forms(monkeypatch):
  """Each in a process of its own; the results of a small vocabulary agree."""
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import logprobs

  shape = logprobs.Shape(rows=2, tokens=3, width=4, vocabulary=5, softcap=2.0, tied=1)
  forms, ratios = logprobs.measure(shape, rounds=1)
  chunked = forms.pop("chunked")
  assert len(forms) == 2 and chunked["temporary"] > 0 and chunked["cpu_seconds"] > 0
  for naive in forms.values():
    assert naive["loss"] == pytest.approx(chunked["loss"], abs=1e-5)
  assert set(ratios) == {"peak", "temporary", "seconds", "cpu_seconds"}
  inputs = logprobs.make_inputs(shape)
  results = [logprobs.make_gradient(form, shape)(*inputs) for form in logprobs.FORMS]
  for result in results[1:]:
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5), result, results[0])


@pytest.mark.parametrize("form, base", [("full", None), ("adapters nf4", "nf4")])
def test_the_stage_whose_memory_is_measured(monkeypatch, form, base):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import lora

  recipe = lora.load_recipe(form, 4)
  assert recipe.stages[0].num_prompts == recipe.stages[0].algorithm.minibatch_size == 4
  assert (recipe.lora and recipe.lora.base) == base


def test_sides_take_turns_and_the_line_is_json(side_by_side, capsys):
  called = []
  sides = {name: lambda i, name=name: called.append(name) or len(called) for name in "ab"}
  results = side_by_side.take_turns(sides, rounds=2, warm_up=1)
  assert called == list("abbaab") and results == {"a": [4, 5], "b": [3, 6]}
  ratio = side_by_side.median_ratio(results["a"], results["b"])
  assert ratio == {"median": 1.083, "low": 0.833, "high": 1.333, "rounds": 2}
  side_by_side.print_line("x", ratio=ratio)
  line = json.loads(capsys.readouterr().out)
  assert line["benchmark"] == "x" and line["ratio"] == ratio and line["machine"]["cores"] >= 1


@pytest.fixture(name="formulas")
def _formulas(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import formulas

  return formulas


def test_difference_of_formulas(formulas):
  """Relative to the number, or to the median of those that are not 0: here 4."""
  difference = formulas.formula_inputs.difference
  theirs = [0.0, 1.0, 4.0, 100.0]
  assert difference(np.array([0.0, 1.0, 4.0, 110.0]), theirs) == pytest.approx(0.1)
  assert difference(np.array([0.0, 1.2, 4.0, 100.0]), theirs) == pytest.approx(0.05)
  assert difference(np.array([0.5]), [0.0]) == 0.5
  assert difference(np.array([np.nan, 0.0]), [np.nan, 0.0]) == np.inf
  with pytest.raises(ValueError, match="results: got"):
    difference(np.zeros(2), [0.0])


def test_inputs_of_formulas_are_the_same_every_time(formulas):
  make_inputs = formulas.formula_inputs.make_inputs
  for name, values in make_inputs("gaps").items():
    np.testing.assert_array_equal(values, make_inputs("gaps")[name])
    if values.dtype == np.float64:
      np.testing.assert_array_equal(values, values.astype(np.float32))
  with pytest.raises(ValueError, match="case: got 'x', allowed: plain"):
    make_inputs("x")


def test_our_side_of_formulas(formulas):
  """The first row of each section; the requests of all can be sent, and no two rows are one."""
  for make_rows in formulas.SECTIONS.values():
    rows = make_rows()
    assert len({json.dumps([row.call, row.ours, row.inputs]) for row in rows}) == len(rows)
    numbers = rows[0].run(formulas.formula_inputs.make_inputs(rows[0].inputs))
    assert np.all(np.isfinite(numbers)) and np.any(numbers)


@pytest.mark.parametrize("answer, is_same, verdict, code", [
    (1.0, True, "| 0e+00 | same |", 0),
    (1.0, False, "| 0e+00 | **same, WRONG** |", 1),
    (2.0, True, "| 5e-01 | **differs, WRONG** |", 1),
    (2.0, False, "| 5e-01 | differs |", 0),
    (1.00005, True, "| 5e-05 | **neither, WRONG** |", 1),
    (1.00005, False, "| 5e-05 | **neither, WRONG** |", 1)])
def test_table_of_formulas(formulas, side_by_side, monkeypatch, capsys, answer, is_same, verdict,
                           code):
  class Worker:
    hello = {"versions": {"peer": "1.2"}}

    def ask(self, **request):
      assert request["function"] == "peer.one" and request["options"] == {"x": 1}
      return {"result": [answer] * len(request["arrays"]["greedy_scores"])}

    def close(self):
      pass

  row = formulas.formula_inputs.Row(
      "Peer", "one(x)", ("peer.one", {"x": 1}), "ours", lambda x: np.ones_like(x["greedy_scores"]),
      is_same=is_same)
  monkeypatch.setattr(formulas, "SECTIONS", {"Ones": lambda: [row]})
  monkeypatch.setattr(side_by_side, "start_peer", lambda *args, **options: Worker())
  monkeypatch.setattr("sys.argv", ["formulas.py"])
  with pytest.raises(SystemExit) as ended:
    formulas.main()
  printed = capsys.readouterr().out
  assert ended.value.code == code and printed.startswith("peer 1.2\n")
  assert f"| Peer | one(x) | ours | plain {verdict}" in printed


@pytest.fixture(name="verifier")
def _verifier(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import verifier

  return verifier


THEIR_TESTS = r"""
@pytest.mark.parametrize("gold,pred,expected", [
    ("$\\frac{1}{2}$", "The answer is $0.5$. I hope it is.", 1),
    ("$2$", "1+1", 1),
    (f"{1+1}", "$2$", 1),
])
def test_few(gold, pred, expected):
  assert compare(gold, pred) == expected
"""


def test_table_of_verdicts(verifier, monkeypatch, tmp_path, capsys):
  """Of both sides, written into the page, compared with it, and missed where it changed."""
  tests, pairs, page = tmp_path / "test_a.py", tmp_path / "pairs.jsonl", tmp_path / "page.md"
  tests.write_text(THEIR_TESTS)
  rows = [
      dict(form="sums", gold="2", answer="1+1", is_right=False),
      dict(form="words", gold="crave", answer="carve", is_right=False),
      dict(form="words", gold="crave", completion=r"It is \boxed{crave}.", is_right=True),
      dict(form="words", gold="labelled", answer="wrong", is_right=True)]
  pairs.write_text("\n".join(map(json.dumps, rows)))
  rule = verifier.math_verify_tests.Rule("restated", False, ("test_a.py::test_few[1]",))
  monkeypatch.setattr(verifier.math_verify_tests, "POLICY", (rule,))
  names = ("own table", "own wrong", "tests table", "tests wrong", "policy")
  marks = [f"<!-- {name}: verifier.py -->\n\n<!-- end of {name} -->" for name in names]
  page.write_text("\n\n".join(marks))
  monkeypatch.setattr(verifier, "PAIRS", pairs)
  monkeypatch.setattr(verifier, "PAGE", page)
  command = ["verifier.py", f"--math_verify_tests={tmp_path}"]
  monkeypatch.setattr("sys.argv", command)
  verifier.main()
  filled = page.read_text()
  assert verifier.section(filled, "own table").splitlines()[2:] == [
      "| sums |  | 0 / 1 of 1 |", "| words | 1 / 1 of 2 | 0 / 1 of 1 |",
      "| **all** | 1 / 1 of 2 | 0 / 2 of 2 |"]
  assert verifier.section(filled, "own wrong") == (
      '```\n["words", "labelled", "wrong", "rejected"]\n```')
  assert verifier.section(filled, "tests table").endswith("| few | 0 / 0 of 1 | 0 / 1 of 1 |\n"
                                                          "| **all** | 0 / 0 of 1 | 0 / 1 of 1 |")
  assert verifier.section(filled, "tests wrong") == "None."
  assert "| `test_a.py::test_few[1]` | right | wrong | restated |" in filled
  pairs.write_text("\n".join(map(json.dumps, rows[:3])))
  monkeypatch.setattr("sys.argv", ["verifier.py", "--check"])
  with pytest.raises(SystemExit, match="run without --check"):
    verifier.main()
  assert page.read_text() == filled and capsys.readouterr().out


@pytest.mark.parametrize("prediction, completion", [
    (r"so \boxed{3}, the answer is 4", r"so \boxed{3}, the answer is 4"),
    ("The solution is $x=1$. Or $x=2$.", r"\boxed{x=1}"),
    ("It fell by 1,000.5 in $n$ years", r"\boxed{n}"),
    ("It fell by $n$ to 1,000.5", r"\boxed{1,000.5}"),
    ("$28$ percent", r"\boxed{28 percent}"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}"),
    ("1 000", r"\boxed{1 000}")])
def test_their_predictions_get_a_box(verifier, prediction, completion):
  assert verifier.math_verify_tests.in_box(prediction) == completion


def test_what_an_accelerator_reaches_is_measured_by_a_program_that_runs():
  """Its tiny form; on the CPU both kernels of attention are XLA's."""
  ended = waiting.run(
      [sys.executable, str(BENCHMARKS / "accelerator.py"), "--tiny"],
      env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "XLA_FLAGS": compiler.FLAGS})
  assert ended.returncode == 0, ended.stderr
  lines = [json.loads(line) for line in ended.stdout.splitlines()]
  assert [line["part"] for line in lines] == ["update", "update", "attention", "decode", "int8"]
  assert all(line["mfu"] > 0 for line in lines[:2]) and lines[2]["gradient"] < 1e-6
  assert lines[4]["full_k3"] < 1e-5 < 1e-2 > lines[4]["int8_k3"] > 0
