"""Configurations and metadata beside each other, key by key, by what they mean and not by how they are spelled.

Of a folder, config.json's keys count by the family's table: a key that is missing means the default, one by an older
name means the same. What one side's format has no key for is told apart from what differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from requant.architectures import meaning_of
from requant.architectures.general import SAMPLING, json_file
from requant.architectures.numbers import shortest
from requant.architectures.rules import Family
from requant.architectures.spellings import one_spelling
from requant.architectures.values import filled_in, plain_values
from requant.comparing.words import Pair, Said, Words
from requant.errors import Error
from requant.ir import QUANTIZATION_FILES, Checkpoint, Json, Naming, Tensor, Typed, flat_config, text_config


class Status(Enum):
    """How a key, a tensor or a file stands on both sides; the last two are no difference: the other has no place."""

    DIFFERS = "differs"
    ONLY_A = "only a"
    ONLY_B = "only b"
    HELD_BY_A = "only a can hold it"
    HELD_BY_B = "only b can hold it"

    @property
    def is_difference(self) -> bool:
        """Whether the models differ by it."""
        return self not in (Status.HELD_BY_A, Status.HELD_BY_B)


@dataclass(frozen=True, slots=True)
class Setting:
    """A key that is not the same on both sides.

    about: `model` (what is computed), `general`, `tokenizer`, `storage` (how tensors are stored) or `file` (who wrote
    it, which is no difference of models). a, b: its values; None where there is none. detail: why, if it must be said.
    """

    key: str
    about: str
    status: Status
    a: Json = None
    b: Json = None
    detail: str = ""

    @property
    def is_difference(self) -> bool:
        """Whether the models differ by it."""
        return self.status.is_difference and self.about != "file"

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "key": self.key,
            "about": self.about,
            "status": self.status.value,
            "a": self.a,
            "b": self.b,
            "detail": self.detail,
        }


#: Items of a list that are carried along; of a longer one only the number.
_LONGEST: Final = 4096
#: Keys that say how tensors are stored, not what they are.
_STORAGE: Final = re.compile(
    r"general\.(?:file_type|quantization_version|alignment)|split\..*|quantize\..*"
    r"|(?:dtype|torch_dtype|quantization_config|compression_config|quantization)(?:\..*)?"
)
#: Keys that say who wrote a file and where.
_OF_THE_FILE: Final = re.compile(r"transformers_version|_name_or_path|_commit_hash|__metadata__\..*")
#: What a converter guesses from the names of folders, and no folder says.
_GUESSED: Final = frozenset(
    f"general.{name}"
    for name in ("name", "basename", "finetune", "size_label", "organization", "version", "author", "type")
)
#: Keys of config.json that families read besides the lines of their tables.
_READ: Final = frozenset(
    {
        *("architectures", "model_type", "auto_map", "text_config", "vision_config", "vocab_size"),
        *("tie_word_embeddings", "rope_scaling", "rope_parameters", "rope_theta", "layer_types", "head_dim"),
        *("original_max_position_embeddings", "max_position_embeddings", "sliding_window", "is_causal"),
        *("num_attention_heads", "num_key_value_heads", "hidden_size", "partial_rotary_factor", "rope_local_base_freq"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"),
        *("num_labels", "id2label", "label2id"),
    }
)


def compared_settings(pair: Pair) -> list[Setting]:
    """What the two say differently of themselves, tokenizers apart; in the order in which A says it."""
    if pair.words is Words.STORED:
        return []
    if pair.words is Words.HF:
        return [*_configs(pair.a, pair.b), *_generation(pair.a, pair.b)]
    return list(_metadata(pair.a, pair.b))


# Metadata of GGUFs


def _metadata(a: Said, b: Said) -> Iterator[Setting]:
    """Two models in words of GGUF."""
    same = a.source.naming is b.source.naming
    ours, theirs = _keys(a), _keys(b)
    prefix = _prefix(a) if _prefix(a) == _prefix(b) else "{architecture}."
    implied_a, implied_b = _implied(a, theirs), _implied(b, ours)
    for key in dict.fromkeys((*ours, *theirs)):
        said = key.replace("\0", prefix)
        one, other = ours.get(key), theirs.get(key)
        if one is None and key in implied_a:
            one = implied_a[key]
        if other is None and key in implied_b:
            other = implied_b[key]
        found = compared_key(said, one, other, kinds=same)
        if found is not None and not same:
            found = _between(found, a)
        if found is not None and not (same and a.translated and key in _GUESSED):
            yield found
    if not same:
        yield from _beyond_the_table(a, Status.HELD_BY_A)
        yield from _beyond_the_table(b, Status.HELD_BY_B)


def _prefix(said: Said) -> str:
    typed = said.metadata.get("general.architecture")
    return f"{typed.value if typed is not None else said.source.architecture}."


def _keys(said: Said) -> dict[str, Typed]:
    """Metadata without the tokenizer's, the architecture's name taken off its keys (NUL stands for it)."""
    prefix = _prefix(said)
    return {
        "\0" + key[len(prefix) :] if key.startswith(prefix) else key: typed
        for key, typed in said.metadata.items()
        if not key.startswith("tokenizer.")
    }


def _implied(said: Said, wanted: Mapping[str, Typed]) -> dict[str, Typed]:
    """What llama.cpp takes for keys that are not there, of the other side's kinds."""
    if said.family is None:
        return {}
    prefix, family = _prefix(said), said.family
    known = filled_in(family, plain_values(family, said.metadata))
    embedding = said.moves.get(family.embedding)
    if embedding is not None:  # llama.cpp counts the tokens, or, without any, believes the key
        known["vocab_size"] = known.get("vocab_size") or embedding.shape[0]
    found = {}
    for key, value in known.items():
        full = family.full_key(key)
        own = "\0" + full[len(prefix) :] if full.startswith(prefix) else full
        if own in wanted and value is not None and not isinstance(value, dict):
            found[own] = Typed(wanted[own].kind, value)
    return found


