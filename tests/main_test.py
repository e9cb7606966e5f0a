"""The command line: mistakes in one line, overrides, and each command on a tiny model."""

import dataclasses
import hashlib
import json
import logging as standard_logging
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import typing

from absl import flags, logging
import jax
import numpy as np
import pytest

from rlreason import api, commands, main, models, weights
from rlreason.data.tasks import countdown
from rlreason.tokenizers import WordTokenizer
from rlreason.training.settings import recipe as recipe_lib
from tests import compiler, waiting
from tests.files_test import file_limit

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / "tests" / "tiny_experiment.py")
PROMPT = "3 7 12 target 45 :"


@pytest.fixture(autouse=True)
def no_compilation_cache(monkeypatch):
  """Commands in this process must not leave settings behind for the tests after them."""
  for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
               "TF_CPP_MIN_LOG_LEVEL"):
    monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
  """A random Countdown model as a Hugging Face folder."""
  tokenizer = WordTokenizer.from_words(countdown.vocabulary(countdown.CountdownConfig()))
  config = models.ModelConfig(
      vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, num_kv_heads=1,
      head_dim=8, mlp_width=32, max_positions=128)
  folder = tmp_path_factory.mktemp("models") / "tiny"
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  weights.save_model(folder, config, params, tokenizer)
  return folder


def run_main(capsys, *argv):
  code = main.main(list(argv))
  captured = capsys.readouterr()
  return code, captured.out, captured.err


# --- Mistakes: one line that says what to do, exit code 2, and nothing done.


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["nothing"], "allowed: train, evaluate, sample, data, convert"),
        (["trian"], "did you mean 'train'?"),
        (["train"], "--config is missing; for example: rlreason train --config="),
        (["train", f"--config={CONFIG}"], "--workdir is missing"),
        (["train", f"--config={CONFIG}", "--wordkir=x"], "'wordkir'. Did you mean: workdir"),
        (["train", f"--config={CONFIG}", "--workdir=x", "y"], "arguments: got 'y'"),
        (["train", f"--config={CONFIG}", "--workdir"], "Missing value for flag --workdir"),
        (["train", "--config=nowhere.py", "--workdir=x"], "'nowhere.py' not found"),
        (["sample", "--model=nowhere", "--prompt=x"], "nowhere"),
        (["sample", "--model=nowhere", "--prompt=x", "--group=0"], "--group=0"),
        (["sample", "--model=nowhere", "--prompt=x", "--group=two"], "--group=two"),
        (["sample", "--model=nowhere", "--prompt=x", "--chat_options=thinks"],
         "--chat_options: got 'thinks', allowed: NAME=VALUE"),
        (["sample", "--model=x", "--prompt=y", "--config.seed=1"], "sample takes no config"),
        (["evaluate", f"--config={CONFIG}", "--model=x", "--split=train"], "--split=train"),
        (["convert", "--source=nowhere", "--destination=x"], "nowhere"),
        (["convert", "--source=nowhere", "--destination=x", "--dtype=int8"], "--dtype=int8"),
    ])
def test_a_mistake_is_one_line(capsys, tmp_path, monkeypatch, argv, expected):
  monkeypatch.chdir(tmp_path)
  code, out, err = run_main(capsys, *argv)
  assert code == main.EXIT_USER
  assert expected in err
  assert err.startswith("rlreason: ") and err.count("\n") == 1 and not out
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "override, expected",
    [
        ("--config.typo=1", "config.typo: unknown field of Recipe"),
        ("--config.rl.algorithm.kl_coeff=1",
         "config.rl.algorithm.kl_coeff: unknown field of PolicyGradientConfig, did you"
         " mean 'kl_coef'?"),
        ("--config.seed=abc", "config.seed: got 'abc' (str), allowed: int"),
        ("--config.rl.steps=1.5", "config.rl.steps: got 1.5 (float), allowed: int"),
        ("--config.rl.algorithm.minibatch_size=7", "minibatch_size: got 7, allowed: a divisor"),
        ("--config.rl.rewards.exploration.options.c=1000", "c: got 1000, which lets"),
        ("--config.rl.rewards.mine.weight=1", "reward 'mine': function: got None"),
        ("--config.seed.x=1", "'seed' is 0 and has no fields"),
        ("--config.seed", "write --config.FIELD=VALUE"),
        ("--config.=1", "write --config.FIELD=VALUE"),
        ("--config.stages=('sft','rlhf')", "config.rlhf: missing"),
        ("--config.parallel.data=999", "the number of devices"),
        ("--config.model.max_positions=16", "allowed: 16 together"),
        ("--config.task.problems.num_numbers=9", "num_numbers: got 9, allowed: 3 or 4"),
    ])
