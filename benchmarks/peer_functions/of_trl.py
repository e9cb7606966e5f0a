"""TRL, https://github.com/huggingface/trl.

Its losses are methods of trainers. They run on an object that has the options they read, and a
model that returns the given log-probabilities. PPO is no longer among its trainers.
"""

import collections
import types
import warnings

import torch

from peer_functions.importing import differentiate, flat

warnings.filterwarnings("ignore")  # of experimental trainers

# pylint: disable=protected-access, wrong-import-position
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.rloo_trainer import RLOOTrainer


def _trainer(**options):
  """An object with the attributes that every trainer has on one process."""
  same = lambda x, *args, **kwargs: x
  accelerator = types.SimpleNamespace(
      device=torch.device("cpu"), num_processes=1, process_index=0, sync_gradients=True,
      gather=same, gather_for_metrics=same, reduce=same)
  metrics = collections.defaultdict(lambda: collections.defaultdict(list))
  return types.SimpleNamespace(**{
      "accelerator": accelerator, "model": types.SimpleNamespace(training=False),
      "aux_loss_enabled": False, "_metrics": metrics, "_total_train_tokens": 0, **options})


_GRPO = {
    "loss_type": "grpo", "level": "token", "clip": (0.2, 0.2), "delta": None, "beta": 0.0,
    "use_weights": False, "max_length": None, "unbiased_kl": False, "off_policy_threshold": None,
    "top_entropy": 1.0}


def _grpo(log_probs, entropies=None, **options):
  """A GRPO trainer of `_GRPO` whose model has these log-probs and entropies, or none."""
  x = types.SimpleNamespace(**_GRPO | options)
  entropies = torch.zeros_like(log_probs) if entropies is None else entropies
  answer = (log_probs, entropies, None)
  trainer = _trainer(
      _get_per_token_logps_and_entropies=lambda *args, **options: answer,
      top_entropy_quantile=x.top_entropy, off_policy_mask_threshold=x.off_policy_threshold,
      importance_sampling_level=x.level, get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
      get_gamma_weights=GRPOTrainer.get_gamma_weights,
      loss_type=x.loss_type, epsilon_low=x.clip[0], epsilon_high=x.clip[1], beta=x.beta,
      use_vllm=x.use_weights, vllm_importance_sampling_correction=x.use_weights,
      max_completion_length=x.max_length, current_gradient_accumulation_steps=1,
      _entropy_bonus_enabled=False,
      args=types.SimpleNamespace(
          delta=x.delta, use_bias_correction_kl=x.unbiased_kl, steps_per_generation=1,
          sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, vespo_k_pos=2.0,
          vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0))
  trainer.accelerator.pad_across_processes = lambda x, **options: x
  trainer.get_high_entropy_mask = types.MethodType(GRPOTrainer.get_high_entropy_mask, trainer)
  return trainer


def _batch(x):
  mask = x["mask"].float()
  nothing = torch.zeros((mask.shape[0], 0))
  return {
      "prompt_ids": nothing, "prompt_mask": nothing, "completion_ids": mask,
      "completion_mask": mask, "advantages": x["advantages"],
      "old_per_token_logps": x["old_log_probs"], "ref_per_token_logps": x["ref_log_probs"],
      "importance_sampling_ratio": x["weights"], "num_items_in_batch": mask.sum(),
      "sampling_per_token_logps": x["sampler_log_probs"]}


def grpo_loss(x, **options):
  batch = _batch(x)
  if options.get("loss_type") == "vespo":  # it would read them even without a sampler
    del batch["importance_sampling_ratio"]
  if options.get("off_policy_threshold") is not None:  # one advantage for a row
    batch["advantages"] = batch["advantages"][:, 0]
  return differentiate(
      lambda log_probs: GRPOTrainer._compute_loss(
          _grpo(log_probs, entropies=x["token_entropies"], **options), None, batch),
      x["log_probs"])