def compared_key(key: str, one: Typed | None, other: Typed | None, *, kinds: bool) -> Setting | None:
    """What differs in a key of metadata, if anything does. kinds: whether another type is a difference by itself."""
    about = about_of(key)
    if one is None or other is None:
        there = other if one is None else one
        assert there is not None
        value = plain(there.value)
        if one is None:
            return Setting(key, about, Status.ONLY_B, None, value)
        return Setting(key, about, Status.ONLY_A, value, None)
    if not same_value(one, other):
        return Setting(key, about, Status.DIFFERS, plain(one.value), plain(other.value))
    if kinds and one.kind != other.kind:
        return Setting(
            key,
            about,
            Status.DIFFERS,
            plain(one.value),
            plain(other.value),
            f"stored as {one.kind} and as {other.kind}",
        )
    return None


def _between(found: Setting, a: Said) -> Setting | None:
    """A row of a folder beside a GGUF: what only the GGUF can say is no difference; None for what nobody says."""
    gguf, alone = (Status.HELD_BY_B, Status.ONLY_B) if a.translated else (Status.HELD_BY_A, Status.ONLY_A)
    no_place = found.about == "storage" or (found.about == "general" and found.status is alone)
    if not no_place and found.key not in _GUESSED:
        return found
    value = found.b if a.translated else found.a
    return None if value is None else _held(found.key, value, gguf)


def _beyond_the_table(said: Said, status: Status) -> Iterator[Setting]:
    """Keys of a folder's config.json that no line of its family's table reads, and what a translation drops."""
    if not said.translated or said.source.naming is not Naming.HF or said.family is None:
        return
    known = {name for key in said.family.keys for name in key.hf} | {item.hf for item in said.family.assumptions}
    known |= {*said.family.flags, *_READ}
    config = one_spelling(flat_config(said.source.config))
    values = {key: value for key, value in config.items() if key not in known and value is not None}
    reasons = {loss.subject: loss.detail for loss in said.dropped}
    silent = _silent(said.source, values)
    for key, value in values.items():
        if key in silent and not isinstance(value, dict):
            yield _held(key, plain(value), status, reasons.pop(key, ""))
    for key, reason in reasons.items():
        yield _held(key, said.source.config.get(key), status, reason)


