r"""RLSP on MATH with Llama-3.1-8B-Instruct: the settings of the authors' runs.

Source: "On the Emergence of Thinking in LLMs I: Searching for the Right Intuition",
https://arxiv.org/abs/2502.06773, and its released code (GuanghaoYe/Emergence-of-Thinking). PPO
starts from the instruct model, without a supervised stage. Plain PPO, the authors' control, is
`--config.rl.rewards.exploration.weight=0`.

    rlreason train --config=experiments/rlsp_llama31_8b.py --workdir=runs/rlsp_llama31_8b \
      --config.model.path=DIR --config.task.train=math_train.jsonl --config.task.test=math_500.jsonl

DIR is a Hugging Face folder of Llama-3.1-8B-Instruct; the files hold lines {"problem": text,
"answer": text}, the answer without its box.

Hardware: policy and critic with gradients and optimiser, and the reference, take 290 GB (16 bytes a
parameter for each of the two, 4 for the reference), and the cache of 512 rollouts of up to 6,144
tokens 410 GB: 16 devices of 80 GB, or 8 of them with a quarter of the prompts
(`--config.rl.num_prompts=128 --config.parallel.fsdp=8`). Not run here: time and score are unknown.
The authors report +23% on MATH-500, without stating whether that is relative; no published figure
for these settings was found to compare a run with.
"""

from ml_collections import config_dict


def get_config():
  """One stage: PPO with a verifier and an exploration reward of c = 1000."""
  config = config_dict.ConfigDict()
  config.seed = 0
  # Parameters in f32: an update of 2e-7 would be lost in the 8 bits of a bf16 number.
  config.model = dict(
      kind="pretrained", path="models/Llama-3.1-8B-Instruct", dtype="bfloat16",
      param_dtype="float32", remat="full")
  config.task = dict(
      kind="file", name="math", train="data/math_train.jsonl", test="data/math_500.jsonl",
      fields=dict(prompt="problem"), template="Problem: {question}", is_chat=True, verifier="math")
  config.prompt_buckets = (256, 512, 1024, 2048)
  config.stages = ("rl",)
  # 2,930 rollouts of 512 are 200 passes over 7,500 problems; 3% of their 4 updates each warm up.
  config.optimizer = dict(
      learning_rate=2e-7, critic_learning_rate=2e-6, warmup_steps=352, b1=0.9, b2=0.95,
      max_grad_norm=1.0)
  config.rl = dict(
      kind="rl", steps=2930, num_prompts=512, group_size=1, reward_clip=(-10.0, 10.0),
      # With c = 1000 a long wrong answer beats a short right one: right in 400 tokens is -1.5,
      # wrong in 4,096 is -0.24. These are nevertheless the authors' settings.
      allow_length_over_correctness=True,
      sampling=dict(max_new_tokens=4096, temperature=0.7),
      length_buckets=(1024, 2048),
      rewards=dict(
          verifier=dict(weight=1.0, options=dict(which_box="first", no_box_score=-0.5)),
          exploration=dict(weight=1.0, options=dict(c=1000.0, unit="characters")),
          # Off. With a function (rlsp_qwen25_32b.py shows one), set the two weights above to 0.8.
          judge=dict(weight=0.2, function="", is_judge=True)),
      algorithm=dict(
          epochs=1, minibatch_size=128, micro_batch_size=16, discount=1.0, gae_lambda=0.95,
          policy_loss=dict(options=dict(clip_low=0.2, clip_high=0.2)),
          value_clip=0.2, value_coef=1.0, kl_coef=0.05,
          whiten_advantages=True, aggregation="sequence-mean", critic="separate",
          critic_warmup_steps=4,
          # In bf16 the sampler's log-probs differ from the trainer's by more than an update does.
          recompute_log_probs=True),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer  # the same object: an override reaches both
  config.evaluation = dict(
      split="test", num_problems=500, batch_size=250, max_new_tokens=4096, num_samples=0,
      which_box="first")
  config.parallel = dict(mode="jit", fsdp=16)
  config.checkpoint = dict(every_steps=20)
  return config
