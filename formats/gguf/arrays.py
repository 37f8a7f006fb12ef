"""Metadata arrays that stay bytes until their items are asked for.

A vocabulary is 150,000 strings and more: finding where they begin takes some ten milliseconds, making them
Python objects several times that, and most callers only count them or write them back.
Every array points into the one buffer that holds the file's header.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

#: numpy's name of each number type.
_NUMPY = {
    "u8": "<u1",
    "i8": "<i1",
    "u16": "<u2",
    "i16": "<i2",
    "u32": "<u4",
    "i32": "<i4",
    "f32": "<f4",
    "bool": "?",
    "u64": "<u8",
    "i64": "<i8",
    "f64": "<f8",
}


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

    @property
    def array(self) -> NDArray[np.generic]:
        """The items as a read-only numpy array over the header."""
        items = np.frombuffer(memoryview(self._buffer)[self._start : self._stop], _NUMPY[self.kind])
        items.flags.writeable = False
        return items

    def tolist(self) -> list[Any]:
        items: list[Any] = self.array.tolist()
        return items

    def __len__(self) -> int:
        return (self._stop - self._start) // np.dtype(_NUMPY[self.kind]).itemsize

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        chosen = self.array[index]
        return chosen.tolist() if isinstance(index, slice) else chosen.item()


class Strings(Array):
    """An array of strings; `ends[i]` is where item i stops, and its length stands before it."""

    __slots__ = ("_ends",)

    def __init__(self, buffer: bytearray, start: int, ends: NDArray[np.int64]) -> None:
        super().__init__("str", buffer, start, int(ends[-1]) if ends.size else start)
        self._ends = ends

    def __len__(self) -> int:
        return self._ends.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        begin = (int(self._ends[position - 1]) if position else self._start) + 8
        return self._buffer[begin : int(self._ends[position])].decode("utf-8", "surrogateescape")

    def tolist(self) -> list[str]:
        """All strings at once: each length becomes one separator, and the text is decoded and split in one go."""
        if not len(self):
            return []
        data = np.frombuffer(memoryview(self._buffer)[self._start : self._stop], np.uint8).copy()
        lengths = np.concatenate(([0], self._ends[:-1] - self._start))
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
