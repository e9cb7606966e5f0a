"""Executes the notebooks as a user would, in kernels of their own."""

import json
import os
import pathlib

import jax
import nbclient
import nbformat
import numpy as np
import pytest

from rlreason import models, weights
from rlreason.models import ModelConfig
from tests import compiler, waiting
from tests.tokenizers import tiny_models

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# What is replaced in the cells, for time alone: each text stands there once.
SMALLER = {
    "quickstart": {"steps=150,": "steps=15,", "steps=12,": "steps=3,"},
}
IMAGES = {"quickstart": 3}  # shown, beside those of the report
TEXTS = {"quickstart": ["Summary, with 95% confidence intervals"]}
RUNS = {"quickstart": ["countdown"]}
TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


def read(path):
  return nbformat.read(path, as_version=4)


def code_cells(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cell_with(notebook, text):
  """The only cell that holds the text."""
  (cell,) = (cell for cell in notebook.cells if text in cell.source)
  return cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
  notebook = read(path)
  nbformat.validate(notebook)
  cells = code_cells(notebook)
  assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_where_to_run_it_and_what_becomes_of_the_results(path):
  """The parts that all have are the same in all."""
  notebook, quickstart = read(path), read(ROOT / "colab" / "quickstart.ipynb")
  for text in ("## Where to run it", "## Where the results stay"):
    assert cell_with(notebook, text).source == cell_with(quickstart, text).source
  runtimes = cell_with(notebook, "## Where to run it").source
  assert all(name in runtimes for name in ("CPU", "GPU", "TPU", "`cuda`", "`tpu`"))
  install = [cell_with(one, "# Install").source.partition("# Install")[2].partition("\nif ")[0]
             for one in (notebook, quickstart)]
  assert install[0] == install[1] and "SOURCE = " in install[0]
  drive = [cell_with(one, "drive.mount(").source for one in (notebook, quickstart)]
  assert drive[0] == drive[1].replace('"quickstart"', f'"{path.stem}"')
  assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_link_of_a_notebook_leads_somewhere(path):
  texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
  links = [part.partition(")")[0] for text in texts for part in text.split("](")[1:]]
  assert links and all((path.parent / link).exists() for link in links)


def make_smaller(notebook, replaced):
  for text, shorter in replaced.items():
    cell = cell_with(notebook, text)
    assert cell.source.count(text) == 1
    cell.source = cell.source.replace(text, shorter)


def execute(notebook, folder, monkeypatch):
  """Runs all cells in a folder; returns their outputs, which hold no warnings."""
  monkeypatch.setenv("XLA_FLAGS", compiler.FLAGS)  # one device, as on a user's machine
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(
      [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
  nbclient.NotebookClient(
      notebook, timeout=waiting.PATIENCE, kernel_name="python3",
      resources={"metadata": {"path": str(folder)}}).execute()
  outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
  assert not [output for output in outputs if output.get("name") == "stderr"]
  return outputs


def text_of(outputs):
  return "".join(
      output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  notebook = read(ROOT / "colab" / f"{name}.ipynb")
  make_smaller(notebook, SMALLER[name])
  if name == "quickstart":  # after a disconnect all cells are run again
    notebook.cells.append(nbformat.v4.new_code_cell("summary = rr.train(config, run)"))
  outputs = execute(notebook, tmp_path, monkeypatch)
  text = text_of(outputs)
  assert all(part in text for part in TEXTS[name])
  assert sum("image/png" in output.get("data", {}) for output in outputs) == IMAGES[name]
  assert any("srcdoc" in output.get("data", {}).get("text/html", "") for output in outputs)
  for run in RUNS[name]:
    for file in ("metrics.jsonl", "summary.json", "report.html"):
      assert (tmp_path / "runs" / name / run / file).exists()
  if name == "quickstart":
    assert "resuming at step 18 " in text_of(notebook.cells[-1].outputs)
