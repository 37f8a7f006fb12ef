"""How much of a tensor becomes zero, as users write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from requant.errors import PlanError
from requant.printable import printable

_PATTERN: Final = re.compile(r"([1-9]\d{0,2}):([1-9]\d{0,2})", re.ASCII)
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(%?)", re.ASCII)
#: Neighbours of a pattern, at most: a kernel compares each with each.
_MOST: Final = 64


@dataclass(frozen=True, slots=True)
class Sparsity:
    """share: of the weights that become zero. kept, of: in a pattern, of so many neighbours so many stay; else 0."""

    share: float
    kept: int = 0
    of: int = 0

    def __str__(self) -> str:
        """As it is written: `2:4`, `50%`.

        >>> str(Sparsity(0.5)), str(Sparsity(0.75, 1, 4))
        ('50%', '1:4')
        """
        return f"{self.kept}:{self.of}" if self.of else f"{100 * self.share:.6g}%"

    def pruned(self, count: int) -> int:
        """How many of `count` weights become zero: the whole number below."""
        return int(count * self.share)


def sparsity_from(text: str, where: str = "--sparsity") -> Sparsity:
    """`0.5`, `50%`, or `2:4`, where two of every four neighbours in a row stay; raises `PlanError` for anything else.

    >>> sparsity_from("1:4")
    Sparsity(share=0.75, kept=1, of=4)
    """
    if match := _PATTERN.fullmatch(text.strip()):
        kept, of = int(match[1]), int(match[2])
        if kept < of <= _MOST:
            return Sparsity(1 - kept / of, kept, of)
    elif match := _SHARE.fullmatch(text.strip()):
        share = float(match[1]) / (100 if match[2] else 1)
        if 0 <= share < 1:
            return Sparsity(share)
    raise PlanError(
        f"{where}: {printable(text)!r} is no sparsity",
        hint=f"a share below 1 such as 0.5 or 50%, or N:M with N of every M kept, such as 2:4 (M up to {_MOST})",
    )
