"""Which layers of a model the result has: lists, and the ways to choose layers for a smaller student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from requant.errors import PlanError
from requant.ir import Json, text_config

_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"
#: Models whose layers are of two kinds by their position where config.json does not list them: one in so many is of the
#: second kind, and the key that changes how many. Source: the configuration classes of transformers 5.23.
_IMPLIED: Final[Mapping[str, tuple[int, str, str, str]]] = {
    "gemma2": (2, _SLIDING, _FULL, ""),
    "gemma3": (6, _SLIDING, _FULL, "sliding_window_pattern"),
    "gemma3_text": (6, _SLIDING, _FULL, "sliding_window_pattern"),
    "cohere2": (4, _SLIDING, _FULL, "sliding_window_pattern"),
    "olmo3": (4, _SLIDING, _FULL, ""),
    "gpt_oss": (2, _SLIDING, _FULL, ""),
    "qwen3_next": (4, "linear_attention", _FULL, "full_attention_interval"),
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


def layer_list(text: str, count: int, option: str) -> tuple[int, ...]:
    """Layers as they are typed, of a model with `count`: numbers and ranges, in any order, some perhaps twice.

    >>> layer_list("0-3,8,8", 12, "--keep-layers")
    (0, 1, 2, 3, 8, 8)
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise PlanError(f"{option}: {part.strip()!r} is neither a layer nor a range such as 4-7")
        if max(int(first), int(last or first)) >= count:
            raise PlanError(f"{option}: there is no layer {max(int(first), int(last or first))}", hint=_has(count))
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise PlanError(f"{option}: names no layer")
    return tuple(found)


def _has(count: int) -> str:
    return f"the model has {count}, numbered from 0"


def _uniform(count: int, wanted: int) -> list[int]:
    return [round(n * (count - 1) / max(1, wanted - 1)) for n in range(wanted)]


def _alternating(count: int, wanted: int) -> list[int]:
    return [n * count // wanted for n in range(wanted)]


def _top_heavy(count: int, wanted: int) -> list[int]:
    """Along the square root, so that three quarters come from the upper half; each at most once."""
    found: list[int] = []
    for n in range(wanted):
        at = round((count - 1) * (n / max(1, wanted - 1)) ** 0.5)
        at = max(at, found[-1] + 1 if found else 0)
        found.append(min(at, count - wanted + n))
    return found


#: Ways to choose the layers of a student, by name: (layers of the teacher, of the student) -> layers.
MAPPINGS: Final[Mapping[str, Callable[[int, int], list[int]]]] = {
    "uniform": _uniform,  # the first, the last, and others at equal distances
    "top-heavy": _top_heavy,
    "alternating": _alternating,  # every second of twice as many, as DistilBERT
    "first": lambda count, wanted: list(range(wanted)),
    "last": lambda count, wanted: list(range(count - wanted, count)),
}


def student_layers(count: int, wanted: int, mapping: str) -> tuple[int, ...]:
    """The teacher's layers that a student of `wanted` begins with.

    >>> student_layers(24, 6, "uniform")
    (0, 5, 9, 14, 18, 23)
    """
    if not 1 <= wanted <= count:
        raise PlanError(f"--student: {wanted} layers cannot be chosen of {count}")
    return tuple(MAPPINGS[mapping](count, wanted))


def relayered(
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
        return {**config, "text_config": relayered(text, layers, count, inner)}
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
        period, most, one, key = _IMPLIED[kind]
        told = config.get(key)
        period = told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else period
        found["layer_types"] = [most if (n + 1) % period else one for n in range(count)]
    if kind == "smollm3" and not config.get("no_rope_layers"):
        told = config.get("no_rope_layer_interval", 4)
        period = told if isinstance(told, int) and told > 0 else 4
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