def test_an_impossible_config_is_one_line(capsys, tmp_path, override, expected):
  code, _, err = run_main(
      capsys, "train", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}", override)
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert expected in err
  assert not (tmp_path / "run").exists()


def test_a_config_file_that_is_not_python_is_named_with_its_line(capsys, tmp_path):
  file = tmp_path / "broken.py"
  file.write_text("def get_config():\n  return (\n")
  code, _, err = run_main(capsys, "train", f"--config={file}", "--workdir=x")
  assert code == main.EXIT_USER
  assert "broken.py:2: " in err and err.count("\n") == 1


def test_a_folder_that_is_gone_is_said(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tmp_path.rmdir()
  code, _, err = run_main(capsys, "train", f"--config={CONFIG}", "--workdir=x")
  assert code == main.EXIT_USER
  assert err == "rlreason: the folder that this was started in is gone: start it in another\n"


@pytest.mark.parametrize("text, name", [
    ("raise KeyError('a')", "KeyError: 'a'"), ("import sys; sys.exit(0)", "SystemExit: 0")])
def test_a_config_that_fails_is_one_line(capsys, tmp_path, text, name):
  file = tmp_path / "fails.py"
  file.write_text(f"def get_config():\n  {text}\n")
  code, _, err = run_main(capsys, "train", f"--config={file}", "--workdir=x")
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert "fails.py" in err and name in err


def test_a_workdir_of_another_config_is_refused(capsys, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"seed": 0}))
  (tmp_path / "checkpoints" / "10").mkdir(parents=True)
  code, _, err = run_main(capsys, "train", f"--config={CONFIG}", f"--workdir={tmp_path}")
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert "started with another config" in err


def test_a_workdir_that_cannot_be_made_is_one_line(capsys, tmp_path):
  (tmp_path / "file").write_text("")
  code, _, err = run_main(
      capsys, "train", f"--config={CONFIG}", f"--workdir={tmp_path / 'file' / 'run'}")
  assert code == main.EXIT_USER and err.count("\n") == 1


@pytest.mark.parametrize(
    "error, code",
    [(FloatingPointError("step 7: not finite"), main.EXIT_STOPPED),
     (KeyboardInterrupt(), 130), (SystemExit(0), main.EXIT_STOPPED),
     (MemoryError(), main.EXIT_STOPPED),
     (ModuleNotFoundError("no", name="reasoning_gym"), main.EXIT_USER),
     (FileNotFoundError(2, "No such file", "a.safetensors"), main.EXIT_USER),
     (OSError(28, "No space left on device", "a/checkpoints"), main.EXIT_STOPPED),
     (OSError(27, "File too large", "a.png"), main.EXIT_STOPPED)])
def test_errors_of_a_run_have_their_exit_codes(capsys, monkeypatch, error, code):
  def fail(*unused_args, **unused_kwargs):
    raise error

  monkeypatch.setattr(api, "convert", fail)
  found, _, err = run_main(capsys, "convert", "--source=a", "--destination=b")
  assert found == code and err.count("\n") == 1


