"""GPTQ folders that do not say how zero points, and codes of three bits, are written: the user says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.encodings import Encoding
from requant.encodings.gptq import OPEN_ZEROS, PLANAR_BITS, Gptq, Zeros
from requant.encodings.turned import Turned
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

#: GPTQModel's word for a layout (`checkpoint_format`) -> how zeros are written, and whether 3-bit codes are in planes.
GPTQ_FORMATS: Final[Mapping[str, tuple[Zeros, bool]]] = {
    "gptq": (Zeros.V1, False),
    "gptq_v2": (Zeros.V2, False),
    "gptq_p": (Zeros.V2, True),
}


def read_as(checkpoint: Checkpoint[Tensor], word: str) -> Checkpoint[Tensor]:
    """`checkpoint` with its asymmetric GPTQ layers read as `word` says; symmetric ones show by themselves.

    Raises `PlanError` where there are none: then the word would mean nothing.
    """
    tensors = tuple(replace(tensor, encoding=_said(tensor.encoding, word)) for tensor in checkpoint.tensors)
    if not any(_is_open(tensor.encoding) for tensor in tensors):
        raise PlanError(
            f"{checkpoint.path}: no layer is GPTQ with zero points of its own, so --gptq-format {word} says nothing",
            hint="leave it out: symmetric layers, and other methods, show how they are stored",
        )
    notices = tuple(notice for notice in checkpoint.notices if OPEN_ZEROS not in notice)
    return replace(checkpoint, tensors=tensors, notices=notices)


def _is_open(encoding: Encoding) -> bool:
    stored = encoding.stored if isinstance(encoding, Turned) else encoding
    return isinstance(stored, Gptq) and not stored.symmetric


def _said(encoding: Encoding, word: str) -> Encoding:
    if isinstance(encoding, Turned) and isinstance(encoding.stored, Gptq):
        return replace(encoding, stored=_of(encoding.stored, word))
    return _of(encoding, word) if isinstance(encoding, Gptq) else encoding


def _of(encoding: Gptq, word: str) -> Gptq:
    if encoding.symmetric:
        return encoding
    zeros, planar = GPTQ_FORMATS[word]
    return replace(encoding, zeros=zeros, planar=encoding.bits in PLANAR_BITS or (encoding.bits == 3 and planar))
