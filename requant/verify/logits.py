"""What predictions are worth: perplexity of one model, divergence of two.

Windows and scored positions are those of llama.cpp's `llama-perplexity`: the text is cut into windows of n_ctx tokens,
each begins with `bos` where the tokenizer adds one, and the second half of each is scored, so that every scored token
has at least half a window before it. Figures can therefore be compared with published ones of the same text and n_ctx.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from requant.errors import VerifyError

BATCH = 128  # tokens in one llama_decode, so rows of logits that are held at once
ROWS = 16  # rows that are float64 at once: 16 × 150,000 tokens are 19 MB
REAL: Final = 2.0  # standard errors from which on a difference is taken for one
_DRAWN: Final = 200  # samples of a bootstrap
Logits = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Predictor(Protocol):
    """A model that gives logits."""

    @property
    def n_vocab(self) -> int:
        """Columns of its logits."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids, with the special tokens the model expects around a text."""
        ...

    def stream_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[Logits]:
        """Logits of the tokens from `first` on, in the blocks of `pieces`; row i predicts token i + 1."""
        ...


def pieces(n: int, first: int) -> Iterator[tuple[int, int]]:
    """The blocks [start, stop) in which positions `first`…n - 1 come, whoever computes them.

    >>> list(pieces(300, 200))
    [(200, 256), (256, 300)]
    """
    for start in range(0, n, BATCH):
        stop = min(start + BATCH, n)
        if stop > first:
            yield max(start, first), stop


@dataclass(frozen=True, slots=True)
class Window:
    """`tokens[:-1]` are read; the tokens after position `first` are predicted."""

    tokens: tuple[int, ...]
    first: int

    @property
    def scored(self) -> int:
        """How many predictions it gives."""
        return len(self.tokens) - 1 - self.first


