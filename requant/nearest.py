"""What a user may have meant by a word that is none of those there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

_SHOWN: Final = 3
#: Files of a folder that a mistyped name is compared with, at most.
_LOOKED_AT: Final = 10_000


def did_you_mean(word: str, names: Iterable[str], otherwise: str) -> str:
    """A hint that names those most like `word`; where none is like it, `otherwise`.

    Case and what stands between letters do not count, and several words are told apart by their commas.

    >>> did_you_mean("Q5KM", ["Q4_K_M", "Q5_K_M", "Q8_0"], "")
    'did you mean Q5_K_M?'
    >>> did_you_mean("Q4_K_M,Q8_0", ["Q4_K_M", "Q8_0"], "")
    'one at a time: Q4_K_M, Q8_0'
    """
    bare: dict[str, str] = {}
    for name in names:
        bare.setdefault(_bare(name), name)
    words = [bare.get(_bare(one)) for one in re.split("[,; ]+", word.strip())]
    if len(words) > 1 and None not in words:
        return "one at a time: " + ", ".join(filter(None, words))
    asked = _bare(word)
    if asked in bare:
        return f"did you mean {bare[asked]}?"
    import difflib  # only a word that is none waits for it

    close = [bare[one] for one in difflib.get_close_matches(asked, bare, _SHOWN, 0.7)]
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def files_like(path: Path) -> str:
    """A hint that names the files and folders beside a path that is none whose names are most like it; "" for none."""
    try:
        beside = [entry.name for entry in islice(path.parent.iterdir(), _LOOKED_AT)]
    except (OSError, ValueError):
        return ""
    hint = did_you_mean(path.name, beside, "")
    return hint if hint.startswith("did") else ""


def _bare(word: str) -> str:
    return re.sub(r"[^0-9a-z]", "", word.lower())
