"""Worker of sampling.py: `transformers.generate` of a folder on the CPU, one batch per request.

Runs in .peers/torch and does not import rlreason.
"""

import argparse
import json
import os
import sys
import time

# The protocol keeps the real stdout; output of libraries goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # pylint: disable=wrong-import-position
import transformers


def answer(**fields):
  ANSWERS.write(json.dumps(fields) + "\n")
  ANSWERS.flush()


def generate(model, request):
  """Samples `new_tokens` for every row of a batch of random prompts; returns seconds.

  With `stop_ids` rows end with the first of these.
  """
  stop_ids = request.get("stop_ids")
  ends = {"min_new_tokens": request["new_tokens"]} if stop_ids is None else {
      "eos_token_id": stop_ids, "pad_token_id": stop_ids[0]}
  torch.manual_seed(request["seed"])
  prompts = torch.randint(3, model.config.vocab_size, (request["batch"], request["prompt_tokens"]))
  start = time.perf_counter()
  with torch.inference_mode():
    ids = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=True,
        temperature=request.get("temperature", 1.0), top_k=0, top_p=1.0,
        max_new_tokens=request["new_tokens"], **ends)
  seconds = time.perf_counter() - start
  longest = request["prompt_tokens"] + request["new_tokens"]
  assert ids.shape[1] == longest or (stop_ids and ids.shape[1] < longest), ids.shape
  return seconds


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder", help="a Hugging Face model folder")
  folder = parser.parse_args().folder
  model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
  answer(torch=torch.__version__, transformers=transformers.__version__,
         threads=torch.get_num_threads())
  for line in sys.stdin:
    answer(seconds=generate(model, json.loads(line)))


if __name__ == "__main__":
  main()
