"""What a predicted divergence is expected to be when it is measured: as with the trials of `requant calibrate`.

A prediction is a sum of terms of second order from the gradients of some windows of text. Of trials, in which the whole
model was rounded and run over more windows, both are known. In between, logarithms are interpolated; beyond them, the
measured is as many times the predicted as in the nearest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import exp, log

import numpy as np

from requant.statistics import Statistics


def expected_of(predicted: float, statistics: Statistics) -> float:
    """The divergence that a prediction stands for, in nats for each token; itself where there were no trials."""
    found = _trials(statistics)
    return _along(predicted, [p for p, _ in found], [m for _, m in found])


def predicted_of(expected: float, statistics: Statistics) -> float:
    """The prediction that stands for a divergence: the inverse of `expected_of`."""
    found = _trials(statistics)
    return _along(expected, [m for _, m in found], [p for p, _ in found])


def role_name(name: str) -> str:
    """What stands for all matrices that do the same in their layers.

    >>> role_name("blk.3.attn_q.weight"), role_name("token_embd.weight")
    ('attn_q', 'token_embd')
    """
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")


def in_nats(
    names: Sequence[str], losses: Sequence[Mapping[str, float]], statistics: Statistics
) -> list[dict[str, float]] | None:
    """Shares of tensors' outputs as divergences, by what their roles have cost; None where one was not measured."""
    if not all(role_name(name) in statistics.roles for name in names):
        return None
    prices = {role: float(one.sums[0, 1] / one.sums[0, 0]) for role, one in statistics.roles.items()}
    return [
        {label: loss * prices[role_name(name)] for label, loss in one.items()}
        for name, one in zip(names, losses, strict=True)
    ]


def _trials(statistics: Statistics) -> list[tuple[float, float]]:
    """(predicted, measured), both rising."""
    means = sorted(tuple(one.sums[0, :2] / one.counts[0]) for one in statistics.trials.values())
    rising: list[tuple[float, float]] = []
    for predicted, measured in means:
        if not rising or (predicted > rising[-1][0] and measured > rising[-1][1]):
            rising.append((float(predicted), float(measured)))
    return rising


def _along(value: float, before: Sequence[float], after: Sequence[float]) -> float:
    if not before or value <= 0:
        return value
    within = min(max(value, before[0]), before[-1])
    return value / within * exp(float(np.interp(log(within), np.log(before), np.log(after))))
