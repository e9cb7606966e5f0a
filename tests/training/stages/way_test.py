"""One prompt's path through an RL step: files, transfers, tokenising."""

import collections
import pathlib
import sys

import jax
import pytest

import rlreason
from rlreason.tokenizers import WordTokenizer
from rlreason.training import setup as setup_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.stages import make_stage
from rlreason.workers import WorkerPool
from tests.training import tiny_run

PACKAGE = pathlib.Path(rlreason.__file__).parent
# The insides of the model, the losses, and what makes up the problem.
NOT_COUNTED = ("models/", "losses/", "data/tasks/")
MOST_FILES = 14


def files_entered(function):
  """The package's files with a function that is called while `function` runs, once each."""
  entered = {}

  def note(frame, event, unused_argument):
    if event == "call":
      entered[frame.f_code.co_filename] = None

  sys.setprofile(note)
  try:
    function()
  finally:
    sys.setprofile(None)
  return [str(pathlib.Path(file).relative_to(PACKAGE)) for file in entered
          if pathlib.Path(file).is_relative_to(PACKAGE)]


class Counted:
  """A function that counts its calls, and keeps what it returned last."""

  def __init__(self, function):
    self.function, self.count, self.last = function, 0, None

  def __call__(self, *args, **kwargs):
    self.count += 1
    self.last = self.function(*args, **kwargs)
    return self.last


@pytest.fixture(scope="module", name="way")
def way_fixture(tmp_path_factory):
  """A stage that has made one step, so that its programs are compiled; and what is counted."""
  config = tiny_run.make_config()
  config.rl.group_size = 1
  config.rl.rewards = {"verifier": dict(weight=1.0)}
  recipe = from_config(config)
  setup, policy = setup_lib.make_setup(recipe)
  get_rows, calls = Counted(setup.layout.get_rows), collections.Counter()
  setup = setup._replace(layout=setup.layout._replace(get_rows=get_rows))
  encode = WordTokenizer.encode

  def counted_encode(self, text, **options):
    calls[text] += 1
    return encode(self, text, **options)

  with pytest.MonkeyPatch.context() as patch, WorkerPool(num_workers=1) as pool:
    patch.setattr(WordTokenizer, "encode", counted_encode)
    stage = make_stage(
        setup, recipe.stages[1], policy, 0, pool, tmp_path_factory.mktemp("run"))
    made = dict(calls)
    calls.clear()
    states = [stage.state]

    def step():
      number = len(states) - 1
      key = jax.random.key(number)
      drawn = stage.draw(states[-1].params, stage.data, key)
      states[-1] = stage.learn(states[-1], number, drawn, key).state

    step()
    yield step, get_rows, made, calls


def test_few_files_are_entered(way):
  step = way[0]
  entered = [file for file in files_entered(step) if not file.startswith(NOT_COUNTED)]
  assert "training/stages/rl.py" in entered and "rollout/scored.py" in entered
  assert len(entered) <= MOST_FILES, "\n".join(entered)


def test_a_rollout_crosses_to_the_host_once(way, monkeypatch):
  step, get_rows, *_ = way
  others = Counted(jax.device_get)
  monkeypatch.setattr(jax, "device_get", others)
  before = get_rows.count
  step()
  assert get_rows.count == before + 1 and get_rows.last.completion_tokens.shape == (8, 12)
  assert others.count == 0


def test_a_prompt_is_tokenised_once(way):
  """When it is found out whether it fits; not in any of the steps."""
  step, _, made, calls = way
  step()
  assert not calls
  assert set(made.values()) == {1} and len(made) > 8
