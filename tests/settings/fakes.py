"""Stand-ins for what is slow, so that the way of a setting can be followed in milliseconds.

`rl_trace` and its like make a stage for real, and take real steps of it, with canned completions in
the place of the sampler and with an algorithm that only writes down what it is given. A trace is a
dict of lists, in the order in which things happened.
"""

import collections
import contextlib
import importlib
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import rollout as rollout_lib
from rlreason.algorithms import base as algorithms
from rlreason.data.tasks.base import Task
from rlreason.evaluation import evaluator
from rlreason.parallel import Layout
from rlreason.rollout import generate as generate_lib
from rlreason.tokenizers import WordTokenizer
from rlreason.training import loop, run, stages as stages_lib
from rlreason.training.settings.recipe import Recipe
from rlreason.training.stages import base, distill, policies, preference, rl, sources
from rlreason.training.stages.base import Setup
from rlreason.types import Rollout
from tests.algorithms import tiny

PROCESS_REWARD = importlib.import_module("rlreason.training.stages.process_reward")
REWARD_MODEL = importlib.import_module("rlreason.training.stages.reward_model")
SFT = importlib.import_module("rlreason.training.stages.sft")
WIDTH = 8  # most tokens of a completion
TOKENIZER = WordTokenizer.from_words(
    ("p0", "p1", "p2", "p3", "\\boxed{", "}", "1", "2", "a", "b", "wait"))
ROWS = [{"prompt": f"p{i}", "answer": "1"} for i in range(4)]
FILE_ROWS = [{"prompt": f"p{3 - i} a", "answer": "2", "completion": "b", "chosen": "b 1",
              "rejected": "a b 2 1 1 1", "is_right": i % 2 == 0, "steps": ["a", "b 1", "wait"],
              "labels": [1.0, 0.0, -1.0]} for i in range(4)]
RIGHT, SHORT = "a a \\boxed{ 1 } <eos>", "\\boxed{ 2 } <eos>"
# The rows of a rollout, repeated: right, wrong, right, truncated, right, right, and so on.
LONG = "a a a \\boxed{ 1 } <eos>"
SAMPLED = [RIGHT, SHORT, RIGHT, "a b a b a b a b", RIGHT, LONG, SHORT, SHORT]
GREEDY = ["a \\boxed{ 1 } <eos>", "\\boxed{ 1 } \\boxed{ 2 } <eos>"]
POOL = types.SimpleNamespace(counts=types.SimpleNamespace(timeouts=0, crashes=0, errors=0))
POLICY = {"w": np.zeros(2, np.float32)}
_same = lambda x, *unused: x
LAYOUT = Layout(
    num_shards=1, num_replicas=1, sampling_shards=1, takes_plans=True,
    param_shardings=lambda boxed: None,
    put_params=_same, put_state=_same, get_state=_same, put_rows=_same, get_rows=_same,
    put_plan=_same,
    compile_sampler=_same,
    compile_rows=_same, compile_whole=_same, compile_update=_same)

Trace = collections.defaultdict


def make_rollout(texts, width=WIDTH):
  tokens = np.zeros((len(texts), width), np.int32)
  for row, text in enumerate(texts):
    ids = TOKENIZER.encode(text)[:width]
    tokens[row, :len(ids)] = ids
  mask = tokens > 0
  return Rollout(
      prompt_tokens=tokens[:, :1], prompt_mask=mask[:, :1], completion_tokens=tokens,
      token_mask=mask, action_mask=mask, log_probs=np.zeros(mask.shape, np.float32), values=None,
      truncated=np.array([tokens[i, mask[i]][-1] not in TOKENIZER.eos_ids
                          for i in range(len(texts))]))


