"""Templates of reasoning models: tags that a prompt opens, turns without their reasoning."""

import dataclasses
import itertools

import pytest
from tokenizers import AddedToken

from rlreason import tokenizers
from rlreason.tokenizers import chat
from tests.tokenizers import templates, tiny_models

ASK = {"role": "user", "content": "7 + 8?"}
THOUGHT = "<think>\n7 and 8\n</think>\n\n15"


def _tokenizer(template, end="<|im_end|>", **options):
  tokenizer = chat.with_turn_end(tiny_models.byte_level(
      templates.SPECIAL, begin="<s>", end=end, chat_template=template))
  return tokenizers.with_chat_options(tokenizer, options)


def _marked(tokenizer, tokens):
  """The text, in brackets what is trained on."""
  marked = ""
  for keep, run in itertools.groupby(
      zip(tokens.ids, tokens.completion_mask, strict=True), key=lambda pair: pair[1]):
    text = tokenizer.decode([i for i, _ in run], skip_special=False)
    marked += f"[{text}]" if keep else text
  return marked


def _example(tokenizer, content, before=()):
  return tokenizers.encode_example(
      tokenizer, [*before, ASK, {"role": "assistant", "content": content}])


@pytest.mark.parametrize("prompt, opening", [
    ("user\n7?<|Assistant|><think>\n", "<think>\n"), ("Talk. Assistant: <think>", "<think>"),
    ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"), ("assistant\n", ""),
    ("what is <think>?", ""), ("<think> old </think>\n", "")])
def test_opened(prompt, opening):
  assert tokenizers.opened(prompt) == opening


QWEN_PROMPT = "<|im_start|>user\n7 + 8?<|im_end|>\n<|im_start|>assistant\n"
R1_PROMPT = "<s><|User|>7 + 8?<|Assistant|>"


@pytest.mark.parametrize("template, end, options, content, expected", [
    # The prompt opens the tag: the completion continues after it, even if the row repeats it.
    (templates.R1, "</s>", {}, THOUGHT,
     R1_PROMPT + "<think>\n[7 and 8\n</think>\n\n15</s>]"),
    (templates.R1, "</s>", {}, "7 and 8\n</think>\n\n15",
     R1_PROMPT + "<think>\n[7 and 8\n</think>\n\n15</s>]"),
    (templates.R1, "</s>", {}, "15", R1_PROMPT + "<think>\n[\n</think>\n\n15</s>]"),
    (templates.R1, "</s>", {"thinking": "<think>"}, THOUGHT,
     R1_PROMPT + "<think>[\n7 and 8\n</think>\n\n15</s>]"),
    (templates.QWQ, "<|im_end|>", {}, THOUGHT,
     QWEN_PROMPT + "<think>\n[7 and 8\n</think>\n\n15<|im_end|>]"),
    # It opens none, but leaves the reasoning out of the conversation.
    (templates.R1, "</s>", {"thinking": ""}, THOUGHT,
     R1_PROMPT + "[<think>\n7 and 8\n</think>\n\n15</s>]"),
    # The last turn keeps it.
    (templates.QWEN3, "<|im_end|>", {}, THOUGHT, QWEN_PROMPT + f"[{THOUGHT}<|im_end|>]\n"),
    (templates.QWEN3, "<|im_end|>", {}, "<think>7 and 8</think>15",
     QWEN_PROMPT + f"[{THOUGHT}<|im_end|>]\n"),
    (templates.QWEN3, "<|im_end|>", {"enable_thinking": False}, "15",
     QWEN_PROMPT + "<think>\n\n</think>\n\n[15<|im_end|>]\n"),
])
def test_examples(template, end, options, content, expected):
  tokenizer = _tokenizer(template, end, **options)
  tokens = _example(tokenizer, content)
  assert _marked(tokenizer, tokens) == expected
  prompt = tokenizers.encode_prompt(tokenizer, [ASK])  # as the model gets it when it samples
  assert tokens.ids[:len(prompt)] == prompt and not tokens.is_last_alone
  assert not any(tokens.completion_mask[:len(prompt)])


def test_of_turns_that_are_rewritten_the_last_is_trained_on_alone():
  tokenizer = _tokenizer(templates.QWEN3)
  tokens = _example(tokenizer, THOUGHT, [ASK, {"role": "assistant", "content": THOUGHT}])
  assert tokens.is_last_alone
  assert _marked(tokenizer, tokens) == (
      QWEN_PROMPT + "15<|im_end|>\n" + QWEN_PROMPT + f"[{THOUGHT}<|im_end|>]\n")
  tokenizer = _tokenizer(templates.R1, "</s>")
  tokens = _example(tokenizer, THOUGHT, [ASK, {"role": "assistant", "content": THOUGHT}])
  assert tokens.is_last_alone and _marked(tokenizer, tokens) == (
      R1_PROMPT + "\n\n15</s><|User|>7 + 8?<|Assistant|><think>\n[7 and 8\n</think>\n\n15</s>]")


def test_other_templates_train_on_all_turns_as_before():
  tokenizer = _tokenizer(templates.QWEN25)
  tokens = tokenizers.encode_example(tokenizer, templates.TALK)
  assert tokens == tokenizers.encode_chat(tokenizer, templates.TALK)
  assert not tokens.is_last_alone


