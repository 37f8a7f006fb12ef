"""What a recipe says of the tokenizer of the result, and of the rows of single tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from requant.merging.entry import Entry
from requant.merging.reference import Reference

UNION: Final = "union"
BASE: Final = "base"


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Where the row of a token comes from.

    model: of which model; None and `zero` false: as if there were no rule. token, index: which token of it, if another.
    force: models that have the token get this row as well.
    """

    model: Reference | None
    zero: bool
    force: bool
    token: str | None
    index: int | None
    entry: Entry


@dataclass(frozen=True, slots=True)
class TokenizerRules:
    """source: `union`, `base`, or a model whose tokenizer is taken. tokens: rules by text. multiple: rows are padded to
    a multiple of it."""

    source: str | Reference
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    multiple: int | None = None

    def references(self) -> Iterator[Reference]:
        """Models that are named."""
        if isinstance(self.source, Reference):
            yield self.source
        for rule in self.tokens.values():
            if rule.model is not None:
                yield rule.model


def rules_of(tokenizer: Entry | None, source: Entry | None) -> TokenizerRules | None:
    """The keys `tokenizer` and `tokenizer_source`, of which one may be there."""
    if tokenizer is not None and source is not None:
        raise source.wrong("cannot stand beside tokenizer", "the source is said inside tokenizer")
    if source is not None:
        return TokenizerRules(_source(source))
    if tokenizer is None:
        return None
    members = tokenizer.members(("source", "tokens", "pad_to_multiple_of"))
    rules = {text: _rule(rule) for text, rule in members["tokens"].named()} if "tokens" in members else {}
    multiple = members["pad_to_multiple_of"].integer() if "pad_to_multiple_of" in members else None
    if multiple == 0:
        raise members["pad_to_multiple_of"].expected("1 or more")
    return TokenizerRules(_source(members["source"]) if "source" in members else UNION, rules, multiple)


def _source(entry: Entry) -> str | Reference:
    return entry.value if entry.value in (UNION, BASE) else Reference.of(entry)


def _rule(entry: Entry) -> TokenRule:
    members = entry.members(("source", "force"))
    force = members["force"].flag() if "force" in members else False
    if "source" not in members:
        return TokenRule(None, False, force, None, None, entry)
    source = members["source"]
    if not isinstance(source.value, dict) or source.value.get("kind") is None:
        return TokenRule(Reference.of(source), False, force, None, None, entry)
    inside = source.members(("kind", "model", "token_id", "token"))
    kind = inside["kind"].text()
    if kind == "zero":
        return TokenRule(None, True, force, None, None, entry)
    if kind != "model_token":
        raise inside["kind"].unknown(kind, ["zero", "model_token"], "no kind of source is called")
    if "model" not in inside or ("token" in inside) == ("token_id" in inside):
        raise source.wrong("needs model, and one of token and token_id")
    index = inside["token_id"].integer() if "token_id" in inside else None
    token = inside["token"].text() if "token" in inside else None
    return TokenRule(Reference.of(inside["model"]), False, force, token, index, entry)