def windows(tokens: Sequence[int], n_ctx: int, limit: int | None, bos: int | None) -> list[Window]:
    """Cut a text; one shorter window where the text does not fill n_ctx. bos: put first in each, None for none."""
    n = min(n_ctx, len(tokens))
    whole = [tuple(tokens[start : start + n]) for start in range(0, len(tokens) - n + 1, n)]
    if bos is not None:
        whole = [(bos, *window[1:]) for window in whole]
    return [Window(window, n // 2) for window in whole[:limit]]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure and its standard error."""

    value: float
    error: float


@dataclass(slots=True)
class Perplexity:
    """Collects the cost of each scored token in nats."""

    costs: list[Doubles] = field(default_factory=list)

    def add(self, logits: Logits, targets: Sequence[int]) -> None:
        """One block of rows and the tokens that came."""
        for start, rows in _blocks(logits):
            self.add_log_probabilities(_log_softmax(rows), targets[start : start + ROWS])

    def add_log_probabilities(self, rows: Doubles, targets: Sequence[int]) -> None:
        """The same, from log p."""
        self.costs.append(-rows[np.arange(len(rows)), np.asarray(targets)])

    def measure(self) -> Measure:
        """exp of the mean cost."""
        return _exp_of_mean(np.concatenate(self.costs))

    @property
    def count(self) -> int:
        """Scored tokens."""
        return sum(len(costs) for costs in self.costs)


@dataclass(frozen=True, slots=True)
class Divergence:
    """A model beside its reference.

    kl: Kullback-Leibler divergence of the model's prediction from the reference's, mean over positions, in nats;
    kl_99, kl_max: of the worst hundredth and the worst, and how far they vary over texts like this one (bootstrap; of
    the worst that is a rough guess). top1: share of positions with the same likeliest token.
    ratio: the model's perplexity over the reference's, with the error of the paired difference.
    """

    kl: Measure
    kl_99: float
    kl_99_error: float
    kl_max: float
    kl_max_error: float
    top1: Measure
    ratio: Measure


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models beside one reference, on the same tokens.

    kl: the mean of the first one's divergence less the second's; below 0 the first is better. closer: share of
    positions at which the first is nearer to the reference.
    """

    kl: Measure
    closer: Measure

    @property
    def deviations(self) -> float:
        """How many standard errors the mean is from none."""
        return abs(self.kl.value) / self.kl.error if self.kl.error else 0.0

    @property
    def is_real(self) -> bool:
        """Whether chance alone would seldom make it: once in twenty texts, about."""
        return self.deviations >= REAL


@dataclass(slots=True)
class Comparison:
    """Collects two models' predictions of the same tokens."""

    model: Perplexity = field(default_factory=Perplexity)
    reference: Perplexity = field(default_factory=Perplexity)
    divergences: list[Doubles] = field(default_factory=list)
    agreed: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, logits: Logits, expected: Logits, targets: Sequence[int]) -> None:
        """One block of rows of both, and the tokens that came."""
        self.agreed.append(logits.argmax(1) == expected.argmax(1))
        for (start, rows), (_, expected_rows) in zip(_blocks(logits), _blocks(expected), strict=True):
            q, p = _log_softmax(rows), _log_softmax(expected_rows)
            self.divergences.append((np.exp(p) * (p - q)).sum(1))
            self.model.add_log_probabilities(q, targets[start : start + ROWS])
            self.reference.add_log_probabilities(p, targets[start : start + ROWS])

    @property
    def kl(self) -> Doubles:
        """Of each position, in nats."""
        return np.maximum(np.concatenate(self.divergences), 0)  # rounding leaves -1e-17 between equals

    def difference(self, other: Comparison) -> Difference:
        """This model's divergence less that of another from the same reference, position by position."""
        kl, of_other = self.kl, other.kl
        return Difference(
            kl=Measure(float((kl - of_other).mean()), _standard_error(kl - of_other)),
            closer=Measure(float((kl < of_other).mean()), _standard_error((kl < of_other).astype(np.float64))),
        )

    def measure(self) -> Divergence:
        """All of it."""
        kl = self.kl
        agreed = np.concatenate(self.agreed).astype(np.float64)
        difference = np.concatenate(self.model.costs) - np.concatenate(self.reference.costs)
        drawn = np.random.default_rng(0)
        again = [kl[drawn.integers(len(kl), size=len(kl))] for _ in range(_DRAWN)]
        return Divergence(
            kl=Measure(float(kl.mean()), _standard_error(kl)),
            kl_99=float(np.quantile(kl, 0.99)),
            kl_99_error=float(np.std([np.quantile(one, 0.99) for one in again])),
            kl_max=float(kl.max()),
            kl_max_error=float(np.std([one.max() for one in again])),
            top1=Measure(float(agreed.mean()), _standard_error(agreed)),
            ratio=_exp_of_mean(difference),
        )


def scored_blocks(
    predictors: Sequence[Predictor], work: Iterable[Window]
) -> Iterator[tuple[tuple[Logits, ...], tuple[int, ...]]]:
    """The predictors' logits block by block, in lockstep, and the tokens that came: nothing larger is ever held."""
    for window in work:
        read = window.tokens[:-1]
        streams = (predictor.stream_logits(read, first=window.first) for predictor in predictors)
        blocks = pieces(len(read), window.first)
        for (start, stop), *logits in zip(blocks, *streams, strict=True):
            yield tuple(logits), window.tokens[start + 1 : stop + 1]


def _blocks(logits: Logits) -> Iterator[tuple[int, Logits]]:
    for start in range(0, len(logits), ROWS):
        yield start, logits[start : start + ROWS]


def _log_softmax(rows: Logits) -> Doubles:
    x = rows.astype(np.float64)
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise VerifyError(
            f"{bad} of {x.size} logits are NaN or infinite", hint="a weight or a scale of the model is damaged"
        )
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _standard_error(values: Doubles) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _exp_of_mean(values: Doubles) -> Measure:
    value = float(np.exp(values.mean()))
    return Measure(value, value * _standard_error(values))
