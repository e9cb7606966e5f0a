"""Folders written here hold tokenizers that transformers loads and that give the same ids."""

import pytest
import sentencepiece as spm
import transformers

from rlreason import tokenizers, weights
from tests.tokenizers.nasty import TEXTS

CONVERSATIONS = [
    [{"role": "user", "content": " What is 7 + 8? "}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n"},
     {"role": "assistant", "content": "  Hello!\n"}, {"role": "user", "content": "é?"}],
]
# Uses what the templates of published models use.
TEMPLATE = """{{- bos_token if bos_token is defined -}}
{%- if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if not loop.first and message.role == rest[loop.index0 - 1].role %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {{- '[' ~ message.role | upper ~ ']' ~ message | tojson }}
    {% if loop.last %}
{{ message.content | trim }}
    {% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
[ASSISTANT]{% endif %}"""


def _word(folder):
  del folder
  return tokenizers.WordTokenizer.from_words(["a", "b", "+"])


def _smollm2(folder):
  del folder
  return tokenizers.load_tokenizer(weights.find_smollm2())


def _sentencepiece(folder):
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(["the cat sat on the mat 1 2 3"] * 20), vocab_size=290,
      model_prefix=str(folder / "spm"), model_type="bpe", byte_fallback=True, minloglevel=2,
      normalization_rule_name="identity", hard_vocab_limit=False)
  return tokenizers.load_sentencepiece(folder / "spm.model")


@pytest.fixture(scope="module", params=[_word, _smollm2, _sentencepiece])
def pair(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  tokenizer = request.param(folder)
  tokenizer.save(folder / "saved")
  return tokenizer, transformers.AutoTokenizer.from_pretrained(folder / "saved")


def test_ids_and_texts_are_equal(pair):
  ours, theirs = pair
  texts = ["a + b", "a b<eos>", ""] if isinstance(ours, tokenizers.WordTokenizer) else TEXTS
  for text in texts:
    ids = ours.encode(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
    assert theirs(text)["input_ids"] == ours.encode(text, add_special=True), text
    for skip in (True, False):
      assert theirs.decode(ids, skip_special_tokens=skip) == ours.decode(ids, skip_special=skip)


def test_special_ids_are_equal(pair):
  ours, theirs = pair
  assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (
      ours.eos_ids[0], ours.pad_id, ours.bos_id)
  assert len(theirs) == ours.vocab_size


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["smollm2", "many_features"])
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_chat_templates_render_equally(tmp_path, template, add_generation_prompt):
  ours = _smollm2(tmp_path)
  if template is not None:
    ours = tokenizers.HFTokenizer(ours.backend, ours.eos_ids, ours.pad_id, ours.bos_id, template)
  ours.save(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  for messages in CONVERSATIONS:
    text = tokenizers.render(ours, messages, add_generation_prompt=add_generation_prompt)
    assert text == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    if add_generation_prompt:
      assert tokenizers.encode_prompt(ours, messages) == theirs.apply_chat_template(
          messages, add_generation_prompt=True, return_dict=False)
