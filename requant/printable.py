"""Text out of models as people see it: on a terminal, in a message, on a page.

Names, metadata, templates and tokens are written by strangers. A terminal obeys some characters (escape sequences
retitle windows, move the cursor, answer in the user's name; bidirectional controls show another order than is there),
so everything foreign passes through `printable` on its way to one. JSON output is exact and needs nothing of this:
JSON escapes what is not ASCII.
"""

from __future__ import annotations

import reprlib
from typing import Final

#: Characters of a name or a value that are shown; more are counted.
LONGEST: Final = 200
#: Characters of a message that are shown.
LONGEST_MESSAGE: Final = 5000
_brief: Final = reprlib.Repr()  # also stops at values that are nested too deeply for repr
_brief.maxstring, _brief.maxother, _brief.maxlong, _brief.maxlist, _brief.maxlevel = 80, 80, 40, 6, 3


def printable(text: str, longest: int | None = LONGEST) -> str:
    """`text` on one line, at most `longest` characters of it, and nothing in it that is not seen.

    Escaped as in a Python string is whatever `str.isprintable` is false for: control characters of both sets, line
    and paragraph separators, characters without width or that turn the direction of writing, halves of surrogate
    pairs (in GGUF: bytes that are not UTF-8).

    >>> print(printable("blk.0\\x1b[2J\\u202e.weight"))
    blk.0\\x1b[2J\\u202e.weight
    >>> printable("abcdef", 4)
    'abcd… (6 characters)'
    """
    if longest is not None and len(text) > longest:
        return f"{printable(text[:longest], None)}… ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shorten(value: object) -> str:
    """Something from a file as it is quoted in a message."""
    return _brief.repr(value)
