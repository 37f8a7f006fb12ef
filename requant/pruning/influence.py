"""Which layers of a model are kept: those that change most what goes through them.

Source: Men et al., "ShortGPT: layers in large language models are more redundant than you expect" (2024),
https://arxiv.org/abs/2403.03853: a block's influence is 1 - cos of its input and its output, of the same token, on
average over tokens; those with the least are left out, all at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from requant.errors import PlanError
from requant.importance import Measured


def most_influential(influences: Mapping[str, Measured] | None, layers: int, left: int) -> tuple[int, ...]:
    """The `left` of so many layers with most influence, in their order; of equal ones the first.

    influences: by `blk.3`, as of `requant.statistics.Statistics`; None are yet to be measured, and the first are taken.
    Raises `PlanError` where they are of other layers.
    """
    if not 1 <= left < layers:
        raise PlanError(f"--layers {left}: the model has {layers}, of which fewer can be left")
    if influences is None:
        return tuple(range(left))
    measured = {f"blk.{n}": influences.get(f"blk.{n}") for n in range(layers)}
    without = [name for name, entry in measured.items() if entry is None]
    if without:
        raise PlanError(
            f"the statistics say nothing of the influence of {without[0]}, and the model has {layers} layers",
            hint="requant calibrate --engine torch of this very model makes them; --drop-layers takes numbers",
        )
    if len(influences) > layers:
        raise PlanError(
            f"the statistics are of a model with {len(influences)} layers, and this one has {layers}",
            hint="requant calibrate of this very model makes others",
        )
    means = np.array([entry.sums[0, 0] / entry.counts[0] for entry in measured.values() if entry is not None])
    return tuple(sorted(int(n) for n in np.argsort(-means, kind="stable")[:left]))