def rloo_gradient(x):
  """The gradient of RLOO's loss, which has one advantage and one ratio for a row."""
  inputs = {**_batch(x), "advantages": x["advantages"][:, 0],
            "old_logps": (x["old_log_probs"] * x["mask"]).sum(dim=1)}
  return differentiate(
      lambda log_probs: RLOOTrainer._compute_loss(_grpo(log_probs), None, inputs),
      x["log_probs"])[1:]


def entropy_control(x, *, coef, target, step):
  """Next coefficients, and the weights in effect, after each of some entropies."""
  results = []
  inputs = {**_batch(x), "advantages": torch.zeros_like(x["advantages"])}  # only the bonus
  for entropy in x["entropies"]:
    trainer = _grpo(x["log_probs"])
    answer = (x["log_probs"], entropy.expand(x["log_probs"].shape), None)
    trainer._get_per_token_logps_and_entropies = lambda *args, answer=answer, **options: answer
    trainer.model.training = True
    trainer.args.entropy_target, trainer.args.entropy_coef_delta = target, step
    trainer.args.entropy_coef_max, trainer.args.entropy_coef_min = 10.0, 0.0
    trainer._entropy_bonus_enabled = trainer.use_adaptive_entropy = True
    trainer.entropy_coef, trainer._entropy_window_stats = coef, None
    trainer._last_world_entropy = entropy
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    results += [trainer.entropy_coef, float(-loss / entropy)]
  return flat(torch.tensor(results))


def _rollout_trainer(x, **options):
  """A trainer whose completions, scores and log-probs are given."""
  lengths = x["mask"].sum(dim=1).tolist()
  ids = [[1] * length for length in lengths]
  rows = len(lengths)
  sampled = [row[:length].tolist() for row, length in zip(x["sampler_log_probs"], lengths)]
  logs = {name: [] for name in ("prompt", "completion", "advantages")}
  logs |= {"rewards": collections.defaultdict(list), "extra": collections.defaultdict(list)}
  trainer = _trainer(
      environment_factories=None, tools=None, environments=None, num_iterations=1,
      _tokenizer=types.SimpleNamespace(pad_token_id=0), pad_to_multiple_of=None,
      mask_truncated_completions=False, use_vllm=False, vllm_importance_sampling_correction=False,
      beta=0.0, num_generations=x["scores"].shape[1], reward_weights=torch.ones(1),
      reward_funcs=[None], reward_func_names=["score"], reward_clip_range=None,
      multi_objective_aggregation="sum_then_normalize", log_multimodal=False, _logs=logs,
      _pending_extra_logs={}, _pending_metrics={},
      _get_per_token_logps_and_entropies=lambda *args, **kwargs: (x["old_log_probs"], None, None),
      _calculate_rewards=lambda *args: x["scores"].reshape(-1, 1),
      args=types.SimpleNamespace(
          steps_per_generation=1, gradient_accumulation_steps=1, per_device_train_batch_size=rows,
          gradient_checkpointing_kwargs=None))
  trainer.model.training = True
  trainer.model.is_gradient_checkpointing = False
  vars(trainer).update(options)
  prompts = [[1]] * rows
  trainer._generate = lambda _: (prompts, ids, None, [""] * rows, sampled, {}, None, None)
  return trainer, [{"prompt": ""}] * rows


def grpo_advantage(x, *, scale):
  trainer, inputs = _rollout_trainer(x, scale_rewards=scale)
  advantages = GRPOTrainer._generate_and_score_completions(trainer, inputs)["advantages"]
  return flat(advantages)


def gdpo_advantage(x, *, weights):
  """For rewards in the columns of `parts`, f32[B]."""
  names = [f"part {i}" for i in range(len(weights))]
  trainer, inputs = _rollout_trainer(
      x, scale_rewards="group", multi_objective_aggregation="normalize_then_sum",
      reward_weights=torch.tensor(weights), reward_funcs=[None] * len(weights),
      reward_func_names=names,
      _calculate_rewards=lambda *args: x["parts"].reshape(-1, len(weights)))
  return flat(GRPOTrainer._generate_and_score_completions(trainer, inputs)["advantages"])


