"""Hyperparameters by a family's tables: config.json to GGUF keys and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from requant.architectures.numbers import shortest, shown
from requant.architectures.rules import Assumption, Config, Family
from requant.errors import PlanError
from requant.ir import Json, Typed
from requant.losses import Loss, LossKind

#: Largest value of each unsigned kind.
_UNSIGNED = {"u8": (1 << 8) - 1, "u16": (1 << 16) - 1, "u32": (1 << 32) - 1, "u64": (1 << 64) - 1}


def to_ggml(family: Family, config: Config) -> tuple[dict[str, Json], dict[str, Typed]]:
    """The settings with every default filled in, and the GGUF keys without prefix."""
    settings: dict[str, Json] = dict(config)
    values: dict[str, Typed] = {}
    for key in family.keys:
        value = next((config[name] for name in key.hf if config.get(name) is not None), None)
        if value is None and key.default is not None:
            value = key.default(settings)
        elif value is None:
            raise PlanError(f"config.json: {key.hf[0]!r} is missing")
        if key.hf:
            settings[key.hf[0]] = value
        if value is not None:
            kind = _kind(key.kind, value)
            values[key.ggml] = Typed(kind, checked(value, kind, f"config.json: {(key.hf or (key.ggml,))[0]}"))
    return settings, values


def to_hf(family: Family, values: Config) -> tuple[dict[str, Json], dict[str, Json]]:
    """config.json's hyperparameters, and the GGUF keys with every default filled in."""
    known: dict[str, Json] = dict(values)
    config: dict[str, Json] = {}
    for key in family.keys:
        value, implied = values.get(key.ggml), key.implied(known) if key.implied is not None else None
        if value is None:
            value = implied
        if value is None and key.implied is None and key.hf:
            raise PlanError(f"metadata: {family.full_key(key.ggml)!r} is missing")
        if value is None:
            continue
        value = checked(value, _kind(key.kind, value), f"metadata: {family.full_key(key.ggml)}")
        known[key.ggml] = value
        if key.hf:
            config[key.hf[0]] = shortest(float(value)) if isinstance(value, float) else plain(value)
        elif implied is not None and value != checked(implied, key.kind, key.ggml):
            raise PlanError(f"metadata: {family.full_key(key.ggml)!r} is {value}, {implied} is expected")
    return config, known


def filled_in(family: Family, values: Config) -> dict[str, Json]:
    """GGUF keys without prefix, with what llama.cpp takes for those that are missing, as far as that is known."""
    known: dict[str, Json] = dict(values)
    for key in family.keys:
        if known.get(key.ggml) is None and key.implied is not None:
            try:
                known[key.ggml] = key.implied(known)
            except (PlanError, KeyError, TypeError, ValueError, ZeroDivisionError):
                continue  # it follows from keys that are not there either
    return known


def assumptions_hold(
    assumptions: Iterable[Assumption],
    config: Config,
    whose: str,
    made: str,
    *,
    where: Callable[[str], str] = "config.json: {}".format,
    quoted: Callable[[object], str] = repr,
) -> list[Loss]:
    """Choices llama.cpp does not have: an error, or a loss where the table says so.

    whose, made: what llama.cpp computes, and what a conversion would give. where, quoted: how a message names a key and
    shows a value.
    """
    losses = []
    for item in assumptions:
        value = config.get(item.hf, item.default)
        if value in item.values:
            continue
        if not item.loss:
            allowed = " or ".join(repr(choice) for choice in item.values)
            raise PlanError(
                f"{where(item.hf)} is {quoted(value)}; llama.cpp computes {whose} with {allowed} only",
                hint=f"a conversion would give a {made} that computes something else",
            )
        losses.append(Loss(LossKind.METADATA_DROPPED, item.hf, f"{quoted(value)}: {item.loss}"))
    return losses


def assumed(family: Family) -> dict[str, Json]:
    """What config.json must say for transformers to compute as llama.cpp does."""
    return {item.hf: item.values[0] for item in family.assumptions if item.written}


def plain_values(family: Family, metadata: Mapping[str, Typed]) -> dict[str, Json]:
    """The architecture's own keys without its prefix, and other keys of its table; arrays become lists."""
    prefix = family.ggml + "."
    short = {key: typed for key, typed in metadata.items() if not _is_long(typed.value)}
    found = {key[len(prefix) :]: plain(typed.value) for key, typed in short.items() if key.startswith(prefix)}
    outside = [key.ggml for key in family.keys if family.full_key(key.ggml) == key.ggml]
    return found | {key: plain(short[key].value) for key in outside if key in short}


def _is_long(value: object) -> bool:
    """An array longer than any list of layers; nothing here reads those."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 1 << 16


def plain(value: object) -> Json:
    """A stored value as JSON has it: arrays become lists."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    assert isinstance(value, Iterable)
    return [plain(item) for item in value]


def _kind(kind: str, value: Json) -> str:
    """The kind that a value is stored as, where there may be one for each layer: whole numbers are then signed."""
    if not kind.endswith("*"):
        return kind
    return "[i32]" if isinstance(value, list) else kind[:-1]


def checked(value: Json, kind: str, what: str) -> bool | int | float | str | list[Json]:
    """The value if it can be stored as `kind`."""
    if kind.startswith("["):
        if isinstance(value, list):
            return [plain(checked(item, kind[1:-1], what)) for item in value]
        raise PlanError(f"{what} is {shown(value)}, a list is needed")
    if kind in _UNSIGNED and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind in _UNSIGNED:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _UNSIGNED[kind]:
            return value
        raise PlanError(f"{what} is {shown(value)}, a whole number is needed")
    if kind == "i32" and isinstance(value, int) and not isinstance(value, bool) and -(1 << 31) <= value < 1 << 31:
        return value
    if kind == "f32" and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e38:
        return shortest(float(value))
    if (kind == "bool" and isinstance(value, bool)) or (kind == "str" and isinstance(value, str)):
        return value
    raise PlanError(f"{what} is {shown(value)}, {'a number' if kind == 'f32' else kind} is needed")
