"""Worker of formulas.py: the released functions of other projects.

Runs in .peers/formulas and does not import rlreason. A request names a function of peer_functions/
with its options, and the arrays it gets.
"""

import importlib.metadata
import json
import os
import sys

# The protocol keeps the real stdout; output of libraries goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np  # pylint: disable=wrong-import-position
import torch

# TRL first: it looks for packages that later modules replace by empty ones.
from peer_functions import of_trl
from peer_functions import of_areal, of_jax, of_openrlhf, of_skyrl, of_verl

MODULES = {"trl": of_trl, "verl": of_verl, "openrlhf": of_openrlhf, "areal": of_areal,
           "skyrl": of_skyrl, "jax": of_jax}
PACKAGES = ("trl", "verl", "openrlhf", "areal", "google-tunix", "rlax", "skyrl", "torch", "jax")


def answer(**fields):
  ANSWERS.write(json.dumps(fields) + "\n")
  ANSWERS.flush()


def read_tensors(arrays):
  tensors = {}
  for name, values in arrays.items():
    values = np.asarray(values)
    tensors[name] = torch.tensor(
        values.astype(np.float32) if values.dtype == np.float64 else values)
  return tensors


def main():
  torch.manual_seed(int(sys.argv[1]))
  answer(versions={name: importlib.metadata.version(name) for name in PACKAGES})
  for line in sys.stdin:
    request = json.loads(line)
    module, name = request["function"].split(".")
    function = getattr(MODULES[module], name)
    answer(result=function(read_tensors(request["arrays"]), **request["options"]).tolist())


if __name__ == "__main__":
  main()