def generator_of(trace):
  """A `rollout.make_generator` of canned completions."""

  def make_generator(model, tokenizer, layout, *, options, group_size, prompt_buckets, **rest):
    del tokenizer, layout
    rest = {name: getattr(value, "args", value) for name, value in rest.items()}
    trace["generators"].append((options, group_size, tuple(prompt_buckets), rest, model))

    def generate(params, rows, key):
      trace["prompts"].append([row["prompt"] for row in rows])
      trace["keys"].append(jax.random.key_data(key))
      trace["sampled_from"].append(np.asarray(jax.tree.leaves(params)[0]))
      texts = GREEDY if options.temperature == 0 else SAMPLED
      count = len(rows) * group_size
      return make_rollout([texts[i % len(texts)] for i in range(count)], options.max_new_tokens)

    return generate

  return make_generator


def partial_generator_of(trace):
  """A `rollout.make_partial_generator` of canned completions, all of which have ended."""

  def make_partial_generator(*args, enough, group_size, **settings):
    generate = generator_of(trace)(*args, group_size=group_size, **settings)

    def generate_some(params, groups):
      trace["partial"].append((enough, len(groups)))
      rows = [group.row for group in groups]
      return generate(params, rows, jax.random.key(0)), np.ones(len(groups), bool)

    return generate_some

  return make_partial_generator


def rates(optimizer, updates=4):
  """The learning rates of the first updates: what a gradient that stays the same moves."""
  params = {"policy": {"w": jnp.zeros(2)}}
  state, found = optimizer.init(params), []
  for _ in range(updates):
    steps, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    found.append(abs(float(steps["policy"]["w"][0])))
  return found


class Batch:
  """What a fake algorithm makes of a rollout."""

  plan = None

  def replace(self, **unused):
    return self


def algorithm_of(trace):
  """A maker of algorithms that learn nothing, but move every parameter by 1 in each update."""

  def make(config, model, *args, **settings):
    optimizer = next(x for x in args if hasattr(x, "update"))
    trace["algorithm"].append((config, [x for x in args if x is not optimizer], settings))
    trace["rates"].append(rates(optimizer))

    def init(params):
      trace["init"].append(params)
      extra = {"coefs": {"kl": jnp.float32(0.5)}}
      return algorithms.init_state({"policy": params["policy"]}, optimizer, extra)

    def score(models, rollout, plan=None):
      trace["models"].append(jax.tree.map(np.asarray, models))
      trace["scored"].append(rollout)
      return {}

    def make_batch(arrays, coefs):
      trace["outcomes"].append(arrays[-1])
      trace["kl_coefs"].append(float(coefs["kl"]))
      return Batch(), {}

    def update_step(state, batch, key):
      trace["batches"].append(batch)
      trace["update_keys"].append(jax.random.key_data(key))
      return state.replace(params=jax.tree.map(lambda x: x + 1, state.params)), {}

    return algorithms.Algorithm(init, score, make_batch, update_step)

  return make


def completer_of(trace):
  """A `rollout.Completer` whose completions are canned, every second of them right."""

  class Completer:
    def __init__(self, *args, options, num_completions, prompt_buckets):
      trace["generators"].append((options, num_completions, tuple(prompt_buckets)))
      self._count = num_completions

    def start(self, params, rows, key, score):
      trace["prompts"].append([row["prompt"] for row in rows])
      canned = [rollout_lib.Completion((2,), g % 2 == 0) for g in range(self._count)]
      return lambda prefixes: {i: canned for i in prefixes}, rollout_lib.TokenCounts()

  return Completer


def step_scores(model, params, rows, columns):
  """0.25 for a step that ends in an odd column, and -0.25 for others."""
  return jnp.where(columns % 2, jnp.float32(0.25), jnp.float32(-0.25))


def make_setup(recipe: Recipe, rows=ROWS, model=tiny.MODEL):
  task = Task(name="toy", rows=rows, verifier="math")
  return Setup(recipe, model, TOKENIZER, {"train": task, "test": task}, LAYOUT, None)


