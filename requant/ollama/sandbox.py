"""Renders a chat template that a stranger wrote: run as a program, in a process that can be stopped.

Standard input: JSON with `template`, `names` (bos_token, eos_token) and `conversations`, each [messages, whether the
assistant is to speak next]. Standard output: a JSON list with {"text": …} or {"error": …} for each. jinja2's sandbox
keeps a template from Python; the limits of the process keep it from time and memory, which the sandbox does not.

What a template finds around it is what transformers gives (5.23, utils/chat_template_utils.py), but for
`strftime_now`: a text that tells the day of its rendering is none that a Modelfile can keep.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Bytes of memory and seconds of processor time that all conversations may take together.
MEMORY: Final = 1 << 30
SECONDS: Final = 10
#: Characters of one rendering: a template of a megabyte says nothing of that length twice.
LONGEST: Final = 1 << 22


class _Generation(Extension):
    """`{% generation %}` marks what an assistant says, for training; it prints what is inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **rest: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **rest)


def rendered(template: str, names: dict[str, str], conversations: list[list[Any]]) -> list[dict[str, str]]:
    """Each conversation as the template writes it, or why it does not."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _tojson
    try:
        compiled = environment.from_string(template)
    except Exception as error:  # of the template, whatever it is
        return [_failed(error)] * len(conversations)
    said = []
    for messages, speaks in conversations:
        try:
            text = compiled.render(messages=messages, add_generation_prompt=speaks, tools=None, documents=None, **names)
            said.append({"text": text} if len(text) <= LONGEST else {"error": "it writes without end"})
        except Exception as error:
            said.append(_failed(error))
    return said


def _failed(error: Exception) -> dict[str, str]:
    return {"error": f"{str(error) or type(error).__name__}"[:200]}


def _limit() -> None:
    with suppress(ImportError, OSError, ValueError):  # not every system has them; the caller's clock remains
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


if __name__ == "__main__":
    _limit()
    asked = json.loads(sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps(rendered(**asked)).encode())
