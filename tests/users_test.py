"""The user's code cannot end the process, and its errors have a file and line."""

import importlib
import os
import pathlib
import sys
import warnings

import pytest

from rlreason import config_files, slots, users
from rlreason.rewards import RewardSpec, combine_rewards
from tests import waiting

EXITS = {
    "sys.exit": lambda: sys.exit(0), "exit": lambda: sys.exit(), "os._exit": lambda: os._exit(0),
    "text": lambda: sys.exit("enough"), "raised": lambda: _raise(SystemExit(3))}


def _raise(error):
  raise error


@pytest.mark.parametrize("leave", EXITS)
@pytest.mark.parametrize("name, spec", [
    ("mine", {}), ("verifier", {}), ("judge", dict(is_judge=True))])
def test_a_callable_cannot_end_the_process(leave, name, spec):
  def mine(prompts, completions, **unused_columns):
    return [1.0] if completions[0] == "good" else EXITS[leave]()

  combined = combine_rewards([RewardSpec(name=name, function=mine, **spec)])
  before = os._exit
  assert combined(["p"], ["good"]).total == [1.0]
  if spec:  # a judge may fail
    assert combined(["p"], ["bad"]).total == [0.5]
  else:
    with pytest.raises(ValueError, match="reward function '.*mine' asked the process to end"):
      combined(["p"], ["bad"])
  assert os._exit is before


def test_a_copy_of_the_process_may_end():
  program = """
import os
import pathlib
from rlreason import users
with users.contained("it"):
  child = os.fork()
  if not child:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
  root = pathlib.Path(__file__).parents[1]
  ended = waiting.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(root)})
  assert (ended.returncode, ended.stdout) == (0, "7\n"), ended.stderr


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)", "exit()"])
def test_a_file_cannot_end_the_process(leave, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  for number, text in enumerate((leave, f"def get_config(): {leave}")):
    file = tmp_path / f"leaves{number}_{len(leave)}.py"
    file.write_text(text)
    with pytest.raises(ValueError, match="config file '.*' asked the process to end"):
      config_files.load_config_file(str(file))
  module = f"leaves0_{len(leave)}"
  with pytest.raises(ValueError, match=f"reward function: '{module}:f' asked the process to end"):
    combine_rewards([RewardSpec(name="mine", function=f"{module}:f")])
  with pytest.raises(ValueError, match=f"function: '{module}:f' asked the process to end"):
    slots.import_function(f"{module}:f")


def test_errors_have_the_line_of_the_user(tmp_path):
  file = tmp_path / "broken.py"
  file.write_text("import json\n\ndef get_config():\n  return json.loads('{')\n")
  with pytest.raises(ValueError) as error:
    config_files.load_config_file(str(file))
  assert users.line_of(error.value) == f"{file}:4"
  assert users.line_of(ValueError()) is None


NOISY = """
import warnings

def noisy(prompts, completions, **columns):
  warnings.warn(f"{prompts[0]} of {__name__}")
  return [1.0] * len(completions)
"""


@pytest.fixture(name="noisy")
def _noisy(tmp_path, monkeypatch):
  """Modules that warn: one of the user's, one installed, and one installed that a config names."""
  installed = tmp_path / "site-packages"
  (installed / "named").mkdir(parents=True)
  for path in (tmp_path / "mine.py", installed / "theirs.py", installed / "named" / "__init__.py"):
    path.write_text(NOISY)
  (installed / "named" / "inner.py").write_text(NOISY)
  monkeypatch.setattr(users, "_OTHERS", (*users._OTHERS, installed))
  monkeypatch.setattr(users, "_named", set())
  monkeypatch.syspath_prepend(installed)
  monkeypatch.syspath_prepend(tmp_path)
  yield installed
  for name in ("mine", "theirs", "named", "named.inner"):
    sys.modules.pop(name, None)


@pytest.mark.parametrize("options, shown", [
    ([], ["a of mine", "a of named.inner"]),
    (["default"], ["a of mine", "a of theirs", "a of named.inner"])])
def test_only_the_users_code_warns_unless_python_is_told(noisy, options, shown, monkeypatch):
  said = []
  show = lambda message, *unused: said.append(str(message))
  monkeypatch.setattr(sys, "warnoptions", options)
  monkeypatch.setattr(users, "_show_warning", show)
  with warnings.catch_warnings():
    warnings.simplefilter("default")
    warnings.showwarning = show
    users.hide_warnings_of_others()
    slots.import_function("named.inner:noisy")
    for name in ("mine", "theirs", "named.inner"):
      importlib.import_module(name).noisy(["a"], ["b"])
  assert said == shown


def test_where_files_belong(noisy, tmp_path):
  assert users.is_of_user(str(tmp_path / "mine.py"))
  for path in (noisy / "theirs.py", pathlib.Path(os.__file__), pathlib.Path(pytest.__file__)):
    assert not users.is_of_user(str(path)) and users.is_of_installed(str(path))
  own = users.__file__
  assert not users.is_of_user(own) and not users.is_of_installed(own)
  assert not users.is_of_user("<frozen importlib._bootstrap>")
  users.name_module("theirs")
  assert users.is_of_user(str(noisy / "theirs.py"))
  for name in ("rlreason.losses", "nowhere", "nowhere.at_all"):
    users.name_module(name)
  assert not users.is_of_user(own)
