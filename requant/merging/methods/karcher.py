"""Karcher mean: the point of a sphere with the least distances to all models, found step by step.

Source: https://arxiv.org/abs/2603.04972; the steps are those of mergekit 0.1.5, with every operation on values rounded
to the dtype of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Method, Parameter, Setting
from requant.merging.methods.rowwise import Rowwise
from requant.merging.methods.sums import Totals, products

#: Passes before the first step, and of each step: how far every model is, the way to go, the length that is reached.
_BEFORE: Final = 2
_EACH: Final = 3


@dataclass(frozen=True, slots=True)
class Karcher(Rowwise):
    """A step needs sums over the whole tensor three times. Nothing is kept between passes but those sums: the mean is
    made again from the models, which is exact, and takes no memory."""

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """All that there may be; those after the end are not made."""
        if self.setting.models == 1:
            return ()

        def squares(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            return np.stack([products(x, x) for x in values])

        def length(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            mean, tangent = self._walk(self._units(values, known), known)
            x = mean if tangent is None else tangent
            return products(x, x)

        def dots(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            units = self._units(values, known)
            mean, _ = self._walk(units, known)
            return np.stack([products(mean, unit) for unit in units])

        def goes_on(known: Sequence[Any]) -> bool:
            return bool(self._valid(known)) and not self._ended(known)

        steps = int(self.setting.number("max_iter"))
        return (
            Totals(inputs, squares),
            Totals(inputs, length, goes_on),
            *(Totals(inputs, terms, goes_on) for _ in range(steps) for terms in (dots, length, length)),
        )

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        if self.setting.models == 1:
            return models[0]
        if not self._valid(known):
            return np.zeros_like(models[0])
        mean, _ = self._walk(self._units(models, known), known)
        share = np.float32(1 / self.setting.models)
        scale = np.float32(0)
        for norm in self._norms(known):
            scale += share * norm
        return self.setting.precision.rounded(self.setting.precision.number(scale) * mean)

    @property
    def _tolerance(self) -> float:
        return self.setting.number("tol")

    def _norms(self, known: Sequence[Any]) -> list[np.float32]:
        return [np.float32(sqrt(total)) for total in known[0]]

    def _valid(self, known: Sequence[Any]) -> list[int]:
        """The models that are not zero."""
        return [n for n, norm in enumerate(self._norms(known)) if norm > self._tolerance]

    def _ended(self, known: Sequence[Any]) -> bool:
        """Whether a step before was too short to be taken."""
        ways = known[_BEFORE + 1 :: _EACH]
        return any(total is not None and sqrt(total) < self._tolerance for total in ways)

    def _units(self, models: Sequence[Values], known: Sequence[Any]) -> list[Values]:
        norms, r = self._norms(known), self.setting.precision.rounded
        return [r(np.asarray(models[n]) / norms[n]) for n in self._valid(known)]

    def _walk(self, units: Sequence[Values], known: Sequence[Any]) -> tuple[Values, Values | None]:
        """The mean after all that is known; and the way to go, where it is known and its length is not."""
        r = self.setting.precision.rounded
        share = np.float32(1 / len(units))
        mean = np.zeros_like(units[0])
        for unit in units:
            mean = r(mean + r(share * unit))
        if len(known) < _BEFORE:
            return mean, None
        length = sqrt(known[1])
        mean = units[0] if length < self._tolerance else r(mean / np.float32(length))
        for at in range(_BEFORE, len(known), _EACH):
            dots, way, reached = (*known[at : at + _EACH], None, None)[:_EACH]
            if dots is None:
                break
            tangent = self._tangent(units, mean, dots)
            if way is None:
                return mean, tangent
            if sqrt(way) < self._tolerance:
                break
            mean = self._moved(mean, tangent, np.float32(sqrt(way)))
            if reached is not None and sqrt(reached) > self._tolerance:
                mean = r(mean / np.float32(sqrt(reached)))
        return mean, None

    def _tangent(self, units: Sequence[Values], mean: Values, dots: Sequence[float]) -> Values:
        """The weighted sum of the ways to all models, along the sphere."""
        r, number = self.setting.precision.rounded, self.setting.precision.number
        tangent = np.zeros_like(mean)
        for unit, total in zip(units, dots, strict=True):
            dot = np.clip(number(float(total)), -1, 1)
            angle = number(float(np.arccos(dot)))
            if angle < self._tolerance:
                continue
            share = number(float(number(float(angle / number(float(np.sin(angle)))))) / len(units))
            tangent = r(tangent + r(share * r(unit - r(dot * mean))))
        return tangent

    def _moved(self, mean: Values, tangent: Values, length: np.float32) -> Values:
        """Along the sphere, in the direction of the tangent, as far as it is long."""
        r, number = self.setting.precision.rounded, self.setting.precision.number
        along = r(number(np.sin(length)) * r(tangent / length))
        return r(r(number(np.cos(length)) * mean) + along)


def _contradiction(setting: Setting) -> str:
    """Steps are counted."""
    return (
        f"max_iter is {setting.shared['max_iter']}, of 1 to 100" if not 1 <= setting.number("max_iter") <= 100 else ""
    )


KARCHER = Method(
    "karcher",
    "Karcher Mean",
    "https://arxiv.org/abs/2603.04972",
    Karcher,
    (Parameter("max_iter", int, default=10), Parameter("tol", float, default=1e-5)),
    check=_contradiction,
)
