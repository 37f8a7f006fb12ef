"""Linear: a weighted average, of models that are fine-tunes of one ("model soup").

Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time" (2022), https://arxiv.org/abs/2203.05482. As mergekit 0.1.5 does, it computes in float32
whatever the dtype, and divides by the sum of the weights unless `normalize` is false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from requant.merging.methods.method import Method, Parameter, Scope, Setting
from requant.merging.methods.weighted import WeightedSum


@dataclass(frozen=True, slots=True)
class Linear(WeightedSum):
    """The sum of the models, each times its weight, divided by the sum of the weights."""

    def numbers(self, known: Sequence[Any]) -> list[float]:
        """The weights, and their sum."""
        weights = [self.setting.number("weight", n) for n in range(self.setting.models)]
        if not self.setting.shared["normalize"]:
            return [*weights, 1.0]
        return [*weights, float(np.sum(np.array(weights, np.float32), dtype=np.float32))]


def _contradiction(setting: Setting) -> str:
    """Weights that cannot be normalized."""
    if not setting.shared["normalize"]:
        return ""
    with np.errstate(over="ignore"):
        weights = np.array([setting.number("weight", n) for n in range(setting.models)], np.float32)
        total = np.sum(weights, dtype=np.float32)
    if not total:
        return "the weights add up to 0, by which nothing can be divided"
    return "" if np.isfinite(total) else "the weights add up to more than float32 can hold"


LINEAR = Method(
    "linear",
    "Linear",
    "https://arxiv.org/abs/2203.05482",
    Linear,
    (Parameter("weight", float, Scope.INPUT), Parameter("normalize", bool, default=True)),
    check=_contradiction,
)