@pytest.mark.parametrize("flags, expected", [([], False), (["--allow_changed_inputs"], True)])
def test_changed_inputs_are_allowed_by_a_flag(monkeypatch, tmp_path, flags, expected):
  calls = []
  monkeypatch.setattr(api, "train", lambda config, workdir, **options: calls.append(options))
  assert main.main(["train", f"--config={CONFIG}", f"--workdir={tmp_path}", *flags]) == 0
  assert calls == [{"allow_changed_inputs": expected}]


def _raise_by_name():
  raise ValueError("raised outside the package")


@pytest.mark.parametrize(
    "bug",
    [lambda: np.concatenate([np.zeros(2), np.zeros((2, 2))]),  # a library's ValueError
     lambda: dict(zip([1], [2, 3], strict=True)),  # a built-in's
     _raise_by_name, lambda: {}["key"], lambda: None + 1])
def test_a_bug_keeps_its_traceback(monkeypatch, bug):
  monkeypatch.setattr(api, "convert", lambda *args, **kwargs: bug())
  with pytest.raises((ValueError, KeyError, TypeError)):
    main.main(["convert", "--source=a", "--destination=b"])


# --- Places: what is there is not replaced, and what cannot be reached is said.


@pytest.mark.parametrize("flag", ["workdir", "config", "config.sft.examples", "config.rl.start"])
def test_addresses_are_refused_in_every_flag_of_train(capsys, tmp_path, monkeypatch, flag):
  monkeypatch.chdir(tmp_path)
  values = {"workdir": "run", "config": CONFIG, flag: "gs://bucket/a.py"}
  code, _, err = run_main(capsys, "train", *(f"--{name}={text}" for name, text in values.items()))
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert f"{flag}: got 'gs://bucket/a.py', allowed: a path of this machine" in err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command, flags, name", [
    ("sample", ["--model=s3://a", "--prompt=x"], "path"),
    ("sample", ["--model=a", "--adapters=s3://a", "--prompt=x"], "adapters"),
    ("convert", ["--source=s3://a", "--destination=b"], "source"),
    ("convert", ["--source=a", "--destination=s3://a"], "destination"),
    ("evaluate", [f"--config={CONFIG}", "--model=s3://a"], "path"),
    ("evaluate", [f"--config={CONFIG}", "--model=a", "--output=s3://a"], "--output")])
def test_addresses_are_refused_in_every_command(
    capsys, tmp_path, monkeypatch, command, flags, name):
  monkeypatch.chdir(tmp_path)
  code, _, err = run_main(capsys, command, *flags)
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert f"{name}: got 's3://a', allowed: a path of this machine" in err
  assert not list(tmp_path.iterdir())


def test_a_home_is_put_into_flags(capsys, tmp_path, monkeypatch, model_folder):
  monkeypatch.setenv("HOME", str(tmp_path))
  code, _, _ = run_main(
      capsys, "convert", f"--source={model_folder}", "--destination=~/models/copy")
  assert code == 0 and (tmp_path / "models" / "copy" / "config.json").exists()
  code, _, err = run_main(capsys, "train", f"--config={CONFIG}", "--workdir=~/models/copy")
  assert code == main.EXIT_USER and err.count("\n") == 1
  assert "models/copy/config.json' is there already" in err
  assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_nothing_of_somebody_is_replaced(capsys, tmp_path, model_folder):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "notes.txt").write_text("theirs")
  (tmp_path / "results.json").write_text("theirs")
  for argv, message in (
      (["convert", f"--source={model_folder}", f"--destination={tmp_path / 'full'}"],
       "destination: '{}/full/notes.txt' is there already, allowed: a new or empty folder"),
      (["convert", f"--source={model_folder}", f"--destination={tmp_path / 'results.json'}"],
       "destination: '{}/results.json' is no folder"),
      (["evaluate", f"--config={CONFIG}", f"--model={model_folder}",
        f"--output={tmp_path / 'results.json'}"],
       "--output: '{}/results.json' is there already, allowed: a new file"),
      (["train", f"--config={CONFIG}", f"--workdir={tmp_path / 'results.json'}"],
       "workdir: '{}/results.json' is no folder")):
    code, _, err = run_main(capsys, *argv)
    assert code == main.EXIT_USER and err.count("\n") == 1
    assert message.format(tmp_path) in err
  assert (tmp_path / "results.json").read_text() == "theirs"
  assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_a_conversion_that_fails_can_be_tried_again(capsys, tmp_path, model_folder):
  argv = ["convert", f"--source={model_folder}", f"--destination={tmp_path / 'copy'}"]
  size = (model_folder / "model.safetensors").stat().st_size
  with file_limit(size - 1):
    code, _, err = run_main(capsys, *argv)
  assert code == main.EXIT_STOPPED and err.count("\n") == 1
  assert f"File too large: '{tmp_path}/copy/model.safetensors'; what was saved before is k" in err
  assert not list((tmp_path / "copy").iterdir())
  assert run_main(capsys, *argv)[0] == 0 and (tmp_path / "copy" / "config.json").exists()


