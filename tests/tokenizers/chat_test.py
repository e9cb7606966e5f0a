"""Chat templates: what they render, the mask of the assistant's tokens, and the sandbox."""

import dataclasses
import datetime
import itertools

import pytest

from rlreason import tokenizers
from rlreason.tokenizers import template_worker
from rlreason.weights import find_smollm2
from tests.tokenizers import templates, tiny_models

# One word per token: `user: hi <end> / assistant: hello <end> /`
TEMPLATE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + ' <end> / ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}")
WORDS = ["<end>", "/", "user:", "assistant:", "hi", "hello", "you", "too", "system:", "?", "end"]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello you"},
        {"role": "user", "content": "hi ?"}, {"role": "assistant", "content": "too"}]


def _tokenizer(template=TEMPLATE, **changes):
  tokenizer = tokenizers.WordTokenizer.from_words(WORDS, chat_template=template)
  end = tokenizer.encode("<end>")[0]
  return dataclasses.replace(tokenizer, **{"eos_ids": (end,)} | changes)


def test_mask_is_true_on_what_the_assistant_wrote_and_its_end():
  tokenizer = _tokenizer()
  tokens = tokenizers.encode_chat(tokenizer, TALK)
  assert tokenizer.decode(tokens.ids) == (
      "user: hi <end> / assistant: hello you <end> / "
      "user: hi ? <end> / assistant: too <end> /")
  assert tokens.completion_mask == [bool(int(c)) for c in "0000" "01110" "00000" "0110"]


def test_prompt_is_the_beginning_of_the_conversation():
  tokenizer = _tokenizer()
  for turn in (1, 3):
    prompt = tokenizers.encode_prompt(tokenizer, TALK[:turn])
    tokens = tokenizers.encode_chat(tokenizer, TALK)
    assert tokens.ids[:len(prompt)] == prompt
    assert not tokens.completion_mask[len(prompt) - 1] and tokens.completion_mask[len(prompt)]


def test_smollm2_conversation():
  tokenizer = tokenizers.load_tokenizer(find_smollm2())
  tokens = tokenizers.encode_chat(tokenizer, [
      {"role": "user", "content": "7+8?"}, {"role": "assistant", "content": "It is \\boxed{15}."}])
  text = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
          "<|im_end|>\n<|im_start|>user\n7+8?<|im_end|>\n<|im_start|>assistant\n"
          "It is \\boxed{15}.<|im_end|>\n")
  assert tokenizer.decode(tokens.ids, skip_special=False) == text
  kept = [i for i, keep in zip(tokens.ids, tokens.completion_mask, strict=True) if keep]
  assert tokenizer.decode(kept, skip_special=False) == "It is \\boxed{15}.<|im_end|>"


def test_completion_that_joins_the_prompt_is_an_error():
  tokenizer = tokenizers.load_tokenizer(find_smollm2())
  with pytest.raises(ValueError, match="are not the first ids of the conversation"):
    tokenizers.encode_chat(tokenizer, [  # "\n" and "\n15" share a token
        {"role": "user", "content": "7+8?"}, {"role": "assistant", "content": "\n15"}])


def test_template_that_rewrites_earlier_turns_is_an_error():
  # As templates of reasoning models do, which drop earlier thoughts.
  dropping = TEMPLATE.replace("m.content", "(m.content if loop.last else '?')")
  with pytest.raises(ValueError, match="one example per assistant turn"):
    tokenizers.encode_chat(_tokenizer(dropping), TALK)


def test_template_without_the_end_token_is_an_error():
  with pytest.raises(ValueError, match=r"without an end token of this tokenizer \(\['end'\]\)"):
    tokenizers.encode_chat(_tokenizer(eos_ids=(12,)), TALK)


