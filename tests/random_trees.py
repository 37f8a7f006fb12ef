"""Trees of every kind of node over tensors in many encodings, drawn by hypothesis from the root down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from requant import expressions as e
from requant.adapters.low_rank import LowRank, Norms
from requant.codecs import NeedsLargest, codec_for
from requant.encodings import BF16, BLOCKS, F16, F32, Dense, Encoding
from requant.encodings.gptq import Gptq
from requant.encodings.scaled import Scaled
from requant.expressions import Node
from requant.ir import Tensor
from requant.parts import read_values
from requant.sources import Memory
from tests.naive_expressions import Read, carried_out, twin

#: Encodings, and by what the rows and columns of a tensor must divide.
ENCODINGS: Mapping[Encoding, tuple[int, int]] = {
    F32: (1, 1),
    F16: (1, 1),
    BF16: (1, 1),
    BLOCKS["Q8_0"]: (1, 32),
    BLOCKS["Q4_0"]: (1, 32),
    BLOCKS["Q5_1"]: (1, 32),
    BLOCKS["MXFP4"]: (1, 32),
    BLOCKS["Q4_K"]: (1, 256),
    Gptq(4, 32, symmetric=True): (32, 32),
    Scaled("ct", "F8_E4M3", form="one"): (1, 1),
    Scaled("ct", "F4", 1, 16, "F8_E4M3", whole="divides"): (1, 32),
}


@cache
def stored(encoding: Encoding, rows: int, columns: int, seed: int) -> e.Stored:
    """A tensor of random numbers, encoded; the numbers of a seed are the same in every encoding."""
    values = np.random.default_rng(seed).standard_normal((rows, columns), np.float32)
    codec, specs = codec_for(encoding), encoding.parts((rows, columns))
    parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in specs.items()}
    if encoding.sliced:
        parts = {name: part.reshape(rows, -1) for name, part in parts.items()}
    if isinstance(codec, NeedsLargest):
        codec.begin(float(np.abs(values).max()), parts)
    codec.encode(values, parts)
    sources = {name: Memory(part.tobytes()) for name, part in parts.items()}
    return e.Stored(Tensor(f"{encoding.label} {rows}x{columns} #{seed}", (rows, columns), encoding, sources))


def read(tensor: Tensor) -> np.ndarray:
    """A tensor as its codec decodes it whole; the tests of each encoding hold that to its reference."""
    return read_values(tensor).reshape(tensor.shape)


@dataclass(frozen=True, slots=True)
class Squares(e.Reduction):
    """The sum of squares of each input, in float64; one more is what is divided by, since inputs may cancel out."""

    of: tuple[Node, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.of

    def part(self, values: Sequence[np.ndarray], rows: range, known: Sequence[Any]) -> np.ndarray:
        return np.array([np.square(one, dtype=np.float64).sum() for one in values])

    def merge(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return one + other


@dataclass(frozen=True, slots=True)
class Agreement(Squares):
    """The dot product of each input with the sum of all, each divided by its norm, which is known by now."""

    def part(self, values: Sequence[np.ndarray], rows: range, known: Sequence[Any]) -> np.ndarray:
        squares = 1 + known[0]
        together = sum(one / norm for one, norm in zip(values, np.sqrt(squares), strict=True))
        return np.array([np.vdot(together, one.astype(np.float64)) for one in values])


@dataclass(frozen=True, slots=True)
class Weighted(e.Arithmetic):
    """A sum of inputs, each weighted by how much it agrees with all: two reductions, the second of which needs the
    first."""

    of: tuple[Node, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of[0].shape

    @property
    def children(self) -> tuple[Node, ...]:
        return self.of

    def over(self, children: Sequence[Node]) -> Node:
        return Weighted(tuple(children))

    def explain(self) -> str:
        return f"weighted({e.listed(self.of)})"

    def reductions(self) -> tuple[e.Reduction, ...]:
        return (Squares(self.of), Agreement(self.of))

    def run_bytes(self, form: e.Form, rows: int, width: int, straight: bool = False) -> int:
        return rows * width + max(one.run_bytes(form, rows, width, straight) for one in self.of)

    def fill(self, form: e.Form, rows: range, out: np.ndarray, context: e.Context) -> None:
        squares, agreement = context.results(self)
        out[...] = 0
        with context.scratch.room() as scratch:
            values = scratch.like(out, len(rows))
            for one, weight in zip(self.of, agreement / (1 + squares), strict=True):
                one.fill(form, rows, values, context)
                values *= np.float32(weight)
                out += values


@twin.register
def _(node: Weighted, values: Read) -> np.ndarray:
    arrays = [carried_out(one, values).astype(np.float64) for one in node.of]
    squares = [1 + np.square(array).sum() for array in arrays]
    together = sum(array / np.sqrt(square) for array, square in zip(arrays, squares, strict=True))
    pairs = zip(arrays, squares, strict=True)
    return sum(array * np.vdot(together, array) / square for array, square in pairs).astype(np.float32)


@st.composite
def leaves(draw: Any, rows: int, columns: int) -> Node:
    """A stored tensor of this shape."""
    fitting = [one for one, (tall, wide) in ENCODINGS.items() if rows % tall == 0 and columns % wide == 0]
    return stored(draw(st.sampled_from(fitting)), rows, columns, draw(st.integers(0, 2)))


def moving(draw: Any, rows: int, columns: int, below: Any) -> list[Any]:
    """Ways to have a matrix from others by moving rows; `below` gives others."""
    number = lambda least, most: draw(st.integers(least, most))  # noqa: E731
    places = st.sets(st.integers(0, rows - 1), min_size=1, max_size=5).map(lambda found: tuple(sorted(found)))
    ways = [
        lambda: e.Slice(below(rows + (a := number(0, 40)) + number(0, 40), columns), a, a + rows),
        lambda: e.Deinterleaved(below(3 * rows, columns), number(0, 2), 3),
        lambda: e.Chosen(below(n := number(1, 64), columns), tuple(number(0, n - 1) for _ in range(rows))),
        lambda: e.reshaped(e.reshaped(below(rows, columns), (1, rows, columns)), (rows, columns)),
        lambda: e.Patched(below(rows, columns), below(len(at := draw(places)), columns), at),
    ]
    if rows > 1:
        ways.append(lambda: e.Joined((below(a := number(1, rows - 1), columns), below(rows - a, columns))))
    if rows % 2 == 0:
        ways.append(lambda: e.Interleaved((below(rows // 2, columns), below(rows // 2, columns))))
        ways.append(
            lambda: e.RopeOrder(below(rows, columns), rows // 2 if rows % 4 else rows // 4, draw(st.booleans()))
        )
    if rows % 6 == 0:
        axes = tuple(draw(st.permutations(range(2))))
        ways.append(lambda: e.Regrouped(below(rows, columns), (2, 3), axes))
    return ways


def others(draw: Any, rows: int, columns: int, below: Any) -> list[Any]:
    """Ways to have it otherwise."""
    number = lambda least, most: draw(st.integers(least, most))  # noqa: E731
    chosen = st.lists(st.integers(0, columns), min_size=columns, max_size=columns).map(tuple)
    ways = [
        lambda: e.Transposed(below(columns, rows)),
        lambda: e.Columns(below(rows, columns + (a := number(0, 32)) + number(0, 32)), range(a, a + columns)),
        lambda: e.Columns(below(rows, columns + 1), draw(chosen)),
        lambda: e.Affine(below(rows, columns), draw(st.sampled_from([1.0, 0.5])), draw(st.sampled_from([0.0, -1.0]))),
        lambda: e.ColumnsScaled(below(rows, columns), below(1, columns)),
        lambda: e.NegExp(e.Affine(below(rows, columns), 0.01)),
        lambda: Weighted(tuple(below(rows, columns) for _ in range(2))),
        lambda: LowRank(below(rows, columns), below(rows, r := number(1, 5)), below(r, columns), 0.5),
        lambda: LowRank(
            e.Affine(below(rows, columns), term=10.0),  # far from zero: what is short has no direction
            *(below(rows, r := number(1, 3)), below(r, columns), 0.05),
            lengths=below(1, rows) if (of_rows := draw(st.booleans())) else below(1, columns),
            norms=Norms.ROWS if of_rows else Norms.COLUMNS,
        ),
    ]
    if columns > 1:
        ways.append(lambda: e.ColumnsJoined((below(rows, a := number(1, columns - 1)), below(rows, columns - a))))
    if columns % 2 == 0:
        ways.append(lambda: e.reshaped(below(2 * rows, columns // 2), (rows, columns)))
    if rows % 2 == 0:
        ways.append(lambda: e.reshaped(below(rows // 2, 2 * columns), (rows, columns)))
    return ways


@st.composite
def trees(draw: Any, rows: int, columns: int, depth: int, *, computed: bool = True) -> Node:
    """A tree of at most `depth` nodes above its leaves. computed: else rows are only moved."""
    if depth == 0 or rows * columns > 1 << 16:
        return draw(leaves(rows, columns))

    def below(tall: int, wide: int) -> Node:
        return draw(trees(tall, wide, draw(st.integers(0, depth - 1)), computed=computed))

    ways = moving(draw, rows, columns, below) + (others(draw, rows, columns, below) if computed else [])
    return draw(st.sampled_from(ways))()


def any_tree(depth: int = 4, *, computed: bool = True) -> Any:
    """Trees of many shapes: such as blocks and groups have, and others."""
    shapes = st.tuples(st.sampled_from([1, 2, 7, 12, 32, 64, 96]), st.sampled_from([1, 3, 32, 64, 256]))
    return shapes.flatmap(lambda shape: trees(*shape, depth, computed=computed))


def is_dense(encoding: Encoding) -> bool:
    """Numbers one after another."""
    return isinstance(encoding, Dense)
