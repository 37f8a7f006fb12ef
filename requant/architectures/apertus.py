"""Apertus: an activation (xIELU) whose parameters are tensors in HF and lists of numbers in a GGUF.

Facts: llama.cpp's conversion/llama.py and src/models/apertus.cpp; transformers' modeling_apertus.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from requant.architectures.decoders import LAYER, SIZES, decoder, head_norms, norm, rms_norm_eps, trunk
from requant.architectures.few import few
from requant.architectures.llama import HEAD_KEYS, PLAIN_ROTARY
from requant.architectures.names import base_of
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Config, Family, Irregular, Key, Rule, Sizes, ToGgml, ToHf, always
from requant.encodings import F32
from requant.errors import PlanError
from requant.expressions import Stored
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.plan import Move
from requant.sources import Memory

#: The parameters, each with its shape in HF.
_PARAMETERS: Final = (("alpha_n", (1,)), ("alpha_p", (1,)), ("beta", ()), ("eps", ()))


def _name(base: str, layer: int, parameter: str) -> str:
    return f"{base}layers.{layer}.mlp.act_fn.{parameter}"


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    base, used, values = base_of(APERTUS, tensors), set[str](), dict[str, Typed]()
    for parameter, _ in _PARAMETERS:
        names = [_name(base, n, parameter) for n in range(sizes["layers"])]
        absent = next((name for name in names if name not in tensors), None)
        if absent is not None or any(tensors[name].shape not in ((), (1,)) for name in names):
            raise PlanError(f"tensor {absent or names[0]!r} is missing, or no single number")
        listed: list[Json] = [float(few(tensors[name])[0]) for name in names]
        values[f"xielu.{parameter}"] = Typed("[f32]", listed)
        used.update(names)
    return ToGgml(values, used=frozenset(used))


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    moves = []
    for parameter, shape in _PARAMETERS:
        listed = values.get(f"xielu.{parameter}")
        found = listed if isinstance(listed, list) else [listed] * sizes["layers"]
        if len(found) != sizes["layers"] or not all(isinstance(x, int | float) for x in found):
            raise PlanError(f"metadata: 'xielu.{parameter}' is no number for each of {sizes['layers']} layers")
        for n, number in enumerate(found):
            name = _name(APERTUS.bases[0], n, parameter)
            data = np.array([number], "<f4").tobytes()
            moves.append(Move(name, Stored(Tensor(name, shape, F32, {"data": Memory(data)}))))
    return ToHf(keys=frozenset(f"xielu.{parameter}" for parameter, _ in _PARAMETERS), moves=tuple(moves))


#: Not of config.json: made of tensors.
_LISTS: Final = tuple(Key((), f"xielu.{parameter}", "[f32]", default=always(None)) for parameter, _ in _PARAMETERS)

APERTUS: Final[Family] = replace(
    decoder(
        "Apertus",
        "apertus",
        "apertus",
        (
            *trunk(),
            *head_norms(),
            *norm(LAYER + "attention_layernorm", "blk.{n}.attn_norm"),
            *norm(LAYER + "feedforward_layernorm", "blk.{n}.ffn_norm"),
            Rule(LAYER + "mlp.up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
            Rule(LAYER + "mlp.down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        ),
        (*SIZES, rms_norm_eps(1e-5), *HEAD_KEYS, *PLAIN_ROTARY, *_LISTS),
        (Rope(theta=12_000_000.0).pair(), Irregular(_to_ggml, _to_hf)),
        assumptions=(
            Assumption("hidden_act", ("xielu",), "xielu"),
            Assumption("attention_bias", (False,), False),
            Assumption("qk_norm", (True,), True, written=False),
            Assumption("post_norm", (False,), False, written=False),
        ),
    ),
    besides=tuple(f"{LAYER}mlp.act_fn.{parameter}" for parameter, _ in _PARAMETERS),
)
