"""Which units of a model are kept: those that count most, by the size of their weights or by what calibration measured.

Source of the second: Muralidharan et al., "Compact language models via pruning and knowledge distillation" (Minitron,
2024), https://arxiv.org/abs/2407.14679: a head counts what it gives to the projection behind it, a neuron its
activation, a column of the states what norms give there. Of the ways to aggregate over tokens that the paper compares,
this is the L2 norm over all of them, which is what an importance matrix has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from requant.errors import PlanError
from requant.merging.model import Model
from requant.pruning.energies import Doubles, energies_of
from requant.pruning.masks import Squares
from requant.pruning.structure import Kept, Wanted, is_turned, sizes_wanted
from requant.pruning.units import Axis, Place, Sizes, place_of

#: Axes that units of one layer are counted along.
_QUERIES = (Axis.HEADS, Axis.QKV)


@dataclass(frozen=True, slots=True)
class Measured:
    """squares: mean squares of what each matrix is given, by its name. experts: by layer, of each expert, what goes
    into its last matrix, summed over the tokens that reach it."""

    squares: Squares
    experts: Mapping[int, NDArray[np.float64]]


def chosen_units(model: Model, wanted: Wanted, measured: Measured | None) -> Kept:
    """measured: None chooses by the size of weights, which are read now. Raises `PlanError` without what is needed."""
    before, after = sizes_wanted(model, wanted)
    places = {name: place_of(name) for name in model.tensors}
    count = max((place.layer for place in places.values()), default=-1) + 1
    layers = range(count) if wanted.layers is None else wanted.layers
    counted = _Magnitudes(model, places, before) if measured is None else _Activations(places, before, measured)
    kept: dict[tuple[Axis, int, int], tuple[int, ...]] = {}
    if after.hidden != before.hidden:
        kept[Axis.HIDDEN, -1, -1] = _most(counted.hidden(layers), after.hidden)
    for layer in layers:
        if (after.heads, after.kv_heads) != (before.heads, before.kv_heads):
            groups, heads = _heads(counted.heads(layer), before, after)
            kept[Axis.KV_HEADS, layer, -1], kept[Axis.HEADS, layer, -1] = groups, heads
        here = [place for place in places.values() if place.layer == layer]
        if after.ffn != before.ffn and any(place.rows is Axis.FFN for place in here):
            kept[Axis.FFN, layer, -1] = _most(counted.neurons(layer, -1), after.ffn)
        experts = sorted({place.expert for place in here if place.expert >= 0})
        if after.experts != before.experts and experts:
            kept[Axis.EXPERTS, layer, -1] = _most(counted.experts(layer), after.experts)
        if after.expert_ffn != before.expert_ffn:
            for expert in experts:
                kept[Axis.EXPERT_FFN, layer, expert] = _most(counted.neurons(layer, expert), after.expert_ffn)
    return kept


def _most(scores: Doubles, count: int) -> tuple[int, ...]:
    """The numbers of the highest, in their order; of equal ones the first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return tuple(sorted(int(n) for n in order))


