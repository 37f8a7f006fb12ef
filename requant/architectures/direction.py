"""Whether a token sees what comes after it: `is_causal` of config.json, `attention.causal` of a GGUF.

Facts: transformers' masking_utils.py heeds `is_causal: false` of every decoder's configuration since 5.2; llama.cpp's
conversion/base.py writes the key for every text model, and src/llama-model.cpp reads it for every architecture.
A window reaches back only in llama.cpp's decoders (`is_masked_swa`), to both sides in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.rules import Config, Irregular, Sizes, ToGgml, ToHf
from requant.architectures.windows import SLIDING
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor, Typed
from requant.losses import Loss, LossKind

#: The key of a GGUF, without the architecture.
CAUSAL: Final = "attention.causal"


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    causal = config.get("is_causal", True)
    if causal is None or causal is True:
        return ToGgml()
    if causal is not False:
        raise PlanError(f"config.json: is_causal is {causal!r}, true or false is needed")
    return ToGgml({CAUSAL: Typed("bool", False)}, losses=_windows(config))


def _windows(config: Config) -> tuple[Loss, ...]:
    """Layers whose window would have to reach forward, too."""
    types = config.get("layer_types")
    if not isinstance(types, list) or SLIDING not in types:
        return ()
    detail = "without causality a window reaches to both sides in transformers, and without end forward in llama.cpp"
    return (Loss(LossKind.METADATA_DROPPED, "sliding_window", detail),)


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    causal = values.get(CAUSAL, True)
    if not isinstance(causal, bool):
        raise PlanError(f"metadata: {CAUSAL!r} is {causal!r}, true or false is needed")
    return ToHf({} if causal else {"is_causal": False}, keys=frozenset({CAUSAL}))


#: For every decoder.
DIRECTION: Final = Irregular(_to_ggml, _to_hf)
