"""Kernels for weighted values where there are no weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

_NONE: Final = np.empty(0, np.float32)


class Unweighted:
    """A kernel for weighted values, called without an importance."""

    def __init__(self, weighted: Callable[..., None]) -> None:
        self.weighted = weighted

    def __call__(self, *arguments: Any) -> None:
        """(values, out) as (values, no importance, 0, out)."""
        values, out = arguments
        self.weighted(values, _NONE, 0, out)
