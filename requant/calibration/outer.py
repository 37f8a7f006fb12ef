"""Σ x xᵀ of what a layer's matrices are given: in memory for one layer, then on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from requant.errors import UnsupportedError
from requant.hessians import Hessian
from requant.sources import FileSlice

#: A matrix of a tensor of the plan.
Key = tuple[str, int]
#: Columns that are summed up together with all that come after them; what is below the diagonal is the same.
_COLUMNS: Final = 256


class Outer:
    """Each input is summed up once, whichever matrices it is given to, under the key of the first of them.

    leaders: of every matrix, the key under which the sum of its inputs lies.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._end = path, 0
        path.touch()
        self.leaders: dict[Key, Key] = {}
        self._sums: dict[Key, Any] = {}
        self._tokens: dict[Key, int] = {}
        self._places: dict[Key, Hessian] = {}
        #: Of this window: what was given, which is kept so that nothing else gets its place in memory, and to whom.
        self._given: dict[tuple[Any, ...], tuple[Any, Key]] = {}

    def begin_window(self) -> None:
        """From now on other inputs come."""
        self._given.clear()

    def add(self, key: Key, x: Any) -> None:
        """x: [tokens, columns], what the matrix is given."""
        place = (x.data_ptr(), tuple(x.shape), x.stride(), x._version)
        _, leader = self._given.setdefault(place, (x, key))
        known = self.leaders.setdefault(key, leader)
        if known != leader and self.leaders[leader] != known:
            raise UnsupportedError(f"{key[0]} is given the same as {known[0]} of some tokens only")
        if leader == key:
            if key not in self._sums:
                self._sums[key] = x.new_zeros((x.shape[1], x.shape[1]))
            for start in range(0, x.shape[1], _COLUMNS):
                self._sums[key][start : start + _COLUMNS, start:].addmm_(x[:, start : start + _COLUMNS].T, x[:, start:])
            self._tokens[key] = self._tokens.get(key, 0) + len(x)

    def end_layer(self) -> None:
        """What was summed up goes to disk, and memory is free for the next layer."""
        self._given.clear()
        with self._path.open("r+b") as file:
            for key, total in self._sums.items():
                for start in range(0, len(total), _COLUMNS):
                    stop = start + _COLUMNS
                    total[stop:, start:stop] = total[start:stop, stop:].T
                data = total.numpy().astype("<f4", copy=False)
                file.seek(self._end)
                file.write(data.data)
                source = FileSlice(self._path, self._end, data.nbytes)
                self._places[key] = Hessian("", len(data), self._tokens[key], source)
                self._end += data.nbytes
        self._sums.clear()
        self._tokens.clear()

    def found(self, key: Key) -> tuple[Key, Hessian] | None:
        """Under which key the inputs of a matrix are summed up, and where; None if it was given nothing."""
        leader = self.leaders.get(key)
        return None if leader is None else (leader, self._places[leader])
