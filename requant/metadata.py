"""Key-values in the kind they are asked for: reports need what is there, and nothing that only looks like it.

A stranger's file may store `context_length` as NaN, as text or as a list. What must be right to convert is checked
where it is used, and refused by name; what is only told, such as the memory that a model takes, is left out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from requant.ir import Json, Typed

#: No model has more of anything that is counted.
_MOST: Final = 1 << 40


def as_count(value: object) -> int | None:
    """A whole number above 0, whichever number type holds it; None for everything else.

    >>> as_count(4096.0), as_count(True), as_count(float("nan")), as_count(-1)
    (4096, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        return None
    return int(value) if value == int(value) else None


def largest_count(metadata: Mapping[str, Typed], key: str) -> int | None:
    """A count; the largest of one for each layer. None where there is none."""
    typed = metadata.get(key)
    if typed is None:
        return None
    value: object = typed.value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return max((n for n in map(as_count, value) if n is not None), default=None)
    return as_count(value)


def first_count(config: Mapping[str, Json], *keys: str) -> int | None:
    """The count under the first of `keys` that has one, out of a config.json."""
    return next((n for n in (as_count(config.get(key)) for key in keys) if n is not None), None)
