r"""RLSP on AIME with Qwen2.5-32B-Instruct: the settings of the authors' runs.

Source: "On the Emergence of Thinking in LLMs I: Searching for the Right Intuition",
https://arxiv.org/abs/2502.06773, and its released code (GuanghaoYe/Emergence-of-Thinking). All AIME
problems except those of 2024 (877), exploration reward with c = 1000, and a judge of effort:
0.8 (verifier - c / L) + 0.2 judge.

    rlreason train --config=experiments/rlsp_qwen25_32b.py --workdir=runs/rlsp_qwen25_32b \
      --config.model.path=DIR --config.task.train=aime.jsonl --config.task.test=aime_2024.jsonl

DIR is a Hugging Face folder of Qwen2.5-32B-Instruct; the files hold lines {"problem": text,
"answer": text}. The judge is a language model that grades the effort of a completion, ignoring
correctness, from 0.0 for no exploration to 1.0 for extensive exploration; a failure counts as 0.5.
Here it is the model "judge" of an OpenAI-compatible service at http://localhost:8000/v1; another is
named by `--config.rl.rewards.judge.options.service.url=URL` and `.model=NAME`.

`--config.rl.rewards.judge.function=` turns it off; then set the two other weights to 1.

Hardware: policy and critic with gradients and optimiser, and the reference, take 1.2 TB, and the
cache of 512 rollouts of up to 6,144 tokens 0.8 TB: 32 devices of 80 GB. Not run here: time and
score are unknown. The authors report +10% on AIME 2024, without stating whether that is relative;
no published figure for these settings was found to compare a run with.
"""

from ml_collections import config_dict


def get_config():
  """One stage: PPO with a verifier, an exploration reward of c = 1000 and a judge of effort."""
  config = config_dict.ConfigDict()
  config.seed = 0
  # Parameters in f32: an update of 2e-7 would be lost in the 8 bits of a bf16 number.
  config.model = dict(
      kind="pretrained", path="models/Qwen2.5-32B-Instruct", dtype="bfloat16",
      param_dtype="float32", remat="full")
  config.task = dict(
      kind="file", name="aime", train="data/aime.jsonl", test="data/aime_2024.jsonl",
      fields=dict(prompt="problem"), template="Problem: {question}", is_chat=True, verifier="math")
  config.prompt_buckets = (256, 512, 1024, 2048)
  config.stages = ("rl",)
  # 1,713 rollouts of 512 are 1,000 passes over 877 problems; 3% of their 4 updates each warm up.
  config.optimizer = dict(
      learning_rate=2e-7, critic_learning_rate=2e-6, warmup_steps=206, b1=0.9, b2=0.95,
      max_grad_norm=1.0)
  config.rl = dict(
      kind="rl", steps=1713, num_prompts=512, group_size=1, reward_clip=(-10.0, 10.0),
      # With c = 1000 a long wrong answer beats a short right one: right in 400 tokens is -1.5,
      # wrong in 4,096 is -0.24. These are nevertheless the authors' settings.
      allow_length_over_correctness=True,
      sampling=dict(max_new_tokens=4096, temperature=0.7),
      length_buckets=(1024, 2048),
      rewards=dict(
          verifier=dict(weight=0.8, options=dict(which_box="first", no_box_score=-0.5)),
          exploration=dict(weight=0.8, options=dict(c=1000.0, unit="characters")),
          judge=dict(weight=0.2, function=None, options=dict(
              grade="effort", service=dict(url="http://localhost:8000/v1", model="judge")))),
      algorithm=dict(
          epochs=1, minibatch_size=128, micro_batch_size=32, discount=1.0, gae_lambda=0.95,
          policy_loss=dict(options=dict(clip_low=0.2, clip_high=0.2)),
          value_clip=0.2, value_coef=1.0, kl_coef=0.05,
          whiten_advantages=True, aggregation="sequence-mean", critic="separate",
          critic_warmup_steps=4,
          # In bf16 the sampler's log-probs differ from the trainer's by more than an update does.
          recompute_log_probs=True),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer  # the same object: an override reaches both
  config.evaluation = dict(
      split="test", num_problems=30, batch_size=32, max_new_tokens=4096, num_samples=8,
      temperature=0.7, which_box="first")
  config.reward_workers = 16
  config.parallel = dict(mode="jit", fsdp=32)
  config.checkpoint = dict(every_steps=20)
  return config
