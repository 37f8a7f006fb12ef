"""Passthrough: one model as it is, or times a number; what models of chosen layers ("frankenmerges") are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from requant.codecs import Values
from requant.merging.methods.method import Method, Parameter, Scope
from requant.merging.methods.rowwise import Rowwise


@dataclass(frozen=True, slots=True)
class Passthrough(Rowwise):
    """The one model times `scale`."""

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        scale = self.setting.each[0]["scale"]
        return models[0] if scale is None else self.setting.precision.rounded(models[0] * np.float32(scale))


PASSTHROUGH = Method(
    "passthrough",
    "Passthrough",
    "",
    Passthrough,
    (Parameter("scale", float, Scope.INPUT, choice=True),),
    inputs=(1, 1),
)