def sampler_weights(x, *, mode, low=None, high=None):
  """The weights for a sampler's mismatch, 0 where masked."""
  trainer, inputs = _rollout_trainer(
      x, scale_rewards="group", use_vllm=True, vllm_importance_sampling_correction=True,
      vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=low,
      vllm_importance_sampling_clip_max=high)
  output = GRPOTrainer._generate_and_score_completions(trainer, inputs)
  return flat(output["importance_sampling_ratio"] * x["mask"])


def rloo_advantage(x, *, normalize=False):
  trainer, inputs = _rollout_trainer(x, normalize_advantages=normalize)
  prompts, ids, _, completions, *_ = trainer._generate(None)
  trainer._generate = lambda _: (prompts, ids, completions)
  return flat(RLOOTrainer._generate_and_score_completions(trainer, inputs)["advantages"])


class _Model:
  """Answers a call with per-token log-probs, like TRL's fused head."""

  def __init__(self, log_probs):
    nothing = torch.zeros_like(log_probs)
    self._answer = types.SimpleNamespace(
        log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

  def __call__(self, **inputs):
    return self._answer


def _preference_batch(x):
  """The mask with a prompt of one token before it."""
  mask = torch.nn.functional.pad(x["mask"].long(), (1, 0))
  return {"input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask}


def dpo(x, *, loss_type, beta):
  """For rows [2B, T], the chosen before the rejected."""
  mask = x["mask"].float()
  chosen, rejected = (x["ref_log_probs"] * mask).sum(dim=1).chunk(2)
  inputs = {**_preference_batch(x), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
  trainer = _trainer(
      ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", beta=beta,
      loss_types=[loss_type], loss_weights=[1.0], use_weighting=False)
  return differentiate(
      lambda log_probs: DPOTrainer._compute_loss(trainer, _Model(log_probs * mask), inputs, False),
      x["log_probs"])


def kto(x, *, beta, desirable, undesirable):
  mask = x["mask"].float()
  inputs = {**_preference_batch(x), "label": x["is_desirable"],
            "ref_logps": (x["ref_log_probs"] * mask).sum(dim=1),
            "ref_KL_logps": x["ref_mismatched"]}
  trainer = _trainer(
      _compute_kl_logps=lambda *args: x["mismatched"], precompute_ref_logps=True, beta=beta,
      calculate_KL=True, loss_type="kto", desirable_weight=desirable,
      undesirable_weight=undesirable)
  return differentiate(
      lambda log_probs: KTOTrainer._compute_loss(trainer, _Model(log_probs * mask), inputs, False),
      x["log_probs"])


def orpo(x, *, beta):
  """Only the odds-ratio term, of means over tokens [2, B]."""
  trainer = _trainer(beta=beta)
  return differentiate(
      lambda both: -ORPOTrainer.odds_ratio_loss(trainer, *both)[0].sum(), x["mean_pairs"])


def simpo(x, *, beta, gamma):
  trainer = _trainer(
      beta=beta, simpo_gamma=gamma, loss_type="simpo", alpha=0.0, label_smoothing=0.0)
  return differentiate(
      lambda both: CPOTrainer.cpo_loss(trainer, *both)[0].sum(), x["mean_pairs"])


def reward_model(x, *, margin=None):
  """For the scores of pairs, the chosen before the rejected."""
  batch = {"attention_mask": torch.ones(1)}
  if margin is not None:
    batch["margin"] = torch.full_like(x["pairs"][0], margin)

  def loss(both):
    model = lambda **inputs: types.SimpleNamespace(logits=both.reshape(-1, 1))
    model.training = True
    trainer = _trainer(
        model=model, args=types.SimpleNamespace(center_rewards_coefficient=None), _tp_size=1)
    return RewardTrainer.compute_loss(trainer, model, batch)

  return differentiate(loss, x["pairs"])


def jsd(x, *, beta, temperature=1.0):
  labels = torch.where(x["mask"], 0, -100)
  return differentiate(
      lambda logits: GKDTrainer.generalized_jsd_loss(
          logits, x["teacher_logits"], labels, beta, temperature), x["student_logits"])
