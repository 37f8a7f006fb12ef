"""What a GGUF's metadata and a config.json say of single layers, by list, by number or by position; and what becomes of
it when layers are left out, repeated or moved.

Facts: llama.cpp b11549, `load_swa_pattern` and the like in src/models/*.cpp, `set_swa_pattern` and `has_kv` in
src/llama-hparams.cpp, `create_memory` in src/llama-model.cpp; the configuration classes of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from requant.errors import PlanError
from requant.ir import Json, Typed, text_config

WINDOW: Final = "attention.sliding_window"
PATTERN: Final = "attention.sliding_window_pattern"
#: More layers than this are an accident, and a list of them would be another.
MOST_LAYERS: Final = 1 << 14

#: architecture -> one layer in so many sees the whole context where the file does not list them; negative: the first
#: of each group does, else the last.
_PERIODS: Final[Mapping[str, int]] = {
    "afmoe": 4,
    "cohere2": 4,
    "cohere2moe": -4,
    "exaone-moe": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma-embedding": 6,
    "gemma-embedding2": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "laguna": -4,
    "llama4": 4,
    "mellum": 4,
    "modern-bert": -3,
    "muse-glimmer": 4,
    "olmo2": 4,
    "plamo3": 8,
    "smallthinker": -4,
}
#: Widths of windows that llama.cpp takes where the file says none.
_WIDTHS: Final[Mapping[str, int]] = {"gemma2": 4096}
#: Linear attention in all but every so manieth layer, where the file does not say.
_INTERVALS: Final[Mapping[str, int]] = dict.fromkeys(("qwen35", "qwen35moe", "qwen3next", "qwen4exp", "minimax-01"), 4)
#: Layers without rope by their position, a period in llama.cpp's code.
_NO_ROPE: Final[Mapping[str, int]] = {"smollm3": 4, "llama4": 4, "afmoe": 4}
#: Whose attention scale llama.cpp knows by the number of layers: that of the 27B model, which has another scale.
_SCALE_BY_LAYERS: Final[Mapping[str, int]] = {"gemma3": 62, "gemma2": 46}
#: Lists of an architecture that are not one value for each layer, even if they are as long.
_NOT_LAYERS: Final = ("rope.dimension_sections", "classifier.output_labels", "adapters.", "ple.", "target_layers")
#: Numbers that count layers from one end: their layers must stay there.
_LEADING: Final = ("leading_dense_block_count", "hash_layer_count", "n_deepstack_layers")
_TRAILING: Final = ("nextn_predict_layers",)
#: Numbers that say by position which layers are of which kind.
_STEPS: Final = ("full_attention_interval", "interleave_moe_layer_step", "moe_every_n_layers")
#: Numbers whose layers depend on others that they name by their place.
_FIXED: Final = ("attention.shared_kv_layers", "embedding_length_per_layer_input", "attn_res.block_size")

_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"
#: Models whose layers are of two kinds by their position where config.json does not list them: the architecture whose
#: period that is, of which kind most are and of which the last of each period is, and the key that changes the period.
_IMPLIED: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "gemma2": ("gemma2", _SLIDING, _FULL, ""),
    "gemma3": ("gemma3", _SLIDING, _FULL, "sliding_window_pattern"),
    "gemma3_text": ("gemma3", _SLIDING, _FULL, "sliding_window_pattern"),
    "cohere2": ("cohere2", _SLIDING, _FULL, "sliding_window_pattern"),
    "olmo3": ("olmo2", _SLIDING, _FULL, ""),
    "gpt_oss": ("gpt-oss", _SLIDING, _FULL, ""),
    "qwen3_next": ("qwen3next", "linear_attention", _FULL, "full_attention_interval"),
}
#: What config.json calls the number of layers.
_COUNTS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
#: Numbers that mean layers by their position, and so nothing once layers are moved.
_POSITIONAL: Final = (
    "max_window_layers",
    "first_k_dense_replace",
    "decoder_sparse_step",
    "mlp_only_layers",
    "sliding_window_pattern",
    "full_attention_interval",
    "no_rope_layer_interval",
    "interleave_moe_layer_step",
    "moe_layer_freq",
    "attn_layer_period",
    "attn_layer_offset",
    "expert_layer_period",
    "expert_layer_offset",
)


def number(metadata: Mapping[str, Typed], key: str, absent: int = 0) -> int:
    """A whole number; `absent` where there is none."""
    value = metadata[key].value if key in metadata else absent
    return value if isinstance(value, int) and not isinstance(value, bool) else absent


def per_layer(metadata: Mapping[str, Typed], key: str, layers: int, absent: int) -> list[int]:
    """A number for each layer, be it one for all or a list."""
    value = metadata[key].value if key in metadata else absent
    if isinstance(value, str | float | bool):
        return [absent] * layers
    if isinstance(value, int):
        return [value] * layers
    found = [item if isinstance(item, int) else absent for item in islice(value, layers)]
    return found + [absent] * (layers - len(found))


def window_of(metadata: Mapping[str, Typed], architecture: str) -> int:
    """How many tokens a layer with a window sees; 0 where llama.cpp gives none of the layers one."""
    if architecture not in _PERIODS:
        return 0
    return number(metadata, f"{architecture}.{WINDOW}", _WIDTHS.get(architecture, 0))


def windowed_layers(metadata: Mapping[str, Typed], architecture: str, layers: int) -> list[bool]:
    """For each layer, whether llama.cpp lets it see only a window."""
    if not window_of(metadata, architecture):
        return [False] * layers
    typed = metadata.get(f"{architecture}.{PATTERN}")
    if typed is not None and isinstance(typed.value, Sequence) and not isinstance(typed.value, str):
        return [bool(item) for item in typed.value][:layers] + [False] * max(0, layers - len(typed.value))
    period = number(metadata, f"{architecture}.{PATTERN}", _PERIODS[architecture])
    if period < 0:
        return [n % -period != 0 for n in range(layers)]
    return [period == 0 or n % period < period - 1 for n in range(layers)]


def recurrent_layers(metadata: Mapping[str, Typed], architecture: str, layers: int) -> list[bool]:
    """For each layer, whether it keeps a state instead of keys and values."""
    listed = metadata.get(f"{architecture}.attention.recurrent_layers")
    if listed is not None and not isinstance(listed.value, str | int | float):
        return ([bool(item) for item in listed.value] + [False] * layers)[:layers]
    step = number(metadata, f"{architecture}.full_attention_interval", _INTERVALS.get(architecture, 0))
    if architecture in _INTERVALS and step:
        return [(n + 1) % step != 0 for n in range(layers)]
    heads = per_layer(metadata, f"{architecture}.attention.head_count", layers, 0)
    kv_heads = per_layer(metadata, f"{architecture}.attention.head_count_kv", layers, -1)
    return [kv == 0 or (kv < 0 and head == 0) for head, kv in zip(heads, kv_heads, strict=True)]


def relayered_metadata(metadata: Mapping[str, Typed], architecture: str, kept: Sequence[int]) -> dict[str, Typed]:
    """Metadata of a model that has these of its layers, in this order; `block_count` last, as llama.cpp writes it.

    kept: numbers of layers, perhaps some twice. Lists of a value for each layer are cut along; windows that were by
    position are listed where positions have changed. Raises `PlanError` for what cannot be said of other layers.
    """
    key = f"{architecture}.block_count"
    before = number(metadata, key)
    if not 0 < before <= MOST_LAYERS:
        raise PlanError(f"layers cannot be chosen: {key} is {before or 'missing'}")
    kept = list(kept)
    changed = {
        f"{architecture}.{name}": typed for name, typed in _counted(metadata, architecture, before, kept).items()
    }
    _refuse_positions(metadata, architecture, before, kept)
    result: dict[str, Typed] = {}
    for name, typed in metadata.items():
        if name != key:
            result[name] = changed.get(name) or _cut(name, typed, architecture, before, kept)
    return result | changed | {key: Typed("u32", len(kept))}


def _cut(name: str, typed: Typed, architecture: str, before: int, kept: Sequence[int]) -> Typed:
    items, own = typed.value, name.removeprefix(f"{architecture}.")
    if own == name or own.startswith(_NOT_LAYERS) or isinstance(items, str | int | float) or len(items) != before:
        return typed
    return Typed(typed.kind, [items[n] for n in kept])


def _counted(metadata: Mapping[str, Typed], architecture: str, before: int, kept: list[int]) -> dict[str, Typed]:
    """Keys whose value follows from which layers are kept: counts from either end, and the list of windows."""
    found: dict[str, Typed] = {}
    for names, ends in ((_LEADING, False), (_TRAILING, True)):
        for name in names:
            count = number(metadata, f"{architecture}.{name}")
            inside = [(n >= before - count) if ends else (n < count) for n in kept]
            if count and inside != sorted(inside, reverse=not ends):
                raise PlanError(f"{architecture}.{name} counts layers from one end, and they would no longer be there")
            if count and sum(inside) != count:
                found[name] = Typed("u32", sum(inside))
    windows = windowed_layers(metadata, architecture, before)
    wanted = [windows[n] for n in kept]
    listed = metadata.get(f"{architecture}.{PATTERN}")
    by_position = listed is None or isinstance(listed.value, int)
    if by_position and wanted != windowed_layers(metadata, architecture, len(kept)):
        found[PATTERN] = Typed("[bool]", wanted)
    return found


def _refuse_positions(metadata: Mapping[str, Typed], architecture: str, before: int, kept: list[int]) -> None:
    """What llama.cpp knows by the position of a layer, or by their number, and no key can say otherwise."""
    steps = {name: number(metadata, f"{architecture}.{name}") for name in _STEPS}
    steps.setdefault("full_attention_interval", 0)
    if not steps["full_attention_interval"] and f"{architecture}.attention.recurrent_layers" not in metadata:
        steps["full_attention_interval"] = _INTERVALS.get(architecture, 0)
    steps["layers without rope"] = _NO_ROPE.get(architecture, 0)
    for name, step in steps.items():
        if step > 1 and any(place % step != layer % step for place, layer in enumerate(kept)):
            raise PlanError(
                f"{architecture}: {name} goes by the position of a layer, every {step}, and layers would move",
                hint=f"leave out whole groups of {step} layers, counted from the first",
            )
    for name in _FIXED:
        if number(metadata, f"{architecture}.{name}") and kept != list(range(before)):
            raise PlanError(f"{architecture}.{name} ties layers to the places they have; none can be left out or moved")
    special = _SCALE_BY_LAYERS.get(architecture)
    if special is not None and (before == special) != (len(kept) == special) and _scales_differ(metadata, architecture):
        raise PlanError(f"llama.cpp knows the attention scale of {architecture} by its {special} layers")


def _scales_differ(metadata: Mapping[str, Typed], architecture: str) -> bool:
    """Whether a model of that many layers has another scale than one of another number."""
    heads = number(metadata, f"{architecture}.attention.head_count", 1)
    width = number(metadata, f"{architecture}.embedding_length") // max(1, heads)
    return width != number(metadata, f"{architecture}.attention.key_length", width)


def relayered_config(
    config: Mapping[str, Json], layers: Sequence[int], count: int, sources: Sequence[Mapping[str, Json]] = ()
) -> dict[str, Json]:
    """config.json of a model that has these layers, in this order, where that of `count` layers is `config`.

    sources: for each layer the config of the model that it is of, where that is another one. Lists with a value for
    each layer are cut along; what says by position which layers are of which kind is an error once layers have moved.
    """
    sources = sources or [config] * len(layers)
    if list(layers) == list(range(count)) and all(source is config for source in sources):
        return dict(config)
    text = config.get("text_config")
    if isinstance(text, dict):
        inner = [text if source is config else text_config(source) for source in sources]
        return {**config, "text_config": relayered_config(text, layers, count, inner)}
    moved = list(layers) != list(range(len(layers))) or any(source is not config for source in sources)
    own = {id(source): _explicit(source, _count(source)) for source in sources}
    found: dict[str, Json] = {}
    for key, value in _explicit(config, count).items():
        if key in _COUNTS:
            found[key] = len(layers)
        elif isinstance(value, list) and len(value) == count and count > 1 and _by_layer(key):
            found[key] = [_of_layer(own[id(s)], key, n) for s, n in zip(sources, layers, strict=True)]
        elif key in _POSITIONAL and moved and _means(config, key):
            raise PlanError(
                f"config.json: {key} says by position which layers are of which kind, and layers have moved",
                hint="keep a part from the first layer on, or say the kinds in layer_types",
            )
        else:
            found[key] = value
    return found


def _count(config: Mapping[str, Json]) -> int:
    """How many layers a config says there are."""
    told = next((config[key] for key in _COUNTS if key in config), 0)
    return told if isinstance(told, int) and 0 <= told < 1 << 16 else 0


def _of_layer(config: Mapping[str, Json], key: str, layer: int) -> Json:
    """A list's value for one layer."""
    values = config.get(key)
    if not isinstance(values, list) or layer >= len(values):
        raise PlanError(f"config.json: {key} of one of the models has no value for its layer {layer}")
    return values[layer]


