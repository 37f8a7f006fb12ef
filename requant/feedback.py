"""How GPTQ is asked for, and what one matrix needs for it: the Cholesky factor of the inverse of its damped Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Correction
from requant.errors import PlanError
from requant.hessians import Square

#: Up to so many columns a factor is computed in double precision: 128 MB for each square.
_DOUBLES: Final = 4096
#: Triangles of this size are inverted directly.
_SMALL: Final = 64
#: The damping is doubled so often before it is given up.
_TRIES: Final = 8


class ColumnOrder(Enum):
    """In which order columns are rounded."""

    STORED = "none"  # as they lie
    ACT = "groups"  # by falling activation, and groups are of neighbours in that order ("act-order")
    STATIC = "static"  # by falling activation, with the groups and scales of columns as they lie ("static groups")


class Scales(Enum):
    """How a group finds its scale on the corrected weights."""

    MSE = "mse"  # the least squared error, each column weighed by what its error costs
    RANGE = "minmax"  # from its smallest and largest value, as the first GPTQ did


@dataclass(frozen=True, slots=True)
class FeedbackOptions:
    """damping: what is added to the diagonal, as a part of its mean."""

    damping: float = 0.05
    order: ColumnOrder = ColumnOrder.STORED
    scales: Scales = Scales.MSE


def correction_of(mean: Square, options: FeedbackOptions, name: str) -> Correction:
    """What rounding with feedback needs of E[x xᵀ]. Raises `PlanError` where that is no positive definite matrix."""
    order = None
    if options.order is not ColumnOrder.STORED:
        order = np.argsort(-np.diagonal(mean), kind="stable").astype(np.int32)
        mean = mean[np.ix_(order, order)]
    factor = inverse_factor(mean, options.damping, name)
    return Correction(factor, order, options.order is ColumnOrder.STATIC, options.scales is Scales.RANGE)


def inverse_factor(mean: Square, damping: float, name: str) -> NDArray[np.float32]:
    """U, upper and with Uᵀ U = (H + damping * mean(diag H) I)⁻¹.

    H is made R Rᵀ with an upper R, which is Cholesky's with rows and columns in reverse; then U is the inverse of R.
    """
    dtype: type[Any] = np.float64 if len(mean) <= _DOUBLES else np.float32
    level = float(np.diagonal(mean).mean(dtype=np.float64)) or 1.0
    for attempt in range(_TRIES):
        damped = mean[::-1, ::-1].astype(dtype)
        damped[np.diag_indices_from(damped)] += dtype(damping * 2**attempt * level)
        try:
            lower = np.linalg.cholesky(damped)
        except np.linalg.LinAlgError:
            continue
        upper = np.ascontiguousarray(lower[::-1, ::-1])
        _invert_upper(upper)
        return upper.astype(np.float32, copy=False)
    raise PlanError(f"{name}: its Hessian is not positive definite", hint="the statistics are damaged")


def _invert_upper(square: NDArray[Any]) -> None:
    """In place, by halves."""
    size = len(square)
    if size <= _SMALL:
        square[...] = np.triu(np.linalg.inv(square))
        return
    half = size // 2
    left, right, corner = square[:half, :half], square[half:, half:], square[:half, half:]
    _invert_upper(left)
    _invert_upper(right)
    corner[...] = -(left @ corner) @ right
