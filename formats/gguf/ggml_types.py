"""The number a GGUF file stores for a tensor's encoding.

Source: `enum ggml_type` of ggml/include/ggml.h; for the forks, the same header of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.encodings import BLOCKS, DENSE, Encoding
from requant.errors import UnsupportedError

_DENSE_IDS: Final = {"F32": 0, "F16": 1, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28, "BF16": 30}

#: Every encoding a tensor of a GGUF file can have, by its number.
ENCODINGS: Final[Mapping[int, Encoding]] = {
    **{number: DENSE[label] for label, number in _DENSE_IDS.items()},
    **{block.ggml_id: block for block in BLOCKS.values()},
}
_IDS: Final = {encoding: number for number, encoding in ENCODINGS.items()}

#: Types that ggml once stored in files, or has only in memory: their names, and what became of them.
_RETIRED: Final[Mapping[int, tuple[str, str]]] = {
    4: ("Q4_2", "removed from ggml in May 2023"),
    5: ("Q4_3", "removed from ggml in May 2023"),
    9: ("Q8_1", "an intermediate of ggml's dot products, never stored in files"),
    15: ("Q8_K", "an intermediate of ggml's dot products, never stored in files"),
    31: ("Q4_0_4_4", "Q4_0 repacked in the file; llama.cpp now repacks Q4_0 when it loads"),
    32: ("Q4_0_4_8", "Q4_0 repacked in the file; llama.cpp now repacks Q4_0 when it loads"),
    33: ("Q4_0_8_8", "Q4_0 repacked in the file; llama.cpp now repacks Q4_0 when it loads"),
    36: ("IQ4_NL_4_4 (or I2_S of BitNet and ik_llama.cpp)", "retired by ggml, in use in those forks"),
    37: ("IQ4_NL_4_8 (or I8_S of BitNet)", "retired by ggml, in use in that fork"),
    38: ("IQ4_NL_8_8 (or TL1 of BitNet)", "retired by ggml, in use in that fork"),
}

# fmt: off
#: Types that only ik_llama.cpp knows.
_IK_LLAMA: Final[Mapping[int, str]] = {
    97: "Q8_0_X4", 98: "Q8_1_X4", 99: "Q8_2_X4", 133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64",
    137: "IQ2_K", 138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K", 141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS",
    146: "IQ4_KSS", 147: "Q8_K16", 148: "Q8_K32", 149: "Q8_KR8", 150: "Q8_K128", 151: "Q8_KV", 152: "IQ5_KS",
    153: "IQ2_KT", 154: "IQ3_KT", 155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT",
    202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8", 210: "Q2_K_R4", 211: "Q3_K_R4", 212: "Q4_K_R4",
    213: "Q5_K_R4", 214: "Q6_K_R4", 216: "IQ2_XXS_R4", 217: "IQ2_XS_R4", 218: "IQ3_XXS_R4", 219: "IQ1_S_R4",
    220: "IQ4_NL_R4", 221: "IQ3_S_R4", 222: "IQ2_S_R4", 223: "IQ4_XS_R8", 229: "IQ1_M_R4", 230: "BF16_R16",
    233: "Q6_0_R4", 335: "IQ2_BN_R4", 337: "IQ2_K_R4", 338: "IQ3_K_R4", 339: "IQ4_K_R4", 340: "IQ5_K_R4",
    344: "IQ4_KS_R4", 352: "IQ5_KS_R4", 398: "Q8_KV_R8", 399: "Q8_K_R8",
}
# fmt: on


def encoding_of(number: int) -> Encoding:
    """The encoding with this ggml type number; `UnsupportedError` names what a known stranger is.

    >>> encoding_of(12).label
    'Q4_K'
    """
    if number in ENCODINGS:
        return ENCODINGS[number]
    if number in _RETIRED:
        name, fate = _RETIRED[number]
        raise UnsupportedError(f"ggml type {number} is {name}: {fate}", hint="get the model in a current type")
    if number in _IK_LLAMA:
        raise UnsupportedError(
            f"ggml type {number} is {_IK_LLAMA[number]}, which only ik_llama.cpp has",
            hint="get the model in a type of llama.cpp itself",
        )
    raise UnsupportedError(
        f"ggml type {number} is unknown",
        hint="the file is damaged, made by a fork of llama.cpp, or newer than this version of requant",
    )


def number_of(encoding: Encoding) -> int | None:
    """The ggml type number of an encoding; None when ggml has no such type.

    >>> number_of(DENSE["BF16"])
    30
    """
    return _IDS.get(encoding)
