"""The text models inside models that see or hear: each is one of the families, under a prefix.

What sees and hears is lost here: llama.cpp keeps it in a file of its own (mmproj). A GGUF becomes the text model alone.
What is left out goes by name, as in llama.cpp's converter, and each such tensor is told.

Facts: `filter_tensors` of llama.cpp's conversion/base.py, and llama.py, januspro.py, sarashina2.py, qwen.py,
dotsocr.py, exaone.py, granite.py, phi.py, step3.py, stablelm.py, qwenvl.py, qwen3vl.py; transformers' classes of these
names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.deepseek import DEEPSEEK3, YOUTU
from requant.architectures.exaone import EXAONE4
from requant.architectures.granite import GRANITE
from requant.architectures.llama import LLAMA
from requant.architectures.phi3 import PHI3
from requant.architectures.qwen import QWEN2, QWEN3
from requant.architectures.qwen35 import QWEN35
from requant.architectures.qwen_vl import QWEN2_VL, QWEN3_VL
from requant.architectures.rules import Assumption, Config, Family, Ignored, never
from requant.architectures.seeing import SEEING
from requant.architectures.stablelm import STABLELM
from requant.ir import Json

#: Where transformers' classes keep the text model: since release 4.52 in memory, and in most files.
_BASES: Final = ("language_model.model.", "model.language_model.")


def _of(
    text: Family,
    classes: Sequence[str],
    model_type: str,
    *,
    bases: Sequence[str] = _BASES,
    other_types: Sequence[str] = (),
    lost: Sequence[Ignored] = (),
) -> Family:
    """The text model of this class, as a family of its own on the way to ggml."""
    return replace(
        text,
        model_type=model_type,
        classes=tuple(classes),
        headless=frozenset(),
        bases=tuple(bases),
        ignored=(*text.ignored, SEEING, *lost),
        other_types=tuple(other_types),
        claims=never,
        classifier=None,
        alone=text.alone or (text.classes[0], text.model_type),
    )


def _text_type(config: Config) -> Json:
    """The model type of the text model; transformers takes a llama where config.json is silent."""
    text = config.get("text_config")
    return text.get("model_type", "llama") if isinstance(text, dict) else "llama"


LLAVA: Final[Family] = replace(
    _of(LLAMA, ["LlavaForConditionalGeneration"], "llava"),
    suits=lambda config: _text_type(config) in ("llama", "mistral"),
)
VOXTRAL: Final = _of(LLAMA, ["VoxtralForConditionalGeneration"], "voxtral")
SMOLVLM: Final = _of(
    LLAMA,
    ["SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration", "VLlama3ForCausalLM"],
    "smolvlm",
    bases=("model.text_model.",),
    other_types=("idefics3", "vllama3"),
)
JANUS: Final = _of(LLAMA, ["JanusForConditionalGeneration"], "janus", bases=("model.language_model.",))
SARASHINA2: Final = _of(
    LLAMA,
    ["Sarashina2VisionForCausalLM"],
    "sarashina2_vision",
    bases=("llm.model.",),
    lost=[Ignored(r"norm\..*", SEEING.reason, lost=True)],
)
#: Not one that sees, but one that its makers call by a name of their own.
IQUEST_CODER: Final[Family] = replace(
    LLAMA,
    model_type="iquestcoder",
    classes=("IQuestCoderForCausalLM",),
    headless=frozenset(),
    assumptions=(
        *LLAMA.assumptions,
        Assumption("clip_qkv", (None,), None, written=False),
        Assumption("use_sliding_window", (False,), False, written=False),
    ),
    claims=never,
)
QWEN2_AUDIO: Final = _of(QWEN2, ["Qwen2AudioForConditionalGeneration"], "qwen2_audio")
AUDIO_FLAMINGO3: Final = _of(QWEN2, ["AudioFlamingo3ForConditionalGeneration"], "audioflamingo3")
DOTS_OCR: Final = _of(QWEN2, ["DotsOCRForCausalLM"], "dots_ocr", bases=("model.",))
EXAONE4_5: Final = _of(
    EXAONE4,
    ["Exaone4_5_ForConditionalGeneration"],
    "exaone4_5",
    bases=("model.language_model.",),
    lost=[Ignored(r"mtp\..*", "layers that predict ahead; the model itself does without", lost=True)],
)
GRANITE_SPEECH: Final = _of(
    GRANITE,
    ["GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration"],
    "granite_speech",
    other_types=("granite_speech_plus",),
    lost=[Ignored(r"(model\.)?encoder\..*", SEEING.reason, lost=True)],
)
PHI4_VISION: Final = _of(PHI3, ["Phi4ForCausalLMV"], "phi4-siglip", bases=("model.",))
STEP_VL: Final = _of(
    QWEN3, ["StepVLForConditionalGeneration"], "step_robotics", bases=(*_BASES, "model."), other_types=("step3_vl",)
)
LLAVA_STABLELM: Final = _of(STABLELM, ["LlavaStableLMEpochForCausalLM"], "llava_stablelm_epoch", bases=("model.",))
QWEN2_5_OMNI: Final = _of(
    QWEN2_VL,
    ["Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"],
    "qwen2_5_omni",
    bases=("thinker.model.",),
    other_types=("qwen2_5_omni_thinker",),
)
QWEN3_ASR: Final = _of(
    QWEN3_VL,
    ["Qwen3ASRForConditionalGeneration"],
    "qwen3_asr",
    bases=("thinker.model.", "model.language_model."),
)
KIMI_VL: Final = _of(
    DEEPSEEK3,
    ["KimiVLForConditionalGeneration"],
    "kimi_vl",
)
KIMI_K2_5: Final = _of(
    DEEPSEEK3,
    ["KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"],
    "kimi_k25",
    lost=[Ignored(r"(model\.)?mm_projector\..*", SEEING.reason, lost=True)],
)
YOUTU_VL: Final = _of(YOUTU, ["YoutuVLForConditionalGeneration"], "youtu_vl", bases=("model.",))
MINICPM_V: Final = _of(QWEN35, ["MiniCPMV4_6ForConditionalGeneration"], "minicpmv4_6", bases=("model.language_model.",))
