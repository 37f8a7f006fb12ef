"""Task vectors: the differences of models from their base, thinned out, weighted and added to the base.

What task arithmetic, TIES, DARE, DELLA and Model Breadcrumbs share; they differ in which differences are kept and in
whether a value's sign is voted on. As in mergekit 0.1.5, what is thinned out may be scaled so that the sum of sizes
stays (`rescale`), which is what DARE's division by the density comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction, Scratch
from requant.merging.methods.method import Base, Formula, Method, Parameter, Scope, Setting, Stack
from requant.merging.methods.sparsity import Sparsity
from requant.merging.methods.sums import Totals
from requant.merging.precision import Precision, flat

#: Sums of sizes below this one are not scaled to each other.
_EPSILON: Final = 1e-7
#: A sum of weights below this one is not divided by.
_NO_WEIGHT: Final = 1e-8


@dataclass(frozen=True, slots=True)
class Tasks(Formula):
    """The base and the models' task vectors. sparsity: which differences are kept; None keeps all. vote: on signs."""

    sparsity: Sparsity | None
    vote: bool

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """What the sparsity needs, and the sizes before and after where they are to stay."""
        if self.sparsity is None:
            return ()
        first = self.sparsity.reductions(inputs)
        if not self._rescaled:
            return first
        return (*first, Totals(inputs, self._sizes))

    @property
    def _rescaled(self) -> tuple[int, ...]:
        """The models whose differences are scaled."""
        if self.sparsity is None or not self.setting.shared["rescale"]:
            return ()
        return self.sparsity.thinned()

    def _sizes(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
        """Sums of the sizes of all differences and of the kept ones: [models, 2, 1]."""
        from requant.kernels_cpu.merging import add_sizes

        assert self.sparsity is not None
        base = values[self.setting.base or 0]
        sums = np.zeros((len(self._rescaled), 2, 1), np.float64)
        for out, n in zip(sums, self._rescaled, strict=True):
            mask = self.sparsity.mask(n, values[n], base, rows.start, known)
            assert mask is not None
            add_sizes(values[n].reshape(-1), base.reshape(-1), mask, self.setting.precision.work, out.reshape(-1))
        return sums

    def buffers(self) -> int:
        """Masks, and ranks or draws while one is made."""
        return 2 + self.setting.models // 4

    def fill(self, stack: Stack, first: int, known: Sequence[Any], out: Values, scratch: Scratch) -> None:
        """Value by value."""
        from requant.kernels_cpu.merging import combine_tasks

        others, base = self.setting.others, stack[self.setting.base or 0]
        if not others:
            out[...] = base
            return
        masks = self._masks(stack, first, known)
        if out.size >= 16:
            tasks = _without(stack, self.setting.base or 0)
            arrays = [tasks.reshape(-1), base.reshape(-1), masks.reshape(-1)]
            target = out.reshape(-1)
        else:
            arrays = [np.concatenate([flat(stack[n]) for n in others]), flat(base), _widened(masks)]
            target = np.empty(16, np.float32)
        shared = self.setting.shared
        numbers, normalize = self._numbers(known), int(bool(shared["normalize"]))
        combine_tasks(*arrays, numbers, int(self.vote), normalize, self.setting.precision.work, target)
        if out.size < 16:
            out.reshape(-1)[:] = target[: out.size]

    def _masks(self, stack: Stack, first: int, known: Sequence[Any]) -> NDArray[np.uint8]:
        """A byte for each value of each model that is not the base; none at all if all are kept."""
        if self.sparsity is None:
            return np.empty(0, np.uint8)
        base = stack[self.setting.base or 0]
        masks = [self.sparsity.mask(n, stack[n], base, first, known) for n in self.setting.others]
        if all(mask is None for mask in masks):
            return np.empty(0, np.uint8)
        return np.stack([np.ones(base.size, np.uint8) if mask is None else mask for mask in masks])

    def _numbers(self, known: Sequence[Any]) -> NDArray[np.float32]:
        """As `combine_tasks` takes them."""
        setting, precision = self.setting, self.setting.precision
        weights = [precision.number(setting.number("weight", n)) for n in setting.others]
        with np.errstate(over="ignore"):  # what comes of it is no number, and found where it is stored
            divisor = precision.number(float(np.sum(weights, dtype=np.float32)))
        scales = dict.fromkeys(setting.others, np.float32(1))
        for n, (before, after) in zip(self._rescaled, known[-1] if self._rescaled else (), strict=True):
            assert self.sparsity is not None
            wide = self.sparsity.sums_in
            if not np.isfinite(wide.number(float(before))):  # sums of sizes that F16 has no number for
                wide = Precision.F32
            one, other = wide.number(float(before)), wide.number(float(after))
            if one >= _EPSILON and other >= _EPSILON:
                scales[n] = wide.number(float(one / other))
        head = [np.float32(setting.number("lambda")), divisor if abs(divisor) >= _NO_WEIGHT else np.float32(1)]
        pairs = [number for n, weight in zip(setting.others, weights, strict=True) for number in (scales[n], weight)]
        return np.array([*head, *pairs], np.float32)


def _without(stack: Stack, base: int) -> NDArray[np.float32]:
    """The models that are not the base, together; without a copy where they lie so."""
    if base == 0:
        return stack[1:]
    if base == len(stack) - 1:
        return stack[:-1]
    return np.concatenate([stack[:base], stack[base + 1 :]])


def _widened(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Masks of fewer than sixteen values, each filled up."""
    return np.pad(masks, ((0, 0), (0, 16 - masks.shape[1]))).reshape(-1) if masks.size else masks


def task_method(
    name: str,
    title: str,
    paper: str,
    *,
    sparsity: type[Sparsity] | None = None,
    vote: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    more: tuple[Parameter, ...] = (),
    check: Callable[[Setting], str] = lambda setting: "",
) -> Method:
    """A method of this kind, with mergekit's parameters. int8_mask is taken, and changes nothing: masks are bytes."""
    shared = (
        Parameter("int8_mask", bool, default=False),
        Parameter("normalize", bool, default=normalize),
        Parameter("rescale", bool, default=rescale),
        Parameter("lambda", float, default=1.0),
        Parameter("weight", float, Scope.OTHER),
        Parameter("density", float, Scope.OTHER, default=1.0, share=True),
    )
    formula = partial(_tasks, sparsity=sparsity, vote=vote)
    return Method(
        name,
        title,
        paper,
        formula,
        (*shared, *more),
        base=Base.REQUIRED,
        check=check,
        idle=frozenset({"int8_mask"} if sparsity else {"int8_mask", "density"}),
        draws=sparsity is not None and sparsity.draws,
    )


def _tasks(setting: Setting, sparsity: Callable[[Setting], Sparsity] | None, vote: bool) -> Tasks:
    return Tasks(setting, None if sparsity is None else sparsity(setting), vote)
