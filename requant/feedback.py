"""How GPTQ is asked for, and what one matrix needs for it: the Cholesky factor of the inverse of its damped Hessian."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Correction
from requant.encodings import Blocks, Encoding, Shape, columns_of
from requant.encodings.awq import Awq
from requant.encodings.compressed import Packed
from requant.encodings.gptq import Gptq, Order
from requant.encodings.scaled import Scaled
from requant.errors import PlanError
from requant.hessians import Hessian, Square
from requant.ir import Json
from requant.statistics import LEAST_TOKENS, Statistics

if TYPE_CHECKING:
    from requant.importance import Importance, Measured
    from requant.smoothing import Smoothed

#: Up to so many columns a factor is computed in double precision: 128 MB for each square.
_DOUBLES: Final = 4096
#: Matrices of this size are inverted directly; of triangles down to that one, products leave out what is zero.
_SMALL: Final = 64
_WIDE: Final = 256
#: Numbers that change places at once.
_RUN: Final = 1 << 18
#: The damping is doubled so often before it is given up.
_TRIES: Final = 8
#: The types of a GGUF that feedback goes into: codes that stand for multiples of a step.
_BLOCKS: Final = frozenset(
    {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"}
)
#: Schemes whose name stands for error feedback: with statistics that have Hessians they get it unasked.
_OF_ITSELF: Final = ("GPTQ", "W4A16", "W8A16", "W8A8")
#: Where metadata say how weights were rounded.
KEYS: Final = "quantize.feedback."
#: Factors that are kept for tensors that are given the same: of one for each of two workers.
_KEPT: Final = 2


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


@dataclass(slots=True)
class _Making:
    """A correction, once somebody has made it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    made: Correction | None = None


class Factors:
    """The corrections that were used last: q, k and v, which follow one another, are given the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, _Making] = OrderedDict()

    def get(self, hessian: Hessian, options: FeedbackOptions) -> Correction:
        """Made by the first who asks, while the others wait."""
        with self._lock:
            making = self._found.setdefault(hessian.name, _Making())
            self._found.move_to_end(hessian.name)
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        with making.lock:
            if making.made is None:
                making.made = correction_of(hessian.mean(), options, hessian.name)
            return making.made


@dataclass(frozen=True, slots=True, eq=False)
class Corrections:
    """What the matrices of one tensor need; of one that no token has reached there is nothing."""

    hessians: tuple[Hessian | None, ...]
    feedback: Feedback

    def of(self, matrix: int) -> Correction | None:
        """Read and made when it is asked for."""
        hessian = self.hessians[matrix]
        if hessian is None or not hessian.tokens:
            return None
        return self.feedback.factors.get(hessian, self.feedback.options)

    @property
    def nbytes(self) -> int:
        """What making and holding a correction takes at most."""
        columns = max((one.columns for one in self.hessians if one is not None), default=0)
        return factor_bytes(columns)


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """What is known of the inputs of a model's matrices, by the names of its tensors, and how it is used.

    model, texts, tokens: see `requant.statistics.Provenance`.
    """

    hessians: Mapping[str, tuple[Hessian | None, ...]]
    options: FeedbackOptions = FeedbackOptions()
    texts: tuple[str, ...] = ()
    tokens: int = 0
    factors: Factors = field(default_factory=lambda: Factors())

    def renamed(self, rename: Callable[[str], str | None]) -> Feedback:
        """With every Hessian under the name its tensor has now; None drops it."""
        names = ((rename(name), matrices) for name, matrices in self.hessians.items())
        return replace(self, hessians={name: matrices for name, matrices in names if name is not None})

    def of(self, name: str, shape: Shape) -> Corrections | None:
        """For one tensor; None where nothing is known of it. Raises `PlanError` for statistics of another shape."""
        found = self.hessians.get(name)
        if found is None:
            return None
        matrices = shape[-3] if len(shape) > 2 else 1
        if len(found) != matrices or any(one is not None and one.columns != columns_of(shape) for one in found):
            columns = next((one.columns for one in found if one is not None), 0)
            raise PlanError(
                f"{name}: the Hessians are of {len(found)} x {columns} inputs, the tensor is {list(shape)}",
                hint="they are of another model",
            )
        return Corrections(found, self)


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """How AWQ's factors are found. alpha: the power of the inputs' size; None tries several. known: Hessians, by which
    the errors of outputs are measured. inputs: sums of squares that tell which matrices are given the same; None: the
    importance that weighs columns does. weights, noise: what an error of each matrix's outputs costs, and what rounded
    inputs do, where they are known (see `Statistics`). found: factors that are known already, by the names of the
    output's tensors."""

    alpha: float | None = None
    known: Feedback | None = None
    inputs: Importance | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, Measured] = field(default_factory=dict)
    found: tuple[Smoothed, ...] = ()

    def weight(self, name: str) -> float:
        """Of one matrix; all count the same where nothing is known of any."""
        return max(self.weights.get(name, 0.0), 1e-30) if self.weights else 1.0

    def renamed(self, rename: Callable[[str], str | None]) -> Smoothing:
        """With all under the names that tensors have now; None drops one."""
        names = {name: new for name in self.weights if (new := rename(name)) is not None}
        weights = {new: self.weights[name] for name, new in names.items()}
        noise = {new: self.noise[name] for name, new in names.items() if name in self.noise}
        known, inputs = self.known and self.known.renamed(rename), self.inputs and self.inputs.renamed(rename)
        return replace(self, known=known, inputs=inputs, weights=weights, noise=noise)


