"""Tests of rlreason.rewards.worker, in the processes of rlreason.workers."""

import pathlib
import resource
import subprocess
import sys

import pytest

from rlreason.rewards import worker
from rlreason.workers import pool as pools


@pytest.fixture
def quick():
  with pools.WorkerPool(1, timeout_seconds=2.0, memory_bytes=1 << 29) as pool:
    yield pool


def symbolic(gold, answer):
  return dict(gold=gold, answer=answer)


@pytest.mark.parametrize(
    "gold, answer, equal",
    [
        (r"\sqrt{2}", r"\frac{2}{\sqrt2}", True),
        (r"x^2-1", "(x-1)(x+1)", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("(1,2)", "(2,1)", False),
        (r"\frac{\pi}{4}", r"0.25\pi", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", True),
        (r"\sqrt{2}", "3+", False),
        (r"\sqrt{2}", "", False),
        (r"\sqrt{2}", "no mathematics!", False),
    ],
)
def test_symbolic_equality(symbolic_pool, gold, answer, equal):
  reply = symbolic_pool.call(worker.SYMBOLIC, symbolic(gold, answer))
  assert reply == pools.Reply(value=equal)


@pytest.fixture(scope="module")
def symbolic_pool():
  with pools.WorkerPool(1, timeout_seconds=60) as pool:
    yield pool


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('touch {path}')",
        "f(__import__('os').mkdir('{path}'))",
        r"\max(__import__('os').mkdir('{path}'), 2)",
        "open('{path}', 'w')",
        r"\text{{open('{path}', 'w')}}",
        r"\operatorname{{exec}}(open('{path}', 'w'))",
        "x_{{open('{path}', 'w')}}",
    ],
)
def test_text_is_never_run(symbolic_pool, tmp_path, answer):
  path = tmp_path / "run"
  symbolic_pool.call(worker.SYMBOLIC, symbolic(r"\sqrt{2}", answer.format(path=path)))
  assert not path.exists()


def test_sympy_reads_no_code_in_the_worker(monkeypatch):
  """Every way from text to a SymPy object is closed, also those the parser does not take today."""
  code = """
import sys
sys.path.insert(0, sys.argv[1])
import worker
equal = worker.make_symbolic_equal()
import sympy
for read in (sympy.sympify, sympy.Number, sympy.S, lambda text: sympy.Symbol("x") + sympy.S(text)):
  try:
    print(read("__import__('os').getpid()"))
  except ValueError as error:
    print(error)
print(sympy.Number("12") + 1, sympy.Number("1.5"), equal("x^2-1", "(x+1)(x-1)"))
"""
  folder = pathlib.Path(worker.__file__).parent
  run = subprocess.run(
      [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
  )
  assert run.stdout.split("\n")[:4] == ["text is never evaluated as code"] * 4
  assert run.stdout.split("\n")[4] == "13 3/2 True"  # decimals exactly


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "(" * 900 + "x" + ")" * 900, "10000000000!"])
def test_a_hanging_comparison_is_killed_and_counted(quick, answer):
  quick.call(worker.SYMBOLIC, symbolic("x", "y"))  # loaded: what follows is the request's own time
  before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
  reply = quick.call(worker.SYMBOLIC, symbolic(r"\sqrt{2}", answer))
  assert reply.value is None and reply.failure == "timeout"
  # It is gone, and had loaded in some seconds and computed for two.
  assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2.0 + 8
  assert quick.counts.timeouts == 1
  assert quick.call(worker.SYMBOLIC, symbolic("x+y", "y+x")).value is True  # a new process


def test_a_comparison_that_floods_memory_is_no_score(quick):
  reply = quick.call(worker.SYMBOLIC, symbolic("x", r"\operatorname{zeros}(100000, 100000)"))
  assert reply.value is None and reply.failure in ("error", "timeout")
  assert sum(quick.counts[1:]) == 1


def test_what_is_no_number_is_refused(tmp_path, monkeypatch):
  (tmp_path / "texts.py").write_text(
      "def text(prompts, completions):\n  return ['1.0']\n", encoding="utf-8")
  monkeypatch.syspath_prepend(str(tmp_path))
  row = dict(prompt="p", completion="", columns={}, options={})
  with pools.WorkerPool(1, timeout_seconds=60) as pool:
    reply = pool.call(worker.row_target("texts:text"), row)
  assert reply == pools.Reply(None, "refused", "got '1.0' (str)")
