"""The wheel: built, installed into an environment of its own, and trained with outside of here."""

import json
import os
import pathlib
import shutil
import site
import subprocess
import sys
import zipfile

import pytest

import rlreason
from tests import compiler

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ("rlreason", "experiments", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md",
           "LICENSE", "constraints.txt")
TINY = {
    "model": dict(width=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16, mlp_width=16),
    "sft": dict(steps=3, batch_size=8, num_examples=50, optimizer=dict(warmup_steps=0)),
    "evaluation": dict(num_problems=8, batch_size=8, max_new_tokens=16, num_samples=0,
                       every_stage=False),
    "stages": ("sft",)}


def flags_of(fields, path="--config"):
  for name, value in fields.items():
    if isinstance(value, dict):
      yield from flags_of(value, f"{path}.{name}")
    else:
      yield f"{path}.{name}={value}"


def run(*command, folder, **environment):
  """Runs a program that knows nothing of this checkout, and returns what it prints."""
  outer = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  done = subprocess.run(
      command, cwd=folder, env=outer | environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


def build(kind, sources, folder):
  """Makes a wheel or an sdist of a folder, and returns its file."""
  program = ("import sys; from setuptools import build_meta; "
             f"print(build_meta.build_{kind}(sys.argv[1]))")
  return folder / run(sys.executable, "-c", program, str(folder), folder=sources).split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Made of an sdist, as `python -m build` does, and so of what is in that."""
  sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
  for name in SOURCES:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
      shutil.copy(ROOT / name, sources)
  shutil.unpack_archive(build("sdist", sources, folder), folder)
  return build("wheel", folder / f"rlreason-{rlreason.__version__}", folder)


def test_the_wheel_holds_the_package_and_its_recipes(wheel):
  assert wheel.name == f"rlreason-{rlreason.__version__}-py3-none-any.whl"
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    metadata = archive.read(f"rlreason-{rlreason.__version__}.dist-info/METADATA").decode()
  package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlreason").rglob("*.py")}
  assert package | {"rlreason/py.typed"} <= names
  assert {f"rlreason/experiments/{name}.py" for name in (
      "rlsp_countdown", "question_files", "methods/dapo", "methods/beds")} <= names
  programs = ("estimators", "miniatures", "controls/countdown", "methods/table")
  assert not {f"rlreason/experiments/{name}.py" for name in programs} & names
  assert not [name for name in names if not name.startswith("rlreason")]  # no other package
  assert "Description-Content-Type: text/markdown" in metadata and "# rlreason" in metadata
  assert "Typing :: Typed" in metadata and "Requires-Python: >=3.11" in metadata
  for extra in ("cuda", "tpu", "tensorboard", "wandb"):
    assert f"Provides-Extra: {extra}\n" in metadata


def test_an_installed_wheel_trains_and_profiles_outside_of_the_repository(wheel, tmp_path):
  """Three steps; the packages that it needs are those of this environment."""
  home = tmp_path / "venv"
  run(sys.executable, "-m", "venv", "--without-pip", str(home), folder=tmp_path)
  run(sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "-qq",
      "--disable-pip-version-check", "--no-deps", "--no-index", "--no-compile", str(wheel),
      folder=tmp_path)
  (packages,) = home.glob("lib/python*/site-packages")
  # The .pth files there, which would lead back to this checkout, are not read from here.
  (packages / "needed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
  program = str(home / "bin" / "rlreason")
  work = tmp_path / "work"
  work.mkdir()
  out = run(program, "train", "--config=rlsp_countdown", "--workdir=run", "-v", "--profile=2",
            *flags_of(TINY), folder=work, XLA_FLAGS=compiler.FLAGS)
  steps = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in steps if line["stage"] == "sft"] == [1, 2, 3]
  (stage,) = json.loads((work / "run" / "summary.json").read_text())["stages"][1:]
  assert stage["evaluation"]["countdown"]["greedy"]["n"] == 8
  assert "update_step in 2 runs" in out  # of the profile: the two steps after the first
  assert list((work / "run" / "profile").rglob("*.xplane.pb"))
  assert run(program, "--version", folder=work).startswith(f"rlreason {rlreason.__version__}, jax ")
