"""Code of the user's: it cannot end the process, and what it raises has its place."""

import os
import pathlib
import sys

import pytest

from rlreason import config, slots, users
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
      config.load_config_file(str(file))
  module = f"leaves0_{len(leave)}"
  with pytest.raises(ValueError, match=f"reward function '{module}:f' asked the process to end"):
    combine_rewards([RewardSpec(name="mine", function=f"{module}:f")])
  with pytest.raises(ValueError, match=f"function: '{module}:f' asked the process to end"):
    slots.import_function(f"{module}:f")


def test_errors_have_the_line_of_the_user(tmp_path):
  file = tmp_path / "broken.py"
  file.write_text("import json\n\ndef get_config():\n  return json.loads('{')\n")
  with pytest.raises(ValueError) as error:
    config.load_config_file(str(file))
  assert users.line_of(error.value) == f"{file}:4"
  assert users.line_of(ValueError()) is None
