"""Pairs of gold answers and completions whose verdict is known, by the forms of data sets."""

import pathlib

from rlreason.workers import pool as pools

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def test_every_pair_has_its_verdict_but_for_those_that_the_page_lists(monkeypatch):
  """After a change that is meant, benchmarks/verifier.py writes the list of docs/verifier.md."""
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import verifier

  pairs = verifier.read_pairs(verifier.PAIRS)
  with pools.WorkerPool(2, verifier.TIMEOUT_SECONDS) as pool:
    scores = verifier.judge_ours(pairs, pool)
  known = verifier.section(verifier.PAGE.read_text("utf-8"), "own wrong")
  assert verifier.render_wrong(pairs, scores) == known


def test_pairs_are_of_both_kinds_and_none_comes_twice(monkeypatch):
  monkeypatch.syspath_prepend(str(BENCHMARKS))
  import verifier

  pairs = verifier.read_pairs(verifier.PAIRS)
  assert len({(pair.form, pair.key) for pair in pairs}) == len(pairs) >= 400
  share = sum(pair.is_right for pair in pairs) / len(pairs)
  assert 0.35 < share < 0.65
