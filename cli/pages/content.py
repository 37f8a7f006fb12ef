"""What a page has on it, whatever document it is made of; `page.html` says where, and the scripts draw it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from requant.operations.placed import place_of
from requant.printable import printable

#: How a column is shown and sorted. `choice` is text of which there are few, to filter by.
Kind = Literal["text", "choice", "shape", "count", "bytes", "number"]
#: What colours stand for: stored bits of a number, or an error from none to as large as the values.
Scale = Literal["bits", "error"]

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
        return content


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a model, column by column: `name`, `type`, `parameters` and `bytes` are always among them.

    layers: of each, or None. roles: of each, its name without the layer. order: the column by which they are sorted at
    first, the largest first; empty for the order of the file.
    """

    columns: Sequence[Column]
    layers: Sequence[int | None]
    roles: Sequence[str]
    order: str = ""

    @classmethod
    def placed(
        cls,
        columns: Sequence[Column],
        place: Callable[[str], tuple[int | None, str]] = place_of,
        order: str = "",
    ) -> Tensors:
        """With their places, which their names tell."""
        (names,) = (column.values for column in columns if column.key == "name")
        places = [place(name) for name in names]
        return cls(columns, [layer for layer, _ in places], [role for _, role in places], order)

    def to_json(self) -> dict[str, Any]:
        """As the scripts take it."""
        roles = {role: index for index, role in enumerate(dict.fromkeys(self.roles))}
        return {
            "columns": [column.to_json() for column in self.columns],
            "layers": list(self.layers),
            "roles": [printable(role) for role in roles],
            "roleOf": [roles[role] for role in self.roles],
            "order": self.order,
        }


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
    tensors: Tensors | None = None
    said: Sequence[Entry] = ()
    lists: Sequence[tuple[str, Sequence[Entry]]] = ()
