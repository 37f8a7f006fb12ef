"""What many towers have in common: their keys, and the blocks of a SigLIP, which CLIP's are too.

Facts: llama.cpp's conversion/base.py (MmprojModel) and gguf-py/gguf/tensor_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from requant.architectures.rules import Config, Default, Ignored, Key, Rule, always
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.rules import PREPROCESSOR, linear, norm, written
from requant.projectors.sizes import count, divided

#: Width of the text model, at which pictures and sounds arrive.
TEXT_WIDTH: Final = ("text_config.hidden_size", "hidden_size", "text_config.n_embd", "n_embd")
#: Tables of positions are looked up by number, and resized by some.
POSITIONS_F32: Final = (r"v\.position_embd\..*", "F32")
#: ggml's convolutions of one dimension take kernels in F16.
CONVOLUTIONS_F16: Final = (r"a\.conv1d\.\d+\.weight", "F16")


def vision_keys(
    section: str = "vision_config",
    *,
    names: Mapping[str, tuple[str, ...]] | None = None,
    defaults: Mapping[str, Json | Default] | None = None,
    prepared: bool = True,
) -> tuple[Key, ...]:
    """What llama.cpp reads of every tower that sees.

    names: what config.json calls a size otherwise. defaults: what transformers takes where it is silent. prepared:
    whether mean and deviation of the pixels are said.
    """
    sizes = (
        ("vision.image_size", "image_size"),
        ("vision.patch_size", "patch_size"),
        ("vision.embedding_length", "hidden_size"),
        ("vision.feed_forward_length", "intermediate_size"),
        ("vision.block_count", "num_hidden_layers"),
        ("vision.attention.head_count", "num_attention_heads"),
    )
    keys = [written("has_vision_encoder", "bool", value=True), Key(TEXT_WIDTH, "vision.projection_dim", "u32")]
    for ggml, name in sizes:
        called = (names or {}).get(name, (name,))
        paths = tuple(f"{section}.{one}" for one in called)
        keys.append(Key(paths, ggml, "u32", _default((defaults or {}).get(name))))
    if prepared:
        keys += [Key((f"{PREPROCESSOR}{name}",), f"vision.{name}", "[f32]") for name in ("image_mean", "image_std")]
    return tuple(keys)


def audio_keys(section: str = "audio_config") -> tuple[Key, ...]:
    """What llama.cpp reads of every tower that hears, by either of the names that Whisper's sizes have."""
    sizes = (
        ("audio.embedding_length", ("hidden_size", "d_model")),
        ("audio.feed_forward_length", ("intermediate_size", "encoder_ffn_dim")),
        ("audio.block_count", ("num_hidden_layers", "encoder_layers")),
        ("audio.attention.head_count", ("num_attention_heads", "encoder_attention_heads")),
        ("audio.num_mel_bins", ("num_mel_bins",)),
    )
    keys = [written("has_audio_encoder", "bool", value=True), Key(TEXT_WIDTH, "audio.projection_dim", "u32")]
    keys += [Key(tuple(f"{section}.{one}" for one in names), ggml, "u32") for ggml, names in sizes]
    eps = Key((f"{section}.layer_norm_eps",), "audio.attention.layer_norm_epsilon", "f32", always(1e-5))
    return (*keys, eps)


def _default(value: Json | Default) -> Default | None:
    return value if callable(value) or value is None else always(value)


def kind(name: str) -> Key:
    """What llama.cpp calls the projector."""
    return written("projector_type", "str", name)


def gelu() -> Key:
    """The activation of the feed-forward network (ggml's, which is transformers' gelu_pytorch_tanh)."""
    return written("use_gelu", "bool", value=True)


def silu() -> Key:
    """The other one."""
    return written("use_silu", "bool", value=True)


def epsilon(path: str, absent: float | None = None) -> Key:
    """Of the norms."""
    default = None if absent is None else always(absent)
    return Key((path,), "vision.attention.layer_norm_epsilon", "f32", default)


def activation(path: str, absent: str = "", *, needed: bool = True) -> tuple[Key, ...]:
    """One of two keys, by what config.json calls the activation; an error for another if it is `needed`."""

    def told(name: str) -> Default:
        def value(config: Config) -> Json:
            said = config.get(path) or absent
            if needed and said not in ("gelu", "silu"):
                raise PlanError(f"config.json: {path} is {said!r}; llama.cpp has 'gelu' and 'silu' only")
            return True if said == name else None

        return value

    return (Key((), "use_gelu", "bool", told("gelu")), Key((), "use_silu", "bool", told("silu")))


def vision_sizes(values: Config) -> dict[str, int]:
    """The sizes of every tower that sees."""
    embd, heads = count(values, "vision.embedding_length"), count(values, "vision.attention.head_count")
    return {
        "layers": count(values, "vision.block_count"),
        "embd": embd,
        "heads": heads,
        "head": divided(embd, heads, "vision.attention.head_count"),
        "ffn": count(values, "vision.feed_forward_length"),
        "patch": count(values, "vision.patch_size"),
        "text": count(values, "vision.projection_dim"),
    }


def positions(values: Config) -> int:
    """As many as patches in a picture of the size that the tower is made for."""
    return (count(values, "vision.image_size") // count(values, "vision.patch_size")) ** 2


def sizes_with_positions(values: Config, config: Config, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Those of a tower that has a position for each patch, and nothing else to count."""
    return vision_sizes(values) | {"positions": positions(values)}


def embeddings(hf: str, bias: str | None = "") -> tuple[Rule, ...]:
    """The patches as a convolution, and their positions. hf: what is before `patch_embedding`."""
    return (
        *linear(f"{hf}patch_embedding", "v.patch_embd", ("embd", "3", "patch", "patch"), bias),
        Rule(f"{hf}position_embedding.weight", "v.position_embd.weight", ("positions", "embd")),
    )


def siglip_layers(hf: str, names: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The blocks of a SigLIP. hf: what is before `self_attn.q_proj`, with `{n}`. names: of its layers, if others."""
    ln1, q, k, v, o, ln2, up, down = names or _SIGLIP
    block = "v.blk.{n}."
    return (
        *norm(hf + ln1, block + "ln1"),
        *linear(hf + q, block + "attn_q", ("embd", "embd")),
        *linear(hf + k, block + "attn_k", ("embd", "embd")),
        *linear(hf + v, block + "attn_v", ("embd", "embd")),
        *linear(hf + o, block + "attn_out", ("embd", "embd")),
        *norm(hf + ln2, block + "ln2"),
        *linear(hf + up, block + "ffn_up", ("ffn", "embd")),
        *linear(hf + down, block + "ffn_down", ("embd", "ffn")),
    )


_SIGLIP: Final = (
    "layer_norm1",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
)


def siglip(hf: str) -> tuple[Rule, ...]:
    """A SigLIP. hf: the prefix of its tensors."""
    return (
        *embeddings(f"{hf}embeddings."),
        *siglip_layers(f"{hf}encoder.layers.{{n}}."),
        *norm(f"{hf}post_layernorm", "v.post_ln"),
    )


def pooling_head(hf: str) -> Ignored:
    """The head that makes one vector of a picture, where a SigLIP was trained."""
    return Ignored(rf"{hf}head\..*", "makes one vector of a picture; no text model takes it")
