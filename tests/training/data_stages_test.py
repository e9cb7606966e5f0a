"""Stages that write data and stages that read it: a whole run, killed in it, and wrong recipes."""

import json
import types

import pytest

from rlreason import weights
from rlreason.data.selections.completions import right_completions
from rlreason.data.selections.restarts import restart_prompts
from rlreason.slots import Slot
from rlreason.tokenizers import WordTokenizer
from rlreason.training import metrics, run as run_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.settings.select import SelectStage
from rlreason.training.stages.select import select
from tests.training import tiny_run
from tests.training.processes import reproducible_lines, run_process, run_processes

SAMPLED = 5 * 8 * 4  # steps, problems, completions of each
SFT_STEPS = 12


def data_of(workdir, stage):
  return metrics.read_lines(workdir / "data" / f"{stage}.jsonl")


def steps_of(workdir, stage):
  return [line for line in reproducible_lines(workdir) if line["stage"] == stage]


@pytest.fixture(scope="module", name="cache")
def cache_fixture(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", name="uninterrupted")
def uninterrupted_fixture(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  process = run_process(workdir, "end", cache, "data")
  assert process.returncode == 0, process.stderr[-2000:]
  return workdir


def test_what_the_stages_write(uninterrupted):
  assert sorted(path.name for path in (uninterrupted / "data").iterdir()) == [
      "restarts.jsonl", "right.jsonl", "rl.jsonl", "sample.jsonl"]
  sampled = data_of(uninterrupted, "sample")
  assert len(sampled) == SAMPLED
  assert [row["step"] for row in sampled] == [step for step in range(5) for _ in range(32)]
  assert {(row["stage"], row["policy"]) for row in sampled} == {("sample", "sft")}
  assert set(sampled[0]["rewards"]) == {"verifier", "language"}
  assert data_of(uninterrupted, "right") == right_completions(
      sampled, max_per_question=4, dedupe="nothing") != []
  tokenizer = weights.load_model(uninterrupted / "models" / "sft")[2]
  assert data_of(uninterrupted, "restarts") == restart_prompts(
      sampled, tokenizer.encode, seed=1, max_back=2, step_ends=("\\boxed{",))
  accuracy = data_of(uninterrupted, "rl")
  assert [row["step"] for row in accuracy] == [0] * 8 + [1] * 8
  assert {row["start"] for row in accuracy} == {"", "right", "wrong"}
  assert all(row["count"] == 2 and 0 <= row["right"] <= 2 for row in accuracy)


def test_stages_start_where_they_say(uninterrupted):
  """`distil` from the initial model, and `rl` from the end of `sft`."""
  first, distil = (steps_of(uninterrupted, stage)[0] for stage in ("sft", "distil"))
  assert distil["loss/sft"] == pytest.approx(first["loss/sft"], rel=0.02)
  assert steps_of(uninterrupted, "sft")[-1]["loss/sft"] < 0.5 * first["loss/sft"]
  greedy = {stage: steps_of(uninterrupted, f"eval-{stage}")[0]["eval/chain/length"]
            for stage in ("start", "sft", "rl", "distil")}
  assert greedy["sft"] == greedy["rl"] == 4.0 != greedy["distil"]


def test_rl_scores_by_where_a_prompt_starts(uninterrupted):
  """-1 or 0 from a problem, -1.5 or 0 from a right part, -1 or 0.5 from a wrong one."""
  accuracy = data_of(uninterrupted, "rl")
  for step, line in enumerate(steps_of(uninterrupted, "rl")):
    rows = [row for row in accuracy if row["step"] == step]
    right, wrong = {"": 0.0, "right": 0.0, "wrong": 0.5}, {"": -1.0, "right": -1.5, "wrong": -1.0}
    total = sum(row["right"] * right[row["start"]] + (2 - row["right"]) * wrong[row["start"]]
                for row in rows)
    assert line["reward/restart/mean"] == pytest.approx(total / 16)


def test_a_reward_model_is_paid_out(uninterrupted):
  for line in steps_of(uninterrupted, "rl"):
    assert 0 < line["reward/learned/mean"] < 1
    assert line["reward/total/mean"] == pytest.approx(
        line["reward/restart/mean"] + 0.5 * line["reward/learned/mean"], abs=1e-6)
  model, params, _ = weights.load_scalar_model(uninterrupted / "models" / "scorer")
  assert params["value_head"]["kernel"].shape == (model.width,)


def test_the_summary_has_every_stage(uninterrupted):
  stages = json.loads((uninterrupted / "summary.json").read_text())["stages"]
  names = ["start", "sft", "sample", "right", "distil", "restarts", "scorer", "rl"]
  assert [stage["name"] for stage in stages] == names
  assert [stage["steps"] for stage in stages] == [0, SFT_STEPS, 5, 0, 3, 0, 2, 2]
  assert {stage["name"] for stage in stages if not stage["evaluation"]} == {
      "sample", "right", "restarts", "scorer"}
  rows = {stage["name"]: stage["rows"] for stage in stages if "rows" in stage}
  assert rows == {name: len(data_of(uninterrupted, name)) for name in ("right", "restarts")}


def test_a_run_that_is_killed_while_it_samples_is_the_same_run(uninterrupted, cache, tmp_path):
  # Rows of the third step of `sample` are written, and no checkpoint counts on them; then in the
  # stage after the selection, before its first checkpoint; then in that of the reward model.
  first, *others = (SFT_STEPS + 4, SFT_STEPS + 5 + 1, SFT_STEPS + 5 + 3 + 1)
  workdir = tmp_path / "run"
  ended = run_processes(
      workdir, [f"step {first}", "copy", *(f"step {step}" for step in others), "end"], cache,
      "data")
  assert [process.returncode for process in ended] == [-9, -9, -9, 0], ended[-1].stderr[-2000:]
  assert len(data_of(tmp_path / "run-1", "sample")) == 3 * 32
  for path in (uninterrupted / "data").iterdir():
    assert (workdir / "data" / path.name).read_bytes() == path.read_bytes(), path.name
  for path in (uninterrupted / "models").rglob("*"):
    if path.is_file():
      same = workdir / path.relative_to(uninterrupted)
      assert same.read_bytes() == path.read_bytes(), path
  assert reproducible_lines(workdir) == reproducible_lines(uninterrupted)
  assert (workdir / "samples.jsonl").read_bytes() == (
      uninterrupted / "samples.jsonl").read_bytes()
  stages = [[stage | {"seconds": None} for stage in json.loads(
      (folder / "summary.json").read_text())["stages"]] for folder in (workdir, uninterrupted)]
  assert stages[0] == stages[1]


# Wrong recipes.


def make_recipe(**changes):
  config = tiny_run.make_data_config()
  with config.ignore_type(), config.unlocked():
    config.update_from_flattened_dict(changes)
  return from_config(config)


@pytest.mark.parametrize("changes, message", [
    ({"distil.examples": "stage:nowhere"},
     "distil.examples: got 'nowhere', allowed: earlier stages that write data .sample, right."),
    ({"distil.examples": "stage:rl"}, "distil.examples: got 'rl', allowed: earlier"),  # later
    ({"distil.examples": "stage:sft"}, "distil.examples: got 'sft', allowed: earlier"),  # no data
    ({"sample.problems": "stage:sample"}, "sample.problems: got 'sample', allowed: .*there are no"),
    ({"right.inputs": ("sample", "right")}, "right.inputs: got 'right', allowed: earlier"),
    ({"rl.problems": "stage:"}, "rl.problems: got '', allowed: earlier"),
    ({"rl.start": "sample"}, "rl.start: got 'sample', which trains nothing, allowed: 'previous'"),
    ({"sample.start": "rl"}, "sample.start: got 'rl', which does not come before, allowed: 'prev"),
    ({"stages": ("sft", "distil")}, "distil.examples: got 'right', allowed: .*there are none"),
    ({"right.select.function": "rlreason.data.selections.completions:left_completions"},
     "config.right.select.function: got .*has no function 'left_completions'"),
    ({"right.select.options": {"max_per": 3}}, "config.right.select: options of right_completions"),
])
def test_wrong_references_are_refused_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    make_recipe(**changes)


@pytest.mark.parametrize("changes, message", [
    ({"distil.start": "nowhere"}, "config.distil.start: 'nowhere' not found, allowed: 'previous'"),
    ({"rl.problems": "nowhere.jsonl"}, "config.rl.problems: 'nowhere.jsonl' not found, allowed"),
    ({"right.select.options": {"max_per_question": -1}},
     "config.right: max_per_question: got -1, allowed: 0 or more"),
    ({"restarts.select.options": {"seed": 1, "max_back": 2, "marker": "REFLECT"}},
     "config.restarts: text: got the words .'REFLECT'."),
])
def test_what_a_stage_would_stumble_over_comes_before_the_first_step(changes, message, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    run_lib.train(make_recipe(**changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


# A selection by itself.


def double(rows, *, times: int = 2):
  return rows * times


def run_select(folder, function, lines, **options):
  (folder / "data").mkdir(exist_ok=True)
  for name, text in lines.items():
    (folder / "data" / f"{name}.jsonl").write_text(text)
  stage = SelectStage(
      kind="select", name="out", inputs=tuple(lines), select=Slot(function, options))
  setup = types.SimpleNamespace(tokenizer=WordTokenizer.from_words(["a"]))
  return select(setup, stage, folder)


def test_inputs_follow_each_other(tmp_path):
  lines = {"one": '{"prompt": "a"}\n{"prompt": "\\ud83d"}\n', "two": '{"prompt": "b"}\n'}
  assert run_select(tmp_path, double, lines) == 6
  # Half of a surrogate pair, which UTF-8 cannot hold, stays an escape.
  written = (tmp_path / "data" / "out.jsonl").read_text()
  assert written == '{"prompt": "a"}\n{"prompt": "\\ud83d"}\n{"prompt": "b"}\n' * 2
  assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
      "one.jsonl", "out.jsonl", "two.jsonl"]


def test_a_selection_of_nothing_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="config.out.select: double leaves none of 1 rows, allowed"):
    run_select(tmp_path, double, {"one": '{"prompt": "a"}\n'}, times=0)
  assert not (tmp_path / "data" / "out.jsonl").exists()