def test_refusals():
  with pytest.raises(ValueError, match="messages: got no assistant turn, allowed: at least one"):
    tokenizers.encode_chat(_tokenizer(), TALK[:1])
  with pytest.raises(ValueError, match="chat_template: got None"):
    tokenizers.render(_tokenizer(None), TALK)
  with pytest.raises(ValueError, match="not a valid template"):
    tokenizers.render(_tokenizer("{% if %}"), TALK)
  with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
    tokenizers.render(_tokenizer("{{ raise_exception('roles must alternate') }}"), TALK)


@pytest.mark.parametrize("template, expected", [
    ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),
    ("{{ messages[0] | tojson(indent=1) }}", '{\n "role": "user",\n "content": "<é>"\n}'),
    ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),  # blocks leave no blank lines
    ("{{ bos_token is defined }} {{ eos_token }}{{ pad_token }}", "False <end><pad>"),
    ("{{ style }}", "brief"),
    ("{{ tools is none }} {{ documents is defined }}", "True True"),
    ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
    ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "<é>"),
    ("{{ strftime_now('%Y') }}", str(datetime.date.today().year)),
])
def test_environment_of_templates(template, expected):
  messages = [{"role": "user", "content": "<é>"}]
  assert tokenizers.render(_tokenizer(template), messages, style="brief") == expected


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ messages.append(1) }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
    "{{ '%s' | format(1 / 0) }}",
])
def test_sandbox(template):
  messages = [{"role": "user", "content": "hi"}]
  with pytest.raises(ValueError, match="refuses these messages"):
    tokenizers.render(_tokenizer(template), messages)
  assert messages == [{"role": "user", "content": "hi"}]


def test_templates_are_compiled_once():
  compile_template = template_worker.compile_template
  assert compile_template(TEMPLATE) is compile_template(TEMPLATE)


def _family(name):
  template, begin, end = templates.FAMILIES[name]
  return tiny_models.byte_level(
      templates.SPECIAL, begin=begin, end=end, chat_template=template)


# With what the mask marks in brackets.
MARKED = {
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nDate: 1 Jan\n\n"
        "Be brief. /no_think<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[Hello, é🙂!<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\n7 + 8?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[15<|eot_id|>]"),
    "qwen25": (
        "<|im_start|>system\nBe brief. /no_think<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n[Hello, é🙂!<|im_end|>]\n<|im_start|>user\n 7 + 8? <|im_end|>\n"
        "<|im_start|>assistant\n[15<|im_end|>]\n"),
    "gemma": (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
        "[Hello, é🙂!<end_of_turn>]\n<start_of_turn>user\n7 + 8?<end_of_turn>\n"
        "<start_of_turn>model\n[15<end_of_turn>]\n"),
    "mistral": (
        "<s>(INST) Be brief. /no_think\n\nHi (/INST)[ Hello, é🙂!</s>]"
        "(INST)  7 + 8?  (/INST)[ 15</s>]"),
    "smollm3": (
        "<|im_start|>system\nYear: {year}\nMode: /no_think\n\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n[Hello, é🙂!<|im_end|>]\n"
        "<|im_start|>user\n 7 + 8? <|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n[15<|im_end|>]\n"),
}


@pytest.mark.parametrize("name", MARKED)
def test_families(name):
  tokenizer = _family(name)
  system = [] if name == "gemma" else [templates.SYSTEM]
  tokens = tokenizers.encode_chat(tokenizer, [*system, *templates.TALK], date_string="1 Jan")
  marked = ""
  for keep, run in itertools.groupby(
      zip(tokens.ids, tokens.completion_mask, strict=True), key=lambda pair: pair[1]):
    text = tokenizer.decode([i for i, _ in run], skip_special=False)
    marked += f"[{text}]" if keep else text.replace("[", "(").replace("]", ")")
  assert marked == MARKED[name].replace("{year}", str(datetime.date.today().year))


def test_gemma_refuses_what_it_does_not_know():
  with pytest.raises(ValueError, match="System role not supported"):
    tokenizers.encode_prompt(_family("gemma"), [templates.SYSTEM, templates.TALK[0]])
  with pytest.raises(ValueError, match="Roles must alternate"):
    tokenizers.encode_prompt(_family("gemma"), [templates.TALK[0]] * 2)
