"""Which file a projector is in, and the classes that name it. To add one: its file, and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from requant.ir import Json
from requant.projectors.rules import Projector

#: (name of the projector in its file, the file, its classes).
TABLE: Final[tuple[tuple[str, str, str], ...]] = (
    ("GEMMA3", "gemma3", "Gemma3ForConditionalGeneration"),
    ("QWEN2_VL", "qwen_vl", "Qwen2VLForConditionalGeneration Qwen2VLModel Sarashina2VisionForCausalLM"),
    ("QWEN25_VL", "qwen_vl", "Qwen2_5_VLForConditionalGeneration"),
    (
        "QWEN3_VL",
        "qwen_vl",
        "Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration Qwen3_5ForConditionalGeneration Qwen3_5MoeForConditionalGeneration Qwen4ExpForConditionalGeneration ClefModel OpenJevModel",  # noqa: E501
    ),
    ("EXAONE45", "qwen_vl", "Exaone4_5_ForConditionalGeneration"),
    (
        "GLM4V",
        "glm4v",
        "Glm4vForConditionalGeneration Glm4vMoeForConditionalGeneration GlmOcrForConditionalGeneration",
    ),
    ("SMOLVLM", "siglip", "Idefics3ForConditionalGeneration SmolVLMForConditionalGeneration"),
    ("LFM2_VL", "siglip", "Lfm2VlForConditionalGeneration"),
    ("COHERE2_VISION", "siglip", "Cohere2VisionForConditionalGeneration"),
    ("JANUS", "siglip", "JanusForConditionalGeneration"),
    ("PADDLEOCR", "siglip", "PaddleOCRVisionModel PaddleOCRVLForConditionalGeneration"),
    ("MINICPM_V", "siglip", "MiniCPMV4_6ForConditionalGeneration"),
    ("PIXTRAL", "pixtral", "LlavaForConditionalGeneration Mistral3ForConditionalGeneration"),
    ("LIGHTON_OCR", "pixtral", "LightOnOCRForConditionalGeneration LightOnOcrForConditionalGeneration"),
    ("LLAMA4", "llama4", "Llama4ForConditionalGeneration"),
    ("INTERNVL", "internvl", "InternVisionModel InternVLForConditionalGeneration InternVLChatModel"),
    ("QWEN2_AUDIO", "whisper", "Qwen2AudioForConditionalGeneration"),
    ("VOXTRAL", "whisper", "VoxtralForConditionalGeneration"),
    ("AUDIO_FLAMINGO", "whisper", "AudioFlamingo3ForConditionalGeneration"),
    ("ULTRAVOX", "whisper", "UltravoxModel"),
    ("GLM_ASR", "whisper", "GlmasrModel"),
    ("MERALION", "whisper", "MERaLiON2ForConditionalGeneration"),
    ("KIMI_VL", "moonvit", "KimiVLForConditionalGeneration"),
    ("KIMI_K25", "moonvit", "KimiK25ForConditionalGeneration Glm5vForConditionalGeneration"),
    ("GEMMA4", "gemma4", "Gemma4ForConditionalGeneration EmbeddingGemma2Model"),
    ("COGVLM", "others", "CogVLMForCausalLM"),
    ("YOUTU_VL", "others", "YoutuVLForConditionalGeneration"),
    ("DOTS_OCR", "others", "DotsOCRForCausalLM"),
    ("PPLX", "qwen_vl", "PplxDeciderModel"),
    ("LING", "qwen_vl", "BailingMoeV3VLForConditionalGeneration"),
    ("GLM5_NEXT", "glm4v", "Glm5NextForConditionalGeneration"),
)


def every() -> tuple[Projector, ...]:
    """All of them, in the order of the table."""
    return tuple(_loaded(name, file) for name, file, _ in TABLE)


def named(classes: Iterable[str]) -> tuple[Projector, ...]:
    """Those of any of these classes, of the first class first."""
    return tuple(_loaded(name, file) for one in classes for name, file, own in TABLE if one in own.split())


def classes_of(config: Mapping[str, Json]) -> list[str]:
    """Classes by which a projector is known, the most specific first: that of the vision model, if it has one."""
    vision = config.get("vision_config")
    lists = (vision.get("architectures") if isinstance(vision, dict) else None, config.get("architectures"))
    return [name for listed in lists if isinstance(listed, list) for name in listed if isinstance(name, str)]


@cache
def _loaded(name: str, file: str) -> Projector:
    found: Projector = getattr(importlib.import_module(f"requant.projectors.{file}"), name)
    return found
