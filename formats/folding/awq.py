"""AWQ: `m.qweight`, `m.qzeros` (or `m.scaled_zeros`), `m.scales` are the linear layer `m.weight`.

Names are those of GPTQ; shapes tell them apart, and the layouts of AWQ's kernels from each other. Zeros are read to see
whether they are all alike, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.encodings.awq import Awq, Kind
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.gptq import put, put_marlin
from requant.formats.folding.gptq_zeros import read_words
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec

#: Sizes of groups that AWQ's tools offer, the usual one first; -1 stands for a whole row.
_GROUPS: Final = (128, 64, 32, -1, 256, 512, 1024, 16)
_WIDTH: Final = 4


def fold_awq(pool: Pool, quantization: Mapping[str, Json]) -> None:
    """Fold every AWQ layer; comes after GPTQ, and takes whatever `qweight` is left."""
    said = quantization.get("group_size", quantization.get("q_group_size"))
    group = said if isinstance(said, int) and not isinstance(said, bool) else None
    bits = quantization.get("bits", quantization.get("w_bit"))
    for module in pool.modules("qweight"):
        weight, scales = pool.need(module, "qweight"), pool.need(module, "scales")
        if len(weight.shape) != 2 or len(scales.shape) != 2 or not weight.nbytes or not scales.nbytes:
            raise FormatError(pool.path, f"module {module!r}: 'qweight' and 'scales' are no matrices")
        if pool.get(f"{module}.qzeros") is None and weight.shape[1] == 2 * scales.shape[1]:
            put_marlin(pool, module, weight, scales, awq=True)
        elif weight.encoding.label == "I16":
            _fold_fast(pool, module, weight, scales, group)
        elif weight.encoding.label == "I32":
            _fold_words(pool, module, weight, scales, group)
        else:
            raise UnsupportedError(f"{pool.path}: {weight.name!r} is {weight.encoding.label}; known are I32 and I16")
        if isinstance(bits, int) and bits != _WIDTH:
            pool.remark(f"{module}.weight", f"stored in 4 bits, not in {bits} as the configuration says")


def _fold_words(pool: Pool, module: str, weight: Tensor, scales: Tensor, group: int | None) -> None:
    """gemm packs along the outputs, gemv along the inputs."""
    zeros = pool.need(module, "qzeros")
    if zeros.encoding.label != "I32" or len(zeros.shape) != 2:
        raise FormatError(pool.path, f"module {module!r}: 'qzeros' is no matrix of I32")
    words = read_words(zeros, pool.path)
    if scales.shape[1] == 8 * weight.shape[1]:
        inputs, outputs, groups = weight.shape[0], scales.shape[1], scales.shape[0]
        if not inputs or inputs % groups:
            raise FormatError(pool.path, f"module {module!r}: {inputs} inputs are no {groups} groups")
        size = -1 if groups == 1 and group != inputs else inputs // groups
        scale = scales.encoding.label if scales.encoding.label == "BF16" else "F16"
        awq = Awq(Kind.GEMM, size, bool((words == 0x88888888).all()), scale)
    elif scales.shape == (weight.shape[0], 8 * zeros.shape[1]):
        inputs, outputs = 8 * weight.shape[1], weight.shape[0]
        awq = Awq(Kind.GEMV, _group(pool, module, Kind.GEMV, inputs, zeros.shape[1], group))
    else:
        raise FormatError(
            pool.path,
            f"module {module!r}: 'qweight' {list(weight.shape)} and 'scales' {list(scales.shape)} fit neither GPTQ "
            "(as many columns), nor AWQ gemm (an eighth of the columns), nor gemv (as many rows)",
        )
    put(pool, TensorSpec(f"{module}.weight", (outputs, inputs), awq))


def _fold_fast(pool: Pool, module: str, weight: Tensor, scales: Tensor, group: int | None) -> None:
    kind = Kind.GEMV_FAST if pool.get(f"{module}.qzeros") is not None else Kind.LLM_AWQ
    outputs, inputs = 4 * weight.shape[0], weight.shape[1]
    if scales.shape[0] % 8:
        raise FormatError(pool.path, f"{scales.name!r} has {scales.shape[0]} rows, which is no multiple of 8")
    awq = Awq(kind, _group(pool, module, kind, inputs, scales.shape[0] // 8, group))
    put(pool, TensorSpec(f"{module}.weight", (outputs, inputs), awq))


def _group(pool: Pool, module: str, kind: Kind, inputs: int, words: int, said: int | None) -> int:
    """The size of groups, which shapes leave open: that of the configuration, if it fits, else the first that does."""
    for group in (*([] if said is None else [said if said > 0 else -1]), *_GROUPS):
        if group > 0 and inputs % group:
            continue
        if Awq(kind, group).zero_words(inputs) == words:
            if said is not None and group != said:
                pool.remark(f"{module}.weight", f"groups of {group} inputs, not of {said} as the configuration says")
            return group
    raise FormatError(pool.path, f"module {module!r}: no size of groups makes {words} words of {inputs} inputs")
