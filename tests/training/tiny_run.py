"""A whole run of a few steps on a model of a thousand parameters, in one process or killed in it.

    python tests/training/tiny_run.py WORKDIR MOMENTS [adapters | data] [ahead] [partial]
        [evaluated] [report]

runs the recipe once for each of the moments, which have commas between them, each in a process of
its own; with `adapters` by training these on a base of 4 bits, with `data` one whose stages write
data for others; with `ahead` steps of RL draw two steps before they learn, from packed rows, with
`partial` some of their completions go on in the next step; with
its plots and its report only if `report` is there. At its moment a process sends itself a signal:
SIGKILL for `step 3` (the metrics of step 3 have just been written), `save 4` (the checkpoint of
step 4 has just been handed to the background), `eval sft` (the stage is evaluated and its model
written, but no checkpoint says so) and `eval sft 2` (it is evaluated after step 2); SIGTERM for
`stop 3`. `end` is no moment: the run comes to its end. After what each has printed comes a line of
`ENDED` and how it ended. `copy` and `move` between moments leave the folder as it is then at
WORKDIR-1, the second of them at WORKDIR-2 and so on, which after `move` is a new run's.
"""

import gc
import itertools
import os
import pathlib
import shutil
import signal
import sys

from ml_collections import config_dict
# A run imports it where it writes its first metrics, and it torch where that is installed, for two
# seconds: here once for all the processes.
import tensorboardX  # pylint: disable=unused-import

from rlreason.algorithms import presets
from rlreason.training import checkpoint, loop, metrics, run as run_lib
from rlreason.training.settings.recipe import from_config

STEPS = 5  # of each stage
ENDS = {"sft": STEPS, "rl": 2 * STEPS}  # steps of the run after these stages
ENDED = "ended with "