def stands_for_feedback(recipe: str | None) -> bool:
    """Whether a scheme's name says that it is made with error feedback: `GPTQ-4-128`."""
    return (recipe or "").upper().split("-")[0] in _OF_ITSELF


def usual_order(recipe: str | None) -> ColumnOrder:
    """What loses least: columns by falling activation, but of a GGUF's blocks, which take theirs as they lie."""
    from requant.schemes import scheme_named

    of_folder = recipe is not None and scheme_named(recipe) is not None
    return ColumnOrder.STATIC if of_folder else ColumnOrder.STORED


def feedback_by(statistics: Statistics, options: FeedbackOptions) -> Feedback:
    """What was measured, as error feedback uses it. Raises `PlanError` for statistics of few tokens; those of none are
    yet to be measured."""
    said = statistics.provenance
    if 0 < said.tokens < LEAST_TOKENS:
        raise PlanError(
            f"the statistics are of {said.tokens} tokens, too few for error feedback",
            hint=f"calibrate with {LEAST_TOKENS} at least; ten times a matrix's columns are usual",
        )
    return Feedback(statistics.hessians, options, said.texts, said.tokens)


def described(feedback: Feedback) -> dict[str, Json]:
    """How weights were rounded, as a model and a receipt say it."""
    options = feedback.options
    return {
        "damping": options.damping,
        "act_order": options.order.value,
        "scales": options.scales.value,
        "tokens": feedback.tokens,
        "texts": list(feedback.texts),
    }


def takes_feedback(encoding: Encoding, options: FeedbackOptions) -> bool:
    """Whether codes of an encoding can make up for each other, in the order that is asked for."""
    match encoding:
        case Gptq():
            return (encoding.order is Order.ACT) == (options.order is ColumnOrder.ACT)
        case Packed():
            fits = encoding.group != 0 and encoding.rows == 1 and encoding.order is not Order.ACT
            return fits and options.order is not ColumnOrder.ACT
        case Awq():
            return options.order is not ColumnOrder.ACT
        case Scaled():
            return _has_rows_of_codes(encoding) and options.order is not ColumnOrder.ACT
        case Blocks():
            return encoding.label in _BLOCKS and options.order is ColumnOrder.STORED
    return False


