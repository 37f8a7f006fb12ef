"""What models that see or hear have beside their text model, by name: llama.cpp keeps it in a file of its own (mmproj).

Facts: `filter_tensors` of llama.cpp's conversion/base.py.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.rules import MMPROJ, Ignored

#: Parts of names that no text model has.
_PARTS: Final = (
    *("visual", "vision", r"vision_\w+", "audio", r"audio_\w+", "talker", "token2wav", "code2wav", r"\w*projector"),
    *("vit", "vpm", "siglip2", "conformer", "merger", "resampler", "sound_encoder", "sound_projection", "connector"),
    *("speech_embeddings", "aligner", "vqmodel", r"generation_\w+", "image_newline", "view_seperator"),
)
SEEING: Final = Ignored(
    rf"((model|thinker)\.)?({'|'.join(_PARTS)})(\..*)?",
    MMPROJ,
    lost=True,
)
