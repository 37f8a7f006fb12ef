"""The tensors of two models beside each other: which one of them lacks, and how each is shaped and stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from requant.comparing.numbers import Numbers
from requant.comparing.settings import Status
from requant.comparing.words import Pair
from requant.encodings import Shape
from requant.encodings.labels import short_label
from requant.expressions import Node, reshaped
from requant.ir import PROJECTOR, Json, Naming
from requant.operations.placed import place_in_projector, place_of
from requant.passes.graft import Graft


@dataclass(frozen=True, slots=True)
class Stored:
    """How one side has a tensor. values: what its numbers are. bits: stored bits of one of them.

    computed: where it is not stored but made of others, from what; `values` then stands for it.
    """

    values: Node
    bits: float
    computed: Node | None = None

    @property
    def numbers(self) -> Node:
        """What gives its numbers."""
        return self.values if self.computed is None else self.computed

    @property
    def types(self) -> tuple[str, ...]:
        """How they are stored, each type once."""
        return tuple(encoding.label for encoding in self.values.encodings())

    @property
    def shape(self) -> Shape:
        """In the words of the comparison."""
        return self.values.shape

    @property
    def type(self) -> str:
        """The same for people."""
        return "+".join(dict.fromkeys(short_label(encoding) for encoding in self.values.encodings()))

    @property
    def nbytes(self) -> int:
        """Its part of what is stored; of several tensors that share one, each its share."""
        return round(self.bits * prod(self.shape) / 8)

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "shape": list(self.shape),
            "type": "+".join(self.types),
            "bits_per_weight": round(self.bits, 4),
            "bytes": self.nbytes,
            "values": self.numbers.explain(),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor of either model. layer, role: its place, as in `inspect`. a, b: None where a side has none.

    numbers: what its numbers are to each other; None where they are not compared.
    """

    name: str
    layer: int | None
    role: str
    a: Stored | None
    b: Stored | None
    numbers: Numbers | None = None

    @property
    def status(self) -> Status | None:
        """What one side lacks; None where both have it."""
        if self.a is None:
            return Status.ONLY_B
        return Status.ONLY_A if self.b is None else None

    @property
    def reshaped(self) -> bool:
        """Whether both have it, in other shapes."""
        return self.a is not None and self.b is not None and self.a.shape != self.b.shape

    @property
    def retyped(self) -> bool:
        """Whether both have it, stored otherwise."""
        return self.a is not None and self.b is not None and self.a.types != self.b.types

    @property
    def changed(self) -> bool:
        """Whether numbers were compared, and differ."""
        return self.numbers is not None and self.numbers.changed > 0

    @property
    def differs(self) -> tuple[str, ...]:
        """`only a`, `only b`, `shape`, `type`, `values`: all that holds."""
        if self.status is not None:
            return (self.status.value,)
        told = {"shape": self.reshaped, "type": self.retyped, "values": self.changed}
        return tuple(name for name, differs in told.items() if differs)

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "name": self.name,
            "layer": self.layer,
            "role": self.role,
            "differs": list(self.differs),
            "a": None if self.a is None else self.a.to_json(),
            "b": None if self.b is None else self.b.to_json(),
        }

    def comparable(self) -> tuple[Node, Node] | None:
        """The numbers that both have, as matrices of one shape; None where that is none of them.

        Of the same numbers in other shapes all, of matrices with more rows on one side (tokens that were added) those
        that both have.
        """
        if self.a is None or self.b is None:
            return None
        one, other = self.a.numbers, self.b.numbers
        if one.shape == other.shape:
            return one, other
        if prod(one.shape) == prod(other.shape):
            flat = [size for size in one.shape if size != 1] == [size for size in other.shape if size != 1]
            return (one, reshaped(other, one.shape)) if flat else None
        if len(one.shape) != len(other.shape) or one.shape[1:] != other.shape[1:] or len(one.shape) < 2:
            return None
        rows = min(one.rows, other.rows)
        return one.section(0, rows), other.section(0, rows)


def compared_tensors(pair: Pair, grafts: tuple[Graft | None, Graft | None] = (None, None)) -> list[Row]:
    """A row for each name of either model, in the order of A, what only B has after what stands before it in B.

    grafts: what computes the tensors of A, and of B, where they stand for others.
    """
    return [_row(name, pair, grafts) for name in _merged(list(pair.a.moves), pair.b.moves)]


def _merged(ours: list[str], theirs: Mapping[str, Node]) -> Iterator[str]:
    known = set(ours)
    follow: dict[str, list[str]] = {}
    last = ""
    for name in theirs:
        if name in known:
            last = name
        else:
            follow.setdefault(last, []).append(name)
    yield from follow.get("", ())
    for name in ours:
        yield name
        yield from follow.get(name, ())


def _row(name: str, pair: Pair, grafts: tuple[Graft | None, Graft | None]) -> Row:
    a, b = pair.a, pair.b
    projector = a.naming is Naming.GGML and PROJECTOR in (a.source.architecture, b.source.architecture)
    layer, role = (place_in_projector if projector else place_of)(name)
    return Row(name, layer, role, _stored(a.moves.get(name), grafts[0]), _stored(b.moves.get(name), grafts[1]))


def _stored(node: Node | None, graft: Graft | None) -> Stored | None:
    if node is None:
        return None
    leaves = {id(tensor): tensor for tensor in node.leaves()}.values()
    weights = sum(prod(tensor.shape) for tensor in leaves)
    bits = 8 * sum(tensor.nbytes for tensor in leaves) / weights if weights else 0.0
    return Stored(node, bits, None if graft is None else node.grafted(graft.node_of))