def make_config(has_adapters=False):
  config = config_dict.ConfigDict()
  if has_adapters:
    config.lora = dict(rank=2, alpha=4.0, base="nf4")
  config.seed = 3
  config.model = dict(
      kind="new", width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=16,
      max_positions=64)
  config.task = dict(kind="countdown", problems=dict(
      num_numbers=3, max_number=6, max_target=20, max_intermediate=20, num_validation=8,
      num_test=16, max_words=40))
  config.prompt_buckets = (8,)
  config.stages = ("sft", "rl")
  config.sft = dict(
      kind="sft", steps=STEPS, batch_size=8, length=48, num_examples=64,
      token_weights=dict(equal=4.0),
      optimizer=dict(learning_rate=1e-2, warmup_steps=1, schedule="cosine"))
  config.optimizer = dict(learning_rate=1e-3)
  config.rl = dict(
      kind="rl", steps=STEPS, num_prompts=8, group_size=2,
      sampling=dict(max_new_tokens=12),
      rewards=dict(
          verifier=dict(weight=1.0, options=dict(which_box="first", no_box_score=-0.5)),
          exploration=dict(weight=1.0, options=dict(c=1.0, unit="tokens")),
          random=dict(weight=0.1)),
      algorithm=dict(minibatch_size=8, epochs=2, kl_coef=0.05, kl_target=1.0, kl_horizon=100.0,
               critic_warmup_steps=1, entropy_coef=0.01),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer
  config.evaluation = dict(num_problems=12, batch_size=8, max_new_tokens=12, num_samples=2)
  config.checkpoint = dict(every_steps=2, max_to_keep=2)
  config.parallel = dict(mode="jit", data=-1, fsdp=1)
  config.max_skipped_in_a_row = 3
  return config


def make_data_config():
  """Learn a format, sample, train the initial model and a reward model on that, RL on restarts."""
  config = make_config()
  config.task = dict(kind="chain", problems=dict(
      min_steps=1, max_steps=1, modulus=2, num_validation=1, num_test=2, answers_only=True))
  config.stages = ("sft", "sample", "right", "distil", "restarts", "scorer", "rl")
  optimizer = dict(learning_rate=5e-2)
  config.sft = dict(
      kind="sft", steps=12, batch_size=8, length=16, num_examples=64, optimizer=optimizer)
  config.sample = dict(
      kind="sample", steps=STEPS, num_prompts=8, group_size=4, sampling=dict(max_new_tokens=6),
      rewards=dict(verifier=dict(weight=1.0), language=dict(weight=0.0)))
  config.right = dict(
      kind="select", inputs=("sample",), select=dict(
          function="rlreason.data.selections.completions:right_completions",
          options=dict(max_per_question=4, dedupe="nothing")))
  config.distil = dict(
      kind="sft", steps=3, batch_size=8, length=16, examples="stage:right", start="initial",
      optimizer=optimizer)
  config.restarts = dict(
      kind="select", inputs=("sample",), select=dict(
          function="rlreason.data.selections.restarts:restart_prompts",
          options=dict(seed=1, max_back=2, step_ends=("\\boxed{",))))
  config.scorer = dict(
      kind="reward_model", steps=2, batch_size=8, completion_length=6, examples="stage:sample",
      start="sft", optimizer=optimizer, standardize=False, reward_model=dict(
          loss=dict(function="rlreason.losses:outcome_cross_entropy")))
  config.rl = dict(
      kind="rl", steps=2, num_prompts=8, group_size=2, problems="stage:restarts", start="sft",
      reward_model="stage:scorer",
      sampling=dict(max_new_tokens=6), writes_accuracy=True, optimizer=config.optimizer,
      rewards=dict(verifier=dict(weight=0.0), restart=dict(weight=1.0),
                   learned=dict(weight=0.5, options=dict(sigmoid=True))),
      algorithm=presets.grpo(minibatch_size=16, kl_coef=0.0))
  config.rl.optimizer = config.optimizer
  config.evaluation = dict(num_problems=2, batch_size=8, max_new_tokens=6, num_samples=0)
  return config


def signal_at(moment):
  """Makes the process send itself a signal at the moment."""
  kind, _, place = moment.partition(" ")
  number = signal.SIGTERM if kind in ("stop", "term") else signal.SIGKILL
  send = lambda: os.kill(os.getpid(), number)
  write, save = metrics.MetricsWriter.write, checkpoint.Checkpointer.save

  def write_then_send(self, step, stage, values):
    write(self, step, stage, values)
    is_evaluation = stage.startswith("eval-")
    if kind in ("step", "stop") and step == int(place) and not is_evaluation:
      send()
    name, _, at = place.partition(" ")
    if kind == "eval" and stage == f"eval-{name}" and step == int(at or ENDS.get(name, step)):
      send()

  def save_then_send(self, step, *args, **kwargs):
    save(self, step, *args, **kwargs)
    if kind in ("save", "term") and step == int(place):
      send()

  metrics.MetricsWriter.write = write_then_send
  checkpoint.Checkpointer.save = save_then_send


def run(workdir, moment, options):
  signal_at(moment)
  if "report" not in options:
    run_lib.report_lib.make_report = lambda workdir: workdir / "report.html"
  try:
    config = make_data_config() if "data" in options else make_config("adapters" in options)
    if "ahead" in options:
      config.rl.draws_ahead = 2
      config.rl.algorithm.share_prompts = False  # then rows are packed
    if "partial" in options:
      config.rl.carried_prompts = 2
    if "evaluated" in options:
      config.evaluation.every_steps = 2
      config.checkpoint.keep_best = "eval/countdown/reasoning_length"
    run_lib.train(from_config(config), pathlib.Path(workdir))
  except loop.Interrupted as stopped:
    print(stopped)
    sys.exit(3)


def main():
  workdir, moments, *options = sys.argv[1:]
  places = (f"{workdir}-{number}" for number in itertools.count(1))
  # As in conftest.py: of what is imported nothing is looked through again in each of the processes.
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)
  for moment in moments.split(","):
    if moment in ("copy", "move"):
      (shutil.copytree if moment == "copy" else os.rename)(workdir, next(places))
      continue
    # Importing takes longer than the steps. This process starts no thread and no backend of jax, so
    # that a copy of it is as good as a new one.
    child = os.fork()
    if not child:
      run(workdir, moment, options)
      return
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"{ENDED}{code}", flush=True)


if __name__ == "__main__":
  main()
