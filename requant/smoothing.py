"""AWQ: columns whose inputs are large are multiplied before they are rounded, and what makes the inputs divides them.

The function of the model is as it was. Which tensors make whose inputs is said by the names of a GGUF, which are the
same for all families; that nothing else is given the same is read off the statistics, where inputs that are one and
the same have sums that are. Source of the search: Lin et al. 2023, "AWQ", and AutoAWQ 0.2.9 (`_compute_best_scale`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import NeedsLargest, Values, codec_for
from requant.encodings import Dense, Encoding
from requant.expressions import Balanced, Context, Form
from requant.feedback import Feedback
from requant.importance import Importance, Measured
from requant.measuring import on_measured
from requant.plan import Move
from requant.statistics import NOISE_BLOCKS, Statistics, noise_of
from requant.system import processors

#: Powers of the inputs' root mean square that are tried.
ALPHAS: Final = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8)
#: Rows of a matrix that are rounded for each of them; the factors are those of all rows.
_ROWS: Final = 256
#: The least a column's size counts, as in AutoAWQ.
_LEAST: Final = 1e-4
_TINY: Final = 1e-30
_LAYER: Final = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)$")

#: What makes inputs, and for which matrices, by role. "norm": a gain, and an offset, of each of them; "rows": a matrix
#: whose outputs they are, times something else.
_FOLDS: Final[Sequence[tuple[str, str, tuple[str, ...]]]] = (
    ("norm", "attn_norm", ("attn_q", "attn_k", "attn_v")),
    ("norm", "attn_norm", ("attn_qkv",)),
    ("norm", "ffn_norm", ("ffn_gate", "ffn_up")),
    ("norm", "ffn_norm", ("ffn_up",)),
    ("rows", "ffn_up", ("ffn_down",)),
    ("rows", "attn_v", ("attn_output",)),
)
#: What a layer may have besides, none of which is given what a norm makes, but by one of the matrices above.
_KNOWN: Final = frozenset(
    (
        *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_q_norm", "attn_k_norm"),
        *("post_attention_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm"),
    )
)
#: Architectures of ggml whose layers are so, each shown by a test to keep its function.
FAMILIES: Final = frozenset(
    ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "smollm3", "granite", "starcoder2", "stablelm")
)


@dataclass(frozen=True, slots=True)
class Fold:
    """kind, maker: as in the table. consumers: the matrices that are given it. All are names of GGUF."""

    kind: str
    maker: str
    consumers: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Smoothed:
    """A fold with the factors of its columns. alpha: the power that was chosen."""

    fold: Fold
    alpha: float
    factors: Values


def folds_of(architecture: str, names: Mapping[str, Sequence[int]], importance: Importance) -> Iterator[Fold]:
    """Those that a model has. names: shapes of its tensors by the names of GGUF."""
    if architecture not in FAMILIES:
        return
    layers: dict[str, dict[str, str]] = {}
    for name in names:
        if (match := _LAYER.match(name)) is not None and match[3] == "weight":
            layers.setdefault(match[1], {})[match[2]] = name
    for roles in layers.values():
        if not roles.keys() <= _KNOWN:
            continue
        sums = {role: _place(importance, name) for role, name in roles.items() if name in importance.entries}
        for kind, maker, consumers in _FOLDS:
            given = {role for role, place in sums.items() if place == sums.get(consumers[0])}
            if maker not in roles or given != set(consumers):
                continue
            if kind == "rows" and (maker == "ffn_up" and "ffn_gate" not in roles):
                continue  # what is not gated goes through a function that factors do not
            if kind == "rows" and names[roles[maker]][0] != names[roles[consumers[0]]][-1]:
                continue  # heads that share their values
            yield Fold(kind, roles[maker], tuple(roles[role] for role in consumers))


def _place(importance: Importance, name: str) -> bytes:
    return importance.entries[name].sums.tobytes()


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a search rounds: a consumer's values, as they will be stored. squares: how much its columns count. weight:
    how much its outputs do, beside those of other consumers. noise: what its inputs' rounding to 8 bits costs."""

    move: Move
    encoding: Encoding
    squares: Values
    weight: float
    noise: Measured | None = None


