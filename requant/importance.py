"""How much each input column of a matrix matters: an importance matrix ("imatrix"), measured by running the model.

Reading and writing the files is `requant.formats.imatrix`; what llama-quantize makes of their contents is here.
Source: `load_imatrix` and `prepare_imatrix` of its tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Shape, columns_of
from requant.errors import PlanError
from requant.printable import printable


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What was summed up for one tensor.

    sums: [matrices, columns] float32, squared activations summed over tokens; matrices are experts, 1 otherwise.
    counts: [matrices] int64, how many tokens went into each row.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """An importance matrix, as its file has it.

    entries: by the name of the weight tensor. datasets: texts it was measured on. chunks: pieces of text, each of
    `chunk_tokens` tokens; 0 when the file does not say. source: the file as the user named it.
    outputs: of statistics with gradients, how much errors of a tensor's outputs count: the mean of E[g²] of its rows.
    """

    entries: Mapping[str, Measured]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_tokens: int = 0
    source: str = ""
    outputs: Mapping[str, float] = field(default_factory=dict)

    def weights(self, name: str) -> NDArray[np.float32] | None:
        """Mean importance [matrices, columns] for one tensor, or None when it was not measured.

        The columns of an expert that no token reached all count 1. Raises `PlanError` for a value that is not finite.
        """
        entry = self.entries.get(name)
        if entry is None:
            return None
        counts = entry.counts.astype(np.float32)[:, None]
        with np.errstate(all="ignore"):
            means = np.where(counts > 0, entry.sums / counts, np.float32(1))
        if not np.isfinite(means).all():
            raise PlanError(f"the importance matrix has a value for {name} that is not finite")
        return means.astype(np.float32, copy=False)

    def weights_for(self, name: str, shape: Shape) -> NDArray[np.float32] | None:
        """`weights`, one row for each matrix of a tensor of `shape`; None when there are none or they do not fit.

        A file without a row per expert has the experts one after another, and is cut up. `mismatch` tells the cases
        of None apart.
        """
        weights = self.weights(name)
        if weights is None or self.mismatch(name, shape):
            return None
        return weights.reshape(-1, columns_of(shape))

    def mismatch(self, name: str, shape: Shape) -> str | None:
        """What is wrong with the entry of a tensor of `shape`; None when it fits or there is none."""
        entry = self.entries.get(name)
        matrices = shape[-3] if len(shape) > 2 else 1
        wanted = matrices * columns_of(shape)
        if entry is None or entry.sums.size == wanted:
            return None
        return f"it has {entry.sums.size} values, the tensor takes {wanted}"

    def unreached(self, name: str) -> int:
        """Experts of a tensor that no token reached."""
        entry = self.entries.get(name)
        return 0 if entry is None else int(np.count_nonzero(entry.counts <= 0))

    def only(self, included: Sequence[str] = (), excluded: Sequence[str] = ()) -> Importance | None:
        """Without the entries whose name has a fragment of `excluded`, and with only those that have one of `included`.

        None when no entry is left: then quantization goes on as if there were no importance matrix. Raises `PlanError`
        for a fragment that no entry has.
        """
        for part in (*included, *excluded):
            if not any(part in name for name in self.entries):
                raise PlanError(
                    f"the importance matrix has no entry with {printable(part)!r} in its name",
                    hint=f"its names are such as {printable(next(iter(self.entries), 'none'))}",
                )
        kept = {
            name: entry
            for name, entry in self.entries.items()
            if not any(part in name for part in excluded) and (not included or any(part in name for part in included))
        }
        return replace(self, entries=kept) if kept else None

    def renamed(self, rename: Callable[[str], str | None]) -> Importance:
        """With every entry under the name its tensor has now; None drops it."""
        names = {name: new for name in {*self.entries, *self.outputs} if (new := rename(name)) is not None}
        entries = {names[name]: entry for name, entry in self.entries.items() if name in names}
        outputs = {names[name]: weight for name, weight in self.outputs.items() if name in names}
        return replace(self, entries=entries, outputs=outputs)