def _silent(source: Checkpoint[Tensor], keys: Iterable[str]) -> set[str]:
    """Those of some keys of config.json without which a model would be the same: families read more than their tables
    have lines for."""
    tied = flat_config(source.config).get("tie_word_embeddings") is True  # a copy of the embedding need not be read
    tensors = tuple(one for one in source.tensors if not (tied and one.name.endswith("lm_head.weight")))
    source = replace(source, tensors=tensors)
    try:
        meaning = meaning_of(source)
    except Error:
        return set()

    def is_silent(left_out: set[str]) -> bool:
        try:
            return meaning_of(replace(source, config=_without(source.config, left_out))) == meaning
        except Error:
            return False

    wanted = set(keys)
    return wanted if is_silent(wanted) else {key for key in wanted if is_silent({key})}


def _without(config: Mapping[str, Json], keys: set[str]) -> dict[str, Json]:
    """config.json without some of its keys, or those of its text model."""
    left = {key: value for key, value in config.items() if key not in keys}
    text = text_config(config)
    return {
        key: _without(value, keys) if isinstance(value, dict) and value is text else value
        for key, value in left.items()
    }


def _held(key: str, value: Json, status: Status, reason: str = "") -> Setting:
    one, other = (value, None) if status is Status.HELD_BY_A else (None, value)
    return Setting(key, about_of(key), status, one, other, reason)


def about_of(key: str) -> str:
    """What a key is about, as `Setting` has it."""
    if _STORAGE.fullmatch(key):
        return "storage"
    if _OF_THE_FILE.fullmatch(key):
        return "file"
    return key.partition(".")[0] if key.startswith(("general.", "tokenizer.")) else "model"


def same_value(one: Typed, other: Typed) -> bool:
    """Whether two values are the same, numbers as exact as the less exact of both is stored."""
    if _items(one) is None or _items(other) is None:
        return _same(one.value, other.value, "f32" in (one.kind, other.kind))
    if one.kind == other.kind and one.value == other.value:
        return True
    pairs = (_items(one) or [], _items(other) or [])
    single = "f32" in one.kind or "f32" in other.kind
    return len(pairs[0]) == len(pairs[1]) and all(_same(x, y, single) for x, y in zip(*pairs, strict=True))


def _items(typed: Typed) -> Sequence[object] | None:
    return typed.value if isinstance(typed.value, Sequence) and not isinstance(typed.value, str) else None


def _same(one: object, other: object, single: bool = False) -> bool:
    """Numbers by their size, whatever their type; NaN is NaN; true is no number."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(x, y, single) for x, y in zip(one, other, strict=True))
    if isinstance(one, float) or isinstance(other, float):
        if not isinstance(one, int | float) or not isinstance(other, int | float):
            return False
        return one == other or (one != one and other != other) or (single and _shortest(one) == _shortest(other))
    return one == other


def _shortest(value: float) -> float:
    return shortest(value) if abs(value) < 1e38 else value


def plain(value: object) -> Json:
    """A value as JSON has it; a list too long to look at is only counted."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    assert isinstance(value, Sequence)
    return [plain(item) for item in value] if len(value) <= _LONGEST else f"{len(value):,} items"


# Configurations of folders


def _configs(a: Said, b: Said) -> Iterator[Setting]:
    """config.json of two folders."""
    known = a.family is not None and b.family is not None  # else the defaults of one would be differences
    ours, theirs = (canonical(said.config, said.family if known else None) for said in (a, b))
    rows = list(_json_rows(ours, theirs))
    if rows and a.family is not None and a.family == b.family and _mean_the_same(a, b):
        rows = [row for row in rows if not _is_of_the_table(row.key, a.family)]
    bare = [not said.translated and not said.source.config for said in (a, b)]
    if bare[0] is not bare[1]:  # a file of tensors alone says nothing of them
        status = Status.HELD_BY_B if bare[0] else Status.HELD_BY_A
        rows = [replace(row, status=status) for row in rows]
    yield from rows
    if a.source.naming is b.source.naming:
        metadata = [{f"__metadata__.{key}": one.value for key, one in said.metadata.items()} for said in (a, b)]
        yield from _json_rows(*metadata)