def _has_rows_of_codes(encoding: Scaled) -> bool:
    """Whether scales are of rows, or of blocks of them, and codes are floats or integers around zero."""
    if encoding.kind == "mlx" or encoding.zero:
        return False
    if encoding.element == "I8":
        return encoding.integers is not None
    if encoding.element == "F4":
        return encoding.small_floats is not None
    return encoding.element in ("F8_E4M3", "F8_E5M2") and not encoding.shared


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

    H with rows and columns in reverse is L Lᵀ, which is Cholesky's; then U is the inverse of L, in reverse.
    """
    dtype: type[Any] = np.float64 if len(mean) <= _DOUBLES else np.float32
    level = float(np.diagonal(mean).mean(dtype=np.float64)) or 1.0
    for attempt in range(_TRIES):
        damped = mean[::-1, ::-1].astype(dtype)
        damped[np.diag_indices_from(damped)] += dtype(damping * 2**attempt * level)
        try:
            _invert_cholesky(damped)
        except np.linalg.LinAlgError:
            continue
        _flip(damped)
        return damped.astype(np.float32, copy=False)
    raise PlanError(f"{name}: its Hessian is not positive definite", hint="the statistics are damaged")


def factor_bytes(columns: int) -> int:
    """What `inverse_factor` takes at most, with the E[x xᵀ] that it is given and the factor."""
    return columns * columns * (18 if columns <= _DOUBLES else 11)


def _flip(square: NDArray[Any]) -> None:
    """Rows and columns in reverse, in place."""
    flat = square.reshape(-1)
    for start in range(0, flat.size // 2, _RUN):
        stop = min(start + _RUN, flat.size // 2)
        head, tail = flat[start:stop], flat[flat.size - stop : flat.size - start]
        kept = head.copy()
        head[...] = tail[::-1]
        tail[...] = kept[::-1]


def _invert_cholesky(square: NDArray[Any]) -> None:
    """In place: L⁻¹ of the lower L with L Lᵀ = square. Raises `LinAlgError` where there is none.

    By halves, so that nearly all of it are products of large matrices: several times as fast as numpy's `cholesky`.
    """
    size = len(square)
    if size <= _SMALL:
        square[...] = np.tril(np.linalg.inv(np.linalg.cholesky(square)))
        return
    half = size // 2
    first, corner, last = square[:half, :half], square[half:, :half], square[half:, half:]
    _invert_cholesky(first)
    below = _lower_times(first, corner.T).T
    last -= below @ below.T
    _invert_cholesky(last)
    below = _lower_times(last, below)
    corner[...] = _times_lower(below, first)
    np.negative(corner, corner)
    square[:half, half:] = 0


def _lower_times(lower: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """The product, without most of what is zero."""
    half = len(lower) // 2
    if half < _WIDE:
        whole: NDArray[Any] = lower @ right
        return whole
    out = np.empty_like(right)
    out[:half] = _lower_times(lower[:half, :half], right[:half])
    out[half:] = _lower_times(lower[half:, half:], right[half:])
    out[half:] += lower[half:, :half] @ right[:half]
    return out


def _times_lower(left: NDArray[Any], lower: NDArray[Any]) -> NDArray[Any]:
    """From the other side."""
    half = len(lower) // 2
    if half < _WIDE:
        whole: NDArray[Any] = left @ lower
        return whole
    out = np.empty_like(left)
    out[:, :half] = _times_lower(left[:, :half], lower[:half, :half])
    out[:, :half] += left[:, half:] @ lower[half:, :half]
    out[:, half:] = _times_lower(left[:, half:], lower[half:, half:])
    return out


def smoothing_by(statistics: Statistics, alpha: float | None = None) -> Smoothing:
    """What was measured, as it finds AWQ's factors. alpha: see `Smoothing`."""
    # of tokens, Hessians do not tell those that matter from those that hardly do; what gradients weigh does
    plain = statistics.hessians and not statistics.has_gradients
    known = Feedback(statistics.hessians) if plain else None
    return Smoothing(alpha, known, statistics.importance, statistics.weights, statistics.noise)
