"""Gemma 4's towers. What sees has a table of positions for each axis, and norms around attention and feed-forward
network; what hears, in the small models, is a conformer.

Facts: llama.cpp's conversion/gemma.py and tools/mtmd/models/gemma4v.cpp, gemma4a.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Key, Rule, Sizes
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.changes import ColoursFirst, Positive
from requant.projectors.rules import Folder, Projector, computed, norm, processors, without, written
from requant.projectors.settings import whole
from requant.projectors.sizes import divided
from requant.projectors.towers import POSITIONS_F32, TEXT_WIDTH, epsilon, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_LAYER: Final = "vision_tower.encoder.layers.{n}."
_BLOCK: Final = "v.blk.{n}."
_AUDIO: Final = "audio_config."
_EAR: Final = "audio_tower.layers.{n}."
#: Of each linear layer, the values to which its inputs and outputs are clipped, where the model has them.
_LIMITS: Final = ("input_min", "input_max", "output_min", "output_max")


def _clipped(hf: str, ggml: str, rows: str, columns: str, when: str = "") -> tuple[Rule, ...]:
    """A linear layer. when: the flag of its tower, "" of the one that sees."""
    flag = f"{when}+a_clipped" if when else "clipped"
    limits = (Rule(f"{hf}.{limit}", f"{ggml}.{limit}", (), flat=("1",), when=flag) for limit in _LIMITS)
    return (Rule(f"{hf}.weight", f"{ggml}.weight", (rows, columns), when=when), *limits)


def _seen(hf: str, ggml: str, rows: str, columns: str) -> tuple[Rule, ...]:
    return _clipped(_LAYER + hf, _BLOCK + ggml, rows, columns)


def _heard(hf: str, ggml: str, rows: str, columns: str) -> tuple[Rule, ...]:
    return _clipped(_EAR + hf, f"a.blk.{{n}}.{ggml}", rows, columns, "hears")


def _hears(config: Config) -> bool:
    return isinstance(config.get("audio_config"), dict)


def _audio_keys() -> tuple[Key, ...]:
    """Written where there is a tower that hears."""

    def size(ggml: str, name: str, absent: int, factor: int = 1) -> Key:
        def value(config: Config) -> Json:
            return factor * whole(config, _AUDIO + name, absent) if _hears(config) else None

        return computed(f"audio.{ggml}", "u32", value)

    def text(config: Config) -> Json:
        return config.get(TEXT_WIDTH[0]) if _hears(config) else None

    return (
        computed("has_audio_encoder", "bool", lambda config: True if _hears(config) else None),
        computed("audio.projection_dim", "u32", text),
        size("embedding_length", "hidden_size", 1024),
        size("feed_forward_length", "hidden_size", 1024, 4),
        size("block_count", "num_hidden_layers", 12),
        size("attention.head_count", "num_attention_heads", 8),
        size("num_mel_bins", "input_feat_size", 128),
        computed("audio.projector_type", "str", lambda config: "gemma4a" if _hears(config) else None),
        computed(
            "audio.attention.layer_norm_epsilon",
            "f32",
            lambda config: config.get(_AUDIO + "layer_norm_eps", 1e-6) if _hears(config) else None,
        ),
    )


def _feed_forward(number: int, suffix: str) -> tuple[Rule, ...]:
    """Half of one: a conformer has it before attention and again after convolution."""
    hf = f"feed_forward{number}."
    return (
        _audio_norm(f"{hf}pre_layer_norm", f"ffn_norm{suffix}"),
        *_heard(f"{hf}ffw_layer_1", f"ffn_up{suffix}", "4*a_embd", "a_embd"),
        *_heard(f"{hf}ffw_layer_2", f"ffn_down{suffix}", "a_embd", "4*a_embd"),
        _audio_norm(f"{hf}post_layer_norm", f"ffn_post_norm{suffix}"),
    )


def _audio_norm(hf: str, ggml: str) -> Rule:
    return Rule(f"{_EAR}{hf}.weight", f"a.blk.{{n}}.{ggml}.weight", ("a_embd",), when="hears")


def _conformer() -> tuple[Rule, ...]:
    start = "audio_tower.subsample_conv_projection."
    return (
        *(
            Rule(f"{start}layer{k}.{hf}.weight", f"a.conv1d.{k}.{ggml}", shape, when="hears")
            for k, shapes in enumerate(((("c0", "1", "3", "3"), ("c0",)), (("c1", "c0", "3", "3"), ("c1",))))
            for hf, ggml, shape in zip(("conv", "norm"), ("weight", "norm.weight"), shapes, strict=True)
        ),
        Rule(f"{start}input_proj_linear.weight", "a.input_projection.weight", ("a_embd", "subsampled"), when="hears"),
        *_feed_forward(1, ""),
        _audio_norm("norm_pre_attn", "attn_pre_norm"),
        *_heard("self_attn.q_proj", "attn_q", "a_embd", "a_embd"),
        *_heard("self_attn.k_proj", "attn_k", "a_embd", "a_embd"),
        *_heard("self_attn.v_proj", "attn_v", "a_embd", "a_embd"),
        *_heard("self_attn.post", "attn_out", "a_embd", "a_embd"),
        Rule(
            _EAR + "self_attn.per_dim_scale",
            "a.blk.{n}.per_dim_scale.weight",
            ("a_head",),
            changes=(Positive(),),
            when="hears",
        ),
        Rule(
            _EAR + "self_attn.relative_k_proj.weight",
            "a.blk.{n}.attn_k_rel.weight",
            ("a_embd", "a_embd"),
            when="hears",
        ),
        _audio_norm("norm_post_attn", "attn_post_norm"),
        _audio_norm("lconv1d.pre_layer_norm", "conv_norm"),
        *_heard("lconv1d.linear_start", "conv_pw1", "2*a_embd", "a_embd"),
        Rule(
            _EAR + "lconv1d.depthwise_conv1d.weight",
            "a.blk.{n}.conv_dw.weight",
            ("a_embd", "1", "kernel"),
            flat=("a_embd", "kernel"),
            when="hears",
        ),
        _audio_norm("lconv1d.conv_norm", "norm_conv"),
        *_heard("lconv1d.linear_end", "conv_pw2", "a_embd", "a_embd"),
        *_feed_forward(2, "_1"),
        _audio_norm("norm_out", "ln2"),
        Rule("audio_tower.output_proj.weight", "a.pre_encode.out.weight", ("a_out", "a_embd"), when="hears"),
        Rule("audio_tower.output_proj.bias", "a.pre_encode.out.bias", ("a_out",), when="hears"),
        Rule(
            "embed_audio.embedding_projection.weight", "mm.a.input_projection.weight", ("text", "a_out"), when="hears"
        ),
    )


def _channels(config: Config) -> tuple[int, int]:
    """Of the two convolutions that halve the spectrogram."""
    listed = config.get(_AUDIO + "subsampling_conv_channels", [128, 32])
    if not isinstance(listed, list) or len(listed) != 2:
        raise PlanError(f"config.json: {_AUDIO}subsampling_conv_channels is {shown(listed)}, two numbers are needed")
    first, second = (whole({"n": one}, "n") for one in listed)
    return first, second


def _audio_sizes(config: Config) -> dict[str, int]:
    if not _hears(config):
        return {"audio_layers": 0}
    width, (first, second) = whole(config, _AUDIO + "hidden_size", 1024), _channels(config)
    return {
        "audio_layers": whole(config, _AUDIO + "num_hidden_layers", 12),
        "a_embd": width,
        "a_head": divided(width, whole(config, _AUDIO + "num_attention_heads", 8), "audio_config.hidden_size"),
        "c0": first,
        "c1": second,
        "subsampled": first // 4 * second,
        "kernel": whole(config, _AUDIO + "conv_kernel_size", 5),
        "a_out": whole(config, _AUDIO + "output_proj_dims", 1536),
    }


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    sizes = vision_sizes(values)
    head = whole(config, _VISION + "head_dim", sizes["head"])
    return (
        sizes
        | _audio_sizes(config)
        | {
            "head": head,
            "q": head * sizes["heads"],
            "kv": head * whole(config, _VISION + "num_key_value_heads", sizes["heads"]),
            "positions": whole(config, _VISION + "position_embedding_size", 10240),
        }
    )


_FIRST: Final = _LAYER.format(n=0)


def _told(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """What only the shapes of tensors say; where there are none, there are none to take them from."""
    head = shapes.get(_FIRST + "self_attn.q_norm.weight", (1,))[-1]
    vision = {
        "layer_norm_eps": None,
        "rms_norm_eps": values.get("vision.attention.layer_norm_epsilon"),
        "head_dim": head,
        "num_key_value_heads": shapes.get(_FIRST + "self_attn.k_proj.weight", (head,))[0] // head,
        "position_embedding_size": shapes.get("vision_tower.patch_embedder.position_embedding_table", (0, 0))[1],
        "standardize": "vision_tower.std_bias" in shapes,
        "use_clipped_linears": _FIRST + "self_attn.q_proj.input_min" in shapes,
    }
    found: dict[str, Json] = {_VISION + key: value for key, value in vision.items()}
    if values.get("has_audio_encoder") is not True:
        return {**found, "audio_config": None}
    first, start = _EAR.format(n=0), "audio_tower.subsample_conv_projection.layer"
    channels: list[Json] = [shapes.get(f"{start}{k}.conv.weight", (0,))[0] for k in (0, 1)]
    audio = {
        "model_type": "gemma4_audio",
        "hidden_size": values.get("audio.embedding_length"),
        "num_hidden_layers": values.get("audio.block_count"),
        "num_attention_heads": values.get("audio.attention.head_count"),
        "rms_norm_eps": values.get("audio.attention.layer_norm_epsilon"),
        "subsampling_conv_channels": channels,
        "conv_kernel_size": shapes.get(first + "lconv1d.depthwise_conv1d.weight", (0,))[-1],
        "output_proj_dims": shapes.get("audio_tower.output_proj.weight", (0,))[0],
        "use_clipped_linears": first + "self_attn.q_proj.input_min" in shapes,
    }
    return found | {_AUDIO + key: value for key, value in audio.items()}


#: Layers that transformers wraps, to clip what goes in and out.
_WRAPPED: Final = r"(?:[qkvo]|gate|up|down)_proj|ffw_layer_\d|post|linear_(?:start|end)"

GEMMA4: Final = Projector(
    name="gemma4",
    classes=("Gemma4ForConditionalGeneration", "EmbeddingGemma2Model"),
    kinds=("gemma4v", "gemma4a"),
    keys=(
        *without(
            "vision.image_size",
            vision_keys(
                defaults={
                    "hidden_size": 768,
                    "intermediate_size": 3072,
                    "num_hidden_layers": 16,
                    "num_attention_heads": 12,
                    "patch_size": 16,
                }
            ),
        ),
        written("vision.image_size", "u32", 224),
        written("vision.projector_type", "str", "gemma4v"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        *_audio_keys(),
    ),
    rules=(
        Rule(
            "vision_tower.patch_embedder.input_proj.weight",
            "v.patch_embd.weight",
            ("embd", "3*patch*patch"),
            changes=(ColoursFirst(),),
            flat=("embd", "3", "patch", "patch"),
        ),
        Rule(
            "vision_tower.patch_embedder.position_embedding_table",
            "v.position_embd.weight",
            ("2", "positions", "embd"),
        ),
        *norm(_LAYER + "input_layernorm", _BLOCK + "ln1", bias=None),
        *_seen("self_attn.q_proj", "attn_q", "q", "embd"),
        *_seen("self_attn.k_proj", "attn_k", "kv", "embd"),
        *_seen("self_attn.v_proj", "attn_v", "kv", "embd"),
        *_seen("self_attn.o_proj", "attn_out", "embd", "q"),
        *norm(_LAYER + "self_attn.q_norm", _BLOCK + "attn_q_norm", "head", bias=None),
        *norm(_LAYER + "self_attn.k_norm", _BLOCK + "attn_k_norm", "head", bias=None),
        *norm(_LAYER + "post_attention_layernorm", _BLOCK + "attn_post_norm", bias=None),
        *norm(_LAYER + "pre_feedforward_layernorm", _BLOCK + "ln2", bias=None),
        *_seen("mlp.gate_proj", "ffn_gate", "ffn", "embd"),
        *_seen("mlp.up_proj", "ffn_up", "ffn", "embd"),
        *_seen("mlp.down_proj", "ffn_down", "embd", "ffn"),
        *norm(_LAYER + "post_feedforward_layernorm", _BLOCK + "ffn_post_norm", bias=None),
        Rule(_LAYER + "layer_scalar", _BLOCK + "out_scale.weight", ("1",), when="scalar"),
        Rule("vision_tower.std_bias", "v.std_bias", ("embd",), when="standard"),
        Rule("vision_tower.std_scale", "v.std_scale", ("embd",), when="standard"),
        Rule("embed_vision.embedding_projection.weight", "mm.input_projection.weight", ("text", "embd")),
        *_conformer(),
    ),
    sizes=_sizes,
    renamed=((r"^model\.((?:vision|audio)_tower|embed_(?:vision|audio))\.", r"\1."), (r"\.linear\.weight$", ".weight")),
    present={
        "clipped": r"^vision_tower\..*self_attn\.q_proj\.input_min$",
        "a_clipped": r"^audio_tower\..*self_attn\.q_proj\.input_min$",
        "scalar": r"^vision_tower\..*\.layer_scalar$",
        "standard": r"vision_tower\.std_bias",
    },
    flags=lambda config: {"hears": _hears(config)},
    assumptions=(
        Assumption(_VISION + "hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
        Assumption(_VISION + "pooling_kernel_size", (3,), 3),
        Assumption(_AUDIO + "hidden_act", ("silu",), "silu"),
        Assumption(_AUDIO + "attention_chunk_size", (12,), 12),
        Assumption(_AUDIO + "attention_context_left", (13,), 13),
        Assumption(_AUDIO + "attention_context_right", (0,), 0),
        Assumption(_AUDIO + "attention_logit_cap", (50.0,), 50.0),
        Assumption(_AUDIO + "residual_weight", (0.5,), 0.5),
    ),
    forced=(
        POSITIONS_F32,
        (r"a\.(?:conv1d\.\d+|input_projection|blk\.\d+\.conv_dw)\.weight", "F32"),
    ),
    folders=(
        Folder(
            ("gemma4",),
            "Gemma4ForConditionalGeneration",
            "gemma4",
            spelled=(
                (rf"(\.layers\.\d+\..*\.(?:{_WRAPPED}))\.weight$", r"\1.linear.weight"),
                (r"^((?:vision|audio)_tower|embed_(?:vision|audio))\.", r"model.\1."),
            ),
            settings={
                "vision_config.model_type": "gemma4_vision",
                **processors("Gemma4"),
            },
            told=_told,
            tokens={
                "image_token_id": "<|image|>",
                "boi_token_id": "<|image>",
                "eoi_token_id": "<image|>",
                "audio_token_id": "<|audio|>",
                "boa_token_id": "<|audio>",
                "eoa_token_index": "<audio|>",
                "video_token_id": "<|video|>",
            },
        ),
    ),
)