def searched(
    folds: Sequence[tuple[Fold, Sequence[Matrix]]], known: Feedback | None, alpha: float | None
) -> list[Smoothed]:
    """The factors that make the outputs' errors least; alpha: the one power that is taken. By names of GGUF."""

    def one(task: tuple[Fold, Sequence[Matrix]]) -> Smoothed:
        fold, matrices = task
        squares = np.average([one.squares for one in matrices], 0, [one.weight for one in matrices])
        size = np.maximum(np.sqrt(squares), _LEAST)
        if alpha is not None:
            return Smoothed(fold, alpha, _factors(size, alpha))
        hessian = None if known is None else _known(known, fold.consumers[0])
        rounded = [(one, _rows(one.move)) for one in matrices if not isinstance(one.encoding, Dense)]
        losses = []
        for power in ALPHAS:
            factors = _factors(size, power)
            losses.append(sum(_loss(rows, one, factors, hessian) for one, rows in rounded))
        best = ALPHAS[int(np.argmin(losses))]
        return Smoothed(fold, best, _factors(size, best))

    smoothed = []
    with ThreadPoolExecutor(processors()) as pool:
        for done, found in enumerate(pool.map(one, folds), 1):
            smoothed.append(found)
            for tell in on_measured:
                tell(done, len(folds))
    return smoothed


def _known(known: Feedback, name: str) -> NDArray[np.float32] | None:
    """E[x xᵀ] of a matrix, if there is one."""
    (found,) = known.hessians.get(name, (None,))
    return None if found is None or not found.tokens else found.mean()


def _factors(size: NDArray[np.float64], power: float) -> Values:
    """Around 1: the largest times the smallest is 1, as in AutoAWQ."""
    raised = size**power
    factors: Values = (raised / np.sqrt(raised.max() * raised.min())).astype(np.float32)
    return factors


