"""Writes nasty_ids.json: the ids that llama.cpp gives for `nasty.TEXTS`, by vocabulary.

Run by hand, in an environment with xllamacpp (2026.10.11549 made the file):
    python tests/tokenizers/make_nasty_ids.py smollm2=MODEL.gguf gemma3=MODEL.gguf
"""

import json
import pathlib
import sys
import urllib.request

import xllamacpp

from nasty import TEXTS


def ids_of(path):
  """One list of ids for each text."""
  params = xllamacpp.CommonParams()
  params.model.path, params.n_ctx = path, 2048
  server = xllamacpp.Server(params)

  def tokenize(text):
    body = {"content": text, "add_special": False, "parse_special": True}
    request = urllib.request.Request(
        f"{server.listening_address}/tokenize", json.dumps(body).encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
      return json.load(answer)["tokens"]

  return list(map(tokenize, TEXTS))


if __name__ == "__main__":
  found = dict(argument.split("=", 1) for argument in sys.argv[1:])
  lines = [f'"{name}": {json.dumps(ids_of(path), separators=(",", ":"))}'
           for name, path in found.items()]
  pathlib.Path(__file__).with_name("nasty_ids.json").write_text("{%s}\n" % ",\n".join(lines))
