"""One matrix for the embedding and the output head: stored once, under either name, or twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.architectures.rules import Config, Family
from requant.encodings import Dense
from requant.ir import Tensor
from requant.sources import read

#: Numbers compared at a time when a tied head is stored twice.
_COMPARE: Final = 1 << 20


def with_embedding(family: Family, config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the head in the embedding's place, where a tied model is stored under the head's name only.

    safetensors leaves out one name of a matrix that has two, and transformers takes whichever is left.
    """
    embedding = next(rule.hf for rule in family.rules if rule.ggml == family.embedding)
    head = next((rule.hf for rule in family.rules if rule.when == "untied"), None)
    if head is None or not config.get("tie_word_embeddings", family.tied):
        return tensors
    for base in family.bases:
        if embedding.format(base=base) in tensors or head.format(base=base) not in tensors:
            continue
        if any(rule.hf.format(base=base, n=0, e=0) in tensors for rule in family.rules if rule.layered):
            name, taken = embedding.format(base=base), tensors[head.format(base=base)]
            kept = {key: tensor for key, tensor in tensors.items() if tensor is not taken}
            return {**kept, name: replace(taken, name=name)}
    return tensors


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, whatever floats they are stored in; stops where they first differ."""
    if one.shape != other.shape:
        return False
    if not _is_plain(one) or not _is_plain(other):
        return one.encoding == other.encoding and all(
            (mine == yours).all() for mine, yours in zip(_bytes(one), _bytes(other), strict=True)
        )
    numbers = zip(_numbers(one), _numbers(other), strict=True)
    return all(np.array_equal(mine, yours, equal_nan=True) for mine, yours in numbers)


def _is_plain(tensor: Tensor) -> bool:
    return isinstance(tensor.encoding, Dense) and tensor.encoding.label in ("F64", "F32", "F16", "BF16")


def _bytes(tensor: Tensor) -> Iterator[NDArray[np.uint8]]:
    for part in sorted(tensor.sources):
        source = tensor.sources[part]
        for start in range(0, source.nbytes, _COMPARE):
            yield read(source, start, min(source.nbytes, start + _COMPARE))


def _numbers(tensor: Tensor) -> Iterator[NDArray[Any]]:
    """The numbers, a stretch at a time, as floats that hold them."""
    label, source = tensor.encoding.label, tensor.sources["data"]
    size = {"F64": 8, "F32": 4}.get(label, 2)
    for start in range(0, source.nbytes, size * _COMPARE):
        data = read(source, start, min(source.nbytes, start + size * _COMPARE))
        if label == "BF16":
            yield (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            yield data.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[label])
