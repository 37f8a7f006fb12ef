"""ERNIE 4.5, dense: Llama rotated in pairs, as llama.cpp does it here, too.

Facts: llama.cpp's conversion/ernie.py and src/models/ernie4-5.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import SIZES, decoder, rms_norm_eps, trunk
from requant.architectures.llama import (
    MLP,
    NORMS,
    SILU,
    heads_of,
)
from requant.architectures.mrope import Sections
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Ignored, defaulting
from requant.architectures.seeing import SEEING

ERNIE: Final[Family] = replace(
    decoder(
        "Ernie4_5",
        "ernie4_5",
        "ernie4_5",
        (*trunk(), *NORMS, *MLP),
        (
            *defaulting(SIZES, num_key_value_heads=2),
            rms_norm_eps(1e-5),
            *heads_of(128),
        ),
        (Rope(theta=500000.0).pair(),),
        assumptions=(SILU, Assumption("use_bias", (False,), False)),
        tied=True,
        more=("Ernie4_5_ForCausalLM",),
    ),
    bases=("model.", "ernie.", ""),
)

#: The text model of PaddleOCR-VL, which turns halves in sections; a GGUF of it is not one of ERNIE's.
PADDLE_OCR: Final[Family] = replace(
    ERNIE,
    model_type="paddleocr_vl",
    ggml="paddleocr",
    classes=("PaddleOCRVLForConditionalGeneration",),
    headless=frozenset(),
    bases=("model.language_model.", "model.", "language_model.model."),
    irregular=(Sections(Rope(theta=500000.0), (16, 24, 24), interleaved=False).pair(),),
    ignored=(*ERNIE.ignored, SEEING, Ignored(r"(model\.)?mlp_AR\..*", SEEING.reason, lost=True)),
    other_types=("paddleocr_vl_text",),
)