def load_model_of(trace, tokenizer=TOKENIZER):
  def load(path, **settings):
    trace["loaded"].append(str(path))
    trace["dtypes"].append((settings["dtype"], settings["compute_dtype"]))
    return tiny.MODEL, {"w": np.ones(2, np.float32), "embed": {"embedding": jnp.ones((2, 2))}}, (
        tokenizer)

  return load


@contextlib.contextmanager
def stand_ins(trace, others=TOKENIZER):
  """Everything slow of the stages is replaced; what would have been read or sampled is traced.

  `others` is the tokenizer of models beside the policy.
  """
  def read_source(source, folder, required, questions, fields):
    trace["read"].append((str(source), tuple(required), questions, fields))
    return FILE_ROWS

  make = algorithm_of(trace)
  init = lambda config, *args: {
      "policy": next(x for x in args if isinstance(x, dict)), "given": args}
  with contextlib.ExitStack() as stack:
    for where, name, value in (
        (rollout_lib, "make_generator", generator_of(trace)),
        (rollout_lib, "make_partial_generator", partial_generator_of(trace)),
        (rollout_lib, "Completer", completer_of(trace)),
        (sources, "read_source", read_source),
        (rl, "policy_gradient", make), (distill, "distill", make), (preference, "preference", make),
        (REWARD_MODEL, "reward_model", make), (SFT, "sft", make),
        (PROCESS_REWARD, "process_reward", make), (rl, "init_rl_params", init),
        (distill, "init_distill_params", init),
        (REWARD_MODEL, "init_reward_params", lambda model, trunk, key: {"policy": trunk}),
        (PROCESS_REWARD, "init_process_params", lambda config, model, trunk, key: {
            "policy": trunk}),
        (PROCESS_REWARD, "score_steps", step_scores), (policies, "score_steps", step_scores),
        (policies.weights, "find_model", lambda path: path),
        (policies.weights, "load_model", load_model_of(trace, others)),
        (policies.weights, "load_scalar_model", load_model_of(trace, others)),
        (policies, "score_completions", lambda model, params, rows: np.full(
            len(rows.completion_tokens), 0.25, np.float32))):
      stack.enter_context(mock.patch.object(where, name, value))
    yield


def stage_trace(
    stage, *, steps=2, policy=POLICY, rows=ROWS, model=tiny.MODEL, others=TOKENIZER, seed=5,
    **fields):
  """What some steps of a stage do; `fields` of the recipe."""
  from tests.settings import bases  # it imports this module

  trace = Trace(list)
  recipe = bases.make_recipe(stages=(stage,), **fields)
  with stand_ins(trace, others):
    made = stages_lib.make_stage(
        make_setup(recipe, rows, model), stage, policy, seed, POOL, None)
    state = made.state
    for number in range(steps):
      output = made.step(state, number, made.data, jax.random.key(number))
      state = output.state
      trace["host"].append({name: value for name, value in output.host_metrics.items()
                            if not name.startswith("time/")})
      trace["samples"].append(output.samples)
      trace["rows"].append(output.rows)
      trace["tokens"].append(output.tokens)
  trace["stage"] = (made.name, made.steps, made.draws_ahead)
  trace["trains"] = made.trains
  return dict(trace)


def evaluation_trace(config, rows=ROWS, **settings):
  """What an evaluation samples, and what it finds."""
  trace = Trace(list)
  with mock.patch.object(generate_lib, "make_generator", generator_of(trace)), mock.patch.object(
      evaluator.forcing_lib, "make_generator", wraps=evaluator.forcing_lib.make_generator) as made:
    run = evaluator.make_evaluator(
        config, Task(name="toy", rows=list(rows), verifier="math"), tiny.MODEL, TOKENIZER, LAYOUT,
        prompt_buckets=(4,), **settings)
    trace["forcing"] = [call.args[3] for call in made.call_args_list]
    if not any((config.forced_answer, config.num_waits)):
      found, samples, _ = run({"policy": POLICY}, jax.random.key(0), POOL)
      trace["found"], trace["samples"] = found["toy"], samples
  return dict(trace)


