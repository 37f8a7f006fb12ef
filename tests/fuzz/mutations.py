"""Small changes of valid things, each drawn from a `random.Random`: of bytes, of JSON, of GGUF.

JSON is written by a writer of our own, because much of what breaks readers is what Python's cannot write: a key that
is there twice, a number of five thousand digits, half of a surrogate pair, a thousand brackets.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from random import Random

INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 4096, 65535, 65536, -2, -128, -(2**31)),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 10**400, -(10**30)),
)
FLOATS = (0.0, -0.0, 0.5, 1e-30, 1e30, 3.5e38, 1e308, float("inf"), float("-inf"), float("nan"), -1.5, 8.0)
TEXTS = (
    *(
        "",
        " ",
        "a",
        "0",
        "-1",
        "1e9",
        "true",
        "null",
        "llama",
        "default",
        "yarn",
        "none",
        "\0",
        "\x1b[31m",
        "é",
        "中",
        "🚀",
    ),
    *("\ud800", "\udfff", "\u202e", "\u2028", "a\nb", "../../x", "/", "%s%n", "{0}", "{base}", "blk.0", "{n}", "'" * 3),
    *(
        "x" * 300,
        "9" * 5000,
        "²",
        "１",
        "1_000",
        "torch.float16",
        "Q4_K",
        "F16",
        "fp8",
        "[",
        "(",
        "*",
        "re:",
        "re:(",
        "-:",
        "+:[",
    ),
)


@dataclass(frozen=True)
class Raw:
    """A piece of JSON text that Python's writer would not write."""

    text: str


RAW = (
    *(Raw("1" * 5000), Raw("-" + "9" * 400), Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("-0")),
    *(Raw("[" * 70 + "]" * 70), Raw('{"a":' * 70 + "1" + "}" * 70), Raw("[" * 5000), Raw("[" * 3000 + "]" * 3000)),
    *(
        Raw('"\\ud800"'),
        Raw('"\\udc00\\ud800"'),
        Raw("1.0e-400"),
        Raw("0x10"),
        Raw("'a'"),
        Raw(""),
        Raw("nul"),
        Raw('"a'),
    ),
)


def scalar(random: Random) -> object:
    """Something that is no container."""
    kind = random.randrange(10)
    if kind < 4:
        return random.choice(INTEGERS)
    if kind < 6:
        return random.choice(FLOATS)
    return random.choice((None, True, False)) if kind < 8 else random.choice(TEXTS)


def anything(random: Random) -> object:
    """A value of any kind."""
    kind = random.randrange(20)
    if kind < 12:
        return scalar(random)
    if kind < 14:
        return random.choice(RAW)
    if kind < 17:
        return [scalar(random) for _ in range(random.choice((0, 1, 2, 3, 8)))]
    return {random.choice(TEXTS): scalar(random) for _ in range(random.choice((0, 1, 2)))}


def json_text(value: object) -> str:
    """JSON; a dictionary's key may be `Twice`, a value `Raw`."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {json_text(item)}" for key, item in value.pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(json_text, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return "-" * (value < 0) + "1" + "0" * 400
    return json.dumps(value)


@dataclass(frozen=True)
class Pairs:
    """An object that says a key twice."""

    pairs: tuple[tuple[str, object], ...]


def mutated(value: object, random: Random, times: int | None = None) -> object:
    """The JSON value with one to four places of it changed; the value itself is left alone."""
    for _ in range(times or random.choice((1, 1, 1, 2, 4))):
        value = _changed(value, random, random.randrange(12))
    return value


def _changed(value: object, random: Random, depth: int) -> object:
    """Changed here, or somewhere inside."""
    inside = isinstance(value, dict | list) and value
    if inside and depth and random.random() < 0.93:
        if isinstance(value, dict):
            key = random.choice(list(value))
            return {**value, key: _changed(value[key], random, depth - 1)}
        index = random.randrange(len(value))
        return [*value[:index], _changed(value[index], random, depth - 1), *value[index + 1 :]]
    kind = random.randrange(8)
    if isinstance(value, dict) and value and kind < 5:
        key, other = random.choice(list(value)), random.choice(list(value))
        if kind == 0:
            return {name: item for name, item in value.items() if name != key}
        if kind == 1:
            return {**value, random.choice(TEXTS): anything(random)}
        if kind == 2:
            return Pairs((*value.items(), (key, anything(random))))
        if kind == 3:
            return {**value, key: value[other], other: value[key]}
        return {random.choice(TEXTS) if name == key else name: item for name, item in value.items()}
    if isinstance(value, list) and value and kind < 5:
        index = random.randrange(len(value))
        if kind == 0:
            return [*value[:index], *value[index + 1 :]]
        if kind == 1:
            return [*value, anything(random)]
        if kind == 2:
            return [*value, *value][: max(1000, len(value))]
        return random.sample(value, len(value))
    if isinstance(value, int) and kind < 4 and not isinstance(value, bool) and abs(value) < 1 << 1000:
        return random.choice(
            (value + 1, value - 1, value * 2, -value, float(value), str(value), value // 2, bool(value))
        )
    if isinstance(value, str) and value and kind < 4:
        at = random.randrange(len(value))
        return random.choice(
            (value[:at], value[at:], value + value, value[:at] + random.choice(TEXTS) + value[at:], [value])
        )
    if kind == 4:
        return [value]
    if kind == 5:
        return {"a": value}
    return anything(random)


def shaken(data: bytes, random: Random) -> bytes:
    """Bytes with one to six stretches of them changed."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        if not out:
            return bytes(out)
        # most of what matters in a file is at its beginning
        at = random.randrange(len(out) if random.random() < 0.5 else min(len(out), 600))
        match random.randrange(9):
            case 0:
                out[at] ^= 1 << random.randrange(8)
            case 1:
                out[at] = random.choice((0, 1, 127, 128, 255))
            case 2:
                del out[at : at + random.choice((1, 2, 4, 8, 100))]
            case 3:
                out[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 2, 4, 8, 40))))
            case 4:
                out[at : at + 4] = struct.pack("<I", random.choice(INTEGERS) & 0xFFFFFFFF)
            case 5:
                out[at : at + 8] = struct.pack("<Q", random.choice(INTEGERS) & 0xFFFFFFFFFFFFFFFF)
            case 6:
                del out[at:]
            case 7:
                other = random.randrange(len(out))
                out[at : at + 16] = out[other : other + 16]
            case _:
                out[at : at + 2] = struct.pack("<H", random.choice(INTEGERS) & 0xFFFF)
    return bytes(out)


