"""What becomes of a layer's numbers on the way from every family that is read to every one that is written.

`python -m tests.matrix` prints the table of docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant import companions
from requant.encodings import BF16, BLOCKS, F16, F32, Encoding
from requant.encodings.awq import Awq, Kind, Marlin
from requant.encodings.exl2 import Exl2
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.encodings.hqq import Hqq
from requant.encodings.scaled import Scaled
from requant.encodings.sparse import Marlin24
from requant.expressions import Stored
from requant.ir import Tensor, TensorSpec
from requant.plan import Fidelity, Move, Step
from requant.schemes import SCHEMES
from requant.schemes.exl2 import encoding_of

_NAME: Final = "model.layers.0.mlp.up_proj.weight"
_SHAPE: Final = (256, 256)
#: Types of GGUF that stand for the others like them.
GGUF_TYPES: Final = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "IQ4_XS", "MXFP4", "NVFP4")
#: What is read and never written.
_READ_ONLY: Final[Mapping[str, Encoding]] = {
    "GPTQ asymmetric, v2": Gptq(4, 128, symmetric=False, zeros=Zeros.V2),
    "GPTQ act-order": Gptq(4, 128, order=Order.ACT),
    "AWQ gemv": Awq(Kind.GEMV, 128),
    "AWQ gemv_fast": Awq(Kind.GEMV_FAST, 128),
    "Marlin": Marlin(128),
    "marlin-24": Marlin24(4, 128),
    "HQQ": Hqq(4, 64, 1),
    "ModelOpt NVFP4": Scaled("modelopt", "F4", 1, 16, "F8_E4M3", whole="multiplies", whole_form="scalar"),
    "MLX MXFP4": Scaled("mlx", "F4", 1, 32, "U8", storage="U32"),
    "MLX NVFP4": Scaled("mlx", "F4", 1, 16, "U8", storage="U32"),
    "FP8 per tensor": Scaled("ct", "F8_E4M3", form="one"),
}


def written(source: Encoding = BF16) -> dict[str, Encoding]:
    """Everything that is written: what a linear layer stored as `source` becomes in each."""
    move = Move(_NAME, Stored(Tensor(_NAME, _SHAPE, source, {})))
    targets: dict[str, Encoding] = {"F32": F32, "F16": F16, "BF16": BF16}
    for name, family in SCHEMES.items():
        if name in ("BITMASK", "MARLIN24"):  # which layers these store depends on zeros, and a row here has none
            continue
        if name == "EXL2":  # measures its options on the weights, and there are none here
            targets[name] = source if isinstance(source, Exl2) else encoding_of("4 g128", _SHAPE[1])
        else:
            targets[name] = family.parsed([]).apply((move,), {"model_type": "llama"}).encodings[0]
    return {**targets, **{f"GGUF {name}": BLOCKS[name] for name in GGUF_TYPES}}


def readable() -> dict[str, Encoding]:
    """Everything that is read, by the name of its family."""
    return {**written(), **_READ_ONLY}


def fidelity(source: Encoding, target: Encoding) -> str:
    """`copy`, `repack` or `round`; `zeros` where codes and scales are kept and only zeros are rounded.

    Of weights with a scale of the whole tensor, which a GGUF keeps in a tensor of its own, only the weights are judged.
    """
    move = Move(_NAME, Stored(Tensor(_NAME, _SHAPE, source, {})))
    if target == companions.NVFP4:
        move = companions.bare(replace(move, name="blk.0.ffn_up.weight"), "llama", ()) or move
    step = Step(move.values, TensorSpec(_NAME, _SHAPE, target))
    return "zeros" if step.keeps_codes and step.fidelity is Fidelity.ROUND else step.fidelity.value


def matrix() -> dict[str, dict[str, str]]:
    """Family that is read -> family that is written -> what becomes of the numbers."""
    return {
        name: {to: fidelity(source, target) for to, target in written(source).items()}
        for name, source in readable().items()
    }


def matrix_text() -> str:
    """The matrix as a Markdown table: a row for what is read, a column for what is written."""
    marks = {"copy": "=", "repack": "r", "zeros": "z", "round": "·"}
    rows = matrix()
    heads = list(next(iter(rows.values())))
    lines = ["| from \\ to | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(marks[cells[head]] for head in heads) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(matrix_text())
