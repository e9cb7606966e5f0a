"""Preference tuning on right and wrong completions of the policy itself: DPO and its relatives.

    rlreason train --config=experiments/methods/preference.py:dpo --workdir=runs/dpo

The argument names the loss: dpo (https://arxiv.org/abs/2305.18290), ipo
(https://arxiv.org/abs/2310.12036), kto (https://arxiv.org/abs/2402.01306, on single completions),
orpo (https://arxiv.org/abs/2403.07691) or simpo (https://arxiv.org/abs/2405.14734); the last two
need no reference. A model to start from follows after a comma. Settings of the papers: β 0.1 (dpo,
ipo, kto, orpo), 2 with γ 0.5 (simpo), learning rates of 5e-7 to 8e-6 for models of billions of
parameters. Expected on this test bed: from 38% of samples right to 61% to 63%, with orpo to 77%.
"""

import bands
import beds

from rlreason import losses
from rlreason.algorithms import PreferenceConfig
from rlreason.data.selections import pairs
from rlreason.slots import Slot

LOSSES = {
    "dpo": dict(loss=Slot(losses.dpo, {"beta": 0.1}), average_log_probs=False),
    "ipo": dict(loss=Slot(losses.ipo, {"beta": 0.1}), average_log_probs=True),
    "kto": dict(loss=Slot(losses.kto, {"beta": 0.1}), average_log_probs=False),
    "orpo": dict(loss=Slot(losses.orpo, {"beta": 0.1}), average_log_probs=True, nll_coef=1.0),
    "simpo": dict(loss=Slot(losses.simpo, {"beta": 2.0, "gamma": 0.5}), average_log_probs=True)}

RUNS = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "orpo": "ORPO", "simpo": "SimPO"}


def get_config(argument="dpo"):
  name, _, start = argument.partition(",")
  if name not in LOSSES:
    raise ValueError(f"preference.py: got {name!r}, allowed: {', '.join(LOSSES)}")
  config = beds.chain(start)
  config.samples = dict(
      kind="sample", steps=8, num_prompts=64, group_size=8,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
  config.pairs = dict(
      kind="select", inputs=("samples",), select=Slot(
          pairs.preference_pairs, {"max_per_question": 2}))
  config.tuned = dict(
      kind="preference", steps=60, batch_size=32, completion_length=beds.NEW_TOKENS,
      examples="stage:samples" if name == "kto" else "stage:pairs",
      preference=PreferenceConfig(**LOSSES[name]),
      # A loss of differences alone may lower the likelihood of both completions, and with steps as
      # large as those of ORPO, which raises that of the chosen one, completions no longer end.
      optimizer=dict(learning_rate=1e-4 if name == "orpo" else 3e-5))
  config.stages = (*config.stages[:-1], "samples", "pairs", "tuned")
  bands.expect(config, RUNS[name], f"methods/preference:{name}", start)
  return config
