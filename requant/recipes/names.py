"""What GGML tensor names tell a recipe: the tensor's role, its layer, and whether it is quantized at all.

Source: `tensor_get_category`, `tensor_allows_quantization` and `weight_name_comparer` of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

from requant.encodings import Shape


class Role(Enum):
    """What a tensor does, as far as recipes care."""

    TOKEN_EMBEDDING = "token embedding"
    OUTPUT = "output"
    ATTENTION_Q = "attention query"
    ATTENTION_K = "attention key"
    ATTENTION_V = "attention value"
    ATTENTION_OUTPUT = "attention output"
    FFN_UP = "feed-forward up"
    FFN_GATE = "feed-forward gate"
    FFN_DOWN = "feed-forward down"
    OTHER = "other"


PER_LAYER_EMBEDDING: Final = "per_layer_token_embd.weight"
_EXACT: Final = {
    "output.weight": Role.OUTPUT,
    "token_embd.weight": Role.TOKEN_EMBEDDING,
    PER_LAYER_EMBEDDING: Role.TOKEN_EMBEDDING,
}

#: The first fragment found in a name decides. A fused qkv and the MLA kv_b count as values: they need most bits.
_FRAGMENTS: Final = (
    ("attn_qkv.weight", Role.ATTENTION_V),
    ("attn_kv_b.weight", Role.ATTENTION_V),
    ("attn_v.weight", Role.ATTENTION_V),
    ("attn_k.weight", Role.ATTENTION_K),
    ("attn_q.weight", Role.ATTENTION_Q),
    ("attn_output.weight", Role.ATTENTION_OUTPUT),
    ("ffn_up", Role.FFN_UP),
    ("ffn_gate", Role.FFN_GATE),
    ("ffn_down", Role.FFN_DOWN),
)

#: A name with one of these fragments is never quantized, for this reason.
_KEPT: Final = (
    ("_norm.weight", "a norm"),
    ("ffn_gate_inp.weight", "expert routing"),
    ("ffn_gate_tid2eid.weight", "expert routing"),
    ("altup", "very small"),
    ("laurel", "very small"),
    ("per_layer_model_proj", "a small projection"),
    ("ssm_conv1d", "a short convolution"),
    ("shortconv.conv.weight", "a short convolution"),
    ("indexer.k_proj.weight", "an attention indexer"),
    ("indexer.q_proj.weight", "an attention indexer"),
    ("time_mix_first.weight", "a small time-mix weight"),
    *((f"time_mix_{name}.weight", "a small time-mix weight") for name in ("w0", "w1", "w2", "v0", "v1", "v2")),
    *((f"time_mix_{name}.weight", "a small time-mix weight") for name in ("a0", "a1", "a2", "g1", "g2")),
    *((f"time_mix_{name}.weight", "a small time-mix weight") for name in ("decay_w1", "decay_w2", "lerp_fused")),
    ("attn_rel_b.weight", "a relative position bias"),
    *((name, "part of an image encoder") for name in (".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_")),
    *((name, "part of an image encoder") for name in (".rel_pos", ".patch_embd", ".patch_merger")),
    ("a.rvq.codebook", "an audio codebook"),
    ("mm.a.code_embd", "an audio codebook"),
)

#: The same for one architecture.
_KEPT_GLM5_NEXT: Final = tuple(
    (fragment, "kept by glm5-next")
    for fragment in (
        *("hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate"),
        *("indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight"),
        *("ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight"),
    )
)

_POSITIONS: Final = ("position_embd.weight", "token_types.weight")
_LAYER: Final = re.compile(r"blk\.\s*([+-]?[0-9]{1,9})")


def role_of(name: str) -> Role:
    """The role a tensor's name gives it."""
    if name in _EXACT:
        return _EXACT[name]
    return next((role for fragment, role in _FRAGMENTS if fragment in name), Role.OTHER)


def layer_of(name: str) -> int | None:
    """The layer a name begins with (`blk.7.…`), or None."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def file_order(names: Iterable[str]) -> list[str]:
    """The order in which llama.cpp goes through tensors and writes them: without a layer first, then layer by layer.

    >>> file_order(["blk.10.a", "output.weight", "blk.9.b"])
    ['output.weight', 'blk.9.b', 'blk.10.a']
    """
    return sorted(names, key=lambda name: (-1 if (layer := layer_of(name)) is None else layer, name))


def dimensions(shape: Shape) -> int:
    """How many dimensions ggml sees: leading ones of length 1 do not count, and there is always one.

    >>> dimensions((1, 1, 8)), dimensions((2, 1, 8))
    (1, 3)
    """
    return max((len(shape) - axis for axis, length in enumerate(shape) if length > 1), default=1)


def ggml_shape(shape: Shape) -> Shape:
    """A shape as ggml writes it back: without the leading dimensions of length 1. One without values stays as it is.

    >>> ggml_shape((1, 8)), ggml_shape((2, 1, 8)), ggml_shape(())
    ((8,), (2, 1, 8), (1,))
    """
    return shape if 0 in shape else (shape or (1,))[-dimensions(shape) :]


def why_kept(name: str, shape: Shape, architecture: str, quantize_output: bool = True) -> str | None:
    """Why a tensor is never quantized, or None when it may be."""
    if dimensions(shape) < 2:
        return "one-dimensional"
    # a name of five letters passes, by the arithmetic of `rfind`, in llama.cpp too
    if name.rfind("weight") != len(name) - 6:
        return "not a weight"
    if name == "output.weight" and not quantize_output:
        return "--leave-output-tensor"
    if name in _POSITIONS:
        return "positions and token types"
    fragments = _KEPT + _KEPT_GLM5_NEXT if architecture == "glm5-next" else _KEPT
    return next((reason for fragment, reason in fragments if fragment in name), None)
