"""Rotary position parameters: config.json says them in `rope_scaling` (transformers 4) or `rope_parameters` (5),
GGUF in `rope.*` keys and in tensors of frequency factors.

Facts: transformers' modeling_rope_utils.py; llama.cpp's conversion/base.py, conversion/llama.py, conversion/phi.py
and src/llama-context.cpp (which factors are applied, and how yarn's attention factor is made).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.architectures import yarn
from requant.architectures.numbers import at_least_one, number, positive, shortest
from requant.architectures.rules import Config, Default, Irregular, Sizes, ToGgml, ToHf
from requant.encodings import F32
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.sources import Memory, read

Factors = NDArray[np.float32]

_SLIDING: Final = "sliding_attention"
_FREQS: Final = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_KEYS: Final = frozenset(
    f"rope.{key}"
    for key in (
        "freq_base",
        "freq_base_swa",
        "scale_linear",
        "scaling.type",
        "scaling.factor",
        "scaling.original_context_length",
        "scaling.attn_factor",
        "scaling.finetuned",
        "scaling.yarn_ext_factor",
        "scaling.yarn_attn_factor",
        "scaling.yarn_beta_fast",
        "scaling.yarn_beta_slow",
        "scaling.yarn_truncate",
        "scaling.yarn_log_multiplier",
    )
)
#: Whether yarn's borders are whole dimensions. No key of llama.cpp, which cuts them always.
_TRUNCATE: Final = "rope.scaling.yarn_truncate"


@dataclass(frozen=True, slots=True)
class Rope:
    """How one family keeps its rope parameters.

    theta: transformers' default base. outer_original: as in phi3, `original_max_position_embeddings` stands beside the
    rope parameters and is always written to GGUF. in_part: heads may be rotated in part, as a key of the family says
    (see `rotary`); transformers' default part, None for whole heads. local: layers with a window may have a base of
    their own, unscaled. multiplied: llama.cpp knows yarn's `mscale_all_dim` here, and a GGUF has
    so many times of it. absent: the parameters of a
    config.json without any. truncate: what yarn's `truncate` is in a GGUF that does not say.
    """

    theta: float
    outer_original: bool = False
    in_part: float | None = None
    local: bool = False
    multiplied: float = 0.0
    absent: Mapping[str, Json] = field(default_factory=dict)
    truncate: bool = True

    def pair(self) -> Irregular:
        """For the table of a family."""
        return Irregular(self.to_ggml, self.to_hf)

    def to_ggml(self, checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
        """Keys and factor tensors of the scaling that config.json asks for."""
        if not (config.get("rope_parameters") or config.get("rope_scaling")):
            config = {**config, "rope_parameters": dict(self.absent)}
        scaling = parameters(config, self.theta)
        values = {"rope.freq_base": Typed("f32", positive(scaling, "rope_theta"))}
        context = float(sizes["positions"])
        original = at_least_one(scaling, "original_max_position_embeddings", context)
        if self.outer_original:
            values["rope.scaling.original_context_length"] = Typed("u32", original)
        if self.local:
            values |= _local(config)
        if self.in_part is None and number({**config, **scaling}, "partial_rotary_factor", 1.0) != 1:
            raise PlanError("config.json: partial_rotary_factor is not 1; llama.cpp rotates whole heads of this model")
        match scaling["rope_type"]:
            case "default":
                return ToGgml(values)
            case "linear":
                return ToGgml(values | _typed("linear") | {"rope.scaling.factor": _f32(scaling, "factor")})
            case "yarn":
                truncate = scaling.get("truncate", True) is not False
                if truncate != self.truncate:
                    values[_TRUNCATE] = Typed("bool", truncate)
                return ToGgml(values | yarn.to_ggml(scaling, original, self.multiplied), losses=yarn.unread(scaling))
            case "llama3":
                scaling["original_max_position_embeddings"] = original
                return ToGgml(values, (_vector(_FREQS, llama3_factors(scaling, sizes["head"])),))
            case "longrope" | "su":
                kind = {} if self.outer_original else _typed("longrope")  # phi3 has no other scaling, and no key for it
                return _longrope(values | kind, scaling, context, sizes)
            case "dynamic":
                detail = "dynamic rope scaling: llama.cpp leaves the rope unscaled beyond the original context"
                return ToGgml(values, losses=(Loss(LossKind.METADATA_DROPPED, "rope_scaling", detail),))
            case other:
                raise UnsupportedError(
                    f"rope scaling {other!r} has no counterpart in GGUF",
                    hint="supported: default, linear, yarn, llama3, longrope, dynamic (told as a loss)",
                )

    def to_hf(self, values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        """The scaling in transformers 4's words, which transformers 5 reads as well."""
        theta = shortest(positive(values, "rope.freq_base", 10000.0))
        config: dict[str, Json] = {"rope_theta": theta}
        context = at_least_one(values, "context_length")
        original = at_least_one(values, "rope.scaling.original_context_length", context)
        kind = values.get("rope.scaling.type", "linear")
        factor = shortest(number(values, "rope.scaling.factor", number(values, "rope.scale_linear", 1.0)))
        used = frozenset({_FREQS, _LONG, _SHORT} & set(tensors))
        scaling: dict[str, Json] = {}
        if _FREQS in tensors:
            scaling = scaling_of_factors(_read(tensors[_FREQS], sizes), theta, sizes["head"], context)
        elif _LONG in tensors and _SHORT in tensors:
            scaling = _longrope_of(values, tensors, sizes, context, original)
            if self.outer_original:
                scaling.pop("original_max_position_embeddings")
        elif kind == "yarn":
            scaling = yarn.to_hf(values, factor, original, self.multiplied)
            if values.get(_TRUNCATE, self.truncate) is False:
                scaling["truncate"] = False
        elif kind == "linear" and factor != 1.0:
            scaling = {"rope_type": "linear", "factor": factor}
        elif kind not in ("linear", "none"):
            raise UnsupportedError(f"rope.scaling.type is {kind!r}, but there are no factor tensors for it")
        if scaling:
            # transformers before 4.43 reads `type`
            config["rope_scaling"] = {**scaling, "type": scaling["rope_type"]}
        else:
            config["rope_scaling"] = None
        if self.outer_original:
            config["original_max_position_embeddings"] = original
        if self.in_part is not None and not self.in_part == 1 == sizes["rotary"] / sizes["head"]:
            # that of transformers, too: mlx-lm has no default, or another one
            config["partial_rotary_factor"] = sizes["rotary"] / sizes["head"]
        if self.local and "rope.freq_base_swa" in values:
            config["rope_parameters"] = _by_layer_type(values, theta, scaling)
        keys = _KEYS if self.local else _KEYS - {"rope.freq_base_swa"}
        return ToHf(config, keys=keys, tensors=used)


