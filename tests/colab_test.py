"""Executes the notebooks as a user would, in a kernel of their own."""

import os
import pathlib

import nbclient
import nbformat
import pytest

from tests import compiler, waiting

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


def read(path):
  return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
  notebook = read(path)
  nbformat.validate(notebook)
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_the_quickstart_runs(tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", compiler.FLAGS)  # one device, as on a user's machine
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(
      [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  notebook = read(ROOT / "colab" / "quickstart.ipynb")
  training, = (cell for cell in notebook.cells if "rr.train(config" in cell.source)
  for steps, fewer in (("steps=150,", "steps=15,"), ("steps=12,", "steps=3,")):  # for time alone
    assert training.source.count(steps) == 1
    training.source = training.source.replace(steps, fewer)
  nbclient.NotebookClient(
      notebook, timeout=waiting.PATIENCE, kernel_name="python3",
      resources={"metadata": {"path": str(tmp_path)}}).execute()
  outputs = [output for cell in notebook.cells if cell.cell_type == "code"
             for output in cell.outputs]
  text = "".join(
      output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)
  assert "Summary, with 95% confidence intervals" in text
  images = [output for output in outputs if "image/png" in output.get("data", {})]
  assert len(images) == 1
  for name in ("metrics.jsonl", "summary.json", "report.html"):
    assert list(tmp_path.glob(f"*/countdown/{name}"))
