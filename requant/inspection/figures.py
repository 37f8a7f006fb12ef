"""What the numbers of a tensor are like: extremes, moments, what is no number, and how they are spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values, codec_for
from requant.encodings import Dense, rows_of
from requant.errors import UnsupportedError
from requant.expressions import Node, Reduction, Stored
from requant.ir import Json, Tensor
from requant.losses import pattern_of
from requant.reducing import reduced

#: Standard deviations from the mean beyond which a value is an outlier.
FAR: Final = 6.0
#: Bins of a histogram, at most.
BINS: Final = 64
#: Where the BF16 number 0 stands among all of them in order.
_ZERO: Final = 1 << 15
_LARGEST: Final = 0x7F80
#: One zero of so many numbers is no accident.
_MANY: Final = 5


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie where, counted exactly.

    edges: rising, one more than `counts`; each is a BF16 number, or infinite. A value at an edge belongs to the side
    that is farther from zero, and zero to the right. below, above: outliers, which no bin has.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {"edges": list(self.edges), "counts": list(self.counts), "below": self.below, "above": self.above}


@dataclass(frozen=True, slots=True)
class Figures:
    """All but `nan` and `inf` are of the values that are finite.

    std: of the population. kurtosis: excess, 0 for a normal distribution and -1.2 for a uniform one; NaN where all
    values are the same. outliers: how many lie farther from the mean than 6 standard deviations, both bounds being
    moved outwards to a BF16 number.
    """

    count: int
    least: float
    largest: float
    mean: float
    std: float
    kurtosis: float
    zeros: int
    outliers: int
    nan: int
    inf: int
    histogram: Histogram

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "min": self.least,
            "max": self.largest,
            "mean": self.mean,
            "std": self.std,
            "kurtosis": self.kurtosis,
            "zeros": self.zeros,
            "outliers": self.outliers,
            "nan": self.nan,
            "inf": self.inf,
            "histogram": self.histogram.to_json(),
        }

    @property
    def oddity(self) -> str:
        """What is strange about them; empty if nothing is."""
        if self.nan or self.inf:
            amounts = [f"{n:,} {what}" for n, what in ((self.nan, "NaN"), (self.inf, "infinite")) if n]
            return " and ".join(amounts) + " of its values"
        if self.count and self.least == self.largest:
            return "every value is 0" if self.least == 0 else f"every value is {self.least:.6g}"
        return ""


@dataclass(frozen=True, slots=True)
class Survey(Reduction):
    """The `Figures` of a tensor."""

    tensor: Tensor

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The tensor."""
        return (Stored(self.tensor),)

    def part(
        self, values: Sequence[Values], rows: range, known: Sequence[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Moments and counts of a slab."""
        from requant.kernels_cpu import figures as kernel

        counts, out = np.zeros(kernel.COUNTERS, np.uint32), np.zeros(kernel.FIGURES)
        out[kernel.LEAST], out[kernel.LARGEST] = np.inf, -np.inf
        kernel.survey(values[0].reshape(-1), counts, out)
        return out[None], counts.astype(np.int64)

    def merge(self, one: Any, other: Any) -> Any:
        """Moments are kept apart until the end."""
        counts = one[1]
        counts += other[1]
        return np.concatenate((one[0], other[0])), counts

    def result(self, total: Any | None) -> Figures:
        """Of a tensor without values everything is nothing."""
        from requant.kernels_cpu.figures import COUNTERS, FIGURES

        moments, counts = (np.zeros((0, FIGURES)), np.zeros(COUNTERS, np.int64)) if total is None else total
        return _figures(moments, counts)


def surveyed(tensors: Sequence[Tensor], told: Callable[[int], object] = lambda done: None) -> Iterator[Figures | None]:
    """The figures of each tensor, in order; None of integers, and of what else there is no arithmetic for.

    told: hears of the bytes that are done.
    """
    known = [is_decoded(tensor) for tensor in tensors]
    surveys = (Survey(tensor) for tensor, decoded in zip(tensors, known, strict=True) if decoded)
    results = reduced(surveys, told=lambda survey, rows: told(_share(survey.tensor, rows)))
    for decoded in known:
        yield next(results) if decoded else None


def _share(tensor: Tensor, rows: int) -> int:
    return tensor.nbytes * rows // max(1, rows_of(tensor.shape))


def is_decoded(tensor: Tensor) -> bool:
    """Whether there is arithmetic for how it is stored."""
    try:
        codec_for(tensor.encoding)
    except UnsupportedError:
        return False
    return True


def oddities(tensors: Sequence[Tensor], figures: Sequence[Figures | None]) -> list[str]:
    """What is strange about the numbers of a model, in a line for all tensors of a kind: as notices of a reader."""
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor, found in zip(tensors, figures, strict=True):
        if found is not None and found.oddity:
            groups.setdefault((pattern_of(tensor.name), found.oddity), []).append(tensor.name)
    return [
        f"{names[0] if len(names) == 1 else f'{pattern} ({len(names)} tensors)'}: {what}"
        for (pattern, what), names in groups.items()
    ]


def sparseness(tensors: Sequence[Tensor], figures: Sequence[Figures | None]) -> list[str]:
    """How much of a model's dense matrices is zero, where that is much of them, and who gains from it."""
    found = [one for tensor, one in zip(tensors, figures, strict=True) if one is not None and _is_sparse(tensor, one)]
    zeros, weights = sum(one.zeros for one in found), sum(one.count for one in found)
    if not found:
        return []
    return [
        f"{zeros:,} of {weights:,} weights in {len(found)} matrices are zero ({zeros / weights:.1%}): dense, they take "
        "as much room and time as any others"
    ]


def _is_sparse(tensor: Tensor, found: Figures) -> bool:
    """Whether many of a dense matrix's numbers are zero; where all are, that is told apart."""
    dense = isinstance(tensor.encoding, Dense) and len(tensor.shape) > 1
    return dense and found.count < _MANY * found.zeros < _MANY * found.count


def _figures(moments: NDArray[np.float64], counts: NDArray[np.int64]) -> Figures:
    """moments: [slabs, 10], as the kernel leaves them. counts: [65536], by the upper bits of values."""
    from requant.kernels_cpu.figures import INFINITIES, LARGEST, LEAST, NANS, ZEROS

    least, largest = float(moments[:, LEAST].min(initial=np.inf)), float(moments[:, LARGEST].max(initial=-np.inf))
    n, mean, second, fourth = _moments(moments)
    if least == largest:  # else what was rounded away would be a spread
        mean, second = least, 0.0
    std = math.sqrt(second / n) if n else math.nan
    with np.errstate(all="ignore"):
        kurtosis = float(np.float64(fourth) / second * n / second - 3) if second > 0 else math.nan
    histogram = _histogram(counts, mean - FAR * std, mean + FAR * std) if n else Histogram((), (), 0, 0)
    sums = moments.sum(axis=0)
    return Figures(
        n,
        least if n else math.nan,
        largest if n else math.nan,
        mean if n else math.nan,
        std,
        kurtosis,
        int(sums[ZEROS]),
        histogram.below + histogram.above,
        int(sums[NANS]),
        int(sums[INFINITIES]),
        histogram,
    )


def _moments(moments: NDArray[np.float64]) -> tuple[int, float, float, float]:
    """How many, their mean, and sums of second and fourth powers of distances from it, of all slabs."""
    from requant.kernels_cpu.figures import COUNT, FOURTH, MEAN, SECOND, THIRD

    n, total = moments[:, COUNT], moments[:, COUNT].sum()
    if not total:
        return 0, math.nan, 0.0, 0.0
    mean = float(moments[:, MEAN] @ n / total)
    apart = moments[:, MEAN] - mean
    second = float((moments[:, SECOND] + n * apart**2).sum())
    fourth = moments[:, FOURTH] + 4 * apart * moments[:, THIRD] + 6 * apart**2 * moments[:, SECOND] + n * apart**4
    return int(total), mean, max(second, 0.0), float(fourth.sum())


def _histogram(counts: NDArray[np.int64], least: float, most: float) -> Histogram:
    """Bins of about the same width over what lies between two bounds, which are moved outwards to BF16 numbers."""
    ordered = np.concatenate((counts[: _ZERO - 1 : -1], counts[:_ZERO]))  # -inf, ..., -0, 0, ..., inf
    held = np.flatnonzero(ordered)
    first = max(int(held[0]), _place(least, lambda place: math.ceil(place) - 1))
    last = min(int(held[-1]) + 1, _place(most, lambda place: math.floor(place) + 1))
    low, high = _bound(first), _bound(last)
    wanted = [_place(low + (high - low) * n / BINS, round) for n in range(1, BINS)]
    places = np.unique([first, *(min(max(place, first), last) for place in wanted), last])
    below, above = ordered[:first].sum(), ordered[last:].sum()
    sums = np.concatenate(([0], np.cumsum(ordered)))
    return Histogram(
        tuple(_bound(int(place)) for place in places),
        tuple(int(n) for n in np.diff(sums[places])),
        int(below),
        int(above),
    )


def _bound(place: int) -> float:
    """The BF16 number at a place of their order, 0 in the middle of 65,536."""
    bits = min(abs(place - _ZERO), _LARGEST)
    return math.copysign(float(np.uint32(bits << 16).view(np.float32)), place - _ZERO) if bits else 0.0


def _place(value: float, rounded: Callable[[float], int]) -> int:
    """The place of the BF16 number next to a number; `rounded` says to which side."""
    size = min(abs(value), float(np.finfo(np.float32).max))
    bits = int(np.float32(size).view(np.uint32)) & 0xFFFF0000
    under = float(np.uint32(bits).view(np.float32))
    over = float(np.uint32(bits + (1 << 16)).view(np.float32))
    part = (size - under) / (over - under) if math.isfinite(over) else 0.0
    place = (bits >> 16) + part
    return _ZERO + rounded(math.copysign(place, value))
