"""Search at test time on chains: a policy, and two models that score its solutions.

    rlreason train --config=experiments/search_chain.py --workdir=runs/chain
    rlreason evaluate --config=experiments/search_chain.py --model=runs/chain@sft \\
        --config.evaluation.search.method=beam --config.evaluation.search.choose=best \\
        --config.evaluation.search.scorer=runs/chain@prm \\
        --config.evaluation.search.delimiter=";"

1. sft: demonstrations, three in ten of them wrong;
2. samples: completions of that policy for problems of training, with verdicts;
3. labels: for each of their steps, the share of 4 completions from there on that end right: soft
   labels of Math-Shepherd (https://arxiv.org/abs/2312.08935);
4. prm: a process reward model on these labels;
5. orm: an outcome reward model on the verdicts, at the last token.

Six minutes on two cores. docs/search.md has the accuracy of every search by its tokens.
"""

import pathlib
import runpy

from rlreason import losses
from rlreason.rollout import step_labels
from rlreason.slots import Slot

beds = runpy.run_path(str(pathlib.Path(__file__).parent / "methods" / "beds.py"))
DELIMITER = ";"


def get_config(start=""):
  config = beds["chain"](start)
  tokens, verifier = beds["NEW_TOKENS"], dict(verifier=dict(weight=1.0))
  config.samples = dict(
      kind="sample", steps=32, num_prompts=64, group_size=4,
      sampling=dict(max_new_tokens=tokens), rewards=verifier)
  config.labels = dict(
      kind="label_steps", steps=48, num_prompts=64, num_completions=4, examples="stage:samples",
      step_separator=DELIMITER, search=Slot(step_labels.every_step, {"labels": "soft"}),
      sampling=dict(max_new_tokens=tokens), rewards=verifier)
  config.optimizer = dict(learning_rate=1e-3, warmup_steps=20, schedule="cosine")
  config.prm = dict(
      kind="process_reward", steps=1000, batch_size=64, completion_length=tokens,
      examples="stage:labels", step_separator=DELIMITER, optimizer=config.optimizer)
  config.orm = dict(
      kind="reward_model", steps=1000, batch_size=64, completion_length=tokens,
      examples="stage:samples", standardize=False,
      reward_model=dict(loss=Slot(losses.outcome_cross_entropy)), optimizer=config.optimizer)
  config.prm.optimizer = config.orm.optimizer = config.optimizer  # an override reaches both
  config.stages = (*config.stages[:-1], "samples", "labels", "prm", "orm")
  return config
