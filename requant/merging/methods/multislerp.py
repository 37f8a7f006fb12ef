"""Multi-SLERP: a weighted mean on a sphere, of any number of models or of their differences from a base.

Source: Goddard, "Multi-SLERP" (2025), https://goddard.blog/posts/multislerp-wow-what-a-cool-idea. Every operation is
rounded to the dtype of the tensors, as in mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.errors import PlanError
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method, Parameter, Scope, Setting
from requant.merging.methods.pieces import in_pieces
from requant.merging.methods.rowwise import Rowwise
from requant.merging.methods.sums import Totals, products

#: How far `average_on_sphere` goes.
_MEAN, _DIRECTION, _INSIDE, _RESULT = range(4)


@dataclass(frozen=True, slots=True)
class Multislerp(Rowwise):
    """Unit vectors are moved to the plane that touches the sphere at their mean, averaged there, and moved back.

    Four passes: norms; the norm of the mean; how far each is along it; the norm of what is averaged in the plane.
    """

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """One after another."""
        if len(self.setting.others) == 1:
            return ()

        def squares(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            return np.stack([products(x, x) for x in self._vectors(values)])

        def mean_square(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            mean = self._made(values, known, _MEAN)
            return products(mean, mean)

        def along(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            direction = self._made(values, known, _DIRECTION)
            units = self._units(values, known)
            return np.stack([products(unit, direction, self.setting.precision) for unit in units])

        def plane_square(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            inside = self._made(values, known, _INSIDE)
            return products(inside, inside)

        return tuple(Totals(inputs, terms) for terms in (squares, mean_square, along, plane_square))

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        if len(self.setting.others) == 1:
            return models[self.setting.others[0]]
        if self._opposed(known):
            return self._line(models)
        return self._made(models, known, _RESULT)

    def _made(self, models: Sequence[Values], known: Sequence[Any], until: int) -> Values:
        """What `average_on_sphere` makes, as far as all is known that it needs."""
        from requant.kernels_cpu.merging import average_on_sphere

        r, number, work = self.setting.precision.rounded, self.setting.precision.number, self.setting.precision.work
        weights, norms, base = self._weights(), self._norms(known), self.setting.base
        along = known[2] if until >= _INSIDE else [0.0] * len(norms)
        each = [
            (self._length(norm), weight, number(float(way)))
            for norm, weight, way in zip(norms, weights, along, strict=True)
        ]
        numbers = np.zeros(5, np.float32)
        numbers[4] = base is not None
        if until >= _DIRECTION and not self._opposed(known):
            numbers[0] = self._mean_norm(known)
        if until == _RESULT:
            length = number(float(number(float(np.sqrt(known[3])))) + self._epsilon)
            numbers[1] = number(float(np.cos(length)))
            numbers[2] = number(float(number(float(np.sin(length)))) / float(length))
            numbers[3] = number(float(r(np.array(norms, np.float32) * weights).sum(dtype=np.float32)))
        rows = [models[n] for n in self.setting.others] + ([] if base is None else [models[base]])
        of_each = np.array(each, np.float32).reshape(-1)
        return in_pieces(rows, lambda stack, out: average_on_sphere(stack, of_each, numbers, until, work, out))

    def _line(self, models: Sequence[Values]) -> Values:
        """Two that are opposed: their weighted sum."""
        r = self.setting.precision.rounded
        if len(self.setting.others) != 2:
            raise PlanError(
                f"tensor {self.setting.name!r}: multislerp finds that the weighted models cancel out",
                hint="give them other weights",
            )
        one, other = (r(x * w) for x, w in zip(self._vectors(models), self._weights(), strict=True))
        result = r(one + other)
        return result if self.setting.base is None else r(result + models[self.setting.base])

    @property
    def _epsilon(self) -> float:
        return self.setting.number("eps")

    def _opposed(self, known: Sequence[Any]) -> bool:
        return bool(self._mean_norm(known) < self._epsilon)

    def _vectors(self, models: Sequence[Values]) -> list[Values]:
        others = [np.asarray(models[n]) for n in self.setting.others]
        if self.setting.base is None:
            return others
        return [self.setting.precision.rounded(x - models[self.setting.base]) for x in others]

    def _weights(self) -> NDArray[np.float32]:
        r, number = self.setting.precision.rounded, self.setting.precision.number
        weights = r(np.array([self.setting.number("weight", n) for n in self.setting.others], np.float32))
        if not self.setting.shared["normalize_weights"]:
            return weights
        return r(weights / number(float(weights.sum(dtype=np.float32))))

    def _norms(self, known: Sequence[Any]) -> list[np.float32]:
        return [self.setting.precision.number(float(np.sqrt(total))) for total in known[0]]

    def _units(self, models: Sequence[Values], known: Sequence[Any]) -> list[Values]:
        r, norms = self.setting.precision.rounded, self._norms(known)
        return [r(x / self._length(norm)) for x, norm in zip(self._vectors(models), norms, strict=True)]

    def _length(self, norm: np.float32) -> np.float32:
        return self.setting.precision.number(float(norm) + self._epsilon)

    def _mean_norm(self, known: Sequence[Any]) -> np.float32:
        return self.setting.precision.number(float(np.sqrt(known[1])))


def _contradiction(setting: Setting) -> str:
    """Weights that cannot be normalized."""
    total = sum(setting.number("weight", n) for n in setting.others)
    return "the weights add up to 0" if setting.shared["normalize_weights"] and not total else ""


MULTISLERP = Method(
    "multislerp",
    "Multi-SLERP",
    "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    Multislerp,
    (
        Parameter("weight", float, Scope.OTHER),
        Parameter("normalize_weights", bool, default=True),
        Parameter("eps", float, default=1e-8),
    ),
    base=Base.OPTIONAL,
    others=(1, None),
    check=_contradiction,
)
