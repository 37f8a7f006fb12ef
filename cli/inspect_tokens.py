"""What `requant inspect` says of a tokenizer, its tokens, and its templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from requant.cli.tables import count, table
from requant.cli.terminal import bold, width
from requant.inspection.templates import laid_out
from requant.printable import printable

if TYPE_CHECKING:
    from requant.inspection.tokens import Token, TokenizerFacts


def tokenizer_text(facts: TokenizerFacts) -> str:
    """A tokenizer for people."""
    model = f"{printable(facts.model) or 'not stated'}, pre-tokenizer {printable(facts.pre) or 'not stated'}"
    types = ", ".join(f"{count(n)} {kind}" for kind, n in facts.types.items())
    lines = [f"tokenizer          {model}", f"  tokens           {count(len(facts.tokens))}: {types}"]
    lines += [f"  padding          {count(facts.padding)} of them only fill up the embedding"] if facts.padding else []
    lines += [f"  merges           {count(facts.merges)}"] if facts.merges else []
    for word, token in facts.special.items():
        lines.append(f"  {word:<15}  {token.id}  {_quoted(token.text)}")
    adds = [f"{word}: {'yes' if added else 'no'}" for word, added in facts.adds.items()]
    lines += [f"  adds             {', '.join(adds)}"] if adds else []
    if facts.longest is not None:
        lines.append(f"  longest          {facts.longest.id}  {_quoted(facts.read(facts.longest))}")
    return "\n".join(lines)


def tokens_table(tokens: Sequence[Token], facts: TokenizerFacts) -> str:
    """Tokens, a line for each: as they are stored, and as they are read where that is another text."""
    scored = any(token.score is not None for token in tokens)
    rows = [["id", "type", *(["score"] if scored else []), "token", "read as"]]
    for token in tokens:
        score = [f"{token.score:g}" if token.score is not None else ""] if scored else []
        read = facts.read(token)
        rows.append(
            [str(token.id), token.kind, *score, _quoted(token.text), _quoted(read) if read != token.text else ""]
        )
    return table(rows, right=frozenset({0, 2} if scored else {0}), width=width())


def templates_text(templates: Mapping[str, str]) -> str:
    """Templates laid out to be read."""
    blocks = []
    for name, template in templates.items():
        lines = [printable(line, None) for line in laid_out(template).split("\n")]
        blocks.append("\n".join([bold(f"chat template {printable(name)}, {count(len(template))} characters"), *lines]))
    return "\n\n".join(blocks)


def _quoted(text: str) -> str:
    return printable(json.dumps(text, ensure_ascii=False))