PLACES = [
    # No home, and no entry in the list of users.
    ({"HOME": None, "XDG_CACHE_HOME": None, "JAX_COMPILATION_CACHE_DIR": None}, ["--seed=1"], 0,
     "# 1 2"),
    ({"JAX_PLATFORMS": "cuda"}, ["--seed=1"], main.EXIT_USER, "JAX_PLATFORMS: got 'cuda', allowed"),
    ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     ["--chat", "--prompt=\u00e9t\u00e9 \u65e5\u672c"], 0, "# \u00e9t\u00e9 \u65e5\u672c\n")]


@pytest.mark.parametrize("changes, flags, code, text", PLACES, ids=["home", "cuda", "ascii"])
def test_commands_in_bare_places(tmp_path, model_folder, changes, flags, code, text):
  model = tmp_path / "mod\u00e8le"
  shutil.copytree(model_folder, model)
  config = json.loads((model / "tokenizer_config.json").read_text())
  # Says what it was asked, and does not put it into the prompt: its words are few.
  (model / "tokenizer_config.json").write_text(
      json.dumps(config | {"chat_template": "{% if false %}{{ messages }}{% endif %}1 2 3"}))
  environment = {**os.environ, "PYTHONPATH": str(ROOT)} | changes
  environment = {name: value for name, value in environment.items() if value is not None}
  patch = "import os, pwd; os.getuid = lambda: 123456; " if "HOME" in changes else ""
  process = waiting.run(
      [sys.executable, "-c", f"{patch}import sys; from rlreason import main; sys.exit(main.main())",
       "sample", f"--model={model}", "--prompt=1 2", "--max_new_tokens=2", *flags],
      env=environment)
  out, err = process.stdout, process.stderr
  assert process.returncode == code, err
  # One line of what is wrong, or the header's three: no noise beside them.
  heads = ["rlreason: "] if code else ["devices  ", "model  ", "       "]
  lines = err.splitlines()
  assert len(lines) == len(heads) and all(map(str.startswith, lines, heads)), err
  assert text in out + err


# --- Help.


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_shows_the_flags_and_an_example_that_parses(capsys, name):
  code, out, err = run_main(capsys, name, "--help")
  assert code == 0 and not err
  command = main.COMMANDS[name]
  values = flags.FlagValues()
  command.define(values)
  assert all(f"--{flag}" in out or f"--[no]{flag}" in out for flag in values)
  example = out.partition("example:\n")[2].strip()
  assert f"{example} ".startswith(f"rlreason {name} ")
  assert all(f"--{flag}=" in example for flag in command.required)
  _, rest = main._split_overrides(shlex.split(example)[2:])
  # Raises where the example has a flag that there is not.
  assert bool(values([name, *rest])[1:]) == bool(command.arguments)


