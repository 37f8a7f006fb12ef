"""Numbers out of JSON and GGUF, and back without the digits that float32 made up."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np

from requant.architectures.rules import Config
from requant.errors import PlanError


def number(values: Config, key: str, absent: float | None = None) -> float:
    """A finite number; `absent` where there is none."""
    value = values.get(key)
    if value is None and absent is not None:
        return absent
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e38:
        raise PlanError(f"{key} is {shown(value)}, a number is needed")
    return float(value)


def positive(values: Config, key: str, absent: float | None = None) -> float:
    """A number above 0 and below 2^31; `absent` where there is none."""
    value = number(values, key, absent)
    if not 0 < value < 1 << 31:
        raise PlanError(f"{key} is {value:g}, a number above 0 is needed")
    return value


def at_least_one(values: Config, key: str, absent: float | None = None) -> int:
    """A number of things, which is at least 1; what is behind its point is cut off, as `int` does."""
    value = int(positive(values, key, absent))
    if value < 1:
        raise PlanError(f"{key} is {shown(values.get(key))}, a number of at least 1 is needed")
    return value


def shortest(value: SupportsFloat) -> float:
    """The shortest decimal that a float32 of this value was rounded from.

    >>> shortest(9.999999747378752e-06)
    1e-05
    """
    return float(str(np.float32(float(value))))


def shown(value: object) -> str:
    """Something from a configuration as a message quotes it."""
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
