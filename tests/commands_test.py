"""Finding things from the command line: recipes, completion, the version, what -v says."""

import functools
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import rlreason
from rlreason import commands, main, recipe_files, version
from rlreason.training.settings.recipe import from_config
from tests.main_test import no_compilation_cache, run_main  # pylint: disable=unused-import
from tests.main_test import CONFIG

ROOT = pathlib.Path(__file__).parents[1]


def test_recipes_lists_each_with_what_it_is(capsys):
  code, out, _ = run_main(capsys, "recipes")
  lines = dict(line.split(maxsplit=1) for line in out.splitlines())
  assert code == 0
  assert lines["methods/dapo"].startswith("DAPO, https://arxiv.org/abs/2503.14476")
  assert set(lines) == {
      path.relative_to(ROOT / "experiments").with_suffix("").as_posix()
      for path in (ROOT / "experiments").rglob("*.py")
      if "def get_config(" in path.read_text(encoding="utf-8")}
  assert all(len(text) > 20 for text in lines.values())


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_completion_knows_every_command_flag_and_recipe(capsys, name):
  code, out, _ = run_main(capsys, "completion", name)
  assert code == 0
  words = set(re.split(r"[\s\"]+", out))
  assert {*commands.COMMANDS, "--workdir=", "--nopreflight", "--top_p=", "bfloat16", "bash", "zsh",
          *recipe_files.find_all(), "dapo"} <= words


@pytest.mark.parametrize("line, expected", [
    ("rlreason ev", "evaluate"), ("rlreason train --wor", "--workdir="),
    ("rlreason train --workdir=a --config=rlsp_c", "rlsp_countdown"),
    ("rlreason train --config=methods/da", "methods/dapo methods/dash"),
    ("rlreason train --config=mi", "mine.py"), ("rlreason evaluate --split=", "validation test"),
    ("rlreason completion z", "zsh"), ("rlreason convert --dtype=b", "bfloat16"),
    ("rlreason sample --split=", ""), ("rlreason train --workdir=mi", "")])  # files: of the shell
def test_bash_completes(tmp_path, line, expected):
  if shutil.which("bash") is None:
    pytest.skip("there is no bash")
  script = commands.completion.make_script("bash", commands.COMMANDS)
  (tmp_path / "mine.py").touch()
  program = f'{script}\nCOMP_LINE="$1"; COMP_POINT=${{#1}}; _rlreason; echo "${{COMPREPLY[*]}}"'
  done = subprocess.run(["bash", "-c", program, "bash", line], cwd=tmp_path, text=True,
                        capture_output=True, check=True)
  assert done.stdout == expected + "\n"


@pytest.mark.parametrize("argv, expected", [
    (["completion"], "bash|zsh is missing"), (["completion", "fish"], "allowed: bash, zsh"),
    (["recipes", "x"], "arguments: got 'x'"), (["--versio"], "see rlreason --help"),
    (["train", "--config=dappo", "--workdir=x"], "did you mean dapo?"),
    (["train", "--config=experiments/nowhere/dapo.py", "--workdir=x"], "`rlreason recipes`"),
    (["train", "--config=rlsp_countdown", "--workdir=x", "--profile=rl"], "--profile: got 'rl'"),
    (["train", "--config=rlsp_countdown", "--workdir=x", "--profile=2101:2103"],
     "of the 2100 there are"),
    (["train", "--config=dapo:Nobody/a-model", "--workdir=x"], "hf download Nobody/a-model")])
def test_what_is_not_found_is_said_in_a_line(capsys, tmp_path, monkeypatch, argv, expected):
  monkeypatch.chdir(tmp_path)
  code, out, err = run_main(capsys, *argv)
  assert code == main.EXIT_USER and expected in err
  assert err.count("\n") == 1 and not out