def _explicit(config: Mapping[str, Json], count: int) -> dict[str, Json]:
    """The config with its layers' kinds listed, where it leaves them to their positions."""
    found, kind = dict(config), str(config.get("model_type"))
    if kind in _IMPLIED and not config.get("layer_types"):
        architecture, most, one, key = _IMPLIED[kind]
        period, told = {**_PERIODS, **_INTERVALS}[architecture], config.get(key)
        period = told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else period
        found["layer_types"] = [most if (n + 1) % period else one for n in range(count)]
    if kind == "smollm3" and not config.get("no_rope_layers"):
        told = config.get("no_rope_layer_interval")
        period = told if isinstance(told, int) and told > 0 else _NO_ROPE["smollm3"]
        found["no_rope_layers"] = [int((n + 1) % period != 0) for n in range(count)]
    return found


def _by_layer(key: str) -> bool:
    """Whether a list of this name has a value for each layer; a list of that length may also be one of tokens."""
    return (
        "layers" in key
        or "layer_types" in key
        or key.startswith(("num_", "n_"))
        or key.endswith(("_types", "_sizes", "_per_block"))
    )


def _means(config: Mapping[str, Any], key: str) -> bool:
    """Whether it decides anything beside what else is there."""
    if key == "max_window_layers":
        return bool(config.get("use_sliding_window")) and "layer_types" not in config
    if key in ("sliding_window_pattern", "full_attention_interval", "no_rope_layer_interval"):
        return "layer_types" not in config and "no_rope_layers" not in config
    neutral = {"decoder_sparse_step": 1, "interleave_moe_layer_step": 1, "mlp_only_layers": []}
    return bool(config[key]) and config[key] != neutral.get(key)
