"""The JSON files of a Hugging Face folder with what a user changes about them. Keys stay in their places."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.digits import whole
from requant.editing.metadata import assignment
from requant.editing.values import text_of
from requant.errors import FormatError, PlanError
from requant.ir import Json
from requant.json_values import parse_json
from requant.nearest import did_you_mean
from requant.printable import printable

CONFIG: Final = "config"
GENERATION: Final = "generation_config"
TOKENIZER: Final = "tokenizer_config"
#: Files that options may change: what stands before the first dot of a key.
FILES: Final = (CONFIG, GENERATION, TOKENIZER, "preprocessor_config", "processor_config", "special_tokens_map")
#: Types that a value may be given as, and what they take.
_TYPES: Final = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True, slots=True)
class Changed:
    """A value that is not as it was; None where it was not there, or is not. key: with its file."""

    key: str
    before: Json
    after: Json


class Documents:
    """The JSON objects of a folder, by file; changed ones are remembered."""

    def __init__(self, texts: Mapping[str, bytes], folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, dict[str, Json]] = {
            name: parse_json(data, folder / f"{name}.json").object() for name, data in texts.items()
        }
        self._before = deepcopy(self.found)

    def set(self, key: str, value: Json) -> None:
        """Have a value under a dotted key; objects on the way that are not there are made."""
        place, last = self._place(key, make=True)
        place[last] = value

    def get(self, key: str) -> Json:
        """The value under a dotted key; None where there is none."""
        value: Json = dict(self.found)
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def has(self, key: str) -> bool:
        """Whether there is such a key; not, where what it would lie in is no object, or gone."""
        try:
            place, last = self._place(key)
        except PlanError:
            return False
        return last in place

    def delete(self, key: str) -> None:
        """Raises `PlanError` for a key that is not there."""
        place, last = self._place(key)
        if last not in place:
            raise PlanError(f"there is no key {printable(key)!r}", hint=did_you_mean(last, place, ""))
        del place[last]

    def rename(self, old: str, new: str) -> None:
        """In its place, where both are in one object."""
        place, last = self._place(old)
        other, name = self._place(new, make=True)
        if last not in place:
            raise PlanError(f"there is no key {printable(old)!r}", hint=did_you_mean(last, place, ""))
        if name in other:
            raise PlanError(f"there is a key {printable(new)!r} already", hint="choose another name")
        if place is not other:
            other[name] = place.pop(last)
            return
        pairs = [(name if key == last else key, value) for key, value in place.items()]
        place.clear()
        place.update(pairs)

    def changed(self) -> dict[str, bytes]:
        """The files that differ, as transformers writes them."""
        return {
            f"{name}.json": (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
            for name, value in self.found.items()
            if name not in self._before or _differences(name, self._before[name], value)
        }

    def changes(self) -> list[Changed]:
        """What differs, value by value of each file."""
        return [
            one for name, value in self.found.items() for one in _differences(name, self._before.get(name, {}), value)
        ]

    def _place(self, key: str, *, make: bool = False) -> tuple[dict[str, Json], str]:
        """The object that a dotted key is in, and its last part."""
        file, dot, rest = key.partition(".")
        if file not in FILES or not dot or not rest:
            raise PlanError(
                f"{printable(key)!r} should begin with its file", hint=f"such as config.rope_theta; {', '.join(FILES)}"
            )
        if file not in self.found:
            if not make:
                raise PlanError(f"{self.folder / file}.json: there is no such file")
            self.found[file] = {}
        place = self.found[file]
        *way, last = rest.split(".")
        for part in way:
            inner = place.get(part)
            if inner is None and make:
                inner = place[part] = {}
            if not isinstance(inner, dict):
                raise PlanError(f"{printable(key)!r}: {printable(part)} is no object")
            place = inner
        return place, last


def _differences(key: str, before: dict[str, Json], after: dict[str, Json]) -> list[Changed]:
    found: list[Changed] = []
    for name in (*(name for name in before if name not in after), *after):
        old, new, where = before.get(name), after.get(name), f"{key}.{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(where, old, new)
        elif (name in before) != (name in after) or old != new or type(old) is not type(new):
            found.append(Changed(where, old, new))
    return found


def value_of(key: str, text: str, current: Json, read: Callable[[Path], str]) -> Json:
    """What `KEY=text` sets: of the kind that is there, as JSON where nothing is, or `TYPE:value`."""
    word, colon, rest = text.partition(":")
    if colon and word == "json":
        return _json(key, text_of(rest, read))
    if colon and word in _TYPES:
        return _typed(key, word, rest, read)
    if isinstance(current, str):
        return text_of(text, read)
    if isinstance(current, bool):
        return _typed(key, "bool", text, read)
    if isinstance(current, int | float):
        found = _json(key, text)
        if isinstance(found, bool) or not isinstance(found, int | float | None):
            raise PlanError(f"{key} is a number; {printable(text, 60)!r} is none", hint=f"{key}=json:… sets anything")
        return found
    if isinstance(current, dict | list):
        return _json(key, text_of(text, read))
    try:
        return _json(key, text)
    except PlanError:
        return text_of(text, read)


def _typed(key: str, word: str, text: str, read: Callable[[Path], str]) -> Json:
    if word == "str":
        return text_of(text, read)
    value = _json(key, text.strip().lower() if word == "bool" else text)
    fits = isinstance(value, bool) if word == "bool" else isinstance(value, int) and not isinstance(value, bool)
    if word == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise PlanError(f"{key}: {printable(text, 60)!r} is no {word}")
    return value


def _json(key: str, text: str) -> Json:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"), Path(key)).value
    except FormatError as error:
        raise PlanError(f"{key}: {printable(text, 60)!r} is no JSON", hint="a text is str:…") from error


def edit_documents(
    documents: Documents,
    sets: Sequence[str],
    deletes: Sequence[str],
    renames: Sequence[str],
    read: Callable[[Path], str],
) -> None:
    """Renames and removals first, then what is set."""
    for text in renames:
        documents.rename(*assignment(text, "--rename", "OLD=NEW"))
    for key in deletes:
        documents.delete(key)
    given: dict[str, str] = {}
    for text in sets:
        key, value = assignment(text, "--set", "FILE.KEY=VALUE, such as config.rope_theta=1000000")
        if given.setdefault(key, value) != value:
            raise PlanError(f"{key} is set twice, to different values")
        documents.set(key, value_of(key, value, documents.get(key), read))


def set_token(documents: Documents, role: str, word: str, tokens: Sequence[str]) -> None:
    """A special token, by its id or its text: ids in config.json and generation_config.json, the text beside them."""
    key = f"{role}_token_id"
    if word == "none":
        for file in (CONFIG, GENERATION):
            if file in documents.found and documents.has(f"{file}.{key}"):
                documents.set(f"{file}.{key}", None)
        if TOKENIZER in documents.found:
            documents.set(f"{TOKENIZER}.{role}_token", None)
        return
    number = whole(word)
    if number is None:
        if word not in tokens:
            raise PlanError(f"--{role}: no token is {printable(word)!r}", hint="give its text, or its id")
        number = tokens.index(word)
    if number >= len(tokens):
        raise PlanError(f"--{role}: there is no token {number}; the vocabulary has {len(tokens)}")
    if CONFIG in documents.found:
        documents.set(f"{CONFIG}.{key}", number)
    if GENERATION in documents.found:
        documents.set(f"{GENERATION}.{key}", number)
    documents.set(f"{TOKENIZER}.{role}_token", tokens[number])


def scale_rope(documents: Documents, text: str) -> None:
    """`TYPE:FACTOR[:ORIGINAL_CONTEXT]` or `none`, as transformers reads it; the context grows by the factor."""
    from requant.editing.metadata import scaling_of

    config = documents.found.get(CONFIG, {})
    place = "rope_parameters" if isinstance(config.get("rope_parameters"), dict) else "rope_scaling"
    there = config.get(place)
    old = there if isinstance(there, dict) else {}
    known = old.get("original_max_position_embeddings", config.get("max_position_embeddings"))
    kept = {key: value for key, value in old.items() if key in ("rope_theta", "partial_rotary_factor")}
    scaled = scaling_of(text, known if isinstance(known, int) else None)
    if scaled is None:
        if not old or old.get("rope_type", old.get("type")) in (None, "default"):
            raise PlanError(f"config.json: there is no {place} to be taken away")
        documents.set(f"{CONFIG}.{place}", {**kept, "rope_type": "default"} if kept else None)
        factor = old.get("factor")
        if "original_max_position_embeddings" not in old and isinstance(known, int) and isinstance(factor, int | float):
            known = round(known / factor) if factor > 1 else known
        if isinstance(known, int):
            documents.set(f"{CONFIG}.max_position_embeddings", known)
        return
    kind, stretch, original = scaled
    value: dict[str, Json] = {**kept, "rope_type": kind, "factor": stretch}
    if kind == "yarn":
        value["original_max_position_embeddings"] = original
    documents.set(f"{CONFIG}.{place}", value)
    documents.set(f"{CONFIG}.max_position_embeddings", int(original * stretch))
