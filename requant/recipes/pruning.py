"""Leaving out whole layers and numbering the rest anew.

Source: `remap_layer` and `remap_imatrix` of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from requant.errors import PlanError
from requant.ir import Typed
from requant.layered import MOST_LAYERS, number, relayered_metadata
from requant.recipes.names import file_order

_LAYER: Final = re.compile(r"blk\.([0-9]{1,9})\.")


def pruned_names(names: Iterable[str], layers: Sequence[int]) -> dict[str, str]:
    """New names of the tensors that stay, in llama.cpp's order. Raises `PlanError` when no layer stays, or one
    is to be left out that is not there.

    >>> pruned_names(["a", "blk.0.b", "blk.1.b", "blk.2.b"], [1])
    {'a': 'a', 'blk.0.b': 'blk.0.b', 'blk.2.b': 'blk.1.b'}
    """
    numbers: dict[int, int] = {}
    left_out: set[int] = set()
    result: dict[str, str] = {}
    for name in file_order(names):
        match = _LAYER.search(name)
        if match is None:
            result[name] = name
            continue
        layer = int(match[1])
        if layer in layers:
            left_out.add(layer)
            continue
        number = numbers.setdefault(layer, len(numbers))
        result[name] = f"{name[: match.start(1)]}{number}{name[match.end(1) :]}"
    if not numbers:
        raise PlanError("no layer would stay", hint="choose fewer layers to prune")
    if unknown := sorted(set(layers) - left_out):
        there = f"layers are {min(numbers.keys() | left_out)} to {max(numbers.keys() | left_out)}"
        raise PlanError(f"there is no layer {', '.join(map(str, unknown))} to leave out", hint=f"{there}")
    return result


def pruned_name(name: str, layers: Sequence[int]) -> str | None:
    """What the name of a tensor becomes in a model without `layers`; None for those of these.

    >>> pruned_name("blk.2.b", [1]), pruned_name("blk.1.b", [1]), pruned_name("output.weight", [1])
    ('blk.1.b', None, 'output.weight')
    """
    match = _LAYER.search(name)
    if match is None:
        return name
    layer = int(match[1])
    number = layer - sum(one < layer for one in set(layers))
    return None if layer in layers else f"{name[: match.start(1)]}{number}{name[match.end(1) :]}"


def pruned_metadata(metadata: Mapping[str, Typed], architecture: str, layers: Sequence[int]) -> dict[str, Typed]:
    """Metadata of a model without `layers`: `block_count` at the end, as llama.cpp writes it.

    What follows from a layer's position or number is said anew, or refused (see `relayered_metadata`); llama.cpp leaves
    it, and then refuses the file, or runs another model.
    """
    before = min(number(metadata, f"{architecture}.block_count"), MOST_LAYERS)  # more are refused there
    return relayered_metadata(metadata, architecture, [layer for layer in range(before) if layer not in set(layers)])
