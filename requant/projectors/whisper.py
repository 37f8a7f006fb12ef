"""Whisper's encoder, with what each model puts between it and its text model.

Facts: llama.cpp's conversion/ultravox.py, tools/mtmd/clip.cpp and models/whisper-enc.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.rules import Assumption, Config, Ignored, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.projectors.changes import Row
from requant.projectors.rules import Projector, linear, norm, written
from requant.projectors.settings import whole
from requant.projectors.sizes import count
from requant.projectors.towers import CONVOLUTIONS_F16, audio_keys, kind

_LAYER: Final = "audio_tower.layers.{n}."
_BLOCK: Final = "a.blk.{n}."
_SOUND: Final = ((r"^model\.(audio_tower|multi_modal_projector)\.", r"\1."),)


def _convolution(number: int, channels: str) -> tuple[Rule, ...]:
    """Over time; the bias is a column, as ggml adds it to one for each moment."""
    hf, ggml = f"audio_tower.conv{number}", f"a.conv1d.{number}"
    return (
        Rule(f"{hf}.weight", f"{ggml}.weight", ("embd", channels, "3")),
        Rule(f"{hf}.bias", f"{ggml}.bias", ("embd",), flat=("embd", "1")),
    )


ENCODER: Final[tuple[Rule, ...]] = (
    *_convolution(1, "mel"),
    *_convolution(2, "embd"),
    Rule("audio_tower.embed_positions.weight", "a.position_embd.weight", ("positions", "embd"), when="table"),
    *norm(_LAYER + "self_attn_layer_norm", _BLOCK + "ln1"),
    *linear(_LAYER + "self_attn.q_proj", _BLOCK + "attn_q", ("embd", "embd")),
    *linear(_LAYER + "self_attn.k_proj", _BLOCK + "attn_k", ("embd", "embd"), None),
    *linear(_LAYER + "self_attn.v_proj", _BLOCK + "attn_v", ("embd", "embd")),
    *linear(_LAYER + "self_attn.out_proj", _BLOCK + "attn_out", ("embd", "embd")),
    *norm(_LAYER + "final_layer_norm", _BLOCK + "ln2"),
    *linear(_LAYER + "fc1", _BLOCK + "ffn_up", ("ffn", "embd")),
    *linear(_LAYER + "fc2", _BLOCK + "ffn_down", ("embd", "ffn")),
)
_LAST: Final = norm("audio_tower.layer_norm", "a.post_ln")
_PRESENT: Final = {"table": r"audio_tower\.embed_positions\.weight"}


def sound_sizes(values: Config, config: Config, shapes: Mapping[str, Shape], section: str = "audio_config") -> Sizes:
    """The sizes of a Whisper encoder, and how wide the layers behind it are, which only their tensors say."""
    hidden = shapes.get("multi_modal_projector.linear_1.weight", (0, 0))
    second = shapes.get("multi_modal_projector.linear_2.weight", (0, 0))
    return {
        "audio_layers": count(values, "audio.block_count"),
        "embd": count(values, "audio.embedding_length"),
        "ffn": count(values, "audio.feed_forward_length"),
        "mel": count(values, "audio.num_mel_bins"),
        "text": count(values, "audio.projection_dim"),
        "positions": whole(config, f"{section}.max_source_positions", 1500),
        "stack": count(values, "audio.projector.stack_factor") if "audio.projector.stack_factor" in values else 1,
        "wide": hidden[0],
        "narrow": second[-1],
    }


def _linear_pair(bias: str | None) -> tuple[Rule, ...]:
    return (
        *linear("multi_modal_projector.linear_1", "mm.a.mlp.1", ("wide", "stack*embd"), bias),
        *linear("multi_modal_projector.linear_2", "mm.a.mlp.2", ("text", "narrow"), bias),
    )


_GELU: Final = Assumption("audio_config.activation_function", ("gelu",), "gelu")
QWEN2_AUDIO: Final = Projector(
    name="qwen2a",
    classes=("Qwen2AudioForConditionalGeneration",),
    kinds=("qwen2a",),
    keys=(*audio_keys(), kind("qwen2a")),
    rules=(*ENCODER, *_LAST, *linear("multi_modal_projector.linear", "mm.a.fc", ("text", "embd"))),
    sizes=sound_sizes,
    renamed=_SOUND,
    present=_PRESENT,
    assumptions=(_GELU,),
    forced=(CONVOLUTIONS_F16,),
)
VOXTRAL: Final = Projector(
    name="voxtral",
    classes=("VoxtralForConditionalGeneration",),
    kinds=("voxtral",),
    # four moments make a token: the width of the feed-forward network is four times that of the tower
    keys=(*audio_keys(), kind("voxtral"), written("audio.projector.stack_factor", "u32", 4)),
    rules=(*ENCODER, *_LAST, *_linear_pair(None)),
    sizes=sound_sizes,
    renamed=_SOUND,
    present=_PRESENT,
    assumptions=(_GELU,),
    forced=(CONVOLUTIONS_F16,),
)
AUDIO_FLAMINGO: Final = Projector(
    name="audio-flamingo3",
    classes=("AudioFlamingo3ForConditionalGeneration",),
    kinds=("musicflamingo",),
    keys=(*audio_keys(), kind("musicflamingo")),
    rules=(*ENCODER, *_LAST, *_linear_pair("")),
    sizes=sound_sizes,
    renamed=_SOUND,
    present=_PRESENT,
    assumptions=(_GELU,),
    forced=((r"a\.conv1d\.\d+\.weight", "F32"),),
)
ULTRAVOX: Final = Projector(
    name="ultravox",
    classes=("UltravoxModel",),
    kinds=("ultravox",),
    keys=(*audio_keys(), kind("ultravox"), Key(("stack_factor",), "audio.projector.stack_factor", "u32", always(8))),
    rules=(
        *ENCODER,
        *_LAST,
        Rule("multi_modal_projector.ln_pre.weight", "mm.a.norm_pre.weight", ("stack*embd",)),
        *linear("multi_modal_projector.linear_1", "mm.a.mlp.1", ("wide", "stack*embd"), None),
        Rule("multi_modal_projector.ln_mid.weight", "mm.a.norm_mid.weight", ("narrow",), when="middle"),
        *linear("multi_modal_projector.linear_2", "mm.a.mlp.2", ("text", "narrow"), None),
    ),
    sizes=sound_sizes,
    renamed=_SOUND,
    present={**_PRESENT, "middle": r"multi_modal_projector\.ln_mid\.weight"},
    assumptions=(_GELU, Assumption("projector_act", ("swiglu",), "swiglu")),
    forced=(CONVOLUTIONS_F16,),
)
_WHISPER: Final = "whisper_config"
GLM_ASR: Final = Projector(
    name="glm-asr",
    classes=("GlmasrModel",),
    kinds=("glma",),
    keys=(
        *(
            Key(("lm_config.hidden_size", *key.hf), key.ggml, key.kind) if key.ggml.endswith("projection_dim") else key
            for key in audio_keys(_WHISPER)
        ),
        kind("glma"),
        Key(("merge_factor",), "audio.projector.stack_factor", "u32"),
    ),
    rules=(
        *ENCODER,
        *(replace(rule, when="last_norm") for rule in _LAST),
        *norm("audio_encoder.layer_norm", "mm.a.norm_pre"),
        *linear("audio_encoder.adapting.0", "mm.a.mlp.1", ("wide", "stack*embd")),
        *linear("audio_encoder.adapting.2", "mm.a.mlp.2", ("text", "wide")),
        *(
            Rule(
                "audio_encoder.audio_bos_eos_token.weight",
                ggml,
                ("2", "text"),
                changes=(Row(number),),
                flat=("text",),
            )
            for ggml, number in (("v.boi", "0"), ("v.eoi", "1"))
        ),
    ),
    sizes=lambda values, config, shapes: {
        **sound_sizes(values, config, shapes, _WHISPER),
        "wide": shapes.get("audio_encoder.adapting.0.weight", (0,))[0],
    },
    renamed=((r"^audio_encoder\.whisper\.", "audio_tower."),),
    present=_PRESENT | {"last_norm": r"audio_tower\.layer_norm\.weight"},
    ignored=(Ignored(r"audio_encoder\.proj\..*", "used by nothing"),),
    forced=(CONVOLUTIONS_F16,),
)
_SPEECH: Final = "speech_config"
_ADAPTER: Final = "speech_audio_adapter."
MERALION: Final = Projector(
    name="meralion",
    classes=("MERaLiON2ForConditionalGeneration",),
    kinds=("meralion",),
    keys=(
        *audio_keys(_SPEECH),
        kind("meralion"),
        Key(("speech_mlp_scale_factor",), "audio.projector.stack_factor", "u32", always(15)),
    ),
    rules=(
        *ENCODER,
        *_LAST,
        *norm("ln_speech", "mm.a.norm_pre"),
        *linear(_ADAPTER + "mlp_adapter.0", "mm.a.mlp.0", ("wide", "stack*embd"), "bias0"),
        *linear(_ADAPTER + "gate_proj", "mm.a.mlp.1", ("gate", "wide"), "bias1"),
        *linear(_ADAPTER + "pool_proj", "mm.a.mlp.2", ("gate", "wide"), "bias2"),
        *linear(_ADAPTER + "out_proj", "mm.a.mlp.3", ("text", "gate"), "bias3"),
    ),
    sizes=lambda values, config, shapes: {
        **sound_sizes(values, config, shapes, _SPEECH),
        "wide": shapes.get(_ADAPTER + "mlp_adapter.0.weight", (0,))[0],
        "gate": shapes.get(_ADAPTER + "gate_proj.weight", (0,))[0],
    },
    renamed=((r"^speech_encoder\.", "audio_tower."),),
    present={
        **_PRESENT,
        **{
            f"bias{number}": rf"speech_audio_adapter\.{name}\.bias"
            for number, name in enumerate((r"mlp_adapter\.0", "gate_proj", "pool_proj", "out_proj"))
        },
    },
    forced=(CONVOLUTIONS_F16,),
)
