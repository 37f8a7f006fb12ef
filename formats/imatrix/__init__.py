"""Importance matrices in files: GGUF since July 2025, and the nameless binary form before (`.dat`).

Source: common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp of llama.cpp.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from requant.encodings import F32
from requant.errors import FormatError
from requant.formats.gguf import Gguf
from requant.formats.imatrix.legacy import VALUES_LIMIT, read_legacy
from requant.importance import Importance, Measured
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.sources import Memory, open_regular, read

_SUMS = ".in_sum2"
_COUNTS = ".counts"
_DATASETS = "imatrix.datasets"
_CHUNKS = "imatrix.chunk_count"
_CHUNK_TOKENS = "imatrix.chunk_size"

#: Tokens of one chunk where a file does not say, as llama-imatrix assumes when it turns the old form into the new.
DEFAULT_CHUNK_TOKENS = 512


def read_imatrix(path: Path) -> Importance:
    """Read either form, told apart by its first bytes. Raises `FormatError` for anything else."""
    os.close(open_regular(path))
    return _read_gguf(path) if Gguf().recognizes(path) else read_legacy(path)


def imatrix_checkpoint(importance: Importance) -> Checkpoint[Tensor]:
    """`importance` as llama-imatrix writes it: a GGUF checkpoint to be laid out and written like any other.

    Sums and counts of a file that did not know its chunks' length are scaled to chunks of 512 tokens.
    """
    scale = 1 if importance.chunk_tokens else DEFAULT_CHUNK_TOKENS
    tensors: list[Tensor] = []
    for name in sorted(importance.entries):
        entry = importance.entries[name]
        counts = (entry.counts * scale).astype(np.float32)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # what grows beyond F32 is infinite, as there
            sums = entry.sums * np.float32(scale)
        for suffix, values in ((_SUMS, sums), (_COUNTS, counts)):
            shape = values.shape if len(values) > 1 else values.shape[1:]  # ggml has no leading dimensions of 1
            tensors.append(Tensor(name + suffix, shape, F32, {"data": Memory(values.astype("<f4").tobytes())}))
    metadata = {
        "general.type": Typed("str", "imatrix"),
        _DATASETS: Typed("[str]", importance.datasets),
        _CHUNKS: Typed("u32", importance.chunks),
        _CHUNK_TOKENS: Typed("u32", importance.chunk_tokens or DEFAULT_CHUNK_TOKENS),
    }
    return Checkpoint(Naming.GGML, "", tuple(tensors), metadata=metadata, path=Path(importance.source))


def _read_gguf(path: Path) -> Importance:
    checkpoint = Gguf().read(path)
    for key in (_DATASETS, _CHUNKS, _CHUNK_TOKENS):
        if key not in checkpoint.metadata:
            raise FormatError(
                path, f"an importance matrix has the key {key}; this file has not", hint=_hint(checkpoint)
            )
    halves: dict[str, dict[str, Tensor]] = {}
    for tensor in checkpoint.tensors:
        for suffix in (_SUMS, _COUNTS):
            if tensor.name.endswith(suffix):
                halves.setdefault(tensor.name.removesuffix(suffix), {})[suffix] = tensor
    if not halves:
        raise FormatError(path, "no tensor of an importance matrix inside")
    return Importance(
        entries={name: _measured(path, name, pair) for name, pair in halves.items()},
        datasets=strings(checkpoint.metadata[_DATASETS]),
        chunks=_count(path, _CHUNKS, checkpoint.metadata[_CHUNKS]),
        chunk_tokens=_count(path, _CHUNK_TOKENS, checkpoint.metadata[_CHUNK_TOKENS]),
        source=str(path),
    )


def _hint(checkpoint: Checkpoint[Tensor]) -> str:
    kind = checkpoint.metadata.get("general.type")
    return "" if kind is None or kind.value == "imatrix" else f"its general.type is {kind.value!r}"


def _measured(path: Path, name: str, pair: dict[str, Tensor]) -> Measured:
    """One entry of its two tensors."""
    if len(pair) != 2:
        raise FormatError(path, f"{name} has {''.join(pair)} but no {(_COUNTS if _SUMS in pair else _SUMS)}")
    for tensor in pair.values():
        if tensor.encoding != F32:
            raise FormatError(path, f"tensor {tensor.name} is {tensor.encoding.label}; F32 is expected")
        if tensor.nbytes > 4 * VALUES_LIMIT:
            raise FormatError(path, f"tensor {tensor.name} has more than {VALUES_LIMIT} values")
    sums, counts = (read(pair[suffix].sources["data"]).view("<f4") for suffix in (_SUMS, _COUNTS))
    if not counts.size or not sums.size or sums.size % counts.size:
        raise FormatError(path, f"{name} has {sums.size} sums for {counts.size} counts")
    if not (np.abs(counts) < 2.0**63).all():  # false for NaN too
        raise FormatError(path, f"{name} has a count that is no number of tokens")
    rounded = np.trunc(counts.astype(np.float64) + np.copysign(0.5, counts)).astype(np.int64)
    return Measured(sums.reshape(counts.size, -1), rounded)


def strings(typed: Typed) -> tuple[str, ...]:
    """Those of a key; like llama.cpp this takes a key of another type for none."""
    value = typed.value
    return tuple(map(str, value)) if typed.kind == "[str]" and not isinstance(value, int | float) else ()


def _count(path: Path, key: str, typed: Typed) -> int:
    value = typed.value
    if typed.kind != "u32" or not isinstance(value, int):
        raise FormatError(path, f"{key} must be a u32; it is {typed.kind}")
    return value
