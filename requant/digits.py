"""Whole numbers out of text: `str.isdigit` is true for `²`, and `int` takes `1_0` and raises at 5,000 digits."""

from __future__ import annotations

import re
from typing import Final

#: No layer, token, group, file or thread has a number of more digits.
_LONGEST: Final = 12


def whole(text: str) -> int | None:
    """The number that at most twelve ASCII digits say; None for everything else.

    >>> whole("042"), whole("²"), whole("-1"), whole("")
    (42, None, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else None


def size_in_bytes(text: str) -> int | None:
    """Bytes; None for what is no size.

    >>> size_in_bytes("1.5GB"), size_in_bytes("2GiB"), size_in_bytes("500k"), size_in_bytes("5 apples")
    (1500000000, 2147483648, 500000, None)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(I?)B?", text.strip().upper(), re.ASCII)
    if match is None or not 0 < float(match[1]) < 1e12 or (match[3] and not match[2]):
        return None
    power = " KMGT".index(match[2] or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)
