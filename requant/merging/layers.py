"""Which layers of a model the result has: lists, and the ways to choose layers for a smaller student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from requant.errors import PlanError


def layer_list(text: str, count: int, option: str) -> tuple[int, ...]:
    """Layers as they are typed, of a model with `count`: numbers and ranges, in any order, some perhaps twice.

    >>> layer_list("0-3,8,8", 12, "--keep-layers")
    (0, 1, 2, 3, 8, 8)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise PlanError(f"{option}: {part.strip()!r} is neither a layer nor a range such as 4-7")
        if max(int(first), int(last or first)) >= count:
            raise PlanError(f"{option}: there is no layer {max(int(first), int(last or first))}", hint=_has(count))
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise PlanError(f"{option}: names no layer")
    return tuple(found)


def layers_left(text: str, count: int, option: str, *, keeps: bool) -> tuple[int, ...]:
    """The layers of a list (`keeps`), or all others, each once and in order; () where none is left.

    >>> layers_left("8,0-3", 12, "--drop-layers", keeps=False)
    (4, 5, 6, 7, 9, 10, 11)
    """
    listed = layer_list(text, count, option)
    return tuple(n for n in range(count) if (n in listed) == keeps)


def _has(count: int) -> str:
    return f"the model has {count}, numbered from 0"


def _uniform(count: int, wanted: int) -> list[int]:
    return [round(n * (count - 1) / max(1, wanted - 1)) for n in range(wanted)]


def _alternating(count: int, wanted: int) -> list[int]:
    return [n * count // wanted for n in range(wanted)]


def _top_heavy(count: int, wanted: int) -> list[int]:
    """Along the square root, so that three quarters come from the upper half; each at most once."""
    found: list[int] = []
    for n in range(wanted):
        at = round((count - 1) * (n / max(1, wanted - 1)) ** 0.5)
        at = max(at, found[-1] + 1 if found else 0)
        found.append(min(at, count - wanted + n))
    return found


def _ends(count: int, wanted: int) -> list[int]:
    return [(n + 1) * count // wanted - 1 for n in range(wanted)]


#: Ways to choose the layers of a student, by name: (layers of the teacher, of the student) -> layers.
MAPPINGS: Final[Mapping[str, Callable[[int, int], list[int]]]] = {
    "uniform": _uniform,  # the first, the last, and others at equal distances, as DistilBERT's script
    "ends": _ends,  # the last of each of as many equal stretches, as TinyBERT
    "top-heavy": _top_heavy,
    "alternating": _alternating,  # every second of twice as many, as DistilBERT's paper says
    "first": lambda count, wanted: list(range(wanted)),
    "last": lambda count, wanted: list(range(count - wanted, count)),
}


def student_layers(count: int, wanted: int, mapping: str) -> tuple[int, ...]:
    """The teacher's layers that a student of `wanted` begins with.

    >>> student_layers(24, 6, "uniform")
    (0, 5, 9, 14, 18, 23)
    """
    if not 1 <= wanted <= count:
        raise PlanError(f"--student: {wanted} layers cannot be chosen of {count}")
    return tuple(MAPPINGS[mapping](count, wanted))