@pytest.mark.parametrize("path", ["README.md", "docs/usage.md"])
def test_commands_of_the_documents_parse(path):
  for line in (ROOT / path).read_text().splitlines():
    if not line.startswith("    rlreason ") or "[" in line:  # prose, and patterns of use
      continue
    name, *arguments = shlex.split(line)[1:]
    overrides, rest = main._split_overrides(arguments)
    values = flags.FlagValues()
    main.COMMANDS[name].define(values)
    extra = values([name, *map(main._underscored, rest)])[1:]
    assert bool(extra) == bool(main.COMMANDS[name].arguments), line
    if "config" in values:
      recipe_lib.from_config(commands.load_config(str(ROOT / values.config), overrides))


def dataclass_fields(hint):
  """Names of the fields of a dataclass and of those inside it."""
  for part in (hint, *typing.get_args(hint)):
    if dataclasses.is_dataclass(part):
      hints = typing.get_type_hints(part)
      for field in dataclasses.fields(part):
        yield field.name
        yield from dataclass_fields(hints[field.name])
    elif part is not hint:
      yield from dataclass_fields(part)


def test_every_field_of_a_config_is_documented():
  text = (ROOT / "docs" / "usage.md").read_text()
  documented = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`\n]*)`", text))))
  fields = set(dataclass_fields(recipe_lib.Recipe))
  assert {"kl_coef", "num_numbers", "critic_learning_rate", "is_judge"} <= fields
  assert not fields - documented


def test_help_without_a_command_lists_the_commands(capsys):
  code, out, _ = run_main(capsys, "--help")
  assert code == 0 and run_main(capsys) == (0, out, "")
  assert all(f"\n  {name} " in out for name in main.COMMANDS)


# --- Overrides.


def load(*overrides):
  pairs, rest = main._split_overrides(overrides)
  assert not rest
  return recipe_lib.from_config(commands.load_config(CONFIG, pairs))


def test_overrides_reach_the_recipe():
  recipe = load(
      "--config.seed=3", "--config.rl.rewards.exploration.weight=0",
      "--config.rl.rewards.verifier.weight=0.5", "--config.rl.algorithm.kl_coef=1",
      "--config.prompt_buckets=(8,16)", "--config.rl.reward_clip=(-1,1)",
      "--config.rl.algorithm.critic=separate", "--config.rl.algorithm.recompute_log_probs=true")
  rl = recipe.stages[1]
  assert recipe.seed == 3 and recipe.prompt_buckets == (8, 16)
  assert {spec.name: spec.weight for spec in rl.rewards} == {"verifier": 0.5, "exploration": 0.0}
  assert rl.algorithm.kl_coef == 1.0 and isinstance(rl.algorithm.kl_coef, float)
  assert rl.reward_clip == (-1.0, 1.0)
  assert rl.algorithm.critic == "separate" and rl.algorithm.recompute_log_probs is True


def test_a_field_may_be_none_before_and_after():
  assert load().stages[1].algorithm.value_clip is None
  assert load("--config.rl.algorithm.value_clip=0.1").stages[1].algorithm.value_clip == 0.1
  assert load("--config.optimizer.max_grad_norm=None").stages[1].optimizer.max_grad_norm is None


def test_an_integer_in_the_file_does_not_keep_a_fraction_out():
  recipe = load("--config.rl.rewards.exploration.weight=0.25")  # the file says 1
  weight = {spec.name: spec.weight for spec in recipe.stages[1].rewards}
  assert weight == {"verifier": 1.0, "exploration": 0.25}


def test_fields_that_the_file_leaves_out_can_be_set():
  recipe = load(
      "--config.parallel.mode=pmap", "--config.checkpoint.every_steps=7",
      "--config.rl.rewards.format.weight=0.1", "--config.sft.token_weights.lower=4")
  assert recipe.parallel.mode == "pmap" and recipe.checkpoint.every_steps == 7
  assert {spec.name for spec in recipe.stages[1].rewards} == {"verifier", "exploration", "format"}
  assert dict(recipe.stages[0].token_weights) == {"lower": 4.0}


