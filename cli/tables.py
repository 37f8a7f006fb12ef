"""Text for people: aligned columns, sizes, numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Final

from requant.printable import printable

#: Characters of a cell: two tensor names and an arrow.
_LONGEST_CELL: Final = 400


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Rows as aligned columns, the first row being the heads; columns in `right` end flush. Cells may be foreign text.

    >>> print(table([["type", "n"], ["Q4_K", "12"]], right=frozenset({1})))
    type   n
    Q4_K  12
    """
    if not rows:
        return ""
    rows = [[printable(cell, _LONGEST_CELL) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


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

    >>> print(json_text([1.5, float("inf")]).replace("\\n", ""))
    [  1.5,  "inf"]
    """
    return json.dumps(finite(value), indent=2, allow_nan=False)


def finite(value: object) -> object:
    """The same with words for NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
