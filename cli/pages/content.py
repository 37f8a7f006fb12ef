"""What a page has on it, whatever document it is made of; `page.html` says where, and the scripts draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Literal

from requant.printable import printable

#: How a column is shown and sorted. `choice` is text of which there are few, to filter by.
Kind = Literal["text", "choice", "shape", "count", "bytes", "number"]
#: What colours stand for: stored bits of a number, an error from none to as large as the values, or a place among the
#: values of the column, from the least to the largest.
Scale = Literal["bits", "error", "rank"]

#: Bins of all histograms together, before neighbours are put together: 4,000 tensors have them as they are.
_MOST_BINS: Final = 1 << 18
#: Significant digits of a number: more than are shown, and half of what a float has.
_DIGITS: Final = 8
#: Characters of a cell that are shown: two tensor names and what is done to them.
_LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure that is seen first. more: what it is made of, or of what, smaller."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that are few. right: columns whose cells end flush. share: the column of shares in 1, drawn as bars."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    right: frozenset[int] = frozenset()
    share: int | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points (x, y), y above 0 on a scale of powers of ten; marks (x, y, name) stand beside it."""

    title: str
    x: str
    y: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[tuple[float, float, str]] = ()

    #: Width and height of what is drawn, and room at the left and below for the scales.
    width: ClassVar = 640
    height: ClassVar = 360
    room: ClassVar = 56

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the drawing."""
        (left, right), (low, high) = self._xs, self._ys
        across = (x - left) / (right - left)
        up = (math.log10(max(y, 10.0**low)) - low) / (high - low)
        return (
            round(self.room + across * (self.width - 1.5 * self.room), 1),
            round((self.height - self.room) * (1 - up) + self.room / 4, 1),
        )

    @property
    def path(self) -> str:
        """The line, as SVG has it."""
        return " ".join(f"{x},{y}" for x, y in (self.place(*point) for point in self.points))

    @property
    def ticks(self) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
        """(place, label) on the scale below, and on the one at the left."""
        (left, right), (low, high) = self._xs, self._ys
        xs = [(self.place(x, 10.0**low)[0], str(x)) for x in range(math.ceil(left), math.floor(right) + 1)]
        ys = [(self.place(left, 10.0**power)[1], f"{10.0**power:g}") for power in range(low, high + 1)]
        return xs, ys

    @property
    def _xs(self) -> tuple[float, float]:
        found = [*(x for x, _ in self.points), *(x for x, _, _ in self.marks)]
        return min(found), max(max(found), min(found) + 1e-9)

    @property
    def _ys(self) -> tuple[int, int]:
        found = [math.log10(max(y, 1e-9)) for y in (*(y for _, y in self.points), *(y for _, y, _ in self.marks))]
        low = math.floor(min(found))
        return low, max(math.ceil(max(found)), low + 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value; `long` ones are folded away."""

    key: str
    value: str
    long: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What is not as it was, for one reason. subject: a name, or the pattern of several. amount: how many, how much."""

    kind: str
    subject: str
    amount: str
    detail: str


@dataclass(frozen=True, slots=True)
class Column:
    """A value of each tensor; None where a tensor has none.

    digits: after the point. scale: set where the values can colour the layers. absent: what stands there for tensors
    without a value. aside: shown of one tensor, and not in the table of all.
    """

    key: str
    title: str
    kind: Kind
    values: Sequence[Any]
    digits: int = 0
    scale: Scale | None = None
    absent: str = ""
    aside: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the scripts take it; foreign text as people see it."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.kind in ("text", "choice"):
            content["values"] = [None if value is None else printable(value, _LONGEST) for value in self.values]
        if self.kind == "number":
            content["values"] = [
                None if value is None else float(f"{float(value):.{_DIGITS}g}") for value in self.values
            ]
        return content


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a model, column by column: `name`, `type`, `parameters` and `bytes` are always among them.

    layers: of each, or None. roles: of each, its name without the layer. order: the column by which they are sorted at
    first, the largest first; empty for the order of the file. histograms: edges and counts of each, where its values
    were looked at.
    """

    columns: Sequence[Column]
    layers: Sequence[int | None]
    roles: Sequence[str]
    order: str = ""
    histograms: Sequence[Mapping[str, Any] | None] = ()

    def to_json(self) -> dict[str, Any]:
        """As the scripts take it."""
        roles = {role: index for index, role in enumerate(dict.fromkeys(self.roles))}
        bins = sum(len(one["counts"]) for one in self.histograms if one)
        fold = next(fold for fold in (1, 2, 4) if fold == 4 or bins <= fold * _MOST_BINS)
        return {
            "columns": [column.to_json() for column in self.columns],
            "layers": list(self.layers),
            "roles": [printable(role) for role in roles],
            "roleOf": [roles[role] for role in self.roles],
            "order": self.order,
            "histograms": [one and coarser(one, fold) for one in self.histograms],
        }


def coarser(histogram: Mapping[str, Any], fold: int) -> dict[str, Any]:
    """So many bins as one: their counts together, the edges between them left out.

    >>> coarser({"edges": [0, 1, 2, 3], "counts": [5, 6, 7], "below": 0, "above": 1}, 2)
    {'edges': [0, 2, 3], 'counts': [11, 7], 'below': 0, 'above': 1}
    """
    edges, counts = histogram["edges"], histogram["counts"]
    starts = range(0, len(counts), fold)
    merged = [sum(counts[start : start + fold]) for start in starts]
    kept = [edges[start] for start in starts] + edges[-1:]
    return {"edges": kept, "counts": merged, "below": histogram["below"], "above": histogram["above"]}


@dataclass(frozen=True, slots=True)
class Page:
    """A page. kind: of what document. verdict: whether it is a good one, in a word. said: prompt and answer. lists:
    titles and their entries."""

    kind: str
    title: str
    lead: str
    facts: Sequence[Fact] = ()
    verdict: tuple[bool, str] | None = None
    notes: Sequence[str] = ()
    changes: Sequence[Change] = ()
    tables: Sequence[Table] = ()
    curve: Curve | None = None
    tensors: Tensors | None = None
    said: Sequence[Entry] = ()
    lists: Sequence[tuple[str, Sequence[Entry]]] = ()
