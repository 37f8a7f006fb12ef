"""Metadata arrays that stay bytes until their items are asked for.

A vocabulary is 150,000 strings and more: finding where they begin takes some ten milliseconds, making them
Python objects several times that, and most callers only count them or write them back.
Every array points into the one buffer that holds the file's header. To read one takes no numpy, whose import takes as
long as all else that looks at a header; only to make every string of an array does.
"""

from __future__ import annotations

import struct
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final, overload

#: `struct` code of each number type.
CODES: Final = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "f32": "f",
    "bool": "?",
    "u64": "Q",
    "i64": "q",
    "f64": "d",
}
#: Bytes of a number of each type.
SIZES: Final = {kind: struct.calcsize("<" + code) for kind, code in CODES.items()}
_LENGTH: Final = struct.Struct("<Q")


class Array(Sequence[Any]):
    """What the three kinds of array share: `kind` is that of their items, `raw` their bytes in the file."""

    __slots__ = ("_buffer", "_start", "_stop", "kind")

    def __init__(self, kind: str, buffer: bytearray, start: int, stop: int) -> None:
        self.kind = kind
        self._buffer = buffer
        self._start = start
        self._stop = stop

    @property
    def raw(self) -> bytes:
        """The items as they stand in the file, without the array's own type and length."""
        return bytes(memoryview(self._buffer)[self._start : self._stop])

    @abstractmethod
    def tolist(self) -> list[Any]:
        """All items as Python objects, the fast way; what iteration and slices use."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        if type(other) is type(self):
            return self.kind == other.kind and len(self) == len(other) and self.raw == other.raw
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and self.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal to lists, and like them

    def __repr__(self) -> str:
        shown = ", ".join(repr(self[index]) for index in range(min(3, len(self))))
        return f"<{len(self)} {self.kind}: {shown}{', …' if len(self) > 3 else ''}>"


class Numbers(Array):
    """An array of numbers or booleans."""

    __slots__ = ()

    def tolist(self) -> list[Any]:
        return list(struct.unpack_from(f"<{len(self)}{CODES[self.kind]}", self._buffer, self._start))

    def __len__(self) -> int:
        return (self._stop - self._start) // SIZES[self.kind]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.tolist()[index]
        at = self._start + range(len(self))[index] * SIZES[self.kind]
        return struct.unpack_from("<" + CODES[self.kind], self._buffer, at)[0]


class Strings(Array):
    """An array of strings, before each of which stands its length."""

    __slots__ = ("_count", "_ends")

    def __init__(self, buffer: bytearray, start: int, stop: int, count: int) -> None:
        super().__init__("str", buffer, start, stop)
        self._count = count
        self._ends = array("q")

    def _found(self, count: int) -> array[int]:
        """Where each of the first `count` strings stops, and perhaps of more; looked for when they are asked for."""
        ends, length = self._ends, _LENGTH.unpack_from
        if len(ends) < count:
            ends = ends[:]  # other threads may be looking at it
            position = ends[-1] if ends else self._start
            for _ in range(len(ends), min(max(count, 2 * len(ends)), self._count)):
                position += 8 + length(self._buffer, position)[0]
                ends.append(position)
            self._ends = ends
        return ends

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        ends = self._found(position + 1)
        begin = (ends[position - 1] if position else self._start) + 8
        return self._buffer[begin : ends[position]].decode("utf-8", "surrogateescape")

    def tolist(self) -> list[str]:
        """All strings at once: each length becomes one separator, and the text is decoded and split in one go."""
        if not len(self):
            return []
        import numpy as np

        data = np.frombuffer(memoryview(self._buffer)[self._start : self._stop], np.uint8).copy()
        lengths = np.concatenate(([0], np.frombuffer(self._found(len(self)), np.int64)[:-1] - self._start))
        kept = np.ones(data.size, np.bool_)
        for byte in range(1, 8):
            kept[lengths + byte] = False
        data[lengths] = 0
        text = data[kept].tobytes()
        if (
            separator := 0 if text.count(0) == len(self) else next((b for b in range(1, 128) if b not in text), -1)
        ) < 0:
            return [self[position] for position in range(len(self))]
        if separator:
            data[lengths] = separator
            text = data[kept].tobytes()
        # ASCII never lies inside a UTF-8 sequence, so a separator also ends a string that stops in the middle of one.
        return text.decode("utf-8", "surrogateescape").split(chr(separator))[1:]


class Arrays(Array):
    """An array of arrays."""

    __slots__ = ("_items",)

    def __init__(self, kind: str, buffer: bytearray, start: int, stop: int, items: tuple[Array, ...]) -> None:
        super().__init__(kind, buffer, start, stop)
        self._items = items

    def tolist(self) -> list[Any]:
        return list(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        return list(self._items[index]) if isinstance(index, slice) else self._items[index]
