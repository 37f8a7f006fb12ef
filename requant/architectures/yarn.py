"""Yarn: the scaling of rotary positions that has the most parameters, and an attention factor besides.

Facts: transformers' modeling_rope_utils.py; llama.cpp's conversion/base.py, and src/llama-context.cpp for how the
attention factor is made.
"""

from __future__ import annotations

import math
from typing import Final

from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rules import Config
from requant.errors import UnsupportedError
from requant.ir import Json, Typed
from requant.losses import Loss, LossKind

#: Optional parameters: HF name, GGUF key.
_OPTIONAL: Final = (
    ("extrapolation_factor", "rope.scaling.yarn_ext_factor"),
    ("attention_factor", "rope.scaling.yarn_attn_factor"),
    ("beta_fast", "rope.scaling.yarn_beta_fast"),
    ("beta_slow", "rope.scaling.yarn_beta_slow"),
)
_MULTIPLIER: Final = "rope.scaling.yarn_log_multiplier"


def to_ggml(scaling: Config, original: int, multiplied: float) -> dict[str, Typed]:
    """The keys of a scaling. original: context of training. multiplied: see `Rope`."""
    factor = positive(scaling, "factor")
    values = {
        "rope.scaling.type": Typed("str", "yarn"),
        "rope.scaling.factor": Typed("f32", factor),
        "rope.scaling.original_context_length": Typed("u32", original),
    }
    named = dict(scaling)
    if scaling.get("attention_factor") is None:
        named["attention_factor"] = scaling.get("attn_factor")
    for hf, ggml in _OPTIONAL:
        if named.get(hf) is not None:
            values[ggml] = Typed("f32", positive(named, hf))
    if multiplied and scaling.get("mscale_all_dim"):
        whole = number(scaling, "mscale_all_dim")
        wanted = _beside(whole, multiplied)
        if number(scaling, "mscale", 1.0) != wanted or named.get("attention_factor") is not None:
            raise UnsupportedError(
                f"config.json: mscale or attention_factor beside mscale_all_dim; llama.cpp takes {wanted:g} and 1 here"
            )
        return values | {_MULTIPLIER: Typed("f32", shortest(multiplied * whole))}
    wanted = _attention(named, factor)
    if not math.isclose(wanted, _mscale(factor), rel_tol=1e-6):
        # llama.cpp makes up its own attention factor for yarn and multiplies it by this one
        values["rope.scaling.attn_factor"] = Typed("f32", wanted / _mscale(factor))
    return values


def unread(scaling: Config) -> tuple[Loss, ...]:
    """Parameters that llama.cpp has constants for."""
    constants: dict[str, Json] = {"extrapolation_factor": 1, "beta_fast": 32, "beta_slow": 1, "truncate": True}
    return tuple(
        Loss(LossKind.METADATA_DROPPED, f"rope_scaling.{key}", f"llama.cpp takes {constant}, not {scaling[key]}")
        for key, constant in constants.items()
        if scaling.get(key) is not None and scaling[key] != constant
    )


def _beside(whole: float, multiplied: float) -> float:
    """What llama.cpp takes for `mscale` beside `mscale_all_dim`: the same in DeepSeek, else 1."""
    return 1.0 if multiplied == 1 else whole


def to_hf(values: Config, factor: float, original: int, multiplied: float) -> dict[str, Json]:
    """The parameters of a scaling from GGUF keys without prefix."""
    scaling: dict[str, Json] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    for hf, ggml in _OPTIONAL:
        if values.get(ggml) is not None:
            scaling[hf] = shortest(number(values, ggml))
    if values.get(_MULTIPLIER):
        whole = shortest(number(values, _MULTIPLIER) / (multiplied or 1.0))
        scaling |= {"mscale": _beside(whole, multiplied), "mscale_all_dim": whole}
    elif "attention_factor" not in scaling and values.get("rope.scaling.attn_factor") is not None:
        scaling["attention_factor"] = shortest(number(values, "rope.scaling.attn_factor") * _mscale(factor))
    return scaling


def _attention(scaling: Config, factor: float) -> float:
    """What cosines and sines are multiplied by in transformers."""
    if scaling.get("attention_factor") is not None:
        return number(scaling, "attention_factor")
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return _mscale(factor, number(scaling, "mscale")) / _mscale(factor, number(scaling, "mscale_all_dim"))
    return _mscale(factor)


def _mscale(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
