"""Models that see around a text model of any family: config.json says which, in a section of its own.

llama.cpp's converter goes by the class that this section names, too. Facts: `get_model_architecture` of its
conversion/base.py; where the text model lies, transformers' classes of these names and their folders of the Hub.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.rules import MMPROJ, Config, Family, Ignored
from requant.architectures.seeing import SEEING
from requant.ir import text_config

AROUND: Final = frozenset(
    (
        "InternVLForConditionalGeneration",
        "InternVLChatModel",
        "Lfm2VlForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "LightOnOCRForConditionalGeneration",
        "LightOnOcrForConditionalGeneration",
    )
)
_BASES: Final = ("model.language_model.", "language_model.model.", "language_model.")
#: The projector of InternVL's own folders.
_MLP: Final = Ignored(r"mlp1\..*", MMPROJ, lost=True)


def inside(config: Config) -> Config:
    """What config.json says of the text model of such a model; {} for every other."""
    named = config.get("architectures")
    around = isinstance(named, list) and any(isinstance(name, str) and name in AROUND for name in named)
    return text_config(config) if around else {}


def seen(family: Family) -> Family:
    """The family of a text model that lies inside such a model."""
    return replace(family, bases=_BASES, ignored=(*family.ignored, SEEING, _MLP), classifier=None)
