"""Statistics of a calibration in a GGUF: an importance matrix as llama.cpp reads it, and our own beside it.

    NAME.in_sum2, NAME.counts        llama-imatrix's
    NAME.out_grad2, NAME.out_counts  squared gradients at the outputs [matrices, rows], and of how many tokens
    NAME.in_grad2, NAME.in_grad_counts  squared inputs [matrices, columns], each token's times |g|² at its outputs
    NAME.noise8, NAME.noise_counts   what rounding inputs to 8 bits costs, by 256 columns and by 32; of how many tokens
    blk.3.influence, blk.3.influence_counts  1 - cos of what goes into a layer and what comes out; of how many tokens
    attn_q.role, attn_q.role_counts  error of all matrices of a role rounded, and divergence; of how many windows
    fine.trial, fine.trial_counts    divergence of the whole model rounded, predicted and measured; of how many windows
    NAME.col_grad2, NAME.row_counts  of an embedding: squared gradients [columns], and how often each row was looked up
    NAME.in_outer                    sums of x xᵀ [columns, columns]; NAME.3.in_outer those of expert 3 of a stack

`requant.calibration.same_inputs` lists the matrices that are given what another is, as NAME=OTHER; and there are
the keys `requant.calibration.*`. llama.cpp passes over whatever it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from requant.encodings import F32
from requant.errors import FormatError
from requant.formats.gguf import Gguf
from requant.formats.imatrix import imatrix_checkpoint, read_imatrix, strings
from requant.hessians import Hessian
from requant.importance import Measured
from requant.ir import Checkpoint, Tensor, Typed
from requant.sources import Memory, read
from requant.statistics import Provenance, Statistics

_PREFIX: Final = "requant.calibration."
_OUTPUTS: Final = (".out_grad2", ".out_counts")
_LOOKUPS: Final = (".col_grad2", ".row_counts")
_WEIGHTED: Final = (".in_grad2", ".in_grad_counts")
_NOISE: Final = (".noise8", ".noise_counts")
_INFLUENCE: Final = (".influence", ".influence_counts")
_TRIAL: Final = (".trial", ".trial_counts")
_ROLE: Final = (".role", ".role_counts")
_OUTER: Final = ".in_outer"
_SAME: Final = _PREFIX + "same_inputs"


def statistics_checkpoint(statistics: Statistics) -> Checkpoint[Tensor]:
    """To be laid out and written like any other."""
    base = imatrix_checkpoint(statistics.importance)
    said = statistics.provenance
    tensors = list(base.tensors)
    tables = (
        (statistics.outputs, _OUTPUTS),
        (statistics.lookups, _LOOKUPS),
        (statistics.weighted, _WEIGHTED),
        (statistics.noise, _NOISE),
        (statistics.influences, _INFLUENCE),
        (statistics.trials, _TRIAL),
        (statistics.roles, _ROLE),
    )
    for table, suffixes in tables:
        for name in sorted(table):
            entry = table[name]
            for suffix, values in zip(suffixes, (entry.sums, entry.counts), strict=True):
                data = np.ascontiguousarray(values, "<f4")
                shape = data.shape if len(data) > 1 or data.ndim == 1 else data.shape[1:]
                tensors.append(Tensor(name + suffix, shape, F32, {"data": Memory(data.tobytes())}))
    squares, same = _squares(statistics.hessians)
    tensors += squares
    keys = {
        "model": Typed("str", said.model),
        "texts": Typed("[str]", said.texts),
        "tokens": Typed("u64", said.tokens),
        "gradient_tokens": Typed("u64", said.gradient_tokens),
        "seed": Typed("u64", said.seed),
        "engine": Typed("str", said.engine),
    }
    if squares:
        keys["same_inputs"] = Typed("[str]", same)
    metadata = {**base.metadata, **{_PREFIX + key: value for key, value in keys.items()}}
    return replace(base, tensors=tuple(tensors), metadata=metadata)


def read_statistics(path: Path) -> Statistics:
    """Raises `FormatError` for a file that `requant calibrate` has not made."""
    importance = read_imatrix(path)
    checkpoint = Gguf().read(path) if Gguf().recognizes(path) else None
    if checkpoint is None or _PREFIX + "model" not in checkpoint.metadata:
        raise FormatError(
            path,
            "this importance matrix does not say of which model it is",
            hint="requant calibrate makes statistics that do",
        )
    said = checkpoint.metadata
    provenance = Provenance(
        str(said[_PREFIX + "model"].value),
        strings(said.get(_PREFIX + "texts", Typed("[str]", ()))),
        _number(path, said, "tokens"),
        _number(path, said, "gradient_tokens"),
        _number(path, said, "seed"),
        str(said.get(_PREFIX + "engine", Typed("str", "torch")).value),
    )
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    hessians = _hessians(path, tensors, importance.entries, strings(said.get(_SAME, Typed("[str]", ()))))
    outputs, lookups, weighted, noise = (
        _table(path, tensors, suffixes) for suffixes in (_OUTPUTS, _LOOKUPS, _WEIGHTED, _NOISE)
    )
    influences, trials, roles = (_table(path, tensors, suffixes) for suffixes in (_INFLUENCE, _TRIAL, _ROLE))
    _check_influences(path, influences)
    _check_trials(path, trials, _TRIAL[0])
    _check_trials(path, roles, _ROLE[0])
    return Statistics(importance, provenance, outputs, lookups, hessians, weighted, noise, influences, trials, roles)


def _check_influences(path: Path, influences: Mapping[str, Measured]) -> None:
    for name, entry in influences.items():
        if entry.sums.size != 1 or not 0 <= entry.sums[0, 0] <= 2 * entry.counts[0] or not entry.counts[0]:
            said = f"{entry.sums[0, 0]:g} over {entry.counts[0]} tokens"
            raise FormatError(
                path,
                f"{name}{_INFLUENCE[0]} is {said}; of each it is one number from 0 to 2",
                hint="the file is damaged; requant calibrate makes another",
            )


def _check_trials(path: Path, trials: Mapping[str, Measured], suffix: str) -> None:
    for name, entry in trials.items():
        if entry.sums.shape != (1, 2) or not (entry.sums > 0).all() or not entry.counts[0]:
            raise FormatError(
                path,
                f"{name}{suffix} is no sum of divergences",
                hint="the file is damaged; requant calibrate makes another",
            )


def _squares(hessians: Mapping[str, tuple[Hessian | None, ...]]) -> tuple[list[Tensor], tuple[str, ...]]:
    """Each sum once, and who shares it."""
    tensors: dict[str, Tensor] = {}
    same = []
    for name in sorted(hessians):
        for own, hessian in zip(_own_names(name, len(hessians[name])), hessians[name], strict=True):
            if hessian is None:
                continue
            if own != hessian.name:
                same.append(f"{own}={hessian.name}")
            shape = (hessian.columns, hessian.columns)
            stored = Tensor(hessian.name + _OUTER, shape, F32, {"data": hessian.source})
            tensors.setdefault(stored.name, stored)
    return list(tensors.values()), tuple(same)


def _own_names(name: str, matrices: int) -> list[str]:
    """Of the matrices of a tensor."""
    return [name] if matrices == 1 else [f"{name}.{matrix}" for matrix in range(matrices)]


def _hessians(
    path: Path, tensors: Mapping[str, Tensor], measured: Mapping[str, Measured], same: tuple[str, ...]
) -> dict[str, tuple[Hessian | None, ...]]:
    if not any(name.endswith(_OUTER) for name in tensors):
        return {}
    shared = dict(text.split("=", 1) for text in same if "=" in text)
    found = {}
    for name, entry in measured.items():
        matrices: list[Hessian | None] = []
        columns = entry.sums.shape[-1]
        own_names = _own_names(name, len(entry.counts))
        for own, count, squares in zip(own_names, entry.counts.tolist(), entry.sums, strict=True):
            leader = shared.get(own, own)
            stored = tensors.get(leader + _OUTER)
            if stored is None and count:
                raise FormatError(path, f"{own} has no sums of x xᵀ, and others have", hint="the file is damaged")
            if stored is not None and (stored.shape != (columns, columns) or stored.encoding != F32):
                raise FormatError(path, f"{stored.name} is {list(stored.shape)}, and {own} has {columns} inputs")
            found_here = stored is not None and Hessian(leader, columns, count, stored.sources["data"], squares)
            matrices.append(found_here or None)
        found[name] = tuple(matrices)
    return found


def _number(path: Path, said: Mapping[str, Typed], key: str) -> int:
    typed = said.get(_PREFIX + key)
    if typed is None or not isinstance(typed.value, int):
        raise FormatError(path, f"{_PREFIX}{key} is missing, or no whole number")
    return typed.value


def _table(path: Path, tensors: dict[str, Tensor], suffixes: tuple[str, str]) -> dict[str, Measured]:
    found = {}
    for name in tensors:
        if not name.endswith(suffixes[0]):
            continue
        base = name.removesuffix(suffixes[0])
        pair = [tensors.get(base + suffix) for suffix in suffixes]
        if any(tensor is None or tensor.encoding != F32 for tensor in pair):
            raise FormatError(path, f"{base} has {suffixes[0]} without {suffixes[1]} in F32")
        sums, counts = (read(tensor.sources["data"]).view("<f4") for tensor in pair if tensor is not None)
        if not np.isfinite(counts).all() or (counts < 0).any() or not counts.size:
            raise FormatError(path, f"{base}{suffixes[1]} has a count that is no number of tokens")
        matrices = 1 if suffixes is _LOOKUPS else counts.size
        if not sums.size or sums.size % matrices:
            raise FormatError(path, f"{base} has {sums.size} sums for {matrices} matrices")
        found[base] = Measured(sums.reshape(matrices, -1), np.rint(counts).astype(np.int64))
    return found
