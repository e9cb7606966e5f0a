"""Folders written here hold tokenizers that transformers loads and that give the same ids."""

import json

import jinja2
import pytest
import transformers

from rlreason import tokenizers, weights
from tests.tokenizers import templates, tiny_models
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


def _sentencepiece(kind):
  return lambda folder: tokenizers.load_sentencepiece(tiny_models.train(kind, folder))


_MAKERS = {"word": _word, "smollm2": _smollm2} | {
    kind: _sentencepiece(kind) for kind in tiny_models.KINDS}


@pytest.fixture(scope="module", params=_MAKERS)
def pair(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizer")
  tokenizer = _MAKERS[request.param](folder)
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


def _read_model_file(folder, kind, **config):
  """A sentencepiece model as we and as the class of its family in transformers read it."""
  tiny_models.train(kind, folder).rename(folder / "tokenizer.model")
  (folder / "tokenizer_config.json").write_text(json.dumps(config))
  return tokenizers.load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


def test_llama_model_file(tmp_path):
  ours, theirs = _read_model_file(
      tmp_path, "llama", tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>",
      unk_token="<unk>", add_bos_token=True, legacy=False)
  assert isinstance(theirs, transformers.LlamaTokenizer)
  prefix = ours.backend.token_to_id("\u2581")
  for text in TEXTS:
    ids, wanted = ours.encode(text), theirs(text, add_special_tokens=False)["input_ids"]
    assert theirs.decode(ids) == ours.decode(ids, skip_special=False)
    if text.startswith((" ", "\u2581")):
      # transformers takes the text's own space for the one that sentencepiece puts before it.
      assert len(theirs.decode(wanted)) == len(text) - 1
    elif "<s>" in text or "</s>" in text:
      # Nor does transformers put one after a control token.
      assert [i for i in ids if i != prefix] == [i for i in wanted if i != prefix], text
    else:
      assert ids == wanted, text
      assert theirs(text)["input_ids"] == ours.encode(text, add_special=True)


def test_gemma_model_file(tmp_path):
  ours, theirs = _read_model_file(
      tmp_path, "gemma", tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>",
      unk_token="<unk>", pad_token="<pad>", add_bos_token=True)
  assert isinstance(theirs, transformers.GemmaTokenizer)
  for text in TEXTS:
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text), text
    assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text), skip_special=False)
    if text:  # an empty one gets no begin token there
      assert theirs(text)["input_ids"] == ours.encode(text, add_special=True), text


@pytest.fixture(name="family", params=templates.FAMILIES)
def _family(request, tmp_path):
  template, begin, end = templates.FAMILIES[request.param]
  ours = tiny_models.byte_level(
      templates.SPECIAL, begin=begin, end=end, chat_template=template)
  ours.save(tmp_path)
  again = tokenizers.load_tokenizer(tmp_path)
  assert again.chat_template == template
  return again, transformers.AutoTokenizer.from_pretrained(tmp_path)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"x": "<é>"}}}


@pytest.mark.parametrize("variables", [
    {}, {"enable_thinking": False, "hint": "h"}, {"tools": [TOOL]}, {"date_string": "1 Jan"}],
    ids=str)
def test_families_render_equally(family, variables):
  ours, theirs = family
  talks = [templates.TALK[:1], templates.TALK[:2], templates.TALK[:3], templates.TALK,
           [templates.SYSTEM, *templates.TALK[:1]], [templates.SYSTEM, *templates.TALK],
           templates.TALK[:1] * 2, templates.TALK[1:2], [{"role": "robot", "content": "x"}]]
  for messages in talks:
    for add_generation_prompt in (False, True):
      options = dict(add_generation_prompt=add_generation_prompt, **variables)
      try:
        wanted = theirs.apply_chat_template(messages, tokenize=False, **options)
      except jinja2.TemplateError as error:
        with pytest.raises(ValueError, match=str(error)):
          tokenizers.render(ours, messages, **options)
        continue
      assert tokenizers.render(ours, messages, **options) == wanted
      assert ours.encode(wanted) == theirs.apply_chat_template(
          messages, return_dict=False, **options)


def test_mask_is_that_of_generation_blocks(tmp_path):
  template, _, end = templates.FAMILIES["smollm3"]
  ours = tiny_models.byte_level(templates.SPECIAL, end=end, chat_template=template)
  ours.save(tmp_path)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  messages = [templates.SYSTEM, *templates.TALK]
  wanted = theirs.apply_chat_template(
      messages, return_dict=True, return_assistant_tokens_mask=True)
  got = tokenizers.encode_chat(ours, messages)
  assert got.ids == wanted["input_ids"]
  assert got.completion_mask == list(map(bool, wanted["assistant_masks"]))