def _heads(scores: Doubles, before: Sizes, after: Sizes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Groups that are kept, and heads: as many of each group. scores: of heads, what a group has in common included."""
    by_group = scores.reshape(before.kv_heads, -1)
    groups = _most(by_group.sum(1), after.kv_heads)
    each = after.heads // after.kv_heads
    size = by_group.shape[1]
    heads = tuple(group * size + head for group in groups for head in _most(by_group[group], each))
    return groups, heads


def _grouped(numbers: Doubles, units: int) -> Doubles:
    total: Doubles = numbers.reshape(units, -1).sum(1)
    return total


class _Magnitudes:
    """Sums of squares of all weights that would go with a unit."""

    def __init__(self, model: Model, places: Mapping[str, Place], sizes: Sizes) -> None:
        matrices = {name: node for name, node in model.tensors.items() if len(node.shape) == 2}
        found = energies_of(matrices)
        self._energies = {name: pair[::-1] if is_turned(name) else pair for name, pair in found.items()}
        self._places, self._sizes = places, sizes

    def _sum(self, axis: Axis, layers: Iterable[int], expert: int = -1) -> Doubles:
        """Of each row or column along an axis, over all matrices of these layers that have it."""
        wanted, total = set(layers), np.zeros(self._sizes.units(axis) * self._sizes.width(axis))
        for name, pair in self._energies.items():
            place = self._places[name]
            if place.layer in wanted and expert in (place.expert, -1):
                for own, numbers in zip((place.rows, place.columns), pair, strict=True):
                    if own is axis:
                        total = total + numbers
                    elif own is Axis.QKV and axis is Axis.HEADS:
                        total = total + numbers.reshape(3, -1).sum(0)
        return total

    def hidden(self, layers: Iterable[int]) -> Doubles:
        """Of each column of the states."""
        return self._sum(Axis.HIDDEN, (-1, *layers))

    def heads(self, layer: int) -> Doubles:
        """Of each head; keys and values count for the heads of their group alike."""
        sizes = self._sizes
        own = _grouped(self._sum(Axis.HEADS, (layer,)), sizes.heads)
        shared = _grouped(self._sum(Axis.KV_HEADS, (layer,)), sizes.kv_heads) * sizes.kv_heads / sizes.heads
        return own + np.repeat(shared, sizes.heads // sizes.kv_heads)

    def neurons(self, layer: int, expert: int) -> Doubles:
        """Of each neuron of a layer, or of an expert."""
        return self._sum(Axis.FFN if expert < 0 else Axis.EXPERT_FFN, (layer,), expert)

    def experts(self, layer: int) -> Doubles:
        """Of each expert, its router's row included."""
        total = self._sum(Axis.EXPERTS, (layer,))
        for name, (rows, _) in self._energies.items():
            place = self._places[name]
            if place.layer == layer and place.expert >= 0:
                total[place.expert] += rows.sum()
        return total


class _Activations:
    """Mean squares over the tokens of a calibration."""

    def __init__(self, places: Mapping[str, Place], sizes: Sizes, measured: Measured) -> None:
        self._places, self._sizes, self._measured = places, sizes, measured

    def _given(self, axis: Axis, layer: int, expert: int = -1) -> Doubles:
        """What the matrix is given whose columns are these units."""
        matrices = (
            name
            for name, place in self._places.items()
            if place.columns is axis and (place.layer, place.expert) == (layer, expert)
        )
        return self._first(matrices, f"the {axis.value} of layer {layer}")

    def hidden(self, layers: Iterable[int]) -> Doubles:
        """What the norms before attention and before the feed-forward layer give, over all layers."""
        total = np.zeros(self._sizes.hidden)
        for layer in layers:
            for rows in (_QUERIES, (Axis.FFN, Axis.EXPERTS)):
                total += self._normed(layer, rows)
        return total

    def _normed(self, layer: int, rows: tuple[Axis, ...]) -> Doubles:
        matrices = (
            name
            for name, place in self._places.items()
            if place.layer == layer and place.rows in rows and place.columns is Axis.HIDDEN
        )
        return self._first(matrices, f"what the norms of layer {layer} give")

    def _first(self, matrices: Iterable[str], what: str) -> Doubles:
        """What the first of some matrices is given of which that was measured."""
        for name in matrices:
            found = self._measured.squares.get(name)
            if found is not None:
                return np.asarray(found[0], np.float64)
        raise _unmeasured(what)

    def heads(self, layer: int) -> Doubles:
        """Of each head."""
        return _grouped(self._given(Axis.HEADS, layer), self._sizes.heads)

    def neurons(self, layer: int, expert: int) -> Doubles:
        """Of each neuron of a layer, or of an expert."""
        return self._given(Axis.FFN if expert < 0 else Axis.EXPERT_FFN, layer, expert)

    def experts(self, layer: int) -> Doubles:
        """Of each expert."""
        found = self._measured.experts.get(layer)
        if found is None or len(found) != self._sizes.experts:
            raise _unmeasured(f"the experts of layer {layer}")
        return found


def _unmeasured(what: str) -> PlanError:
    return PlanError(
        f"the statistics say nothing of {what}",
        hint="requant calibrate of this very model makes them; --importance magnitude needs none",
    )
