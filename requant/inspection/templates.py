"""Chat templates: where a model keeps them, and how they are read by people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.tokenizers.files import Files
from requant.tokenizers.keys import CHAT_TEMPLATE, CHAT_TEMPLATES
from requant.tokenizers.special import chat_metadata

#: The name of the one that is used where nobody asks for another.
DEFAULT: Final = "default"

_TAG: Final = re.compile(r"(\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\})", re.DOTALL)
_QUOTED: Final = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
_WORD: Final = re.compile(r"\{%[-+]?\s*(\w+)")
_OPENING: Final = frozenset(("if", "for", "macro", "filter", "call", "generation", "block", "raw"))
_BETWEEN: Final = frozenset(("else", "elif"))
#: A `set` without a value goes up to its `endset`.
_SET_BLOCK: Final = re.compile(r"\{%[-+]?\s*set\s+[\w.]+\s*(?:\|.*?)?[-+]?%\}", re.DOTALL)


def templates_of(checkpoint: Checkpoint[Tensor]) -> dict[str, str]:
    """Name -> template, the default one first. Raises `FormatError` for files that are damaged."""
    metadata = checkpoint.metadata if checkpoint.naming is Naming.GGML else chat_metadata(Files(checkpoint))
    return dict(_named(metadata))


def _named(metadata: Mapping[str, Typed]) -> Iterator[tuple[str, str]]:
    for key in sorted(metadata, key=lambda key: key != CHAT_TEMPLATE):
        value = metadata[key].value
        if key.startswith(CHAT_TEMPLATE) and key != CHAT_TEMPLATES and isinstance(value, str):
            yield key.removeprefix(CHAT_TEMPLATE).removeprefix(".") or DEFAULT, value


def laid_out(template: str) -> str:
    """A template with one statement a line, indented by what it is in; text that is given out stands in quotes.

    This is for reading: blanks and ends of lines count in a template, and here they are escaped.

    >>> print(laid_out("{% for m in messages %}<|im|>{{ m }}\\n{%- endfor %}"))
    {% for m in messages %}
      "<|im|>"
      {{ m }}
      "\\n"
    {%- endfor %}
    """
    lines, depth = [], 0
    for part in filter(None, _TAG.split(template)):
        word = _word(part)
        if word.startswith("end") or word in _BETWEEN:
            depth = max(0, depth - 1)
        shown = _on_a_line(part) if _TAG.fullmatch(part) else json.dumps(part, ensure_ascii=False)
        lines.append("  " * depth + shown)
        if word in _OPENING or word in _BETWEEN or _SET_BLOCK.fullmatch(part):
            depth += 1
    return "\n".join(lines)


def _on_a_line(tag: str) -> str:
    """Blanks count in quotes only."""
    parts = _QUOTED.split(tag)
    return "".join(part.replace("\n", "\\n") if n % 2 else re.sub(r"\s+", " ", part) for n, part in enumerate(parts))


def _word(part: str) -> str:
    match = _WORD.match(part)
    return match[1] if match else ""