def rotary(factor: float) -> Default:
    """The default of `rope.dimension_count`: numbers per head that are rotated; `factor` is transformers' default part.

    transformers multiplies and cuts; the width of a head is `head_dim`, or hidden size over heads.
    """

    def count(config: Config) -> Json:
        written = config.get("rope_parameters") or config.get("rope_scaling") or {}
        part = number({**config, **(written if isinstance(written, dict) else {})}, "partial_rotary_factor", factor)
        head = config.get("head_dim") or int(number(config, "hidden_size")) // max(
            1, int(number(config, "num_attention_heads"))
        )
        return int(part * number({"head_dim": head}, "head_dim"))

    return count


def _local(config: Config) -> dict[str, Typed]:
    """The base of layers with a window, where transformers 5 says it apart."""
    rope = config.get("rope_parameters")
    local = rope.get(_SLIDING) if isinstance(rope, dict) else None
    if not isinstance(local, dict):
        return {}
    if local.get("rope_type", "default") != "default":
        raise UnsupportedError(f"config.json: rope type {local['rope_type']!r} in layers with a window")
    return {"rope.freq_base_swa": Typed("f32", positive(local, "rope_theta"))}


def _by_layer_type(values: Config, theta: float, scaling: Mapping[str, Json]) -> Json:
    """Parameters of both types of layer, as transformers 5 has them."""
    full: dict[str, Json] = {"rope_type": "default", **scaling, "rope_theta": theta}
    local: dict[str, Json] = {
        "rope_type": "default",
        "rope_theta": shortest(positive(values, "rope.freq_base_swa")),
    }
    return {"full_attention": full, _SLIDING: local}


