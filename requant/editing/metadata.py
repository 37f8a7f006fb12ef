"""Key-values of a GGUF with what a user changes about them. Keys stay in their places; new ones come last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.digits import whole
from requant.editing.roles import ROLES
from requant.editing.values import guessed_kind, of_json, typed_value
from requant.errors import PlanError
from requant.ir import Json, Typed
from requant.nearest import did_you_mean
from requant.patterns import Patience, PatternError, wildcard
from requant.printable import printable
from requant.recipes.key_kinds import kind_of

TOKENS: Final = "tokenizer.ggml.tokens"
TEMPLATE: Final = "tokenizer.chat_template"
#: Keys that only a writer of whole files can change, and what does.
_REFUSED: Final[Mapping[str, str]] = {
    "general.alignment": "the data lies by it: requant convert --override-kv general.alignment=int:N",
    "split.no": "requant split and requant join say it",
    "split.count": "requant split and requant join say it",
    "split.tensors.count": "requant split and requant join say it",
    "requant.room": "it is what --reserve leaves",
}
#: Ways in which llama.cpp stretches a rope by a factor.
_SCALINGS: Final = ("linear", "yarn")


@dataclass(frozen=True, slots=True)
class Edits:
    """What a user changes, as options have it: `KEY=VALUE`, `OLD=NEW`, `TYPE:FACTOR[:CONTEXT]`.

    documents: objects of JSON, key -> value. copied: key-values of another file. tokenizer: every `tokenizer.*` key of
    another model. tokens: role -> id, text, or "none".
    """

    sets: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    renames: tuple[str, ...] = ()
    documents: tuple[Mapping[str, Json], ...] = ()
    copied: Mapping[str, Typed] | None = None
    tokenizer: Mapping[str, Typed] | None = None
    template: str | None = None
    tokens: tuple[tuple[str, str], ...] = ()
    rope_scaling: str | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A key that is not as it was; None where it was not there, or is not."""

    key: str
    before: Typed | None
    after: Typed | None


def edited(metadata: Mapping[str, Typed], edits: Edits, read: Callable[[Path], str]) -> dict[str, Typed]:
    """The key-values after all edits. read: gives the text of a file.

    Renames and removals come first; then another tokenizer, and whole documents; then what single options set.
    Raises `PlanError` for what hits nothing, is set twice, or is no value of its key.
    """
    found = _renamed(metadata, edits.renames)
    for key in edits.deletes:
        if key not in found:
            raise PlanError(f"there is no key {printable(key)!r}", hint=did_you_mean(key, found, ""))
        _refuse(key)
        del found[key]
    if edits.tokenizer is not None:
        found = _with_tokenizer(found, edits.tokenizer)
    given: dict[str, Typed] = {}
    for document in edits.documents:
        _give(given, _of_document(document, found))
    _give(given, (edits.copied or {}).items())
    if edits.template is not None:
        _give(given, [(TEMPLATE, Typed("str", edits.template))])
    found |= given
    after = _architecture({**found, **_set(edits.sets, found, read, only="general.architecture")})
    if edits.rope_scaling is not None:
        scaled = rope_scaling(edits.rope_scaling, found, after)
        _give(given, scaled.items())
        found |= scaled
        if edits.rope_scaling == "none":
            found = _unscaled(found, after)
    _give(given, _set(edits.sets, found, read).items())
    found |= given
    for role, word in edits.tokens:
        found = _with_token(found, given, role, word)
    for key in edits.deletes:
        if key in found:
            raise PlanError(f"{key} is deleted, and set besides")
    return found


def changes(before: Mapping[str, Typed], after: Mapping[str, Typed]) -> list[Changed]:
    """What differs, in the order of the new keys; removed ones first."""
    gone = [Changed(key, typed, None) for key, typed in before.items() if key not in after]
    return gone + [Changed(key, before.get(key), typed) for key, typed in after.items() if before.get(key) != typed]


def assignment(text: str, option: str, example: str) -> tuple[str, str]:
    """`A=B` of an option, in its two halves."""
    left, equals, right = text.partition("=")
    if not equals or not left:
        raise PlanError(f"{option} {printable(text)!r} should be {example}")
    return left, right


def matching(metadata: Mapping[str, Typed], patterns: Iterable[str]) -> dict[str, Typed]:
    """The key-values whose key is one of `patterns` (`general.*`); each must hit one."""
    found: dict[str, Typed] = {}
    patience = Patience()
    for pattern in patterns:
        try:
            like = wildcard(pattern, patience)
            hits = {key: typed for key, typed in metadata.items() if like.matches_whole(key) and key not in _REFUSED}
        except PatternError as error:
            raise PlanError(f"--keys: {error}") from None
        if not hits:
            raise PlanError(f"no key is like {printable(pattern)!r}", hint=did_you_mean(pattern, metadata, ""))
        found |= hits
    return found


def tokenizer_of(metadata: Mapping[str, Typed]) -> dict[str, Typed]:
    """All that a GGUF says of its tokenizer; raises `PlanError` where it has none."""
    found = {key: typed for key, typed in metadata.items() if key.startswith("tokenizer.")}
    if TOKENS not in found:
        raise PlanError("the other model has no tokenizer")
    return found


def scaling_of(text: str, known: int | None) -> tuple[str, float, int] | None:
    """Type, factor and original context of `TYPE:FACTOR[:ORIGINAL_CONTEXT]`; None for `none`.

    known: the original context, where it is not said.
    """
    if text == "none":
        return None
    kind, _, rest = text.partition(":")
    factor, _, context = rest.partition(":")
    try:
        stretch = float(factor)
    except ValueError:
        stretch = 0.0
    if kind not in _SCALINGS or not 1 < stretch < 1e6 or (context and not whole(context)):
        raise PlanError(
            f"--rope-scaling {printable(text)!r} should be TYPE:FACTOR or TYPE:FACTOR:ORIGINAL_CONTEXT, or none",
            hint=f"such as yarn:4:32768; types are {' and '.join(_SCALINGS)}, the factor is above 1",
        )
    original = whole(context) if context else known
    if original is None or original * stretch >= 1 << 32:
        raise PlanError("--rope-scaling: the original context is not known, or too large", hint="such as yarn:4:32768")
    return kind, stretch, original


