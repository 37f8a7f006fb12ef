"""Whole numbers out of text: `str.isdigit` is true for `²`, and `int` takes `1_0` and raises at 5,000 digits."""

from __future__ import annotations

from typing import Final

#: No layer, token, group, file or thread has a number of more digits.
_LONGEST: Final = 12


def whole(text: str) -> int | None:
    """The number that at most twelve ASCII digits say; None for everything else.

    >>> whole("042"), whole("²"), whole("-1"), whole("")
    (42, None, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else None
