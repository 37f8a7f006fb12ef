"""What is known of a key of a quantization config: heeded, irrelevant to values with a reason, or right for some words.

A key that no table knows may change what the stored numbers mean (a rotation, another element format), so it stops the
reading. Tables are written from the libraries' own sources, so that no real checkpoint is stopped by a harmless key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from requant.ir import Json

#: Longest value that a message shows.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Of the fields one counts; with none of them the key is heeded by a fold, whatever its value.

    idle: why no value of it changes what the weights are. words: the values that are understood, in lower case, beside
    absence; refused: what any other one means. keys: those of the object inside. each: those of every object in it.
    """

    idle: str = ""
    words: frozenset[Json] | None = None
    refused: str = ""
    keys: Mapping[str, Key] | None = None
    each: Mapping[str, Key] | None = None


@dataclass(frozen=True, slots=True)
class Scheme:
    """The keys of one library's quantization config.

    name: as messages have it. source: where the keys are from. methods: what `quant_method` says. others: what holds
    for keys that are names of modules (MLX); None where there are none. library: what can dequantize such a model.
    """

    name: str
    source: str
    methods: tuple[str, ...]
    keys: Mapping[str, Key]
    others: Key | None = None
    library: str = "the library that wrote it"


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A key that stops the reading. path: its name, with those of the objects around it; why: what is wrong with it."""

    path: str
    value: Json
    why: str
    known: bool = field(default=False)

    @property
    def said(self) -> str:
        """The key and its value, as short as can be."""
        text = repr(self.value)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        return f"{self.path} = {shown}"


HEEDED = Key()


def idle(why: str, *names: str) -> dict[str, Key]:
    """Keys that change no value, for one reason."""
    return dict.fromkeys(names, Key(idle=why))


def heeded(*names: str) -> dict[str, Key]:
    """Keys that a fold reads, or that the arrays themselves answer better."""
    return dict.fromkeys(names, HEEDED)


def only(words: str, refused: str) -> Key:
    """A key whose understood values are these words, separated by spaces."""
    return Key(words=frozenset(words.split()), refused=refused)


def off(why: str, *names: str) -> dict[str, Key]:
    """Keys that must be absent, null, false or empty: anything else changes what the weights are."""
    return dict.fromkeys(names, Key(words=frozenset(), refused=why))


def unclaimed(config: Mapping[str, Json], scheme: Scheme) -> Iterator[Unclaimed]:
    """Every key, at any depth, that stops the reading."""
    yield from _walk(config, scheme.keys, scheme.others, "")


def _walk(config: Mapping[str, Json], keys: Mapping[str, Key], others: Key | None, inside: str) -> Iterator[Unclaimed]:
    for name, value in config.items():
        path, key = f"{inside}{name}", keys.get(name)
        if key is None and others is not None and _names_a_module(value):
            key = others
        if key is None:
            yield Unclaimed(path, value, "is a key that is not known here")
        elif key.words is not None:
            if not _is_one_of(value, key.words):
                yield Unclaimed(path, value, key.refused, known=True)
        elif key.keys is not None:
            for label, item in _objects(value):
                yield from _walk(item, key.keys, None, f"{path}{label}.")
        elif key.each is not None:
            for label, item in _objects(value, apart=True):
                yield from _walk(item, key.each, None, f"{path}{label}.")


def _names_a_module(value: Json) -> bool:
    return isinstance(value, dict | bool)


def _objects(value: Json, *, apart: bool = False) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """(what its path ends with, object): the value, each item of a list, or (apart) each value if all are objects."""
    if isinstance(value, list):
        yield from ((f"[{place}]", item) for place, item in enumerate(value) if isinstance(item, dict))
    elif isinstance(value, dict) and apart and all(isinstance(item, dict) for item in value.values()):
        yield from ((f".{label}", item) for label, item in value.items() if isinstance(item, dict))
    elif isinstance(value, dict):
        yield "", value


def _is_one_of(value: Json, words: frozenset[Json]) -> bool:
    if value is None or value is False or value in ("", [], {}):
        return True
    return isinstance(value, str) and value.lower().removeprefix("torch.") in words
