"""The text of a Modelfile, by the rules of Ollama's own reader.

Source: ollama fb30760, parser/parser.go and api/types.go. A command is a word and a value. A value ends with its line,
unless it begins with a quote: then with the next line break or blank before which that quote is closed. Nothing is
escaped inside, so what holds three quotes cannot be said. Characters that Go's strconv.IsPrint is false for are
dropped, but for tabs and line breaks. A parameter is one of known names, and its value a whole number, a number or, for
`stop`, one of several texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from requant.errors import PlanError
from requant.ir import Typed
from requant.ollama.go import go_template
from requant.ollama.rendering import Unrenderable
from requant.ollama.turns import Turns, turns_of
from requant.printable import printable
from requant.tokenizers.keys import ADD_KEYS, CHAT_TEMPLATE, MODEL, PRE, TOKENS
from requant.tokenizers.metadata import GgmlTokenizer, assumed_ids
from requant.tokenizers.pre_tokenizers import BY_NAME
from requant.tokenizers.vocabulary import TokenType

#: GGUF key -> Ollama's parameter, and how its number is written.
_SAMPLING: Final = {
    "general.sampling.temp": ("temperature", ".7g"),
    "general.sampling.top_k": ("top_k", ".0f"),
    "general.sampling.top_p": ("top_p", ".7g"),
    "general.sampling.min_p": ("min_p", ".7g"),
    "general.sampling.penalty_repeat": ("repeat_penalty", ".7g"),
}
#: Characters of the longest name of a licence; what is longer is its text.
_LICENCE: Final = 200


@dataclass(frozen=True, slots=True)
class Modelfile:
    """A Modelfile. untold: what of the model it does not say, and why; subject and reason of each."""

    text: str
    untold: tuple[tuple[str, str], ...]


def from_line(name: str) -> str:
    """The line that names the GGUF beside the Modelfile; raises `PlanError` for a name that it cannot have."""
    if not _is_kept(name) or any(char in name for char in "\n\r\t"):
        raise PlanError(
            f"--ollama: a Modelfile cannot name {printable(name)!r}", hint="choose a name of printable characters"
        )
    return f"FROM ./{name}\n"


def modelfile(metadata: Mapping[str, Typed], name: str) -> Modelfile:
    """The Modelfile of a GGUF. metadata: its own. name: of the file beside which it lies."""
    lines, untold = [from_line(name)], list[tuple[str, str]]()
    try:
        tokenizer, turns = _turns(metadata)
        if turns.default and not _is_said(turns.default):
            turns = replace(turns, default="")  # the template says it, then, where the system says nothing
        lines.append(f'TEMPLATE """{go_template(turns)}"""\n')
        for stop in _stops(tokenizer, turns):
            if _is_said(stop):
                lines.append(f"PARAMETER stop {quoted(stop)}\n")
            else:
                untold.append((f"stop {stop!r}", "a Modelfile cannot say it"))
        lines += [f"SYSTEM {quoted(turns.default)}\n"] if turns.default else []
    except Unrenderable as error:
        untold.append(
            (CHAT_TEMPLATE, f"no TEMPLATE: {printable(str(error))}; Ollama takes its own if it knows this one")
        )
    lines += [f"PARAMETER {said}\n" for said in _parameters(metadata)]
    licence = metadata.get("general.license")
    if licence is not None and isinstance(licence.value, str) and 0 < len(licence.value) <= _LICENCE:
        lines += [f"LICENSE {quoted(licence.value)}\n"] if _is_said(licence.value) else []
    return Modelfile("".join(lines), tuple(untold))


def quoted(value: str) -> str:
    """A value that Ollama reads as it is; what `_is_said` is false for has none."""
    quotes = '"""' if value.startswith('"') or "\n" in value else '"'
    return f"{quotes}{value}{quotes}"


def _is_said(value: str) -> bool:
    return bool(value) and _is_kept(value) and '"""' not in value


def _is_kept(value: str) -> bool:
    """Whether Ollama drops none of the characters, and no editor changes the ends of lines."""
    return all(char.isprintable() or char in "\n\t" for char in value)


def _turns(metadata: Mapping[str, Typed]) -> tuple[GgmlTokenizer, Turns]:
    template = metadata.get(CHAT_TEMPLATE)
    if template is None or not isinstance(template.value, str):
        raise Unrenderable("the model has no chat template")
    if TOKENS not in metadata:
        raise Unrenderable("the model has no tokenizer")
    tokenizer = GgmlTokenizer.of(metadata)
    ids = assumed_ids(tokenizer)
    names = {word: tokenizer.tokens[ids[word]] if word in ids else "" for word in ("bos", "eos")}
    if any("\ud800" <= char <= "\udfff" for char in "".join([template.value, *names.values()])):
        raise Unrenderable("it is not UTF-8")
    kind, row = tokenizer.text(MODEL), BY_NAME.get(tokenizer.text(PRE))
    adds_bos = tokenizer.flag(ADD_KEYS["bos"], kind == "llama" or (row is not None and row.add_bos))
    return tokenizer, turns_of(template.value, names["bos"], names["eos"], adds_bos=adds_bos)


def _stops(tokenizer: GgmlTokenizer, turns: Turns) -> list[str]:
    """What ends an assistant's turn: tokens that stand between it and the user's, and the text that does."""
    between = turns.assistant.after + turns.user.before
    special = (TokenType.CONTROL, TokenType.USER_DEFINED)
    kinds = zip(tokenizer.tokens, tokenizer.types, strict=True)
    marks = {token for token, kind in kinds if kind in special and token.strip() and token in between}
    longest = [mark for mark in marks if not any(mark != other and mark in other for other in marks)]
    found = sorted(longest, key=between.index)
    ids = assumed_ids(tokenizer)
    before = turns.user.before.replace(tokenizer.tokens[ids["bos"]], "") if "bos" in ids else turns.user.before
    text = before.strip()
    if text and not text.isalnum() and not any(mark in text for mark in found):  # a word alone may be said by chance
        found.append(text)
    return found


def _parameters(metadata: Mapping[str, Typed]) -> Iterator[str]:
    for key, (name, form) in _SAMPLING.items():
        value = metadata[key].value if key in metadata else None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{name} {value:{form}}"