def test_the_optimizer_at_the_top_is_that_of_the_last_stage():
  recipe = load("--config.optimizer.learning_rate=1e-5", "--config.optimizer.schedule=cosine")
  assert recipe.stages[1].optimizer.learning_rate == 1e-5
  assert recipe.stages[1].optimizer.schedule == "cosine"
  assert recipe.stages[0].optimizer.learning_rate == 1e-3


def test_the_last_override_counts_and_a_space_may_separate():
  assert load("--config.seed=1", "--config.seed", "2").seed == 2


def test_text_stays_text_where_the_file_has_text():
  config = commands.load_config(CONFIG, [("model.kind", "123"), ("sft.examples", "[a].jsonl")])
  assert config.model.kind == "123" and config.sft.examples == "[a].jsonl"


# --- The commands.


def test_sample_prints_each_completion(capsys, model_folder):
  arguments = [
      "sample", f"--model={model_folder}", f"--prompt={PROMPT}", "--prompt=1 2 3 target 6 :",
      "--group=2", "--max-new-tokens=5", "--seed=1"]
  code, out, _ = run_main(capsys, *arguments)
  assert code == 0
  assert out.count(f"# {PROMPT}\n") == 1 and out.count("# 1 2 3 target 6 :\n") == 1
  assert out.count("[1/2] ") == 2 and out.count("[2/2] ") == 2
  assert "5 tokens, truncated" in out
  _, again, _ = run_main(capsys, *arguments)
  assert again == out
  _, other, _ = run_main(capsys, *arguments, "--seed=2")
  assert other != out


def test_sample_tells_what_does_not_fit(capsys, model_folder):
  code, _, err = run_main(
      capsys, "sample", f"--model={model_folder}", f"--prompt={PROMPT}", "--max_new_tokens=128")
  assert code == main.EXIT_USER and "128 together, the positions of the model" in err
  code, _, err = run_main(
      capsys, "sample", f"--model={model_folder}", f"--prompt={PROMPT}", "--chat")
  assert code == main.EXIT_USER and "chat_template: got None" in err
  code, _, err = run_main(capsys, "sample", f"--model={model_folder}", "--prompt=hello")
  assert code == main.EXIT_USER and "hello" in err


def test_evaluate_refuses_an_output_that_cannot_be_written(capsys, model_folder, tmp_path):
  code, _, err = run_main(
      capsys, "evaluate", f"--config={CONFIG}", f"--model={model_folder}", f"--output={tmp_path}")
  assert code == main.EXIT_USER and "--output" in err and "cannot be written" in err
  (tmp_path / "a.jsonl").touch()
  for name, message in (("a.jsonl", "another ending than .jsonl"), ("a.json", "is there already")):
    code, _, err = run_main(
        capsys, "evaluate", f"--config={CONFIG}", f"--model={model_folder}",
        f"--output={tmp_path / name}")
    assert code == main.EXIT_USER and message in err


def test_convert_keeps_the_model(capsys, model_folder, tmp_path):
  code, out, _ = run_main(
      capsys, "convert", f"--source={model_folder}", f"--destination={tmp_path / 'copy'}")
  assert code == 0 and "copy" in out
  before, after = api.load(model_folder), api.load(tmp_path / "copy")
  assert before.config == after.config
  jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_evaluate_prints_a_table_and_writes_a_summary(capsys, model_folder, tmp_path):
  output = tmp_path / "results" / "tiny.json"
  code, out, _ = run_main(
      capsys, "evaluate", f"--config={CONFIG}", f"--model={model_folder}", "--split=validation",
      f"--output={output}", "--config.evaluation.num_samples=0")
  assert code == 0
  assert "greedy" in out and str(output) in out and str(output.with_suffix(".jsonl")) in out
  made = json.loads(output.read_text())["provenance"]
  assert made["sampling"]["split"] == "validation" and made["sampling"]["num_samples"] == 0
  assert made["problems"]["count"] == 8 and len(made["processes"]) == 1
  assert set(made["data"]) == {"--model"}
  assert made["data"]["--model"]["model.safetensors"] == hashlib.sha256(
      (model_folder / "model.safetensors").read_bytes()).hexdigest()
  lines = output.with_suffix(".jsonl").read_text().splitlines()
  assert [json.loads(line)["problem"] for line in lines] == list(range(8))
  (stage,) = json.loads(output.read_text())["stages"]
  assert stage["name"] == "tiny" and stage["steps"] == 0
  assert set(stage["evaluation"]["countdown"]["greedy"]) == {"value", "low", "high", "n"}
  assert stage["evaluation"]["countdown"]["greedy"]["n"] == 8


