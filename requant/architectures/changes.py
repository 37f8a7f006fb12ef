"""What lies between a tensor's values in a folder and in a GGUF: small steps, each with its inverse.

Facts: llama.cpp's conversion/qwen.py, deepseek.py, bloom.py and gptneox.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from requant.architectures.reordered import by_outputs
from requant.encodings import DENSE
from requant.expressions import (
    Chosen,
    Columns,
    Joined,
    LogNeg,
    NegExp,
    Node,
    Regrouped,
    Slice,
    Stored,
    Transposed,
    reshaped,
)

if TYPE_CHECKING:
    from requant.architectures.rules import Sizes


class Change(Protocol):
    """One step; node: the whole tensor."""

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """HF's values as ggml has them."""

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """The inverse."""


@dataclass(frozen=True, slots=True)
class Negative:
    """HF keeps the logarithm of what ggml has negative (see `NegExp`): exact but for the rounding of float32."""

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """-exp(x)."""
        return NegExp(node)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """log(-x)."""
        return LogNeg(node)


@dataclass(frozen=True, slots=True)
class Words:
    """Whole numbers below 2 ** 31 in 64 bits, which ggml has in 32: the low half of each."""

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """In 32 bits; other numbers as they are."""
        tensor = node.verbatim
        if tensor is None or tensor.encoding != DENSE["I64"]:
            return node
        halves = replace(tensor, shape=(*node.shape[:-1], 2 * node.columns), encoding=DENSE["I32"])
        return Columns(Stored(halves), tuple(range(0, 2 * node.columns, 2)))

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """As they are: whoever reads 64 bits reads 32."""
        return node


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows, or the numbers of a vector, are a grid whose axes ggml has in another order.

    sizes: by name, slowest first, or how many; axes: see `Regrouped`. after: names of sizes whose product is that of
    the rows before the grid, which stay where they are.
    """

    sizes: tuple[str | int, ...]
    axes: tuple[int, ...]
    after: tuple[str | int, ...] = ()

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """In ggml's order."""
        return self._moved(node, sizes, self._counts(self.sizes, sizes), self.axes)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """In HF's."""
        counts = self._counts(self.sizes, sizes)
        back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return self._moved(node, sizes, tuple(counts[axis] for axis in self.axes), back)

    def _moved(self, node: Node, sizes: Sizes, counts: tuple[int, ...], axes: tuple[int, ...]) -> Node:
        first = prod(self._counts(self.after, sizes)) if self.after else 0

        def rows(of: Node) -> Node:
            if not first:
                return Regrouped(of, counts, axes)
            return Joined((Slice(of, 0, first), Regrouped(Slice(of, first, of.rows), counts, axes)))

        return by_outputs(node, node.shape, rows)

    @staticmethod
    def _counts(names: Sequence[str | int], sizes: Sizes) -> tuple[int, ...]:
        return tuple(name if isinstance(name, int) else sizes[name] for name in names)


@dataclass(frozen=True, slots=True)
class Turned:
    """Each matrix of a stack transposed. shape: sizes of the result."""

    shape: tuple[str, ...]

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """Outputs as rows."""
        return Transposed(node)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """Inputs as rows."""
        return Transposed(reshaped(node, tuple(sizes[name] for name in self.shape)))


@dataclass(frozen=True, slots=True)
class ColumnGrid:
    """The same with the columns of a matrix."""

    sizes: tuple[str, ...]
    axes: tuple[int, ...]

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """In ggml's order."""
        return Columns(node, _order(tuple(sizes[name] for name in self.sizes), self.axes))

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """In HF's."""
        counts = tuple(sizes[self.sizes[axis]] for axis in self.axes)
        return Columns(node, _order(counts, tuple(self.axes.index(axis) for axis in range(len(self.axes)))))


@dataclass(frozen=True, slots=True)
class Parted:
    """Rows are groups of sections of unequal height; ggml has the first sections of all groups, then the second …

    groups: the size that counts them; sections: sizes of their rows.
    """

    groups: str
    sections: tuple[str, ...]

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """By section."""
        return Chosen(node, _parted(sizes[self.groups], tuple(sizes[name] for name in self.sections), back=False))

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """By group."""
        return Chosen(node, _parted(sizes[self.groups], tuple(sizes[name] for name in self.sections), back=True))


@dataclass(frozen=True, slots=True)
class Rotated:
    """What is rotated of each head, its first numbers, lies in halves on one side and in pairs on the other.

    heads: the size that counts them; how many numbers are rotated is the size `rotary`, and how many there are `head`.
    pairs: it is HF that has pairs.
    """

    heads: str
    pairs: bool = False

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """In ggml's order."""
        return self._ordered(node, sizes, back=self.pairs)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """In HF's."""
        return self._ordered(node, sizes, back=not self.pairs)

    def _ordered(self, node: Node, sizes: Sizes, *, back: bool) -> Node:
        order = _rotated(sizes[self.heads], sizes["head"], sizes["rotary"], back=back)
        return by_outputs(node, node.shape, lambda rows: Chosen(rows, order))


@lru_cache(maxsize=16)
def _rotated(heads: int, head: int, rotary: int, *, back: bool) -> tuple[int, ...]:
    """Numbers of the rows; every layer has the same."""
    pairs = np.arange(rotary).reshape(2, -1).T.ravel()
    order = np.concatenate([np.argsort(pairs) if back else pairs, np.arange(rotary, head)])
    return tuple((head * np.arange(heads)[:, None] + order).ravel().tolist())


@lru_cache(maxsize=16)
def _parted(groups: int, sections: tuple[int, ...], *, back: bool) -> tuple[int, ...]:
    """Numbers of the rows; every layer has the same."""
    rows = np.arange(groups * sum(sections)).reshape(groups, -1)
    ends = np.cumsum(sections)[:-1]
    order = np.concatenate([part.ravel() for part in np.split(rows, ends, axis=1)])
    return tuple((np.argsort(order) if back else order).tolist())


@lru_cache(maxsize=16)
def _order(counts: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of the grid; every layer has the same."""
    return tuple(np.arange(prod(counts)).reshape(counts).transpose(axes).ravel().tolist())
