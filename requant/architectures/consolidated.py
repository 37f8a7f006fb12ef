"""Mistral's own folders: names of their own, and rotary rows as ggml has them.

transformers keeps the two halves of each head apart, Mistral and ggml interleave them. So on the way to ggml rows stay
as they are, and on the way to transformers' folders they are put in its order.

Facts: mistral-inference's transformer.py; vLLM's model_executor/models/mistral.py; llama.cpp's conversion/mistral.py
and gguf-py/gguf/tensor_mapping.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.rules import MMPROJ, Family, Order
from requant.errors import PlanError, UnsupportedError
from requant.expressions import RopeOrder
from requant.ir import CONSOLIDATED, Checkpoint, Json, Naming, Tensor
from requant.losses import Loss
from requant.plan import Move, Translation, unchanged

_MODULES: Final[Mapping[str, str]] = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
_PARTS: Final = ("gate", "down", "up")
_LAYER_MODULES: Final[Mapping[str, str]] = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attention.w{part}": f"self_attn.{part}_proj" for part in "qkvo"},
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.gate": "block_sparse_moe.gate",
    # latent attention, and experts beside it
    **{f"attention.{part}": f"self_attn.{part[1:]}_proj" for part in ("wq_a", "wq_b", "wkv_b")},
    "attention.wkv_a_with_mqa": "self_attn.kv_a_proj_with_mqa",
    **{f"attention.{part}_norm": f"self_attn.{part}_layernorm" for part in ("q_a", "kv_a")},
    "gate": "mlp.gate",
    **{f"shared_experts.w{n}": f"mlp.shared_experts.{part}_proj" for n, part in enumerate(_PARTS, 1)},
}
_LAYER: Final = re.compile(r"layers\.(\d+)\.(.+)", re.ASCII)
_EXPERT: Final = re.compile(r"feed_forward\.(experts\.\d+\.w[123])", re.ASCII)
_LATENT_EXPERT: Final = re.compile(r"experts\.(\d+)\.w([123])", re.ASCII)
#: The parts of a model that sees, under which transformers has them.
_SEEING: Final = re.compile(r"(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm)\.")


def is_consolidated(checkpoint: Checkpoint[Tensor]) -> bool:
    """Whether a checkpoint's names are Mistral's own."""
    return checkpoint.architecture == CONSOLIDATED


def renamed(said: Translation, target: Naming) -> Translation:
    """The text model by transformers' names; for a folder, in its order of rows, too. What sees is lost.

    Raises `UnsupportedError` for names that no such model has, `PlanError` for rows that are no heads.
    """
    source = said.source
    seeing = [tensor for tensor in source.tensors if _SEEING.match(tensor.name)]
    text = (tensor for tensor in source.tensors if not _SEEING.match(tensor.name))
    source = replace(source, tensors=tuple(replace(tensor, name=_name(tensor.name)) for tensor in text))
    if target is Naming.HF:
        if source.config["model_type"] == "mistral_large_3":
            raise UnsupportedError(
                "transformers has the experts of such a model in stacks",
                hint="convert to a GGUF, which becomes a folder that transformers loads",
            )
        source = replace(source, architecture=str(source.config["model_type"]))
    found = replace(unchanged(source), losses=said.losses).losing(*(Loss.of_tensor(one, MMPROJ) for one in seeing))
    return replace(found, moves=_halved(found.moves, source.config)) if target is Naming.HF else found


def _name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    layer = _LAYER.fullmatch(module)
    if layer is None:
        known = _MODULES.get(module)
    else:
        expert, latent = _EXPERT.fullmatch(layer[2]), _LATENT_EXPERT.fullmatch(layer[2])
        within = f"block_sparse_moe.{expert[1]}" if expert else _LAYER_MODULES.get(layer[2])
        if latent:
            within = f"mlp.experts.{latent[1]}.{_PARTS[int(latent[2]) - 1]}_proj"
        known = within and f"model.layers.{layer[1]}.{within}"
    if known is None:
        raise UnsupportedError(
            f"tensor {name!r} is none of those that Mistral's own folders are known to have",
            hint="convert the folder that transformers loads, if there is one (config.json, model*.safetensors)",
        )
    return f"{known}.{kind}"


def interleaved(family: Family) -> Family:
    """The family of a checkpoint whose rows are in ggml's order already."""
    rules = (replace(rule, order=Order.SAME) if rule.order is Order.ROPE else rule for rule in family.rules)
    return replace(family, rules=tuple(rules))


def _halved(moves: Sequence[Move], config: Mapping[str, Json]) -> tuple[Move, ...]:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return tuple(_turned(move, heads.get(move.name.removesuffix(".weight").rpartition(".")[2])) for move in moves)


def _turned(move: Move, heads: Json) -> Move:
    """Queries or keys with the halves of each head apart; any other tensor as it is."""
    if heads is None:
        return move
    rows = move.values.rows
    if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
        raise PlanError(f"tensor {move.name!r} has {rows} rows, which are not {heads} heads of two halves")
    return replace(move, values=RopeOrder(move.values, heads, inverse=True))