def canonical(config: Mapping[str, Json], family: Family | None) -> dict[str, Json]:
    """config.json under one name for each meaning, defaults of the family's table filled in; nested keys with dots.

    >>> sorted(canonical({"torch_dtype": "float16", "rope_scaling": None, "vision_config": {"depth": 2}}, None).items())
    [('dtype', 'float16'), ('vision_config.depth', 2)]
    """
    found = one_spelling(flat_config(config))
    for key in family.keys if family is not None else ():
        if not key.hf:
            continue
        value = next((found[name] for name in key.hf if found.get(name) is not None), None)
        for name in key.hf[1:]:
            found.pop(name, None)
        if value is None and key.default is not None:
            value = _default(key.default, found)
        found[key.hf[0]] = value
    for name, absent in _absent(family):
        if found.get(name) is None:
            found[name] = absent
    for place in ("text_config", "llm_config", "lm_config", "language_config"):
        found.pop(place, None)  # it is at the top now
    return dict(_flattened("", found))


def _absent(family: Family | None) -> Iterator[tuple[str, Json]]:
    """What it means where a key is missing, of those that are no hyperparameters."""
    if family is not None:
        yield from ((item.hf, item.default) for item in family.assumptions)
        yield from family.flags.items()


def _default(default: Callable[[Mapping[str, Json]], Json], config: Mapping[str, Json]) -> Json:
    """None where a default needs what is not there."""
    try:
        return default(config)
    except (Error, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _flattened(prefix: str, config: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flattened(f"{prefix}{key}.", value)
        elif value is not None:
            yield f"{prefix}{key}", value


def _json_rows(ours: Mapping[str, object], theirs: Mapping[str, object]) -> Iterator[Setting]:
    for key in dict.fromkeys((*ours, *theirs)):
        one, other = plain(ours.get(key)), plain(theirs.get(key))
        if one is None or other is None:
            yield Setting(key, about_of(key), Status.ONLY_B if one is None else Status.ONLY_A, one, other)
        elif not _same(one, other):
            yield Setting(key, about_of(key), Status.DIFFERS, one, other)


def _mean_the_same(a: Said, b: Said) -> bool:
    """Whether both configurations become the same hyperparameters, however they are spelled."""
    try:
        return meaning_of(a.source) == meaning_of(b.source)
    except Error:
        return False


def _is_of_the_table(key: str, family: Family) -> bool:
    """Whether the family's hyperparameters say all that the key means."""
    name = key.partition(".")[0]
    own = {"architectures", "model_type", "auto_map", "tie_word_embeddings", "vocab_size"}
    known = {name for one in family.keys for name in one.hf} | (_READ - own)
    return name in known and not name.endswith("_token_id") and name not in ("num_labels", "id2label", "label2id")


def _generation(a: Said, b: Said) -> Iterator[Setting]:
    """generation_config.json of two folders: how a model likes to be sampled."""
    found = []
    for said in (a, b):
        document = json_file(said.source, "generation_config.json") if not said.translated else None
        found.append(dict(_flattened("generation_config.json: ", document)) if isinstance(document, dict) else {})
    if a.translated is not b.translated:
        sampling = {f"generation_config.json: {hf}" for hf, _, _ in SAMPLING}
        found = [{key: value for key, value in one.items() if key in sampling} for one in found]
    for row in _json_rows(*found):
        about = "file" if row.key.endswith(": transformers_version") else "general"
        yield Setting(row.key, about, row.status, row.a, row.b)


#: Files that are compared by what they say, or that only say how tensors are stored.
SAID_ELSEWHERE: Final = frozenset({"generation_config.json", "model.safetensors.index.json", *QUANTIZATION_FILES})
