"""Losses said once for all that share a fate: thirty layers, or the thirty-four tensors of a vision tower."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from requant.plan import Loss, LossKind

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
#: What is left out whole: which of its parts there were matters to nobody.
_WHOLE: Final = frozenset({LossKind.TENSOR_DROPPED, LossKind.METADATA_DROPPED})


@dataclass(frozen=True, slots=True)
class LossGroup:
    """Losses of one kind with one reason.

    pattern: their subjects, `*` where they differ. count: how many. nbytes: stored bytes that are left out.
    """

    kind: LossKind
    pattern: str
    detail: str
    count: int
    nbytes: int


def grouped(losses: Iterable[Loss]) -> list[LossGroup]:
    """The losses by kind, pattern and reason, in the order of the first of each.

    Numbers between dots are one pattern. Of what is dropped for one reason, everything below one name is one, too.

    >>> names = [f"vision.layers.{n}.{part}" for n in (0, 1) for part in "qk"]
    >>> dropped = [Loss(LossKind.TENSOR_DROPPED, name, "no place", 10) for name in names]
    >>> [(group.pattern, group.count, group.nbytes) for group in grouped(dropped)]
    [('vision.layers.*.*', 4, 40)]
    """
    found: dict[tuple[LossKind, str, str], dict[str, list[Loss]]] = {}
    for loss in losses:
        pattern = _NUMBER.sub("*", loss.subject)
        root = pattern.partition(".")[0] if loss.kind in _WHOLE and "." in pattern else pattern
        found.setdefault((loss.kind, root, loss.detail), {}).setdefault(pattern, []).append(loss)
    return [_group(kind, detail, patterns) for (kind, _, detail), patterns in found.items()]


def _group(kind: LossKind, detail: str, patterns: dict[str, list[Loss]]) -> LossGroup:
    losses = [loss for group in patterns.values() for loss in group]
    pattern = losses[0].subject if len(losses) == 1 else _common(list(patterns))
    return LossGroup(kind, pattern, detail, len(losses), sum(loss.nbytes for loss in losses))


def _common(patterns: Sequence[str]) -> str:
    """What dotted names begin with, and a `*` for the rest."""
    if len(patterns) == 1:
        return patterns[0]
    shared = []
    for words in zip(*(pattern.split(".") for pattern in patterns), strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return ".".join([*shared, "*"])
