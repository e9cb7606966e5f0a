"""Templates that mean harm: each is one error, soon, and others render as before."""

import json
import os

import pytest

from rlreason import tokenizers
from rlreason.tokenizers import chat, template_pool
from tests.tokenizers import templates, tiny_models

ASK = [{"role": "user", "content": "hi"}]
LIMIT, REFUSES = "chat_template: .*512 MiB", "refuses these messages"
HOSTILE = {
    "multiplies": ("{{ 'x' * 10**11 }}", LIMIT),
    "pads": ("{{ 'x' | center(10**10) }}", LIMIT),
    "formats": ("{{ '%0900000000d' | format(1) }}", LIMIT),
    "doubles": ("{% set ns = namespace(s='x') %}{% for i in range(60) %}"
                "{% set ns.s = ns.s ~ ns.s %}{% endfor %}", LIMIT),
    "indents": ("{{ [1] | tojson(indent=10**10) }}", LIMIT),
    "fills": ("{{ [1] | batch(10**10, 'x') | list }}", LIMIT),
    "writes": ("{{ 'x' * 11000000 }}", REFUSES + ": 11000000 characters"),
    "loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
              "more than 1 seconds of computation"),
    "calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", REFUSES + ".*recursion"),
    "nests": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", REFUSES + ".*recursion"),
    "is long": ("x" * 1_000_001, "chat_template: got 1000001 characters, allowed: 1000000"),
    "complains": ("{{ raise_exception('x' * 10**6) }}", REFUSES + ": x{300}$"),
}


def _render(template, messages=ASK, **variables):
  return template_pool.render(template, messages, variables)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates(name):
  template, message = HOSTILE[name]
  with pytest.raises(ValueError, match=message):
    _render(template)
  assert _render("{{ messages[0].content }} {{ a }}", a="é\ud800\n") == "hi é\ud800\n"


def test_one_beyond_the_limits_is_not_tried_again(monkeypatch):
  template, _ = HOSTILE["multiplies"]
  for _ in range(2):
    with pytest.raises(template_pool.LimitError):
      _render(template)
    monkeypatch.setattr(template_pool._worker, "_send", None)


def test_a_process_that_was_ended_is_started_anew():
  _render("a")
  template_pool._worker._process.kill()
  template_pool._worker._process.wait()
  assert _render("a") == "a"


def test_a_forked_process_has_one_of_its_own(monkeypatch):
  _render("a")
  first = template_pool._worker._process
  monkeypatch.setattr(template_pool._worker, "_owner", os.getpid() + 1)
  assert _render("a") == "a" and template_pool._worker._process is not first
  first.kill()
  first.wait()


def test_messages_are_json():
  with pytest.raises(ValueError, match="messages: got what JSON does not have .*, allowed: JSON"):
    _render("a", [{"role": "user", "content": object()}])


def test_a_model_with_a_hostile_template_is_refused():
  tokenizer = tiny_models.byte_level(chat_template=HOSTILE["pads"][0])
  with pytest.raises(ValueError, match=LIMIT):
    chat.with_turn_end(tokenizer)
  # A million end tokens after a turn are looked at no longer than any need be.
  many = "{{ messages[-1].content }}{% for i in range(90000) %}<end>{% endfor %}"
  assert chat.with_turn_end(tiny_models.byte_level(chat_template=many)).turn_end_id is not None


def test_variable_names():
  assert template_pool.variable_names("{{ a }}{% set b = 1 %}{{ b }}") == ["a"]
  assert "enable_thinking" in template_pool.variable_names(templates.QWEN3)
  with pytest.raises(ValueError, match="not a valid template"):
    template_pool.variable_names("{% if %}")


def test_panics_of_the_tokenizers_package_are_errors(tmp_path):
  tokenizer = tiny_models.byte_level()
  tokenizer.save(tmp_path)
  file = tmp_path / "tokenizer.json"
  fields = json.loads(file.read_text())
  file.write_text(json.dumps(fields | {"pre_tokenizer": {"type": "FixedLength", "length": 0}}))
  broken = tokenizers.load_tokenizer(tmp_path)
  with pytest.raises(ValueError, match="has no ids: the tokenizers package gave up"):
    broken.encode("a")
  merges = {"continuing_subword_prefix": "longer than any merge"}
  file.write_text(json.dumps(fields | {"model": fields["model"] | merges}))
  with pytest.raises(ValueError, match="not a tokenizer.json: the tokenizers package gave up"):
    tokenizers.load_tokenizer(tmp_path)
