"""The process that renders chat templates, and their environment.

Templates come with downloaded models: they run in jinja2's sandbox, where they can neither change
their arguments nor reach Python's internals, and in a separate process, which the system ends if
one takes too much time or memory (`template_pool.py` restarts it). This file is self-contained: it
imports nothing of this package.
"""

from collections.abc import Mapping
import datetime
import functools
import json
import resource
import sys
import time
from typing import Any, NoReturn

SECONDS = 1  # of computation per rendering; a normal one takes a thousandth
MEMORY_BYTES = 512 << 20  # of address space
MAX_CHARACTERS = 10_000_000  # of a rendered text
_MAX_MESSAGE = 300  # characters of an error


def main() -> None:
  """Answers requests, one per line, until there are no more."""
  sys.path[:] = json.loads(sys.argv[1])
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
  _, hard = resource.getrlimit(resource.RLIMIT_CPU)
  for line in sys.stdin:
    # Whole seconds of the process's CPU time, which excludes other work of the machine.
    limit = int(time.process_time()) + SECONDS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    reply, is_out_of_memory = _answer(json.loads(line))
    print(json.dumps(reply), flush=True)
    if is_out_of_memory:
      return  # objects that filled the memory may still exist


def _answer(request: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
  """{"value"} or {"error", "is_invalid"}, and whether the memory is full."""
  import jinja2

  try:
    if "messages" not in request:
      return {"value": variable_names(request["template"])}, False
    text = compile_template(request["template"]).render(
        messages=request["messages"], **request["variables"])
    if len(text) > MAX_CHARACTERS:
      raise ValueError(f"{len(text)} characters, allowed: {MAX_CHARACTERS}")
    return {"value": text}, False
  except MemoryError:
    return {"error": f"more than {MEMORY_BYTES >> 20} MiB of memory", "is_limit": True}, True
  except jinja2.TemplateSyntaxError as error:
    return {"error": _cut(error), "is_invalid": True}, False
  except Exception as error:  # any error of a template
    return {"error": _cut(error) or type(error).__name__}, False


def _cut(error: Exception) -> str:
  return str(error)[:_MAX_MESSAGE]


def variable_names(source: str) -> list[str]:
  """Names that a template reads and does not set itself."""
  from jinja2 import meta

  environment = _environment()
  return sorted(meta.find_undeclared_variables(environment.parse(source)))


@functools.lru_cache(maxsize=16)
def compile_template(source: str) -> Any:
  """The template in the environment that model publishers assume."""
  return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
  import jinja2.ext
  import jinja2.nodes
  import jinja2.sandbox

  class GenerationTag(jinja2.ext.Extension):
    """Accepts `{% generation %}...{% endgeneration %}`: the mask is found without these marks."""

    tags = {"generation"}

    def parse(self, parser):
      line = next(parser.stream).lineno
      body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
      return jinja2.nodes.Scope(body, lineno=line)  # variables set within are local

  def raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True,
      extensions=[jinja2.ext.loopcontrols, GenerationTag])
  # jinja2's own tojson escapes for HTML.
  environment.filters["tojson"] = _to_json
  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
  return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None,
             separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                    sort_keys=sort_keys)


if __name__ == "__main__":
  main()
