"""Text for people: aligned columns, sizes, numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Final

from requant.cli.terminal import bold
from requant.printable import printable

#: Characters of a cell: two tensor names and an arrow.
_LONGEST_CELL: Final = 400
#: Characters of a column that is folded or shortened, at least.
_NARROWEST: Final = 16
#: Items of a list that stands on one line, at least; and what has items of its own.
_LONG: Final = 1000
_NESTED: Final = (dict, list, tuple)


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), width: int | None = None) -> str:
    """Rows as aligned columns, the first row being the heads; columns in `right` end flush. Cells may be foreign text.

    width: of the terminal, if there is one: the last column is folded between words to fit, or the first one shortened,
    unless that would leave too little of them; so is a word that is longer than its column, such as a name.

    >>> from requant.cli.terminal import PLAIN
    >>> print(table([["type", "n"], ["Q4_K", "12"]], right=frozenset({1})).translate(PLAIN))
    type   n
    Q4_K  12
    """
    if not rows:
        return ""
    rows = [[printable(cell, _LONGEST_CELL) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    excess = 0 if width is None else sum(widths) + 2 * (len(widths) - 1) - width
    last = len(widths) - 1
    folds = last not in right and last > 0 and widths[last] > 0
    if excess > 0 and folds:
        excess += (narrow := max(widths[last] - excess, min(widths[last], _NARROWEST))) - widths[last]
        widths[last] = narrow
    if excess > 0 and 0 not in right:
        widths[0] = max(widths[0] - excess, min(widths[0], _NARROWEST))
    lines = []
    for number, row in enumerate(rows):
        first = shortened(row[0], widths[0])
        folded = (folds and _folded(row[last], widths[last])) or [row[last]]
        cells = [first, *row[1:-1], folded[0]] if last else [first]
        line = _line(cells, widths, right)
        lines.append(bold(line) if number == 0 else line)
        lines += [_line([*[""] * last, more], widths, right) for more in folded[1:]]
    return "\n".join(lines)


def _folded(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    import textwrap

    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [shortened(line, width) for line in lines]


def _line(cells: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    pairs = enumerate(zip(cells, widths, strict=True))
    return "  ".join(cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in pairs).rstrip()


def shortened(text: str, width: int) -> str:
    """Text in so many characters: what is in the middle is left out.

    >>> shortened("model.layers.0.mlp.down_proj.weight", 16)
    'model.l…j.weight'
    """
    if len(text) <= width:
        return text
    return f"{text[: (width - 1) // 2]}…{text[len(text) - width // 2 :]}"


def size(nbytes: float) -> str:
    """Bytes in the unit that keeps three digits.

    >>> size(93_650_400), size(12), size(1_500_000_000)
    ('93.7 MB', '12 B', '1.50 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.5 or unit == "TB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.{max(0, 2 - _digits(nbytes))}f} {unit}"
        nbytes /= 1000
    raise AssertionError


def _digits(value: float) -> int:
    return 0 if value < 9.995 else 1 if value < 99.95 else 2


def count(number: int) -> str:
    """An integer with separators.

    >>> count(134515008)
    '134,515,008'
    """
    return f"{number:,}"


def json_text(value: object) -> str:
    """A document that every JSON parser takes: NaN and the infinities, which JSON lacks, become strings.

    A long list of numbers or texts, such as a vocabulary, stands on one line: the encoder of the standard library is
    many times as fast where it need not indent.

    >>> print(json_text([1.5, float("inf")]).replace("\\n", ""))
    [  1.5,  "inf"]
    """
    import json

    mark, lines = os.urandom(16).hex(), list[str]()

    def shortened(value: object) -> object:
        if isinstance(value, dict):
            return {key: shortened(item) for key, item in value.items()}
        if not isinstance(value, list | tuple):
            return finite(value)
        if len(value) < _LONG or isinstance(value[0], _NESTED):
            return [shortened(item) for item in value]
        try:
            lines.append(json.dumps(value, allow_nan=False))
        except ValueError:
            lines.append(json.dumps(finite(value), allow_nan=False))
        return f"{mark}{len(lines) - 1}"

    text = json.dumps(shortened(value), indent=2, allow_nan=False)
    first, *rest = text.split(f'"{mark}')
    parts = (part.partition('"') for part in rest)
    return first + "".join(lines[int(number)] + after for number, _, after in parts)


def finite(value: object) -> object:
    """The same with words for NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
