"""The documents: what is made from signatures is up to date, and every link leads somewhere.

Nothing here needs MkDocs; `make docs` builds the site with it.
"""

import ast
import collections
import importlib.util
import itertools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))]
_CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.fixture
def load(monkeypatch):
  """Imports a module of docs/."""
  monkeypatch.syspath_prepend(str(DOCS))
  return importlib.import_module


# The options.


def test_the_options_are_what_the_signatures_say(load):
  is_current = load("make_options").document() == (DOCS / "options.md").read_text(encoding="utf-8")
  assert is_current, "a field, an option or what it does changed: run python docs/make_options.py"


def test_the_modules_that_the_site_shows_are_there():
  tree = ast.parse((DOCS / "hooks.py").read_text(encoding="utf-8"))
  (modules,) = [ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and node.targets[0].id == "MODULES"]
  assert modules and all(map(importlib.util.find_spec, modules))


def options():
  """Heading -> name -> (type and range, default, what it does), as the page shows them."""
  found = {}
  for section in re.split(r"(?m)^#+ ", (DOCS / "options.md").read_text(encoding="utf-8"))[1:]:
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \| (.*?) \| (.*) \|$", section, re.MULTILINE)
    found[section.splitlines()[0]] = {name: tuple(cells) for name, *cells in rows}
  return found


def test_options_say_type_range_default_and_meaning():
  found = options()
  assert found["clipped_surrogate"]["clip_high"] == ("float", "`0.2`", "ε_high, 0 or more.")
  assert found["gspo"]["clip_high"][1] == "`0.0004`"
  assert found["PolicyGradientConfig"]["critic"] == (
      "`'none'`, `'shared'`, `'separate'`", "`'shared'`", "a head on the policy, or a model")
  assert found["PolicyGradientConfig"]["discount"] == (
      "float: 0 to 1", "`1.0`", "γ per token, in [0, 1]")
  assert found["PolicyGradientConfig"]["policy_loss"][:2] == (
      "[slot](#slot-algorithmpolicy_loss)", "[`clipped_surrogate`](#clipped_surrogate)")
  assert found["RLStage"]["num_prompts"][:2] == ("int, at most 1,048,576: above 0", "—")
  assert found["Reward exploration"]["c"][:2] == ("float", "—")
  assert found["Verifier math"]["percent"][:2] == ("`'either'`, `'exact'`", "`'either'`")
  assert found["rlreason train"]["--seeds"][:2] == ("int", "`None`")


def test_every_option_says_what_it_does():
  """In the comment beside a field, or in the docstring of a function."""
  silent = [f"{heading}: {name}" for heading, rows in options().items()
            for name, (*_, meaning) in rows.items() if not meaning]
  assert not silent


def test_the_functions_that_methods_use_are_on_the_page():
  presets = ROOT / "rlreason" / "algorithms" / "policy_gradient" / "presets.py"
  presets = presets.read_text(encoding="utf-8")
  used = set(re.findall(r"Slot\(losses\.(\w+)", presets))
  assert len(used) > 15 and used <= set(options())


@pytest.mark.parametrize("source, said", [
    ("class A:\n  x: int = 1  # one\n", {"x": "one"}),
    ("class A:\n  # of both,\n  # in two lines\n  x: int\n  y: int\n",
     {"x": "of both, in two lines", "y": "of both, in two lines"}),
    ("class A:\n  # of x\n  x: int\n\n  y: int\n", {"x": "of x"}),
    ("class A:\n  # of x\n  x: int  # behind\n  y: int\n", {"x": "behind"}),
    ("class A:\n  x: dict = f(\n      # not of y\n      a=1)\n  y: int  # of y\n", {"y": "of y"}),
    ("class A:\n  x: int\n\n  def f(self):\n    # inside\n    y: int = 1\n", {}),
])
def test_what_a_field_does_is_the_comment_beside_it(load, source, said):
  assert load("make_options").comments(source) == said


# The pages of methods.


def test_each_method_has_a_page_of_its_own(load):
  pages = load("method_pages")
  table = importlib.import_module("table")
  methods = pages.methods()
  assert len({method.page for method in methods}) == len(methods)
  assert {*table.POLICY_GRADIENTS, *table.PIPELINES} <= {method.file for method in methods}


def test_a_page_gives_source_command_settings_formula_and_result(load):
  pages = load("method_pages")
  methods = {method.name: method for method in pages.methods()}
  dapo = pages.page(methods["DAPO"])
  assert "[2503.14476](https://arxiv.org/abs/2503.14476) (8)-(13)" in dapo
  assert "rlreason train --config=experiments/methods/dapo.py --workdir=runs/dapo" in dapo
  assert "| mean | sequence-mean | token-mean |" in dapo
  assert "| `mask_truncated` | `False` | `True` |" in dapo and "minibatch_size" not in dapo
  assert "max(-A ρ, -A clip(ρ, 1 - ε_low, 1 + ε_high))" in dapo
  assert "### Reward overlong" in dapo
  assert re.search(r"\| DAPO \| \d+\.\d \[", dapo) and "| no training |" in dapo
  assert "`presets.gmpo`" in pages.page(methods["GMPO"])
  dpo = pages.page(methods["DPO"])
  assert "## Stages" in dpo and "### preference_pairs" in dpo and "## What differs" not in dpo


# Links and the navigation.


def anchors(path):
  """Of the headings of a page, as git hosts make them."""
  text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
  count, found = collections.Counter(), set()
  for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    found.add(f"{slug}-{count[slug]}" if count[slug] else slug)
    count[slug] += 1
  return found


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_documents_lead_somewhere(page):
  path = ROOT / page
  for target, anchor in _LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8"))):
    file = path.parent / target if target else path
    assert file.exists(), f"{page}: {target}"
    assert file.resolve().is_relative_to(ROOT), f"{page}: {target}"
    assert not anchor or anchor in anchors(file), f"{page}: {target}#{anchor}"


def test_the_code_that_holds_a_concept_is_there():
  text = (DOCS / "concepts.md").read_text(encoding="utf-8")
  paths = re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)(?::\w+)?`", text)
  names = re.findall(r"`(?:rlreason|rr)\.((?:\w+\.)*\w+)`", text)
  assert len(paths) > 15 and len(names) > 5
  missing = [path for path in paths if not (ROOT / "rlreason" / path).exists()]
  assert not missing
  for name in names:
    *modules, last = name.split(".")
    assert hasattr(importlib.import_module(".".join(["rlreason", *modules])), last) or (
        importlib.util.find_spec(f"rlreason.{name}")), name


@pytest.mark.parametrize("page", PAGES)
def test_headings_lists_and_tables_begin_after_an_empty_line(page):
  """As the Markdown of the site wants it, and that of git hosts does not."""
  text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
  kind = lambda line: "text" if line[:2].strip() == "" and line.strip() else line[:1]
  joined = [line for before, line in itertools.pairwise(text.splitlines())
            if line[:1] in ("#", "|", "-") and before.strip() and not before.startswith("<!--")
            and kind(before) != line[:1] and not (line[:1] == "-" and kind(before) == "text")]
  assert not joined


def test_every_document_is_in_the_navigation_of_the_site():
  nav = re.search(r"^nav:\n((?:  .*\n)+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[1]
  assert sorted(re.findall(r"\S+\.md", nav)) == sorted(path.name for path in DOCS.glob("*.md"))
