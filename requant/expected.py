"""What a predicted divergence is expected to be when it is measured: as with the trials of `requant calibrate`.

A prediction is a sum of terms of second order from the gradients of some windows of text. Of trials, in which the whole
model was rounded and run over more windows, both are known. In between, logarithms are interpolated; beyond them, the
measured is as many times the predicted as in the nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
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