def test_a_turn_of_weight_0_is_not_trained_on():
  tokenizer = _tokenizer(templates.QWEN25)
  first, said, *rest = templates.TALK
  tokens = tokenizers.encode_example(tokenizer, [first, said | {"weight": 0}, *rest])
  whole = tokenizers.encode_example(tokenizer, templates.TALK)
  marked = _marked(tokenizer, tokens)
  assert tokens.ids == whole.ids and not tokens.is_last_alone
  assert f"assistant\n{said['content']}<|im_end|>" in marked and "[15<|im_end|>]" in marked
  assert _marked(tokenizer, whole).count("[") == 2 and marked.count("[") == 1


def test_reasoning_after_a_prompt_that_closed_it_is_an_error():
  tokenizer = _tokenizer(templates.QWEN3, enable_thinking=False)
  with pytest.raises(ValueError, match="begins with <think>, after .* '<think>.*</think>.*, allow"):
    _example(tokenizer, THOUGHT)


def test_completions_of_pairs_go_on_after_what_the_prompt_opens():
  tokenizer = _tokenizer(templates.QWQ, "<|endoftext|>")
  ids = tokenizers.encode_completion(tokenizer, [ASK], THOUGHT)
  assert tokenizer.decode(ids, skip_special=False) == "7 and 8\n</think>\n\n15<|im_end|>"
  tokenizer = _tokenizer(templates.QWEN25, "<|endoftext|>")
  ids = tokenizers.encode_completion(tokenizer, [ASK], "15")
  assert tokenizer.decode(ids, skip_special=False) == "15<|im_end|>"


@pytest.mark.parametrize("template, begin, end, found", [
    (templates.LLAMA3, "<|begin_of_text|>", "<|endoftext|>", "<|eot_id|>"),
    (templates.QWEN25, None, "<|endoftext|>", "<|im_end|>"),
    (templates.GEMMA, "<bos>", "</s>", "<end_of_turn>"),
    (templates.SMOLLM3, None, "<|endoftext|>", "<|im_end|>"),
    (templates.QWEN3, None, "<|endoftext|>", "<|im_end|>"),
    (templates.R1, "<s>", "</s>", "</s>"), (templates.MISTRAL, "<s>", "</s>", "</s>"),
    # An end of the whole text after that of the turn; a tag within the turn; words, no token.
    ("{% for m in messages %}{{ m.content }}<|end|>\n{% endfor %}<|endoftext|>", None,
     "<|endoftext|>", "<|end|>"),
    ("{% for m in messages %}{{ m.content }}</s> <|end|>{% endfor %}", None, "<|endoftext|>",
     "<|end|>"),
    ("{% for m in messages %}{{ m.content }}</s>{% endfor %}", None, "<|endoftext|>", "</s>"),
    ("{% for m in messages %}{{ m.content }}\n###\n{% endfor %}", None, "<|endoftext|>", None),
    ("{{ raise_exception('never') }}", None, "<|endoftext|>", None),
    ("no words of the messages", None, "<|endoftext|>", None)])
def test_the_token_that_closes_a_turn_is_found(template, begin, end, found):
  tokenizer = chat.with_turn_end(tiny_models.byte_level(
      templates.SPECIAL, begin=begin, end=end, chat_template=template))
  ids = {token: tokenizer.backend.token_to_id(token) for token in templates.SPECIAL}
  assert tokenizer.turn_end_id == (None if found is None else ids[found])
  expected = [end] if found in (None, end) else [end, found]
  assert tokenizer.eos_ids == tuple(ids[token] for token in expected)  # the first stays the first


def test_a_turn_without_an_end_token_gets_that_of_the_model():
  tokenizer = _tokenizer(
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
      "{% if add_generation_prompt %}assistant: {% endif %}", "<|endoftext|>")
  assert _marked(tokenizer, _example(tokenizer, "15")) == (
      "user: 7 + 8?\nassistant: [15<|endoftext|>]")


def test_tags_that_are_special_tokens_are_not_lost():
  tags = ["<think>", "</think>", "[THINK]", "[/THINK]"]
  tokenizer = tiny_models.byte_level(
      [*templates.SPECIAL, *tags, "<alone>"], begin="<s>", end="</s>")
  ids = tokenizer.encode("<s><think>a</think>b[THINK]c[/THINK]<alone><|im_end|></s>")
  assert len(ids) == 11
  assert tokenizer.decode(ids) == "<think>a</think>b[THINK]c[/THINK]"
  decoder = tokenizers.IncrementalDecoder(tokenizer)
  assert "".join(decoder.feed([i]) for i in ids) + decoder.flush() == tokenizer.decode(ids)
  tokenizer.backend.add_tokens([AddedToken("<b>", special=False)])
  assert tokenizer.decode(tokenizer.encode("<b>")) == "<b>"


def test_options_of_a_template():
  tokenizer = _tokenizer(templates.QWEN3, enable_thinking=False)
  assert tokenizers.render(tokenizer, [ASK], add_generation_prompt=True) == (
      QWEN_PROMPT + "<think>\n\n</think>\n\n")
  again = tokenizers.render(
      tokenizer, [ASK], add_generation_prompt=True, enable_thinking=True)  # the call's own
  assert again == QWEN_PROMPT
  with pytest.raises(ValueError, match=(
      r"chat_options: got \['think'\], allowed: .*\(.*enable_thinking.*\)")):
    _tokenizer(templates.QWEN3, think=False)
  with pytest.raises(ValueError, match=r"got \['messages'\], allowed: .* \(there are none\)"):
    _tokenizer(templates.QWQ, messages=[])
  with pytest.raises(ValueError, match="allowed: none without a chat template"):
    tokenizers.with_chat_options(dataclasses.replace(tokenizer, chat_template=None), {"a": 1})
