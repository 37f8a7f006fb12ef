"""The text models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: Qwen 2 and Qwen 3 with a rope in sections.

The vision model is lost: llama.cpp keeps it in a file of its own. On the way back a GGUF is what it computes of text, a
Qwen 2 or 3. Facts: llama.cpp's conversion/qwenvl.py, qwen3vl.py and src/models/qwen2vl.cpp, qwen3vl.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.llama import DECODER_KEYS
from requant.architectures.mrope import Sections
from requant.architectures.qwen import QWEN2, QWEN3
from requant.architectures.rope import Rope
from requant.architectures.rules import MMPROJ, Config, Family, Ignored, Irregular, Key, Sizes, ToGgml, ToHf, always
from requant.ir import Checkpoint, Tensor, Typed

#: Prefixes of the text model's tensors.
BASES: Final = ("model.", "model.language_model.", "language_model.model.", "")
_VISION: Final = Ignored(r"(model\.)?visual\..*", MMPROJ, lost=True)
#: How many layers get pictures once more, by config.json's list of the vision model's.
_DEEPSTACK: Final = "n_deepstack_layers"


def _deepstack(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    vision = config.get("vision_config")
    listed = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    return ToGgml({_DEEPSTACK: Typed("u32", len(listed) if isinstance(listed, list) else 0)})


def _text(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf()  # text goes through every layer once; the count is carried along


DEEPSTACK: Final = Irregular(_deepstack, _text)

QWEN2_VL: Final[Family] = replace(
    QWEN2,
    model_type="qwen2_vl",
    ggml="qwen2vl",
    classes=("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration", "Qwen2VLModel"),
    headless=frozenset({"Qwen2VLModel"}),
    bases=BASES,
    keys=(*DECODER_KEYS[:-1], Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", always(1e-5))),
    ignored=(*QWEN2.ignored, _VISION),
    irregular=(Sections(Rope(theta=1_000_000.0), (16, 24, 24), interleaved=False).pair(),),
    other_types=("qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
    alone=("Qwen2ForCausalLM", "qwen2"),
)
QWEN3_VL: Final[Family] = replace(
    QWEN3,
    model_type="qwen3_vl",
    ggml="qwen3vl",
    classes=("Qwen3VLForConditionalGeneration",),
    headless=frozenset(),
    bases=BASES,
    ignored=(*QWEN3.ignored, _VISION),
    irregular=(
        Sections(Rope(theta=500_000.0), (24, 20, 20), interleaved=True).pair(),
        DEEPSTACK,
    ),
    other_types=("qwen3_vl_text",),
    classifier=None,
    alone=("Qwen3ForCausalLM", "qwen3"),
)
