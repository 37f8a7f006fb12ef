"""Models of which only some layers look back: a GGUF lists the key/value heads of each layer, 0 where there are none.

Facts: llama.cpp's conversion/lfm2.py, jamba.py and granite.py; `recurrent_layer_arr` of src/llama-hparams.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from requant.architectures.numbers import number
from requant.architectures.rules import Config, Default, Key
from requant.errors import PlanError
from requant.ir import Json

#: The key that says it.
KV_HEADS: Final = "attention.head_count_kv"
_MOST: Final = 1 << 16


def _attending(values: Config) -> Sequence[bool]:
    layers, heads = values.get("block_count"), values.get(KV_HEADS)
    if not isinstance(layers, int) or not 0 <= layers <= _MOST:
        return []  # which `sizes_of` reports
    if not isinstance(heads, list):
        return [bool(heads)] * layers
    if len(heads) != layers:
        raise PlanError(f"metadata: {KV_HEADS} lists {len(heads)} layers of {layers}")
    return [bool(item) for item in heads]


#: `Family.layers` of such a model.
ATTENDING: Final[Mapping[str, Callable[[Config], Sequence[bool]]]] = {"attends": _attending}


def key_value_heads(
    which: Callable[[Config], Sequence[bool]], count: Default = lambda config: config.get("num_key_value_heads")
) -> Key:
    """The list of all layers. which: from config.json, whether each looks back; count: the heads of those."""

    def listed(config: Config) -> Json:
        heads = int(number({"num_key_value_heads": count(config)}, "num_key_value_heads"))
        return [heads if attends else 0 for attends in which(config)]

    return Key((), KV_HEADS, "[i32]", default=listed)


def layers_of(config: Config) -> int:
    """How many layers config.json says, where a list is made for them."""
    layers = int(number(config, "num_hidden_layers"))
    if not 0 < layers <= _MOST:
        raise PlanError(f"config.json: num_hidden_layers is {layers}")
    return layers


def listed_kinds(config: Config, kinds: Mapping[str, bool]) -> list[bool] | None:
    """Whether each layer looks back, by `layer_types`; None where config.json does not list them."""
    listed, layers = config.get("layer_types"), layers_of(config)
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) != layers or not set(map(str, listed)) <= kinds.keys():
        raise PlanError(f"config.json: layer_types does not name {' or '.join(kinds)} for {layers} layers")
    return [kinds[str(item)] for item in listed]