# --- A run in processes of its own: stopped, gone on with, evaluated.


def start(environment, *argv):
  return waiting.Running(
      [sys.executable, "-m", "rlreason.main", *argv], cwd=ROOT, env=environment)


def read_metrics(workdir):
  file = workdir / "metrics.jsonl"
  lines = file.read_text().splitlines() if file.exists() else []
  return [json.loads(line) for line in lines if line.endswith("}")]


def test_a_run_is_stopped_and_gone_on_with(tmp_path):
  workdir = tmp_path / "run"
  # A home of its own: the folder of compiled programs must be made there, and used.
  environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"),
                 "XLA_FLAGS": compiler.IN_ONE_PART}
  for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
    environment.pop(name, None)
  devices = ["--config.parallel.cpu_devices=2", "--config.parallel.data=2"]
  command = ["train", f"--config={CONFIG}", f"--workdir={workdir}", *devices]

  running = start(environment, *command)
  running.wait_until(
      lambda: any(line["stage"] == "rl" for line in read_metrics(workdir)), workdir)
  running.process.send_signal(signal.SIGTERM)
  ended = running.finish()
  err = ended.stderr
  assert ended.returncode == main.EXIT_INTERRUPTED, ended
  assert err.count("\n") == 1 and f"--workdir={workdir} resumes from there" in err
  done = max(line["step"] for line in read_metrics(workdir))
  assert done < 42
  assert list((tmp_path / "cache" / "rlreason" / "jax").iterdir())

  ended = start(environment, *command).finish()
  out = ended.stdout
  assert ended.returncode == 0, ended.stderr
  assert f"resuming at step {done}" in out and "evaluating the start" not in out
  assert not ended.stderr  # nothing that a user would have to read past
  steps = [line["step"] for line in read_metrics(workdir) if not line["stage"].startswith("eval")]
  assert steps == list(range(1, 43))  # 2 of SFT and 40 of RL, each once
  summary = json.loads((workdir / "summary.json").read_text())
  assert [stage["name"] for stage in summary["stages"]] == ["start", "sft", "rl"]
  for name in ("samples.jsonl", "report.html", "plots/reward.png", "models/rl/config.json"):
    assert (workdir / name).exists() and name.split("/")[0] in out

  # Every metric is explained where a user looks.
  usage = (ROOT / "docs" / "usage.md").read_text()
  names = {name for line in read_metrics(workdir) for name in line}
  for name in sorted(names - {"step", "stage"}):
    group, *_, last = name.split("/")
    if group == "eval":
      last = re.sub(r"@\d+$", "@n" if last.startswith("avg") else "@k", last)
    is_part = name in ("reward/verifier/mean", "reward/exploration/mean")
    wanted = f"`{last}`" if group == "eval" else "`reward/<part>/mean`" if is_part else f"`{name}`"
    assert wanted in usage, name

  # The model alone gives what the run measured with it.
  output = tmp_path / "evaluation.json"
  ended = start(environment, "evaluate", f"--config={CONFIG}", f"--model={workdir}/models/rl",
                f"--output={output}", *devices).finish()
  assert ended.returncode == 0, ended.stderr
  (stage,) = json.loads(output.read_text())["stages"]
  assert stage["evaluation"] == summary["stages"][-1]["evaluation"]


