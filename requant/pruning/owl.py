"""A sparsity for each layer, by how many of its scores stand out (OWL).

Source: Yin et al., "Outlier weighed layerwise sparsity (OWL): a missing secret sauce for pruning LLMs to high sparsity"
(2023), https://arxiv.org/abs/2310.05175.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.model import layer_of
from requant.pruning.scores import Scores
from requant.reducing import reduced


@dataclass(frozen=True, slots=True)
class Owl:
    """outliers: a score is one that is larger than so many times the mean of its layer. spread: how far the share
    that is kept of a layer may be from that of the model."""

    outliers: float = 5.0
    spread: float = 0.08


@dataclass(frozen=True, slots=True, eq=False)
class _Added(Reduction):
    """What `add` makes of all scores, summed up."""

    scores: Scores
    add: Callable[[Values], float]

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The weights."""
        return (self.scores.of,)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> float:
        """Of a slab."""
        total = 0.0
        for _, flat, norms in self.scores.pieces(values[0], rows):
            found = np.abs(flat.reshape(-1, self.scores.of.columns))
            total += self.add(found * norms if norms.size else found)
        return total

    def merge(self, one: float, other: float) -> float:
        """Added up."""
        return one + other

    def result(self, total: float | None) -> float:
        """0 of nothing."""
        return total or 0.0


def shares(tensors: Mapping[str, Scores], owl: Owl, share: float) -> dict[str, float]:
    """The share of each tensor that becomes zero, the same in a layer; over all layers it is `share` in the mean.

    Every weight is read twice. A share is never below 0 nor above 0.99.
    """
    layers: dict[tuple[str, int], list[str]] = {}
    for name in tensors:
        place = layer_of(name)
        layers.setdefault(("", -1) if place is None else place[:2], []).append(name)
    sums = dict(zip(tensors, reduced(_Added(one, _sum) for one in tensors.values()), strict=True))
    sizes = {name: one.of.rows * one.of.columns for name, one in tensors.items()}
    bounds: dict[str, float] = {}
    for names in layers.values():
        mean = sum(sums[name] for name in names) / max(sum(sizes[name] for name in names), 1)
        bounds |= dict.fromkeys(names, owl.outliers * mean)
    beyond = dict(
        zip(tensors, reduced(_Added(one, _beyond(bounds[name])) for name, one in tensors.items()), strict=True)
    )
    ratios = np.array(
        [sum(beyond[name] for name in names) / sum(sizes[name] for name in names) for names in layers.values()]
    )
    width = float(np.ptp(ratios))
    kept = (ratios - ratios.min()) / width * 2 * owl.spread if width else np.zeros(len(ratios))
    pruned = np.clip(share + kept.mean() - kept, 0.0, 0.99)
    return {name: float(own) for names, own in zip(layers.values(), pruned, strict=True) for name in names}


def _sum(scores: Values) -> float:
    return float(scores.sum(dtype=np.float64))


def _beyond(bound: float) -> Callable[[Values], float]:
    return lambda scores: float(np.count_nonzero(scores > bound))
