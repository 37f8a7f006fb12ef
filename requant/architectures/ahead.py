"""Layers that predict more than one token ahead (multi-token prediction): behind the others, where they are at all.

config.json counts them apart (`num_nextn_predict_layers`), GGUF among all blocks. transformers leaves their tensors
out when it saves a model, so that the count alone means nothing.
Facts: llama.cpp's conversion/glm.py, exaone.py, hunyuan.py and src/models/glm4-moe.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from requant.architectures.decoders import LAYER
from requant.architectures.numbers import number
from requant.architectures.rules import (
    Config,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToHf,
    unsaid,
)
from requant.ir import Json, Tensor

_COUNT: Final = "num_nextn_predict_layers"
_KEY: Final = "nextn_predict_layers"
_FOUND: Final = "has_nextn"
#: `Family.present`: the layers themselves, and what they may have of their own.
PRESENT: Final[Mapping[str, str]] = {
    _FOUND: r"\.eh_proj\.weight",
    "has_nextn_norm": r"\.shared_head\.norm\.weight",
    "has_nextn_head": r"\.shared_head\.head\.weight",
    "has_nextn_embedding": r"\.layers\.\d+\.embed_tokens\.weight",
}


def _ahead(config: Config) -> int:
    return int(number(config, _COUNT, 0)) if config.get(_FOUND) else 0


def _blocks(config: Config) -> Json:
    return int(number(config, "num_hidden_layers")) + _ahead(config)


#: All blocks; and how many of them predict ahead.
BLOCKS: Final = Key((), "block_count", "u32", default=_blocks)
AHEAD: Final = Key((), _KEY, "u32", default=_ahead)
#: The same, of families whose files do not say that there are none.
AHEAD_IF_ANY: Final = Key((), _KEY, "u32", default=lambda config: _ahead(config) or None)


def _layers(values: Config) -> Sequence[bool]:
    layers, ahead = values.get("block_count"), values.get(_KEY) or 0
    if not isinstance(layers, int) or not isinstance(ahead, int):
        return []  # which `sizes_of` reports
    return [n >= layers - ahead for n in range(min(layers, 1 << 16))]


#: `Family.layers`.
AHEAD_LAYERS: Final[Mapping[str, Callable[[Config], Sequence[bool]]]] = {"nextn": _layers}


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    ahead = int(number(values, _KEY, 0))
    config: dict[str, Json] = {"num_hidden_layers": sizes["layers"] - ahead, _COUNT: ahead}
    return ToHf(config, keys=frozenset({_KEY}))


#: `Family.irregular`: the counts on the way back.
COUNTED: Final = Irregular(unsaid, _to_hf)


def _rule(hf: str, ggml: str, shape: tuple[str, ...], when: str = "") -> Rule:
    return Rule(LAYER + hf + ".weight", f"blk.{{n}}.nextn.{ggml}.weight", shape, when=f"nextn+{when}")


#: What such a layer has besides those of a layer.
RULES: Final = (
    _rule("eh_proj", "eh_proj", ("hidden", "hidden_pair")),
    _rule("enorm", "enorm", ("hidden",)),
    _rule("hnorm", "hnorm", ("hidden",)),
    _rule("shared_head.norm", "shared_head_norm", ("hidden",), "has_nextn_norm"),
    _rule("shared_head.head", "shared_head_head", ("vocab", "hidden"), "has_nextn_head"),
    _rule("embed_tokens", "embed_tokens", ("vocab", "hidden"), "has_nextn_embedding"),
)