def test_the_compilation_cache_can_be_placed_elsewhere(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  main._set_environment()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "rlreason" / "jax")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
  main._set_environment()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


def test_data_sets_are_copied_and_named(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "aime.jsonl").write_text('{"problem": "2?", "answer": "2"}\n' * 2)
  code, out, err = run_main(capsys, "data", "aime24", "--from=aime.jsonl")
  assert (code, err) == (0, "")
  digest = "6e29c96aa48e4e79"
  assert out.split() == [
      "test", "2", "rows", "(published:", "30)", "sha256", digest, "data/aime24/test.jsonl"]
  assert (tmp_path / "data/aime24/test.jsonl").read_text().count("\n") == 2
  for arguments, message in (
      (["--from=x"], "rlreason: NAME is missing; for example: rlreason data gsm8k"),
      (["gsm8k", "math", "--from=x"], "NAME: got 'math' as well, allowed: one data set"),
      (["gsm8k"], "--from is missing"), (["aime24", "--from=aime.jsonl"], "is there already")):
    code, out, err = run_main(capsys, "data", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


def test_flags_of_chats_reach_the_model(capsys, model_folder, monkeypatch):
  calls = []

  def load(path, **options):
    calls.append(options)
    raise commands.UsageError("seen")

  monkeypatch.setattr("rlreason.api.load", load)
  run_main(capsys, "sample", f"--model={model_folder}", "--prompt=x", "--end_tokens=<a>",
           "--end-tokens=<b>", "--chat_options=enable_thinking=False", "--chat_options=style=brief")
  config = ["evaluate", f"--config={ROOT / 'experiments/rlsp_smollm2.py'}", "--model=x"]
  run_main(capsys, *config, "--end_tokens=<a>")
  run_main(capsys, *config, "--config.model.end_tokens=('<c>',)",
           "--config.model.chat_options={'thinks': 1}")
  assert [call["end_tokens"] for call in calls] == [["<a>", "<b>"], ["<a>"], ("<c>",)]
  assert [call["chat_options"] for call in calls] == [
      {"enable_thinking": False, "style": "brief"}, {}, {"thinks": 1}]


def test_a_number_of_seeds_reaches_the_run(capsys, monkeypatch):
  calls = []
  monkeypatch.setattr(api, "train", lambda config, workdir, **settings: calls.append(settings))
  train = ["train", f"--config={CONFIG}", "--workdir=a"]
  for flag in ([], ["--seeds=3"]):
    assert run_main(capsys, *train, *flag)[0] == 0
  assert [call.get("seeds") for call in calls] == [None, 3]
  for flag in ("--seeds=0", "--seeds=x"):
    code, _, err = run_main(capsys, *train, flag)
    assert code == main.EXIT_USER and flag.partition("=")[0] in err


def test_the_preflight_is_off_by_a_flag(capsys, monkeypatch):
  configs = []
  monkeypatch.setattr(api, "train", lambda config, *args, **settings: configs.append(config))
  for flag in ([], ["--nopreflight"], ["--preflight"]):
    assert run_main(capsys, "train", f"--config={CONFIG}", "--workdir=a", *flag)[0] == 0
  assert [recipe_lib.from_config(config).preflight for config in configs] == [True, False, True]


def test_a_warning_is_one_line_and_printed_once(capsys):
  for _ in range(2):
    assert main.main(["--help"]) == 0
    for _ in range(2):
      logging.warning("%d rows left out", 3)
    logging.info("nobody asked")
    standard_logging.getLogger("theirs").handle(standard_logging.makeLogRecord({
        "levelno": standard_logging.WARNING, "msg": "of a package", "pathname": pytest.__file__}))
    assert capsys.readouterr().err == "warning: 3 rows left out\n"
