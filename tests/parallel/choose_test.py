"""The precision of products in the programs of a layout."""

import re

import numpy as np
import pytest

from rlreason.parallel import ParallelConfig, make_layout

ONES = np.ones((8, 8), np.float32)  # as many rows as devices


def precisions(config):
  """Those of the products in the program for rows."""
  program = make_layout(config).compile_rows(lambda placed, rows, plan: rows @ placed)
  rows = ONES[None] if config.mode == "pmap" else ONES
  found = re.findall(r"precision = \[(\w+), (\w+)\]", program.lower(rows, rows, None).as_text())
  return [str(one) for one in found]


@pytest.mark.parametrize("mode", ["jit", "pmap"])
@pytest.mark.parametrize("precision, name", [
    ("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", "DEFAULT")])
def test_products_have_the_precision_of_the_config(mode, precision, name):
  found = precisions(ParallelConfig(mode=mode, data=1, precision=precision))
  assert found == [str((name, name))] or (name == "DEFAULT" and not found)


def test_products_of_f32_are_in_f32_by_default():
  assert precisions(ParallelConfig(data=1)) == ["('HIGHEST', 'HIGHEST')"]


def test_another_precision_is_refused():
  with pytest.raises(ValueError, match="precision: got 'half', allowed: float32, tensorfloat32"):
    ParallelConfig(precision="half")
