"""What MkDocs does for the site beside rendering docs/: see mkdocs.yml.

Pages are made of the recipes (method_pages.py) and of the public names (their docstrings), and a
link to a file outside docs/ leads to a page that shows the file.
"""

import functools
import inspect
import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import method_pages
import rlreason

ROOT = pathlib.Path(__file__).parents[1]
# Modules with names that are public and not in the `__all__` of a package.
MODULES = (
    "rlreason.algorithms.policy_gradient.presets", "rlreason.slots", "rlreason.masks",
    "rlreason.types")
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Puts the generated pages into the navigation."""
  config.nav += [
      {"Methods": [{method.name: method.page} for method in method_pages.methods()]},
      {"API": [{page.removeprefix("api/").removesuffix(".md"): page} for page in api_pages()]}]
  return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the generated pages, and one for each file outside docs/ that any page links to."""
  pages = {method.page: method_pages.page(method) for method in method_pages.methods()}
  pages |= api_pages()
  texts = pages | {file.src_uri: file.content_string for file in files.documentation_pages()}
  while texts:  # pages that are added may have links of their own
    paths = {path for page, text in texts.items() for path in linked(page, text)}
    texts = {page: text for path in paths for page, text in source_pages(path).items()
             if page not in pages}
    pages |= texts
  for page, text in pages.items():
    files.append(File.generated(config, page, content=text))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Turns links to files outside docs/ into links to their pages."""
  uri = page.file.src_uri
  folder = posixpath.dirname(uri)

  def rewrite(match: re.Match) -> str:
    path = resolve(uri, match[1])
    if (ROOT / path).exists() and not path.startswith("docs/"):
      return f"]({posixpath.relpath(source_page(path), folder or '.')})"
    if path.startswith("docs/"):
      return f"]({posixpath.relpath(path.removeprefix('docs/'), folder or '.')}{match[2] or ''})"
    return match[0]

  return markdown if is_code(uri) else _LINK.sub(rewrite, markdown)


@functools.cache
def api_pages() -> dict[str, str]:
  """Page -> directives of mkdocstrings, for the public names of each package."""
  modules = [f"rlreason.{name}" for name in rlreason.__all__
             if inspect.ismodule(getattr(rlreason, name))]
  pages = {"api/rlreason.md": directives("rlreason", [
      name for name in rlreason.__all__
      if not (name.startswith("_") or inspect.ismodule(getattr(rlreason, name)))])}
  for module in dict.fromkeys((*modules, *MODULES)):
    names = getattr(__import__(module, fromlist=["_"]), "__all__", None)
    pages[f"api/{module}.md"] = directives(module, names)
  return pages


def directives(module: str, names: list[str] | None) -> str:
  """A title, what the module says, and each of its names."""
  if names is None:
    return f"# {module}\n\n::: {module}\n    options: {{show_root_heading: false}}\n"
  head = f"# {module}\n\n::: {module}\n    options: {{members: false, show_root_heading: false}}\n"
  return head + "".join(f"\n::: {module}.{name}\n" for name in names)


def linked(page: str, text: str) -> set[str]:
  """The paths outside docs/ that a page links to, from the root of the repository."""
  if is_code(page):
    return set()
  paths = {resolve(page, match[1]) for match in _LINK.finditer(text)}
  return {path for path in paths if not path.startswith("docs/") and (ROOT / path).exists()}


def resolve(page: str, target: str) -> str:
  """A link's target from the root of the repository."""
  at = page.removeprefix("source/") if page.startswith("source/") else f"docs/{page}"
  return posixpath.normpath(posixpath.join(posixpath.dirname(at), target))


def source_pages(path: str) -> dict[str, str]:
  """A file as a page; of a folder also its Python files, each a page."""
  file = ROOT / path
  if file.is_dir():
    inner = sorted(part.name for part in file.glob("*.py"))
    pages = {source_page(path): "\n".join(
        [f"# {path}", "", *(f"- [{name}]({name}.md)" for name in inner)])}
    for name in inner:
      pages |= source_pages(f"{path}/{name}")
    return pages
  text = file.read_text(encoding="utf-8")
  if path.endswith(".md"):
    return {source_page(path): text}
  fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
  kind = {".py": "python", ".json": "json", ".ipynb": "json"}.get(file.suffix, "text")
  head = f"---\nsearch: {{exclude: true}}\n---\n\n# {path}\n"
  return {source_page(path): f"{head}\n{fence}{kind}\n{text.rstrip()}\n{fence}\n"}


def source_page(path: str) -> str:
  if (ROOT / path).is_dir():
    return f"source/{path}/index.md"
  return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def is_code(uri: str) -> bool:
  return uri.startswith("source/") and not (ROOT / uri.removeprefix("source/")).is_file()