def test_the_version_names_jax_and_the_commit_of_a_checkout(capsys, tmp_path, monkeypatch):
  code, out, _ = run_main(capsys, "--version")
  assert code == 0
  assert out.startswith(f"rlreason {rlreason.__version__}")
  assert f"jax {importlib.metadata.version('jax')}, Python 3." in out
  # What it says of the commit, in a repository that is made here.
  module = tmp_path / "rlreason" / "version.py"
  module.parent.mkdir()
  monkeypatch.setattr(version, "__file__", str(module))
  assert version.commit() is None
  for command in (["init", "-q"], ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm",
                                   "One", "--allow-empty"]):
    subprocess.run(["git", *command], cwd=tmp_path, check=True)
  head = subprocess.run(
      ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
  assert version.commit() == head.stdout[:12]
  assert f"rlreason {rlreason.__version__} (commit {head.stdout[:12]}), jax" in version.describe()


def test_the_package_is_a_program():
  done = subprocess.run(
      [sys.executable, "-m", "rlreason", "--version"], capture_output=True, text=True, check=True)
  assert done.stdout.startswith("rlreason ") and not done.stderr


@pytest.mark.parametrize("flags, levels", [
    ([], ["warning: a"]), (["-v"], ["info: own", "warning: a"]),
    (["--verbose"], ["info: own", "warning: a"]),
    (["-vv"], ["info: own", "info: of a library", "debug: of a library", "warning: a"])])
def test_v_says_more(flags, levels):
  """In a process of its own, because levels of logging are the process's."""
  program = f"""
import logging, sys
from absl import logging as absl_logging
from rlreason import main, recipe_files

def find_all():
  make = logging.getLogRecordFactory()
  logging.setLogRecordFactory(lambda name, level, path, line, text, *rest, **more: make(
      name, level, recipe_files.__file__ if text == "own" else path, line, text, *rest, **more))
  absl_logging.info("own")
  logging.getLogger("orbax").info("of a library")
  logging.getLogger("orbax").debug("of a library")
  absl_logging.warning("a")
  return {{}}

recipe_files.find_all = find_all
sys.exit(main.main(["recipes", *{flags!r}]))
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  lines = [line for line in done.stderr.splitlines()
           if line.startswith(("info: o", "debug: of a library", "warning: a"))]
  assert lines == levels


def test_v_may_stand_before_the_command_and_names_the_experiment(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  seen = []
  monkeypatch.setattr(main, "_set_verbosity", lambda values: seen.append(
      (values.verbose, values.debug)))
  for argv in (["-v", "recipes"], ["recipes", "-v"], ["-vv", "recipes"], ["recipes"]):
    assert run_main(capsys, *argv)[0] == 0
  assert seen == [(True, None), (True, None), (None, True), (None, None)]
  assert run_main(capsys, "-v")[1].startswith("rlreason: reinforcement learning")


# --- The file that `--config` means.


def test_a_name_is_a_file_here_or_a_recipe_of_the_package(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  packaged = {name: str(file) for name, file in recipe_files.find_all().items()}
  assert recipe_files.locate("dapo") == (packaged["methods/dapo"], "")
  assert recipe_files.locate("methods/dapo:models/x") == (packaged["methods/dapo"], "models/x")
  assert recipe_files.locate("variants:cispo,models/a:b") == (
      packaged["methods/variants"], "cispo,models/a:b")
  (tmp_path / "dapo.py").write_text("def get_config(x=''):\n  return {'seed': 7}\n")
  assert recipe_files.locate("dapo") == ("dapo.py", "")  # a local file takes precedence
  assert recipe_files.locate("dapo:x") == ("dapo.py", "x")
  assert recipe_files.locate("dapo.py") == ("dapo.py", "")
  assert recipe_files.locate("./dapo.py:a") == ("./dapo.py", "a")
  assert recipe_files.locate("methods/dapo") == (packaged["methods/dapo"], "")
  (tmp_path / "vapo").write_text("")
  with pytest.raises(ValueError, match="config: got 'vapo', allowed: a Python file"):
    recipe_files.locate("vapo")
  for name in ("", ":x", "beds", "estimators", "dapo/", "/dapo", "nowhere/dapo"):
    with pytest.raises(FileNotFoundError, match="not found"):
      recipe_files.locate(name)


def test_names_of_recipes_are_unique_without_their_folder():
  names = [name.rpartition("/")[2] for name in recipe_files.find_all()]
  assert len(set(names)) == len(names)


def test_a_recipe_of_the_package_is_loaded_with_its_siblings_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = commands.load_config("variants:cispo", [("rl.steps", "3")])
  assert config.rl.steps == 3 and config.task.kind == "chain"
  assert commands.load_config(CONFIG).seed == 0


@pytest.mark.parametrize("name, overrides, found", [
    ("aime", {"evaluation.num_samples": "0"}, {"evaluation.temperature": 1.0}),
    ("aime", {"evaluation.num_samples": "1", "evaluation.temperature": "0"},
     {"evaluation.top_p": 1.0}),
    ("rlsp_countdown", {"rl.algorithm.critic": "none"},
     {"rl.algorithm.critic_warmup_steps": 0}),
    ("rlsp_countdown", {"rl.rewards.exploration.function": "''"}, {"rl.min_reasoning_tokens": 1}),
    ("rlsp_countdown", {"rl.rewards.exploration.weight": "0"}, {"rl.min_reasoning_tokens": 11}),
    ("dapo", {"rl.max_resample_rounds": "1"}, {"rl.filter_groups_by": "reward"}),
    ("t1", {"rl.algorithm.kl_coef": "0"}, {"rl.algorithm.reference_every": 0}),
    ("ppo_rlhf", {"rl.algorithm.kl_coef": "0"}, {"rl.algorithm.kl_target": None})])
def test_what_is_turned_off_takes_the_details_of_the_recipe_with_it(name, overrides, found):
  recipe = from_config(commands.load_config(name, list(overrides.items())))
  for path, value in found.items():
    section, *fields = path.split(".")
    holder = next((stage for stage in recipe.stages if stage.name == section), None)
    holder = getattr(recipe, section) if holder is None else holder
    assert functools.reduce(getattr, fields, holder) == value, path


def test_an_old_name_of_a_field_is_the_field():
  config = commands.load_config("rlsp_countdown", [("rl.min_reasoning", "12")])
  assert from_config(config).stages[1].min_reasoning_tokens == 12
  config = commands.load_config("dash", [("rl.algorithm.drop_threshold", "0.5")])
  assert from_config(config).stages[-1].algorithm.advantage_threshold == 0.5
  with pytest.raises(ValueError, match="rl.filter_groups_by: got 'accuracy' with max_resample_"):
    from_config(commands.load_config("rlsp_countdown", [("rl.useful_by", "accuracy")]))


@pytest.mark.parametrize("overrides, message", [
    ({"num_samples": "0", "temperature": "0.5"}, "temperature: got 0.5 with num_samples=0"),
    ({"num_samples": "0", "temperature": "0.0", "top_p": "0.5"}, "top_p: got 0.5"),
    ({"answer_tokens": "5"}, "answer_tokens: got 5 without forced_answer"),
    ({"num_samples": "-1"}, "num_samples: got -1, allowed: 0 or more")])
def test_details_that_are_typed_beside_it_are_refused(overrides, message):
  typed = [(f"evaluation.{field}", value) for field, value in overrides.items()]
  with pytest.raises(ValueError, match=message):
    from_config(commands.load_config("aime", typed))


def test_evaluations_are_turned_off_with_what_follows_from_them(tmp_path):
  text = pathlib.Path(CONFIG).read_text(encoding="utf-8").replace("  return config", """\
  config.evaluation.update(every_steps=5, stop_after=2)
  config.checkpoint = dict(keep_best="eval/countdown/greedy", best_is="lowest")
  return config""")
  (tmp_path / "mine.py").write_text(text)
  mine = str(tmp_path / "mine.py")
  assert from_config(commands.load_config(mine)).evaluation.stop_after == 2
  recipe = from_config(commands.load_config(mine, [("evaluation.every_steps", "0")]))
  assert (recipe.evaluation.stop_after, recipe.checkpoint.keep_best) == (0, "")
  # A file that is wrong by itself stays wrong.
  (tmp_path / "mine.py").write_text(text.replace("every_steps=5, ", ""))
  with pytest.raises(ValueError, match="checkpoint.keep_best: got .* with evaluation.every_step"):
    from_config(commands.load_config(mine, [("evaluation.every_steps", "0")]))


def test_on_a_terminal_recipes_fit_it(capsys, monkeypatch):
  monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
  monkeypatch.setenv("COLUMNS", "80")
  code, out, _ = run_main(capsys, "recipes")
  lines = out.splitlines()
  assert code == 0 and max(map(len, lines)) <= 80
  assert sum(line[0] != " " for line in lines) == len(recipe_files.find_all())