# The loop, whose stages do nothing.

TOKENS = 7  # that each of their steps works on


class FakeWriter:
  """Writes nothing, and remembers everything."""

  def __init__(self, trace, name):
    self._trace, self._name = trace, name

  def write(self, step, stage, values):
    self._trace[self._name].append((step, stage, values))

  append = close = truncate_to = write_samples = lambda self, *unused: None
  cursor = lambda self: 0
  digest = lambda self: ""


class FakeCheckpoints:
  """Saves nothing."""

  def __init__(self, trace, folder):
    self._trace, self.folder, self.damaged = trace, folder, []

  def __enter__(self):
    return self

  __exit__ = wait = close = keep = lambda self, *unused: None
  latest_step = lambda self: None

  def save(self, step, state, host):
    self._trace["saved"].append(step)


def run_loop(recipe, folder, metrics=lambda stage, step: {}, preflight=None, evaluate=None):
  """Runs the loop on stages that only move their state; returns the trace and the summary.

  With `evaluate`, from the number of evaluations before to the value of `eval/toy/greedy`, files
  and checkpoints are written for real, so that the folder can be gone on with.
  """
  trace, is_real = Trace(list), evaluate is not None

  def evaluation(params, key, pool, before):
    trace["evaluated"].append((np.asarray(jax.tree.leaves(params)[0]).tolist(),
                               jax.random.key_data(key)))
    if not is_real:
      return evaluator.Evaluated({}, [], [])
    value = evaluate(len(trace["evaluated"]) - 1)
    return evaluator.Evaluated(
        {"toy": {"greedy": {"value": value, "low": 0.0, "high": 1.0, "n": 4}}}, [], [])

  made_setup = make_setup(recipe)._replace(evaluate=evaluation)

  def make_stage(setup, stage, policy, seed, pool, place):
    del setup, pool, place
    trace["stages"].append((stage.name, seed))

    def learn(state, number, drawn, key):
      trace["keys"].append(jax.random.key_data(key).tolist())
      state = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
      return base.StepOutput(state, {}, metrics(stage, number), TOKENS)

    state = algorithms.init_state({"policy": jax.tree.map(jnp.asarray, policy)}, _Identity)
    trains = stage.kind not in ("sample", "reward_model", "process_reward", "label_steps")
    data = types.SimpleNamespace(get_state=lambda: {}, set_state=lambda state: None)
    return base.Stage(stage.name, stage.steps, state, data, learn, lambda *unused: None,
                      trains=trains,
                      preflight=preflight and (lambda params, key: preflight(trace, params, key)))

  def load_policy(setup, source, place, frozen):
    del setup, place, frozen
    trace["started"].append(source)
    return POLICY

  parts = run.PARTS._replace(
      make_stage=make_stage, load_policy=load_policy, write_policy=lambda *unused: None)
  with contextlib.ExitStack() as stack:
    patch = lambda *args: stack.enter_context(mock.patch.object(*args))
    if not is_real:
      patch(loop.checkpoint_lib, "Checkpointer", lambda *args, max_to_keep: (
          trace["kept"].append(max_to_keep) or FakeCheckpoints(trace, folder)))
      patch(loop.metrics_lib, "MetricsWriter", lambda *args: FakeWriter(trace, "metrics"))
      patch(loop.metrics_lib, "SamplesWriter", lambda *args: FakeWriter(trace, "samples"))
    patch(loop, "WorkerPool", lambda **settings: (
        trace["pool"].append(settings) or contextlib.nullcontext()))
    patch(loop.progress_lib.Progress, "message", lambda self, text: trace["said"].append(text))
    with contextlib.ExitStack() as inner:
      trace["summary"] = loop.Loop(made_setup, POLICY, folder, inner, parts).go({})
  return dict(trace)


class _Identity:
  """An optimiser without a state."""

  init = staticmethod(lambda params: ())
