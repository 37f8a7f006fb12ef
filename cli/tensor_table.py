"""The table of a model's tensors: which columns there are, in which order the rows come, and as CSV."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from requant.cli.tables import count, table
from requant.cli.terminal import width
from requant.encodings.labels import short_label
from requant.ir import Tensor
from requant.nearest import did_you_mean
from requant.operations.inspect import share_of
from requant.operations.placed import Placed
from requant.sources import FileSlice

if TYPE_CHECKING:
    from requant.inspection.figures import Figures

#: What a cell holds: None where there is nothing to say.
Cell = str | int | float | None

_BARS: Final = " ▁▂▃▄▅▆▇█"
#: Bars of a histogram in a row.
_SKETCHED: Final = 16
#: Where a terminal is narrow, columns that nobody asked for by name are left out in this order.
_DISPENSABLE: Final = ("histogram", "mean", "inf", "nan", "outliers", "kurtosis", "zeros", "shape")
#: Characters of a name that a narrow terminal leaves room for before columns are left out.
_NAME: Final = 26


@dataclass(frozen=True, slots=True)
class Row:
    """A tensor, where it belongs, and what its numbers are like, if they were looked at."""

    placed: Placed
    figures: Figures | None = None

    @property
    def tensor(self) -> Tensor:
        """It."""
        return self.placed.tensor


@dataclass(frozen=True, slots=True)
class Column:
    """value: of a cell. shown: for people; None for what text shows as it is. of_values: whether tensors are read."""

    value: Callable[[Row], Cell]
    shown: Callable[[Cell, Row], str] | None = None
    of_values: bool = False
    text: bool = False


def _of_figures(get: Callable[[Figures], Cell], shown: Callable[[Cell, Row], str] | None = None) -> Column:
    return Column(lambda row: None if row.figures is None else get(row.figures), shown, of_values=True)


def _real(value: Cell, row: Row) -> str:
    return f"{value:.3g}"


def _counted(value: Cell, row: Row) -> str:
    return count(int(value or 0))


def _percent(value: Cell, row: Row) -> str:
    share = 100 * float(value or 0) / max(1, row.figures.count if row.figures else 1)
    return f"{share:.3g} %" if value else "0"


def _extent(row: Row, get: Callable[[FileSlice], Cell]) -> Cell:
    """Of the first part that lies in a file."""
    return next((get(one) for one in row.tensor.sources.values() if isinstance(one, FileSlice)), None)


#: What `--columns` takes, in the order in which CSV has them.
COLUMNS: Final[Mapping[str, Column]] = {
    "tensor": Column(lambda row: row.tensor.name, text=True),
    "layer": Column(lambda row: row.placed.layer),
    "role": Column(lambda row: row.placed.role, text=True),
    "shape": Column(lambda row: " x ".join(map(str, row.tensor.shape)) or "scalar", text=True),
    "type": Column(lambda row: short_label(row.tensor.encoding), text=True),
    "parameters": Column(lambda row: math.prod(row.tensor.shape), _counted),
    "bits": Column(lambda row: share_of([row.tensor]).bits_per_weight, lambda value, row: f"{value:.3f}"),
    "bytes": Column(lambda row: row.tensor.nbytes, _counted),
    "file": Column(lambda row: _extent(row, lambda part: part.path.name), text=True),
    "offset": Column(lambda row: _extent(row, lambda part: part.offset), _counted),
    "min": _of_figures(lambda found: found.least, _real),
    "max": _of_figures(lambda found: found.largest, _real),
    "mean": _of_figures(lambda found: found.mean, _real),
    "std": _of_figures(lambda found: found.std, _real),
    "kurtosis": _of_figures(lambda found: found.kurtosis, _real),
    "zeros": _of_figures(lambda found: found.zeros, _percent),
    "outliers": _of_figures(lambda found: found.outliers, _counted),
    "nan": _of_figures(lambda found: found.nan, _counted),
    "inf": _of_figures(lambda found: found.inf, _counted),
    "histogram": Column(lambda row: sketch(row.figures), of_values=True, text=True),
}
_USUAL: Final = ("tensor", "shape", "type", "bits", "bytes")
_USUAL_OF_VALUES: Final = ("tensor", "type", "min", "max", "mean", "std", "kurtosis", "zeros", "outliers", "histogram")


@dataclass(frozen=True, slots=True)
class Order:
    """Which columns are shown, and by which of them rows are ordered.

    columns: None for the usual ones. sort: None for the order of the file. backwards: numbers from the least on, and
    text from its end, instead of the other way.
    """

    columns: tuple[str, ...] | None = None
    sort: str | None = None
    backwards: bool = False

    @property
    def needs_values(self) -> bool:
        """Whether the numbers of the tensors must be read."""
        named = (*(self.columns or ()), *((self.sort,) if self.sort else ()))
        return any(COLUMNS[name].of_values for name in named)

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """In order; what has nothing in that column, or NaN, comes last."""
        if self.sort is None:
            return list(rows)
        column = COLUMNS[self.sort]
        keyed = [(column.value(row), row) for row in rows]
        known = [pair for pair in keyed if pair[0] is not None and pair[0] == pair[0]]
        last = [row for value, row in keyed if value is None or value != value]
        if column.text:
            known.sort(key=lambda pair: str(pair[0]), reverse=self.backwards)
        else:
            known.sort(key=lambda pair: float(pair[0] or 0), reverse=not self.backwards)
        return [row for _, row in known] + last


def ordered(columns: str | None, sort: str | None) -> Order:
    """What `--columns` and `--sort` say; raises `click.BadParameter` for a column that is none."""
    names = None if columns is None else tuple(_known(name.strip(), "--columns") for name in columns.split(","))
    if sort is None:
        return Order(names)
    return Order(names, _known(sort.removeprefix("-"), "--sort"), sort.startswith("-"))


def _known(name: str, option: str) -> str:
    if name in COLUMNS:
        return name
    hint = did_you_mean(name, COLUMNS, f"there are {', '.join(COLUMNS)}")
    raise click.BadParameter(f"there is no column {name!r}; {hint}", param_hint=option)


def tensor_table(rows: Sequence[Row], order: Order, *, values: bool) -> str:
    """For people; the usual columns are fewer where the terminal is narrow."""
    names = list(order.columns or (_USUAL_OF_VALUES if values else _USUAL))
    if values and order.columns is None:  # what hardly any model has takes no room in those that have none
        for name in ("nan", "inf"):
            if any(row.figures is not None and COLUMNS[name].value(row) for row in rows):
                names.insert(names.index("outliers") + 1, name)
    cells = {name: [name, *(_shown(COLUMNS[name], row) for row in rows)] for name in names}
    room = width()
    if order.columns is None and room is not None:
        _narrow(cells, room)
    right = frozenset(n for n, name in enumerate(cells) if not COLUMNS[name].text)
    # a histogram is of one width, and no text to be folded
    folds = room if order.columns is None else None
    return table(list(zip(*cells.values(), strict=True)), right=right, width=folds)


def _narrow(cells: dict[str, list[str]], room: int) -> None:
    """Leave out columns until the rest fits beside a part of a name."""
    for name in _DISPENSABLE:
        least = min(_NAME, max(map(len, cells["tensor"])))
        if least + sum(2 + max(map(len, column)) for key, column in cells.items() if key != "tensor") <= room:
            return
        cells.pop(name, None)


def _shown(column: Column, row: Row) -> str:
    value = column.value(row)
    if value is None:
        return ""
    return str(value) if column.shown is None else column.shown(value, row)


def csv_text(rows: Sequence[Row], order: Order, *, values: bool) -> str:
    """Every column, or those that were asked for, with whole numbers and digits; RFC 4180 but for the ends of lines."""
    import csv

    names = order.columns or tuple(
        name for name, column in COLUMNS.items() if name != "histogram" and (values or not column.of_values)
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([COLUMNS[name].value(row) for name in names])
    return out.getvalue().removesuffix("\n")


def sketch(figures: Figures | None) -> str | None:
    """A histogram as a row of bars; outliers stand in the first and the last."""
    if figures is None or not figures.histogram.counts:
        return None
    histogram = figures.histogram
    low, high = histogram.edges[0], histogram.edges[-1]
    bars = [0.0] * _SKETCHED
    for n, amount in enumerate(histogram.counts):
        middle = (histogram.edges[n] + histogram.edges[n + 1]) / 2
        bars[min(_SKETCHED - 1, int((middle - low) / (high - low) * _SKETCHED))] += amount
    bars[0] += histogram.below
    bars[-1] += histogram.above
    return "".join(_BARS[math.ceil(bar / max(bars) * (len(_BARS) - 1))] for bar in bars)
