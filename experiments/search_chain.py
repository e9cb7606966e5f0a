"""Search at test time on chains: a policy, and a model of the value of its prefixes.

    rlreason train --config=experiments/search_chain.py --workdir=runs/chain
    rlreason evaluate --config=experiments/search_chain.py --model=runs/chain@sft \\
        --config.evaluation.search.method=beam --config.evaluation.search.choose=best \\
        --config.evaluation.search.scorer=runs/chain@value \\
        --config.evaluation.search.delimiter=";"

1. sft: demonstrations, three in ten of them wrong;
2. samples: completions of that policy for problems of training, with verdicts;
3. prefixes: each completion up to the end of each of its steps, with the verdict of the whole;
4. value: a reward model on these, so that its score after a step is the probability that the policy
   ends right from there: a soft label of Math-Shepherd (https://arxiv.org/abs/2312.08935) with one
   completion of each prefix.

Two minutes on two cores. docs/search.md has the accuracy of every search by its tokens.
"""

import pathlib
import runpy

from rlreason import losses, steps
from rlreason.slots import Slot

beds = runpy.run_path(str(pathlib.Path(__file__).parent / "methods" / "beds.py"))
DELIMITER = ";"


def prefixes(rows, *, delimiter: str):
  """Each completion up to the end of each step, with the verdict of the whole.

  A token is a word. By its ids, a prefix gets no end token.
  """
  return [{"prompt": row["prompt"], "prompt_ids": row["prompt_ids"],
           "completion": row["completion"][:end], "completion_ids": row["completion_ids"][
               :len(row["completion"][:end].split())
               if end < len(row["completion"]) else len(row["completion_ids"])],
           "is_right": row["is_right"]}
          for row in rows if row["is_right"] is not None
          for end in steps.step_ends(row["completion"], delimiter)]


def get_config(start=""):
  config = beds["chain"](start)
  tokens = beds["NEW_TOKENS"]
  config.samples = dict(
      kind="sample", steps=24, num_prompts=64, group_size=4,
      sampling=dict(max_new_tokens=tokens), rewards=dict(verifier=dict(weight=1.0)))
  config.prefixes = dict(
      kind="select", inputs=("samples",), select=Slot(prefixes, {"delimiter": DELIMITER}))
  config.optimizer = dict(learning_rate=1e-3, warmup_steps=20, schedule="cosine")
  config.value = dict(
      kind="reward_model", steps=300, batch_size=64, completion_length=tokens,
      examples="stage:prefixes", standardize=False,
      reward_model=dict(loss=Slot(losses.outcome_cross_entropy)), optimizer=config.optimizer)
  config.stages = (*config.stages[:-1], "samples", "prefixes", "value")
  return config