def parameters(config: Config, theta: float, layer_type: str = "full_attention") -> dict[str, Json]:
    """The rope parameters of one type of layer with `rope_type` and `rope_theta` in them, whoever wrote config.json."""
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(written, dict):
        raise PlanError(f"config.json: rope parameters are {type(written).__name__}, an object is needed")
    inner = written.get(layer_type, written)
    if not isinstance(inner, dict):
        raise PlanError(f"config.json: rope parameters of {layer_type} are not an object")
    found: dict[str, Json] = dict(inner)
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    if found.get("rope_theta") is None:
        found["rope_theta"] = number(config, "rope_theta", theta)
    if config.get("original_max_position_embeddings") is not None:
        found["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    return found


def llama3_factors(scaling: Config, head: int) -> Factors:
    """[head / 2]: what each frequency is divided by. float32 throughout and in the converter's order; its
    powers, like these, may be off in the last bit."""
    theta, factor = np.float32(number(scaling, "rope_theta")), number(scaling, "factor", 8.0)
    low, high = number(scaling, "low_freq_factor", 1.0), number(scaling, "high_freq_factor", 4.0)
    original = positive(scaling, "original_max_position_embeddings")
    if not (factor > 0 and 0 < low < high):
        raise PlanError(f"llama3 rope scaling: factor {factor}, low {low}, high {high}, original context {original}")
    frequencies = np.float32(1) / theta ** (np.arange(0, head, 2, dtype=np.float32) / np.float32(head))
    one = np.float32(1)
    lengths = one / frequencies * np.float32(2 * math.pi)  # torch divides a number by a tensor in two steps
    smooth = (one / lengths * np.float32(original) - np.float32(low)) / np.float32(high - low)
    between = np.float32(1) / ((np.float32(1) - smooth) / np.float32(factor) + smooth)
    scaled = np.where(lengths > np.float32(original / low), np.float32(factor), between)
    return np.where(lengths < np.float32(original / high), np.float32(1), scaled).astype(np.float32)


def scaling_of_factors(factors: Factors, theta: float, head: int, context: int) -> dict[str, Json]:
    """Parameters whose factors are exactly these.

    The factors fix low : high : original context only up to a common scale, so `low_freq_factor` is taken as 1.
    Factors that no such parameters give are kept as they are, in the form of a longrope whose two lists are the same.
    """
    for high, original in _guesses(factors, theta, head):
        scaling: dict[str, Json] = {
            "rope_type": "llama3",
            "factor": shortest(factors[-1]),
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
        if high > 1 and original > 0 and factors[-1] > 0:
            again = llama3_factors(scaling | {"rope_theta": theta}, head)
            if np.allclose(again, factors, rtol=3e-7, atol=0):
                return scaling
    kept: list[Json] = [shortest(value) for value in factors]
    return {
        "rope_type": "longrope",
        "factor": 1.0,
        "attention_factor": 1.0,
        "short_factor": kept,
        "long_factor": kept,
        "original_max_position_embeddings": context,
    }


def _guesses(factors: Factors, theta: float, head: int) -> list[tuple[float, int]]:
    """(high_freq_factor, original context): Llama 3's own, then the straight line through the smoothed factors."""
    guesses = [(4.0, 8192)]
    last = float(factors[-1])
    inside = [i for i, x in enumerate(factors) if min(1.0, last) < x < max(1.0, last)]
    if len(inside) >= 2 and last != 1:
        turns = [theta ** (-2 * i / head) / (2 * math.pi) for i in inside]  # 1 / wavelength
        smooth = [(1 / float(factors[i]) - 1 / last) / (1 - 1 / last) for i in inside]
        slope = (smooth[0] - smooth[-1]) / (turns[0] - turns[-1])
        offset = smooth[0] - slope * turns[0]
        if slope > 0 and offset < 0:
            high = float(f"{1 - 1 / offset:.4g}")
            guesses.append((high, round(slope * (1 - 1 / offset - 1))))
    return guesses


def _longrope(values: dict[str, Typed], scaling: Config, context: float, sizes: Sizes) -> ToGgml:
    rotary = sizes.get("rotary", sizes["head"])
    original = at_least_one(scaling, "original_max_position_embeddings", context)
    factors: list[Factors] = []
    for name in ("long_factor", "short_factor"):
        listed = scaling.get(name)
        if not isinstance(listed, list) or len(listed) != rotary // 2:
            count = len(listed) if isinstance(listed, list) else "none"
            raise PlanError(f"config.json: {name} needs {rotary // 2} numbers, there are {count}")
        factors.append(np.array([number({name: x}, name) for x in listed], np.float32))
    values["rope.scaling.original_context_length"] = Typed("u32", original)
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = _attention_of_longrope(context, original)
    values["rope.scaling.attn_factor"] = Typed("f32", number({"attention_factor": attention}, "attention_factor"))
    return ToGgml(values, (_vector(_LONG, factors[0]), _vector(_SHORT, factors[1])))


def _attention_of_longrope(context: float, original: float) -> float:
    scale = context / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0


def _longrope_of(
    values: Config, tensors: Mapping[str, Tensor], sizes: Sizes, context: int, original: int
) -> dict[str, Json]:
    scaling: dict[str, Json] = {
        "rope_type": "longrope",
        "short_factor": [shortest(x) for x in _read(tensors[_SHORT], sizes)],
        "long_factor": [shortest(x) for x in _read(tensors[_LONG], sizes)],
        "original_max_position_embeddings": original,
    }
    attention = number(values, "rope.scaling.attn_factor", 1.0)
    if not math.isclose(attention, _attention_of_longrope(context, original), rel_tol=1e-6):
        scaling["attention_factor"] = shortest(attention)
    return scaling


def _read(tensor: Tensor, sizes: Sizes) -> Factors:
    """The factors of a tensor; they are few, and the plan needs their values."""
    expected = (sizes.get("rotary", sizes["head"]) // 2,)
    if tensor.encoding != F32 or tensor.shape != expected:
        raise PlanError(
            f"tensor {tensor.name!r} is {tensor.encoding.label}{list(tensor.shape)}, F32{list(expected)} is expected"
        )
    return read(tensor.sources["data"]).view("<f4").astype(np.float32)


def _vector(name: str, values: Factors) -> Tensor:
    return Tensor(name, values.shape, F32, {"data": Memory(values.astype("<f4").tobytes())})


def _typed(kind: str) -> dict[str, Typed]:
    return {"rope.scaling.type": Typed("str", kind)}


def _f32(config: Config, key: str) -> Typed:
    return Typed("f32", positive(config, key))
