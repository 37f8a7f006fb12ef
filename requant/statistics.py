"""What a calibration has found: an importance matrix, and what gradients say besides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from requant.encodings import Blocks, Encoding
from requant.errors import PlanError
from requant.hessians import Hessian, added
from requant.importance import Importance, Measured

#: Fewer tokens say too little of columns that few tokens use.
LEAST_TOKENS: Final = 1024
#: An engine that sees what is multiplied, and not what is looked up.
LLAMA_CPP: Final = "llama.cpp"
#: Columns that llama.cpp rounds to 8 bits together before it multiplies: with blocks of 256 (Q8_K), and of 32 (Q8_0).
NOISE_BLOCKS: Final = (256, 32)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the statistics were made of.

    model: `fingerprint` of the model's tensors. text: of each text's tokens.
    tokens, gradient_tokens: how many were read, and how many of them had gradients. 0: it is yet to be measured.
    """

    model: str
    texts: tuple[str, ...]
    tokens: int
    gradient_tokens: int = 0
    seed: int = 0
    engine: str = "torch"


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """importance: squared inputs of every matrix, by names of GGUF, as llama-imatrix sums them up.

    outputs: squared gradients at the outputs of every matrix: sums [matrices, rows]. lookups: how often each row of
    an embedding was looked up, as counts [rows], with sums [1, columns] of squared gradients at what was looked up.
    Squares of gradients are of the divergence of the model's own predictions (the true Fisher information), summed
    over a window: see `requant.calibration.layerwise`. hessians: of each matrix, Σ x xᵀ of its inputs; None where no
    token has reached it. weighted: squared inputs, each token's times the square of its gradient at the outputs: of two
    tokens, the one that matters more counts more. noise: what it is predicted to cost that llama.cpp rounds inputs to 8
    bits, in blocks of 256 columns and of 32: sums [1, 2] over tokens. influences: of each layer, as `blk.3`, 1 - cos of
    what a token goes in as and what it comes out as: sums [1, 1] over tokens. trials: of the whole model rounded, and
    roles: of the matrices of one role, as `attn_q`: sums [1, 2] over windows of what was predicted (of roles: shares of
    outputs that were error) and of the divergence in nats.
    """

    importance: Importance
    provenance: Provenance
    outputs: Mapping[str, Measured] = field(default_factory=dict)
    lookups: Mapping[str, Measured] = field(default_factory=dict)
    hessians: Mapping[str, tuple[Hessian | None, ...]] = field(default_factory=dict)
    weighted: Mapping[str, Measured] = field(default_factory=dict)
    noise: Mapping[str, Measured] = field(default_factory=dict)
    influences: Mapping[str, Measured] = field(default_factory=dict)
    trials: Mapping[str, Measured] = field(default_factory=dict)
    roles: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def rounding(self) -> Importance:
        """By what columns are weighed when they are rounded: inputs as gradients weigh them, where that is known."""
        outputs = {name: weight / self.outputs[name].sums.size for name, weight in self.weights.items()}
        return replace(self.importance, entries={**self.importance.entries, **dict(self._weighed())}, outputs=outputs)

    def _weighed(self) -> Iterator[tuple[str, Measured]]:
        for name, entry in self.weighted.items():
            before, outputs = self.importance.entries.get(name), self.outputs.get(name)
            if before is not None and outputs is not None and before.sums.shape == entry.sums.shape:
                total = outputs.sums.sum(1, dtype=np.float64)[:, None]
                with np.errstate(all="ignore"):
                    means = entry.sums / total * before.counts[:, None]
                yield name, Measured(np.where(total > 0, means, before.sums).astype(np.float32), before.counts)

    @property
    def weights(self) -> dict[str, float]:
        """How much an error of a matrix's outputs counts: E[g²] of all its rows together; nothing without gradients."""
        return {
            name: float(one.sums.sum(dtype=np.float64)) / max(int(one.counts.sum()), 1)
            for name, one in self.outputs.items()
        }

    @property
    def has_gradients(self) -> bool:
        """Whether outputs are known, too."""
        return bool(self.outputs)

    @property
    def sums_of_outer_products(self) -> int:
        """How many different sums of x xᵀ there are."""
        return len({one.name for matrices in self.hessians.values() for one in matrices if one is not None})

    def unreached(self) -> dict[str, int]:
        """By name, how many experts no token has reached."""
        found = {name: self.importance.unreached(name) for name in self.importance.entries}
        return {name: count for name, count in found.items() if count}