def _rows(move: Move) -> Values:
    """Some of a matrix's, spread over it; as many as words of any encoding are of."""
    node = move.values
    count = min(_ROWS, node.rows // 32 * 32) or node.rows
    rows = range(0, node.rows // count * count, node.rows // count)
    found = np.empty((count, node.columns), np.float32)
    node.fill(Form.VALUES, rows, found, Context())
    return found


def _loss(values: Values, matrix: Matrix, factors: Values, hessian: NDArray[np.float32] | None) -> float:
    """Half the squared error of outputs, as of some rows, and what rounding their inputs costs."""
    encoding, squares = matrix.encoding, matrix.squares
    codec, scaled, again = codec_for(encoding), values * factors, np.empty_like(values)
    parts: dict[str, NDArray[Any]] = {
        name: np.zeros(part.shape if part.dtype.bits >= 8 else part.nbytes, part.dtype.numpy)
        for name, part in encoding.parts(values.shape).items()
    }
    if isinstance(codec, NeedsLargest):
        codec.begin(float(np.abs(scaled).max(initial=0)), parts)
    codec.encode(scaled, parts, 0, np.ascontiguousarray(squares / np.square(factors), np.float32))
    codec.decode(parts, again)
    miss = again / factors - values
    if hessian is None:
        error = float((np.square(miss) @ squares).sum(dtype=np.float64))
    else:
        error = float(np.vdot(miss @ hessian, miss))
    noise = 0.0 if matrix.noise is None else noise_of(_quieter(matrix.noise, squares, np.square(factors)), encoding)
    return matrix.weight * error / len(values) / 2 + noise


def applied(moves: Sequence[Move], smoothed: Sequence[Smoothed]) -> tuple[Move, ...]:
    """The moves with factors in what makes inputs, and in what is given them; all by the names of the moves."""
    rows, inverse = dict[str, Values](), dict[str, Values]()
    for one in smoothed:
        made = rows if one.fold.kind == "rows" else inverse
        for name in (one.fold.maker, re.sub(r"weight$", "bias", one.fold.maker)):
            made[name] = (1 / one.factors).astype(np.float32)
    columns = factors_of(smoothed)
    return tuple(_balanced(move, columns, rows, inverse) for move in moves)


def factors_of(smoothed: Sequence[Smoothed]) -> dict[str, Values]:
    """By what each matrix's columns are multiplied."""
    return {name: one.factors for one in smoothed for name in one.fold.consumers}


def _balanced(
    move: Move, columns: Mapping[str, Values], rows: Mapping[str, Values], inverse: Mapping[str, Values]
) -> Move:
    node = move.values
    if move.name in columns:
        node = Balanced(node, columns[move.name])
    if move.name in inverse:
        node = Balanced(node, inverse[move.name])
    if move.name in rows:
        node = Balanced(node, rows[move.name], by_row=len(move.shape) > 1)
    return move if node is move.values else Move(move.name, node)


def divided(importance: Importance, factors: Mapping[str, Values]) -> Importance:
    """The importance of columns whose inputs are divided by factors."""
    entries = dict(importance.entries)
    for name, one in factors.items():
        if name in entries:
            squares = entries[name].sums / np.square(one)
            entries[name] = Measured(squares.astype(np.float32), entries[name].counts)
    return replace(importance, entries=entries)


def divided_statistics(statistics: Statistics, smoothed: Sequence[Smoothed]) -> Statistics:
    """What they would be of the smoothed model, which gives its matrices other inputs and the same function.

    Gradients at outputs that are divided are larger by as much.
    """
    factors, outputs, noise = factors_of(smoothed), dict(statistics.outputs), dict(statistics.noise)
    weighted = dict(divided(replace(statistics.importance, entries=statistics.weighted), factors).entries)
    for one in smoothed:
        name = one.fold.maker
        if one.fold.kind == "rows" and name in outputs:
            before, sums = outputs[name], (outputs[name].sums * np.square(one.factors)).astype(np.float32)
            outputs[name] = Measured(sums, before.counts)
            growth = sums.sum(dtype=np.float64) / max(before.sums.sum(dtype=np.float64), _TINY)
            if name in weighted:
                weighted[name] = Measured(weighted[name].sums * np.float32(growth), weighted[name].counts)
    squares = statistics.rounding.entries
    for name in factors.keys() & noise.keys() & squares.keys():
        noise[name] = _quieter(noise[name], squares[name].sums[0], np.square(factors[name]))
    importance = divided(statistics.importance, factors)
    return replace(statistics, importance=importance, outputs=outputs, weighted=weighted, noise=noise)


def _quieter(noise: Measured, inputs: NDArray[np.float32], divisors: Values) -> Measured:
    """What rounding inputs to 8 bits costs once their squares are divided, and the weights multiplied.

    The step of a block follows its largest input. How that changes with a token is not known, and taken to be as its
    largest mean square does.
    """
    sums = noise.sums.copy()
    for n, block in enumerate(NOISE_BLOCKS):
        if len(inputs) % block == 0:
            before, by = (one.reshape(-1, block).astype(np.float64) for one in (inputs, divisors))
            now = (before / by).max(1) * by.mean(1)
            sums[:, n] *= now.sum() / max(float(before.max(1).sum()), _TINY)
    return Measured(sums, noise.counts)


def divided_feedback(feedback: Feedback, factors: Mapping[str, Values]) -> Feedback:
    """The same of Hessians."""
    hessians = {
        name: tuple(one and replace(one, divisors=factors[name]) for one in matrices) if name in factors else matrices
        for name, matrices in feedback.hessians.items()
    }
    return replace(feedback, hessians=hessians)
