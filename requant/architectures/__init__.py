"""Model families: HF and ggml names, row orders and hyperparameters, as invertible data: one file per family.

To add a family: one file with its rules and keys, one line in `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.arcee import ARCEE
from requant.architectures.bert import BERT
from requant.architectures.cohere import COHERE, COHERE2
from requant.architectures.deepseek import DEEPSEEK2, DEEPSEEK3, GLM4_MOE_LITE
from requant.architectures.direction import CAUSAL, DIRECTION
from requant.architectures.dots1 import DOTS1
from requant.architectures.ernie import ERNIE
from requant.architectures.ernie_moe import ERNIE_MOE
from requant.architectures.exaone import EXAONE4, EXAONE_MOE
from requant.architectures.falcon import FALCON
from requant.architectures.gemma import GEMMA, GEMMA2
from requant.architectures.gemma3 import GEMMA3
from requant.architectures.glm import GLM, GLM4, GLM4_MOE
from requant.architectures.gpt2 import GPT2
from requant.architectures.gpt_neox import BLOOM, GPT_NEOX
from requant.architectures.gpt_oss import GPT_OSS
from requant.architectures.granite import GRANITE
from requant.architectures.granite_moe import GRANITE_MOE, GRANITE_MOE_SHARED
from requant.architectures.hunyuan import HUNYUAN, HY_V3
from requant.architectures.jais2 import JAIS2
from requant.architectures.joined import joined as _joined
from requant.architectures.llama import LLAMA, MISTRAL, MIXTRAL
from requant.architectures.minimax import MINIMAX_M2
from requant.architectures.mistral3 import MISTRAL3
from requant.architectures.nemotron import NEMOTRON
from requant.architectures.olmo import OLMO, OLMO2, OLMO3, OLMOE
from requant.architectures.own_names import Kept
from requant.architectures.own_names import kept_as as _kept_as
from requant.architectures.own_names import own_names as _own_names
from requant.architectures.phi import PHI2
from requant.architectures.phi3 import PHI3
from requant.architectures.pooling import POOLING
from requant.architectures.qwen import QWEN2, QWEN2MOE, QWEN3, QWEN3MOE
from requant.architectures.qwen3_next import QWEN3_NEXT
from requant.architectures.qwen35 import QWEN35, QWEN35MOE
from requant.architectures.qwen_vl import QWEN2_VL, QWEN3_VL
from requant.architectures.rules import Config, Family
from requant.architectures.seed_oss import SEED_OSS
from requant.architectures.smollm3 import SMOLLM3
from requant.architectures.stablelm import STABLELM
from requant.architectures.starcoder import STARCODER, STARCODER2
from requant.architectures.translate import Part
from requant.architectures.translate import translate as _translate
from requant.architectures.translate import translated as _translated
from requant.encodings import F16, Dense
from requant.ir import Checkpoint, Naming, Tensor
from requant.plan import Move, Translation


def _whole(family: Family) -> Family:
    """With what every family has: pooling, and the direction of attention where the table leaves it open."""
    settled = any(key.ggml == CAUSAL for key in family.keys)
    scores = () if family.classifier is None else (family.classifier.pair(family),)
    return replace(family, irregular=(*family.irregular, POOLING, *(() if settled else (DIRECTION,)), *scores))


#: Every family; of those that share a ggml architecture, the first that claims a GGUF gets it.
ARCHITECTURES: Final[tuple[Family, ...]] = tuple(
    _whole(family)
    for family in (
        MIXTRAL,
        MISTRAL,
        LLAMA,
        QWEN2,
        QWEN2MOE,
        QWEN3,
        QWEN3MOE,
        GEMMA3,
        PHI3,
        GPT_OSS,
        GPT2,
        BERT,
        GEMMA,
        GEMMA2,
        GRANITE,
        SMOLLM3,
        ARCEE,
        OLMO,
        OLMO3,
        OLMO2,
        OLMOE,
        COHERE,
        COHERE2,
        SEED_OSS,
        NEMOTRON,
        STARCODER,
        STARCODER2,
        STABLELM,
        ERNIE,
        HUNYUAN,
        JAIS2,
        GLM,
        GLM4,
        GLM4_MOE,
        MISTRAL3,
        EXAONE4,
        EXAONE_MOE,
        HY_V3,
        DOTS1,
        PHI2,
        MINIMAX_M2,
        QWEN2_VL,
        QWEN3_VL,
        QWEN35,
        QWEN35MOE,
        QWEN3_NEXT,
        GPT_NEOX,
        BLOOM,
        ERNIE_MOE,
        FALCON,
        GRANITE_MOE_SHARED,
        GRANITE_MOE,
        DEEPSEEK2,
        GLM4_MOE_LITE,
        DEEPSEEK3,
    )
)


def translate(checkpoint: Checkpoint[Tensor], naming: Naming) -> Translation:
    """Names, row orders, hyperparameters and general metadata of `checkpoint` in `naming`; tokenizers are left out.

    No tensor is read but frequency factors and, where a tied head is stored twice, the two copies. Raises
    `UnsupportedError` for an unknown architecture and `PlanError` for whatever contradicts it, naming tensor or key.
    """
    return _translate(checkpoint, naming, ARCHITECTURES)


def translated(said: Translation, naming: Naming, part: str) -> Translation:
    """`said` with one part of it, named as `Part` has it, in `naming`; what `translate` does, a part after another."""
    return _translated(said, naming, Part(part), ARCHITECTURES)


def own_names(moves: Sequence[Move], config: Config, model_type: str, *, single: bool) -> tuple[Move, ...]:
    """`moves` of an HF checkpoint by the names that transformers loads.

    single: stacks of experts that transformers 5 loads as they are become single experts. Raises `UnsupportedError` for
    names of other libraries that no table has.
    """
    return _own_names(moves, config, _known(config, model_type), single=single)


def _known(config: Config, model_type: str) -> Family | None:
    """The family by class or model type, if it is one of ours."""
    named = config.get("architectures")
    classes = named if isinstance(named, list) else []
    types = (config.get("model_type"), model_type)
    by_class = (family for family in ARCHITECTURES if any(name in family.classes for name in classes))
    by_type = (family for family in ARCHITECTURES if {family.model_type, *family.other_types} & set(map(str, types)))
    return next(by_class, None) or next(by_type, None)


def kept_as(name: str, config: Config) -> tuple[Kept, ...]:
    """Where the files of a model of this config keep the tensor that transformers calls `name` in memory."""
    family = _known(config, "")
    return () if family is None else _kept_as(name, family)


def joined(moves: Sequence[Move], model_type: str) -> tuple[Move, ...]:
    """`moves` of an HF checkpoint, with layers that its family has fused, and its file split, as one again."""
    return _joined(moves, model_type, ARCHITECTURES)


def half_of(model_type: str) -> Dense:
    """The type of two bytes that a family is released in; F16 for what is none of ours."""
    return next((family.half for family in ARCHITECTURES if family.model_type == model_type), F16)


def outgrows_f16(model_type: str) -> bool:
    """Whether a family computes numbers that F16 has not."""
    return any(family.outgrows_f16 for family in ARCHITECTURES if family.model_type == model_type)