def noise_of(measured: Measured, encoding: Encoding) -> float:
    """What it costs that llama.cpp rounds inputs by as many columns as a block of the type has, in nats per token."""
    if not isinstance(encoding, Blocks):
        return 0.0
    column = NOISE_BLOCKS.index(256 if encoding.values == 256 else 32)
    return float(measured.sums[0, column]) / max(int(measured.counts[0]), 1)


def fingerprint(described: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Of the names and shapes of a model's tensors in GGUF's order of dimensions: the same in every encoding."""
    lines = sorted(f"{name} {','.join(map(str, shape))}" for name, shape in described if len(shape) > 1)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def merged(parts: Sequence[Statistics]) -> Statistics:
    """The sums of several calibrations of one model; raises `PlanError` where they are of different ones."""
    first, *others = parts
    if len({part.importance.chunk_tokens for part in parts}) > 1:
        raise PlanError("the statistics are of windows of different lengths", hint="calibrate with the same --ctx")
    for other in others:
        if other.provenance.model != first.provenance.model:
            names = f"{first.importance.source} and {other.importance.source}"
            raise PlanError(f"{names} are of different models", hint="merge statistics of one model only")
    importance = replace(
        first.importance,
        entries=_summed([part.importance.entries for part in parts]),
        datasets=tuple(name for part in parts for name in part.importance.datasets),
        chunks=sum(part.importance.chunks for part in parts),
    )
    provenance = replace(
        first.provenance,
        texts=tuple(text for part in parts for text in part.provenance.texts),
        tokens=sum(part.provenance.tokens for part in parts),
        gradient_tokens=sum(part.provenance.gradient_tokens for part in parts),
    )
    outputs, lookups = _summed([part.outputs for part in parts]), _summed([part.lookups for part in parts])
    weighted, noise = _summed([part.weighted for part in parts]), _summed([part.noise for part in parts])
    hessians = _added([part.hessians for part in parts])
    influences, trials = _summed([part.influences for part in parts]), _summed([part.trials for part in parts])
    roles = _summed([part.roles for part in parts])
    return Statistics(importance, provenance, outputs, lookups, hessians, weighted, noise, influences, trials, roles)


def _summed(tables: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    total: dict[str, Measured] = {}
    for table in tables:
        for name, entry in table.items():
            before = total.get(name)
            if before is not None and (before.sums.shape, before.counts.shape) != (
                entry.sums.shape,
                entry.counts.shape,
            ):
                shapes = f"{list(before.sums.shape)} and {list(entry.sums.shape)}"
                raise PlanError(f"{name} has the shapes {shapes} in the statistics that are merged")
            sums = entry.sums if before is None else before.sums + entry.sums
            total[name] = Measured(sums, entry.counts if before is None else before.counts + entry.counts)
    return total


def _added(tables: Sequence[Mapping[str, tuple[Hessian | None, ...]]]) -> dict[str, tuple[Hessian | None, ...]]:
    if len({frozenset(table) for table in tables}) > 1:
        raise PlanError(
            "some of the statistics have Hessians and others have not", hint="calibrate all with --hessians"
        )
    total = {}
    for name in tables[0]:
        matrices = []
        for found in zip(*(table[name] for table in tables), strict=True):
            known = [one for one in found if one is not None]
            matrices.append(added(known) if known else None)
        total[name] = tuple(matrices)
    return total


def check_finite(statistics: Statistics) -> None:
    """Raises `PlanError` naming the first tensor of which a sum is no number."""
    tables = {
        "inputs": statistics.importance.entries,
        "gradients": statistics.outputs,
        "gradients of rows": statistics.lookups,
        "weighted inputs": statistics.weighted,
        "errors of rounded inputs": statistics.noise,
        "influence": statistics.influences,
        "divergence when rounded": statistics.trials,
        "divergence when one role is rounded": statistics.roles,
    }
    for what, table in tables.items():
        for name, entry in table.items():
            if not np.isfinite(entry.sums).all():
                raise PlanError(
                    f"the {what} of {name} hold NaN or infinities: the model gives no numbers on this text",
                    hint="`requant check` tells whether its weights are damaged",
                )