def rope_scaling(text: str, metadata: Mapping[str, Typed], architecture: str) -> dict[str, Typed]:
    """The keys of `TYPE:FACTOR[:ORIGINAL_CONTEXT]`; none for `none`, which takes them away.

    The context becomes FACTOR times the original one: what is said, else what the file says of it, else its context.
    """
    prefix, trained = f"{architecture}.rope.scaling.", f"{architecture}.context_length"
    known = metadata.get(f"{prefix}original_context_length", metadata.get(trained))
    scaled = scaling_of(text, known.value if known is not None and isinstance(known.value, int) else None)
    if scaled is None:
        return {}
    kind, factor, original = scaled
    return {
        f"{prefix}type": Typed("str", kind),
        f"{prefix}factor": Typed("f32", factor),
        f"{prefix}original_context_length": Typed("u32", original),
        trained: Typed("u32", int(original * factor)),
    }


def _unscaled(metadata: Mapping[str, Typed], architecture: str) -> dict[str, Typed]:
    prefix = f"{architecture}.rope.scaling."
    if not any(key.startswith(prefix) for key in metadata):
        raise PlanError(f"there is no {prefix}* to be taken away")
    found = {key: typed for key, typed in metadata.items() if not key.startswith(prefix)}
    original = metadata.get(f"{prefix}original_context_length")
    return found if original is None else {**found, f"{architecture}.context_length": original}


def _architecture(metadata: Mapping[str, Typed]) -> str:
    typed = metadata.get("general.architecture")
    return typed.value if typed is not None and isinstance(typed.value, str) else ""


def _refuse(key: str) -> None:
    if key in _REFUSED:
        raise PlanError(f"{key} is not edited", hint=_REFUSED[key])


def _give(given: dict[str, Typed], more: Iterable[tuple[str, Typed]]) -> None:
    for key, typed in more:
        _refuse(key)
        if given.setdefault(key, typed) != typed:
            raise PlanError(f"{key} is set twice, to different values")


def _renamed(metadata: Mapping[str, Typed], renames: Sequence[str]) -> dict[str, Typed]:
    """In their old places."""
    names: dict[str, str] = {}
    for text in renames:
        old, new = assignment(text, "--rename", "OLD=NEW")
        if old not in metadata:
            raise PlanError(f"there is no key {printable(old)!r}", hint=did_you_mean(old, metadata, ""))
        if names.setdefault(old, new) != new:
            raise PlanError(f"{old} is renamed twice")
        _refuse(old)
        _refuse(new)
    found: dict[str, Typed] = {}
    for key, typed in metadata.items():
        name = names.get(key, key)
        if name in found or (name != key and name in metadata and name not in names):
            raise PlanError(f"there is a key {printable(name)!r} already", hint="choose another name")
        found[name] = typed
    return found


def _with_tokenizer(metadata: Mapping[str, Typed], tokenizer: Mapping[str, Typed]) -> dict[str, Typed]:
    """Where the old one was, if there was one."""
    found: dict[str, Typed] = {}
    placed = False
    for key, typed in metadata.items():
        if not key.startswith("tokenizer."):
            found[key] = typed
        elif not placed:
            found |= tokenizer
            placed = True
    return found if placed else found | dict(tokenizer)


def _of_document(document: Mapping[str, Json], metadata: Mapping[str, Typed]) -> list[tuple[str, Typed]]:
    architecture = _architecture(metadata)
    found = []
    for key, value in document.items():
        current = metadata[key].kind if key in metadata else None
        kind = kind_of(key, architecture) or current or guessed_kind(value)
        if isinstance(value, list) and current and current.startswith("["):
            kind = current
        if kind is None:
            raise PlanError(f"{printable(key)}: a GGUF has no type for this value")
        found.append((key, of_json(key, value, kind)))
    return found


def _set(
    sets: Sequence[str], metadata: Mapping[str, Typed], read: Callable[[Path], str], only: str = ""
) -> dict[str, Typed]:
    """What each `KEY=VALUE` sets. only: of one key."""
    pairs = [assignment(text, "--set", "KEY=VALUE") for text in sets]
    architecture = _architecture(metadata)
    found: dict[str, Typed] = {}
    for key, text in pairs:
        if not only or key == only:
            _give(found, [(key, typed_value(key, text, metadata, architecture, read))])
    return found


def _with_token(metadata: Mapping[str, Typed], given: dict[str, Typed], role: str, word: str) -> dict[str, Typed]:
    """A token by its id, or by its text; "none" takes the key away."""
    key = ROLES[role]
    if word == "none":
        if key not in metadata:
            raise PlanError(f"--{role} none: there is no {key}")
        if key in given:
            raise PlanError(f"{key} is deleted, and set besides")
        return {name: typed for name, typed in metadata.items() if name != key}
    number = whole(word)
    if number is None:
        typed = metadata.get(TOKENS)
        tokens = typed.value if typed is not None and isinstance(typed.value, Sequence) else ()
        try:
            number = tokens.index(word)
        except ValueError:
            raise PlanError(
                f"--{role}: no token is {printable(word)!r}", hint="give its text as the vocabulary has it, or its id"
            ) from None
    _give(given, [(key, Typed("u32", number))])
    return {**metadata, key: Typed("u32", number)}
