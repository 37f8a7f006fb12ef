"""KL divergence against size: the best that types chosen for a size are expected to reach, and llama.cpp's mixes."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from requant.cli.pages.content import Curve, Fact, Page, Table
from requant.cli.tables import count, size, table
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.operations.allocate import Choices

#: Points for each bit per weight.
_FINENESS: Final = 8


def document(found: Choices, mixes: Mapping[str, tuple[int, float]]) -> dict[str, object]:
    """What `--frontier --json` prints. mixes: (bytes, loss) of recipes. Raises `PlanError` where none is predicted."""
    if not found.predicts:
        raise PlanError(
            "statistics without gradients or roles predict no divergence",
            hint="requant calibrate --gradients measures them, or --engine llama --roles",
        )
    curve, weights = found.frontier(), found.before.weights
    sizes = [nbytes for nbytes, _ in curve]
    beside = found.before.layout.nbytes - sum(step.target.nbytes for step in found.before.steps)

    def bits(nbytes: int) -> float:
        return round(8 * (nbytes - beside) / weights, 4)

    def best(nbytes: int) -> tuple[int, float] | None:
        """Of at most so many bytes."""
        if nbytes < sizes[0]:
            return None
        chosen = found.knapsack.within(nbytes - found.fixed)
        return found.fixed + sum(option.nbytes for option in chosen), found.expected(chosen)

    steps = range(floor(bits(sizes[0]) * _FINENESS) + 1, floor(bits(sizes[-1]) * _FINENESS) + 1)
    asked = [best(int(step / _FINENESS * weights / 8) + beside) for step in steps]
    points = dict.fromkeys([curve[0], *(point for point in asked if point), curve[-1]])
    return {
        "parameters": weights,
        "points": [{"bytes": nbytes, "bits_per_weight": bits(nbytes), "expected_kl": kl} for nbytes, kl in points],
        "mixes": [
            {
                "recipe": name,
                "bytes": nbytes,
                "bits_per_weight": bits(nbytes),
                "expected_kl": kl,
                "best_kl": None if (at := best(nbytes)) is None else at[1],
            }
            for name, (nbytes, kl) in sorted(mixes.items(), key=lambda item: item[1])
        ],
    }


def text(said: Mapping[str, Any]) -> str:
    """The same for people."""
    rows = [["size", "bits per weight", "expected KL"], *_points(said)]
    blocks = [table(rows, right=frozenset({0, 1, 2}))]
    if said["mixes"]:
        mixes = [["mix", "size", "bits per weight", "expected KL", "best of that size"], *_mixes(said)]
        blocks.append(table(mixes, right=frozenset({1, 2, 3, 4})))
    return "\n\n".join(blocks)


def page(said: Mapping[str, Any], where: str) -> Page:
    """The same to look at."""
    points = [(float(one["bits_per_weight"]), float(one["expected_kl"])) for one in said["points"]]
    marks = [(float(one["bits_per_weight"]), float(one["expected_kl"]), str(one["recipe"])) for one in said["mixes"]]
    heads = ["mix", "size", "bits per weight", "expected KL", "best of that size"]
    right = frozenset({1, 2, 3, 4})
    return Page(
        "frontier",
        PurePath(where).name,
        "KL divergence that is expected of each size, with types chosen for it; marks are llama.cpp's own mixes",
        facts=[Fact("parameters", count(said["parameters"]))],
        curve=Curve("Expected KL divergence", "bits per weight", "nats per token", points, marks),
        tables=[
            Table("Sizes", ["size", "bits per weight", "expected KL"], list(_points(said)), frozenset({0, 1, 2})),
            *([Table("Mixes", heads, list(_mixes(said)), right)] if said["mixes"] else []),
        ],
    )


def _points(said: Mapping[str, Any]) -> list[list[str]]:
    return [
        [size(one["bytes"]), f"{one['bits_per_weight']:.3f}", f"{one['expected_kl']:.5f}"] for one in said["points"]
    ]


def _mixes(said: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            one["recipe"],
            size(one["bytes"]),
            f"{one['bits_per_weight']:.3f}",
            f"{one['expected_kl']:.5f}",
            "" if one["best_kl"] is None else f"{one['best_kl']:.5f}",
        ]
        for one in said["mixes"]
    ]
