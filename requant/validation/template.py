"""Chat templates: whether jinja2, in which transformers runs them, can read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_KEY = "tokenizer.chat_template"


def templates_of(metadata: Any) -> Iterator[tuple[str, str]]:
    """Key and text of every template of a GGUF."""
    for key, typed in metadata.items():
        if (key == _KEY or key.startswith(f"{_KEY}.")) and isinstance(typed.value, str):
            yield key, typed.value


def trouble_of(template: str) -> str:
    """What is wrong with a template; "" for nothing. Raises ImportError without jinja2.

    transformers knows `{% generation %}`, `{% break %}` and `{% continue %}` besides jinja2's own tags.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """What the assistant says, which transformers marks for training."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    try:
        environment.parse(template)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        return f"{error}{f' (line {line})' if line else ''}"
    except RecursionError:
        return "it is nested too deeply"
    return ""