@dataclass(frozen=True)
class GgufParts:
    """A GGUF in pieces. pairs: (key, type number, payload). infos: (name, dimensions, type number, offset).

    nbytes: of the data that follow; they are zeros, and not part of `written`.
    """

    pairs: tuple[tuple[bytes, int, bytes], ...]
    infos: tuple[tuple[bytes, tuple[int, ...], int, int], ...]
    nbytes: int
    version: int = 3
    counts: tuple[int, int] | None = None

    def written(self) -> bytes:
        """The file up to its data."""
        tensors, pairs = self.counts or (len(self.infos), len(self.pairs))
        out = bytearray(b"GGUF" + struct.pack("<IQQ", self.version, _u64(tensors), _u64(pairs)))
        for key, kind, payload in self.pairs:
            out += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind & 0xFFFFFFFF) + payload
        for name, dimensions, kind, offset in self.infos:
            out += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dimensions))
            out += b"".join(struct.pack("<Q", _u64(n)) for n in dimensions)
            out += struct.pack("<IQ", kind & 0xFFFFFFFF, _u64(offset))
        return bytes(out + b"\0" * (-len(out) % 32))


def gguf_text(text: bytes) -> bytes:
    """A string as GGUF stores it."""
    return struct.pack("<Q", len(text)) + text


def _u64(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def gguf_value(random: Random, depth: int = 2) -> tuple[int, bytes]:
    """Type number and payload of some value, mostly a valid one."""
    kind = random.choice((0, 1, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 8, 9, 9, 9, 10, 11, 12, 13, 255))
    return kind, _payload(kind, random, depth)


def _payload(kind: int, random: Random, depth: int) -> bytes:
    if kind == 6:
        return struct.pack(
            "<f", min(max(random.choice(FLOATS), -3e38), 3e38) if random.random() < 0.5 else float("nan")
        )
    if kind == 12:
        return struct.pack("<d", random.choice(FLOATS))
    if kind == 7:
        return bytes([random.choice((0, 1, 1, 2, 255))])
    if kind in _SIZES:
        return _u64(random.choice(INTEGERS)).to_bytes(8, "little")[: _SIZES[kind]]
    if kind == 8:
        text = random.choice(TEXTS).encode("utf-8", "surrogatepass")
        return gguf_text(text) if random.random() < 0.9 else struct.pack("<Q", _u64(random.choice(INTEGERS))) + text
    if kind == 9:
        inner = random.choice((0, 4, 5, 6, 8, 9, 12, 7)) if depth else 4
        count = random.choice((0, 1, 2, 3, 8))
        claimed = count if random.random() < 0.9 else _u64(random.choice(INTEGERS))
        return struct.pack("<IQ", inner, claimed) + b"".join(_payload(inner, random, depth - 1) for _ in range(count))
    return b"\0" * 8


def mutated_gguf(parts: GgufParts, random: Random) -> bytes:
    """The file with one to four of its pieces changed, and now and then some of its bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        pairs, infos = list(parts.pairs), list(parts.infos)
        at, it = random.randrange(max(1, len(pairs))), random.randrange(max(1, len(infos)))
        kind = random.randrange(14)
        if kind < 5 and pairs:
            pairs[at] = (pairs[at][0], *gguf_value(random))
        elif kind == 5 and pairs:
            del pairs[at]
        elif kind == 6 and pairs:
            pairs.append(random.choice(pairs))
        elif kind == 7 and pairs:
            pairs[at] = (random.choice(TEXTS).encode("utf-8", "surrogatepass"), *pairs[at][1:])
        elif kind == 8:
            parts = replace(
                parts, counts=(random.choice((len(infos), *INTEGERS)), random.choice((len(pairs), *INTEGERS)))
            )
        elif infos:
            name, dimensions, number, offset = infos[it]
            match kind:
                case 9:
                    dimensions = tuple(random.choice((n, *INTEGERS)) for n in dimensions)
                case 10:
                    dimensions = tuple(random.choice(INTEGERS) for _ in range(random.randrange(7)))
                case 11:
                    number = random.choice((*range(45), 2**32 - 1))
                case 12:
                    offset = random.choice((offset + 32, offset - 32, *INTEGERS))
                case _:
                    name = random.choice(
                        (infos[random.randrange(len(infos))][0], random.choice(TEXTS).encode("utf-8", "surrogatepass"))
                    )
            infos[it] = (name, dimensions, number, offset)
        parts = replace(parts, pairs=tuple(pairs), infos=tuple(infos))
        if random.random() < 0.05:
            parts = replace(parts, version=random.choice((0, 1, 2, 3, 4, 2**24)))
    data = parts.written()
    return shaken(data, random) if random.random() < 0.1 else data
